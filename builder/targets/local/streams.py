"""Standard output and error of kernels: named pipes, read by one thread of this process.

Between executions it reads and discards, so that background code never waits for the next one.
At most part of a pipe is buffered: a process that writes faster than it is read waits.
"""

from __future__ import annotations

import codecs
import contextlib
import fcntl
import functools
import hashlib
import os
import re
import selectors
import struct
import termios
import threading
import time
from collections.abc import Iterator
from pathlib import Path

from builder.sandbox.execution import Output

_PART_BYTES = 1 << 16
# Reading each line at once would slow its writer down.
_PAUSE_SECONDS = 0.002


class Streams:
    """The pipes of one sandbox. Hold `lock` to change an `Output` that is being written to.

    `connected` is set when the kernel has written to one: before it runs code, and with its sockets
    open.
    """

    def __init__(self, folder: Path, key: bytes) -> None:
        """Make the pipes `stdout` and `stderr` in `folder`. Raises `OSError`."""
        self.lock, self.connected = threading.Lock(), threading.Event()
        self._output: Output | None = None
        self.written = 0  # bytes since the output was last requested
        self._pipes: dict[str, _Pipe] = {}
        try:
            for name in ("stdout", "stderr"):
                os.mkfifo(folder / name, 0o600)
                descriptor = os.open(folder / name, os.O_RDONLY | os.O_NONBLOCK)
                self._pipes[name] = _Pipe(name, descriptor, key)
                _selector(os.getpid()).register(descriptor, selectors.EVENT_READ, (self, name))
        except BaseException:
            self.close()
            raise

    @contextlib.contextmanager
    def into(self, output: Output) -> Iterator[None]:
        """Add what is written from now on to `output`, until `end` or the end of the block."""
        with self.lock:
            self._read_all()
            self._output, self.written = output, 0
        try:
            yield
        finally:
            self.end()

    def end(self) -> None:
        """Add what was written until now to the output, and nothing after."""
        with self.lock:
            self._read_all()
            self._output = None

    def read(self, name: str) -> bool:
        """Read what a pipe holds; return whether there may be more."""
        with self.lock:
            pipe = self._pipes.get(name)
            data = pipe.read(_PART_BYTES) if pipe else b""
            if pipe and data:
                self.connected.set()
                self.written += len(data)
                pipe.pass_on(data, self._output)
            return len(data) == _PART_BYTES

    def close(self) -> None:
        """Read the rest, and close the pipes. Closing twice is fine."""
        self.end()
        with self.lock:
            for pipe in self._pipes.values():
                pipe.close()
            self._pipes.clear()

    def _read_all(self) -> None:
        for pipe in self._pipes.values():
            size = pipe.waiting()
            while size > 0 and (data := pipe.read(min(size, _PART_BYTES))):
                size -= len(data)
                pipe.pass_on(data, self._output)
            pipe.finish(self._output)


class _Pipe:
    def __init__(self, name: str, descriptor: int, key: bytes) -> None:
        self._name, self._descriptor = name, descriptor
        # The mark that the kernel writes to clear the output.
        self._beginning = b"\0clear %s " % hashlib.sha256(key).hexdigest().encode()
        self._mark = re.compile(re.escape(self._beginning) + rb"(\d+) ([01])\0")
        self._rest = b""
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")

    def waiting(self) -> int:
        """Return how many bytes can be read."""
        answer = fcntl.ioctl(self._descriptor, termios.FIONREAD, struct.pack("i", 0))
        return int(struct.unpack("i", answer)[0])

    def read(self, size: int) -> bytes:
        try:
            data = os.read(self._descriptor, size)
        except BlockingIOError:
            return b""
        if not data:
            self._forget()
        return data

    def pass_on(self, data: bytes, output: Output | None) -> None:
        """Pass on text and clearings."""
        data, position = self._rest + data, 0
        for mark in self._mark.finditer(data):
            self._text(data[position : mark.start()], output)
            if output:
                output.clear(self._name, int(mark[1]), wait=mark[2] == b"1")
            position = mark.end()
        whole = self._whole(data, position)
        self._rest = data[whole:]
        self._text(data[position:whole], output)

    def finish(self, output: Output | None) -> None:
        """Pass on the rest, which might have been the beginning of a mark."""
        rest, self._rest = self._rest, b""
        self._text(rest, output)
        if output:
            output.stream(self._name, self._decoder.decode(b"", final=True))
        self._decoder.reset()

    def close(self) -> None:
        self._forget()
        os.close(self._descriptor)

    def _whole(self, data: bytes, position: int) -> int:
        """Return where the data ends that cannot be the beginning of a mark."""
        last = data.rfind(b"\0", position)
        tail = data[last : last + len(self._beginning)]
        longest = len(self._beginning) + 32
        if last < 0 or len(data) - last > longest or not self._beginning.startswith(tail):
            return len(data)
        return last

    def _text(self, data: bytes, output: Output | None) -> None:
        if output:
            output.stream(self._name, self._decoder.decode(data))

    def _forget(self) -> None:
        # Before closing: a forked process may hold it open, which would keep it registered.
        with contextlib.suppress(KeyError, ValueError):
            _selector(os.getpid()).unregister(self._descriptor)


@functools.cache
def _selector(_process: int) -> selectors.BaseSelector:
    """Return the selector of a process's reader thread, which a forked process does not have."""
    selector = selectors.DefaultSelector()
    threading.Thread(target=_read, args=(selector,), name="sandbox output", daemon=True).start()
    return selector


def _read(selector: selectors.BaseSelector) -> None:
    while True:
        more = False
        for key, _ in selector.select():
            streams, name = key.data
            more |= streams.read(name)
        if not more:
            time.sleep(_PAUSE_SECONDS)
