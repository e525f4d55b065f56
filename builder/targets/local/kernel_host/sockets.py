"""The memory of data in sockets that no process has read yet.

The kernel says for each socket of this network namespace how much memory it uses, through a netlink
socket: linux/sock_diag.h, linux/unix_diag.h and linux/inet_diag.h.
"""

from __future__ import annotations

import contextlib
import socket
import struct
from collections.abc import Iterator

_SOCK_DIAG = 4  # linux/netlink.h
_BY_FAMILY, _DUMP = 20, 0x301
_ERROR, _DONE = 2, 3
_ALL_STATES = 0xFFFFFFFF
_HEADER, _ATTRIBUTE = struct.Struct("=IHHII"), struct.Struct("=HH")
_ANSWER_BYTES = 1 << 16

# Of local sockets: the request, the size of an answer without attributes, and attributes.
_SHOWN = 1 << 2 | 1 << 4 | 1 << 5  # what the three attributes below need
_LOCAL = struct.pack("=BBHIIIII", socket.AF_UNIX, 0, 0, _ALL_STATES, 0, _SHOWN, 0, 0)
_LOCAL_BYTES, _LOCAL_PEER, _LOCAL_QUEUES, _LOCAL_MEMORY = 16, 2, 4, 5
# The same of the others.
_INTERNET_BYTES, _INTERNET_MEMORY = 72, 7
_INTERNET = {
    protocol: [
        struct.pack("=BBBxI48x", family, protocol, 1 << (_INTERNET_MEMORY - 1), _ALL_STATES)
        for family in (socket.AF_INET, socket.AF_INET6)
    ]
    for protocol in (socket.IPPROTO_TCP, socket.IPPROTO_UDP)
}
# Places in the attribute of memory.
_RECEIVED, _SENT, _AHEAD, _QUEUED = 0, 2, 4, 5
# The most that a socket sends before another reads it, by default: net.core.wmem_default.
_MOST_SENT = 212_992
# So many sockets use little: to ask for TCP takes milliseconds, whatever there is.
_FEW, _FEW_OF_TCP = 64, 8
_COUNTS = ("/proc/1/net/sockstat", "/proc/1/net/sockstat6")  # of the first process behind the walls


def memory() -> int:
    """Return the bytes; 0 for a few sockets, and where the kernel does not say."""
    sockets, tcp = _counts()
    used = 0
    with contextlib.suppress(OSError):
        if sockets > _FEW:
            used += sum(map(_of_local, _answers(_LOCAL, _LOCAL_BYTES)))
            used += _internet(socket.IPPROTO_UDP)
        if tcp > _FEW_OF_TCP:
            used += _internet(socket.IPPROTO_TCP)
    return used


def _counts() -> tuple[int, int]:
    """Return the number of all sockets, and of those of TCP."""
    counts = {"sockets": 0, "TCP": 0, "TCP6": 0}
    for path in _COUNTS:
        with contextlib.suppress(OSError), open(path, encoding="ascii") as file:
            for line in file:
                name, _, values = line.partition(":")
                if name in counts:
                    counts[name] = int(values.split()[1])
    return counts["sockets"], counts["TCP"] + counts["TCP6"]


def _internet(protocol: int) -> int:
    requests = _INTERNET[protocol]
    return sum(
        _of_internet(each) for request in requests for each in _answers(request, _INTERNET_BYTES)
    )


def _of_local(attributes: dict[int, bytes]) -> int:
    """Memory counts for the socket that has sent the data; once that is closed, for none."""
    memory = _numbers(attributes.get(_LOCAL_MEMORY, b""))
    waiting = _numbers(attributes.get(_LOCAL_QUEUES, b""))
    (peer,) = _numbers(attributes.get(_LOCAL_PEER, bytes(4)))
    left = _MOST_SENT if waiting and waiting[0] and not peer else 0
    return left + (memory[_SENT] if memory else 0)


def _of_internet(attributes: dict[int, bytes]) -> int:
    memory = _numbers(attributes.get(_INTERNET_MEMORY, b""))
    if not memory:
        return 0
    return memory[_RECEIVED] + memory[_AHEAD] + max(memory[_SENT], memory[_QUEUED])


def _answers(request: bytes, size: int) -> Iterator[dict[int, bytes]]:
    """Yield the attributes of each socket. Raises `OSError`."""
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, _SOCK_DIAG) as line:
        line.send(_HEADER.pack(_HEADER.size + len(request), _BY_FAMILY, _DUMP, 0, 0) + request)
        while True:
            answer = memoryview(line.recv(_ANSWER_BYTES))
            while answer:
                length, kind, *_ = _HEADER.unpack_from(answer)
                if kind == _DONE:
                    return
                if kind == _ERROR:
                    raise OSError
                yield dict(_attributes(answer[_HEADER.size + size : length]))
                answer = answer[_aligned(length) :]


def _attributes(data: memoryview) -> Iterator[tuple[int, bytes]]:
    while data:
        length, kind = _ATTRIBUTE.unpack_from(data)
        yield kind, bytes(data[_ATTRIBUTE.size : length])
        data = data[_aligned(length) :]


def _numbers(data: bytes) -> tuple[int, ...]:
    return struct.unpack(f"={len(data) // 4}I", data)


def _aligned(length: int) -> int:
    return (length + 3) & ~3
