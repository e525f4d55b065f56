"""A process of the user outside of a sandbox, with its files, sockets and memory.

Run as a program with a name and a folder, it is that process. For each connection to its local
sockets, it appends to the file `connected` in the folder.
"""

from __future__ import annotations

import contextlib
import ctypes
import http.server
import json
import os
import platform
import secrets
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

IPC_RMID, PR_SET_PTRACER = 0, 0x59616D61
FAR = "192.0.2.77"  # of nobody


def numbers() -> dict[str, int]:
    """Return the system calls of this machine by name."""
    from builder.targets.local.confine.seccomp import DENIED, EXAMINED, MISSING

    column = ("x86_64", "aarch64").index(platform.machine())
    listed = {**DENIED, **MISSING, **EXAMINED}
    return {name: number for name, each in listed.items() if (number := each[column]) is not None}


@contextlib.contextmanager
def outside() -> Iterator[dict[str, Any]]:
    """Start the process; yield facts about it, its files and this machine."""
    token = secrets.token_hex(16)
    with contextlib.ExitStack() as stack:
        folder = tempfile.mkdtemp(prefix="escape-", dir="/tmp")
        stack.callback(shutil.rmtree, folder)
        os.chmod(folder, 0o755)  # noqa: S103 - walls have to stop it, not the rights of files
        home = Path(folder, "home")
        (home / ".ssh").mkdir(parents=True)
        secret, temporary = Path(folder, "secret"), Path(folder, "temporary")
        for file in (secret, temporary, home / ".ssh" / "id_ed25519", home / ".bashrc"):
            file.write_text(token)
        shared = Path("/dev/shm", f"escape-{token}")
        shared.write_text(token)
        stack.callback(shared.unlink)
        process = stack.enter_context(
            subprocess.Popen(
                [sys.executable, "-I", __file__, f"victim-{token[:8]}", folder],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                env={"TOKEN": token},
            )
        )
        stack.callback(process.terminate)
        assert process.stdout
        facts = json.loads(process.stdout.readline())
        yield facts | {
            "token": token,
            "home": str(home),
            "secret": str(secret),
            "temporary": str(temporary),
            "connected": f"{folder}/connected",
            "shared": str(shared),
            "victim": process.pid,
            "victim_name": f"victim-{token[:8]}",
            "application": os.getpid(),
            "variables": Path("/proc/self/environ").read_bytes(),
            "passwd": Path("/etc/passwd").read_bytes(),
            "hosts": Path("/etc/hosts").read_bytes(),
            "name": os.uname().nodename,
            "name_server": _name_server(),
            "far": FAR,
            "address": address_of_this_machine(),
            "calls": numbers(),
        }
        assert process.poll() is None, "an attempt has ended a process of the user"
        changed = [str(file) for file in (secret, temporary, shared) if file.read_text() != token]
        assert changed == []


def address_of_this_machine() -> str | None:
    """Return the address that this machine sends from; None without a network."""
    with contextlib.suppress(OSError), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
        sender.connect((FAR, 9))
        return str(sender.getsockname()[0])
    return None


def has(need: str) -> bool:
    """Return whether this machine has a feature that an attempt needs."""
    if need == "x86_64":
        return platform.machine() == need
    if need == "route":
        return address_of_this_machine() is not None
    if need in ("userfaultfd", "io_uring"):
        return _answers(need)
    families = {"ipv6": (10, 2, 0), "vsock": (40, 1, 0), "alg": (38, 5, 0), "udplite": (2, 2, 136)}
    try:
        with socket.socket(*families[need]) as opened:
            if need == "ipv6":
                opened.bind(("::1", 0))
            return True
    except OSError:
        return False


def _answers(name: str) -> bool:
    libc = ctypes.CDLL(None)
    arguments = {"userfaultfd": (1,), "io_uring": (4, ctypes.create_string_buffer(120))}[name]
    number = numbers()["io_uring_setup" if name == "io_uring" else name]
    descriptor = libc.syscall(number, *arguments)
    if descriptor >= 0:
        os.close(descriptor)
    return bool(descriptor >= 0)


def _name_server() -> str:
    with contextlib.suppress(OSError):
        for line in Path("/etc/resolv.conf").read_text().splitlines():
            if line.startswith("nameserver") and ":" not in line:
                return line.split()[1]
    return FAR


def _serve(listener: socket.socket, token: bytes, descriptor: int, folder: str) -> None:
    while True:
        line, _ = listener.accept()
        with contextlib.suppress(OSError), line:
            if line.family == socket.AF_UNIX:
                with open(f"{folder}/connected", "a") as file:
                    file.write("x")
                socket.send_fds(line, [token], [descriptor])
            else:
                line.sendall(token)


def _echo(receiver: socket.socket, token: bytes) -> None:
    while True:
        _, sender = receiver.recvfrom(100)
        receiver.sendto(token, sender)


def _handler(token: bytes) -> type[http.server.BaseHTTPRequestHandler]:
    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(token)

        def log_message(self, *_arguments: object) -> None:
            pass

    return Handler


def main(_name: str, folder: str) -> None:
    """Listen on every socket that attempts connect to, until standard input ends."""
    token = os.environ["TOKEN"].encode()
    libc = ctypes.CDLL(None)
    libc.prctl(PR_SET_PTRACER, ctypes.c_ulong(-1 & 2**64 - 1), 0, 0, 0)
    memory = ctypes.create_string_buffer(token)
    descriptor = os.open(f"{folder}/secret", os.O_RDONLY)
    abstract = f"escape-{_name}"
    unix = socket.socket(socket.AF_UNIX)
    unix.bind(f"{folder}/socket")
    os.chmod(f"{folder}/socket", 0o777)  # noqa: S103 - see above
    hidden = socket.socket(socket.AF_UNIX)
    hidden.bind(f"\0{abstract}")
    loopback = socket.create_server(("127.0.0.1", 0))
    everywhere = socket.create_server(("0.0.0.0", 0))  # noqa: S104 - what attempts look for
    listeners = [loopback, everywhere, unix, hidden]
    port_6 = 0
    with contextlib.suppress(OSError):
        listeners.append(socket.create_server(("::1", 0), family=socket.AF_INET6))
        port_6 = listeners[-1].getsockname()[1]
    datagrams = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    datagrams.bind(("127.0.0.1", 0))
    hidden_datagrams = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    hidden_datagrams.bind(f"\0{abstract}-datagram")
    for listener in listeners:
        listener.listen(16)
        arguments = (listener, token, descriptor, folder)
        threading.Thread(target=_serve, args=arguments, daemon=True).start()
    web = http.server.ThreadingHTTPServer(("127.0.0.1", 0), _handler(token))
    threading.Thread(target=web.serve_forever, daemon=True).start()
    threading.Thread(target=_echo, args=(datagrams, token), daemon=True).start()
    key = int(token[:7], 16) | 1
    segment = libc.shmget(key, 4096, 0o1666)
    libc.shmat.restype = ctypes.c_void_p
    ctypes.memmove(libc.shmat(segment, None, 0), token, len(token))
    facts = {
        "web_port": web.server_address[1],
        "port": loopback.getsockname()[1],
        "port_everywhere": everywhere.getsockname()[1],
        "port_6": port_6,
        "datagram_port": datagrams.getsockname()[1],
        "abstract": abstract,
        "path_socket": f"{folder}/socket",
        "address_of_memory": ctypes.addressof(memory),
        "descriptor": descriptor,
        "segment": key,
    }
    sys.stdout.write(json.dumps(facts) + "\n")
    sys.stdout.flush()
    sys.stdin.read()
    libc.shmctl(segment, IPC_RMID, None)


if __name__ == "__main__":
    main(*sys.argv[1:])
