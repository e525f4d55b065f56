"""Standard output and error of kernels: named pipes, read by one thread of this process.

It reads between executions, too, and drops that, so that whatever runs in the background never
waits for the next one. No more is held than a part of a pipe: who writes faster than it is read
waits.
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
# Reading each line as soon as it is there would cost its writer more than the line does.
_PAUSE_SECONDS = 0.002


class Streams:
    """The pipes of one sandbox. `lock` is to be held by whoever else changes an `Output` that is
    written to."""

    def __init__(self, folder: Path, key: bytes) -> None:
        """Make the pipes `stdout` and `stderr` in `folder`. Raises `OSError`."""
        self.lock = threading.Lock()
        self._output: Output | None = None
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
        """Have `output` take what is written from now on, until `end` or the end of the block."""
        with self.lock:
            self._read_all()
            self._output = output
        try:
            yield
        finally:
            self.end()

    def end(self) -> None:
        """Have the output take what was written until now, and no more."""
        with self.lock:
            self._read_all()
            self._output = None

    def read(self, name: str) -> bool:
        """Read what is there of a pipe; return whether there may be more."""
        with self.lock:
            pipe = self._pipes.get(name)
            data = pipe.read(_PART_BYTES) if pipe else b""
            if pipe and data:
                pipe.give(data, self._output)
            return len(data) == _PART_BYTES

    def close(self) -> None:
        """Read what is there, and close the pipes. Closing twice is fine."""
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
                pipe.give(data, self._output)
            pipe.finish(self._output)


class _Pipe:
    def __init__(self, name: str, descriptor: int, key: bytes) -> None:
        self._name, self._descriptor = name, descriptor
        # What the kernel writes where it clears the output.
        self._beginning = b"\0clear %s " % hashlib.sha256(key).hexdigest().encode()
        self._mark = re.compile(re.escape(self._beginning) + rb"(\d+) ([01])\0")
        self._rest = b""
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")

    def waiting(self) -> int:
        """How many bytes there are."""
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

    def give(self, data: bytes, output: Output | None) -> None:
        """Hand on text, and where it is cleared."""
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
        """Hand on what might have been the beginning of something."""
        rest, self._rest = self._rest, b""
        self._text(rest, output)
        if output:
            output.stream(self._name, self._decoder.decode(b"", final=True))
        self._decoder.reset()

    def close(self) -> None:
        self._forget()
        os.close(self._descriptor)

    def _whole(self, data: bytes, position: int) -> int:
        """The end of what cannot be the beginning of a mark."""
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
        # Before it is closed: a forked process may hold it open, and it would stay registered.
        with contextlib.suppress(KeyError, ValueError):
            _selector(os.getpid()).unregister(self._descriptor)


@functools.cache
def _selector(_process: int) -> selectors.BaseSelector:
    """What the thread of a process reads from; a forked process has no threads."""
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
