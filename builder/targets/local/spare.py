"""Make a sandbox in advance, for the next caller."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import Generic, Protocol, TypeVar

_NEEDED_BEFORE = 2  # what was needed that often will be needed again
_IDLE_SECONDS = 900.0
_CLOSE_SECONDS = 5.0


class Usable(Protocol):
    """A sandbox that may become unusable while it waits. Closing it twice is fine."""

    def usable(self) -> bool:
        """Return whether it can still be used."""

    def close(self) -> None:
        """End it."""


_T = TypeVar("_T", bound=Usable)


class Spare(Generic[_T]):
    """At most one sandbox, made in a thread for the next caller and closed if none comes within 15
    minutes. Methods may be called from any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._needed_kind: object = None
        self._needed = 0  # in a row, of that kind
        self._made: Future[_T] | None = None
        self._made_kind: object = None
        self._taken = threading.Event()
        self._closed = False

    def take(self, kind: object) -> _T | None:
        """Return the sandbox that was made, or wait for it; None if there is none of this kind."""
        with self._lock:
            self._needed = self._needed + 1 if self._needed_kind == kind else 1
            self._needed_kind = kind
            made = self._take_out() if self._made_kind == kind else None
        return _usable(made)

    def make(self, kind: object, make: Callable[[], _T]) -> None:
        """Start making one for the next caller, once two of its kind have been needed in a row.
        Close one of another kind."""
        with self._lock:
            needed = self._needed if self._needed_kind == kind else 0
            if self._closed or needed < _NEEDED_BEFORE or (self._made and self._made_kind == kind):
                return
            old, made, taken = self._take_out(), Future[_T](), threading.Event()
            self._made, self._made_kind, self._taken = made, kind, taken

        def run() -> None:
            _close(old)
            try:
                made.set_result(make())
            except BaseException as error:  # noqa: BLE001 - the next caller makes it, and sees why
                made.set_exception(error)
            if not taken.wait(_IDLE_SECONDS):
                self._drop(made)
            elif self._closed:
                _close(made)

        try:
            threading.Thread(target=run, name="next sandbox", daemon=True).start()
        except RuntimeError as error:  # no more threads can be started
            _close(old)
            made.set_exception(error)

    def close(self) -> None:
        """Close the sandbox that was made, and make no more."""
        with self._lock:
            self._closed = True
            made = self._take_out()
        _close(made)

    def _take_out(self) -> Future[_T] | None:
        self._taken.set()
        made, self._made = self._made, None
        return made

    def _drop(self, made: Future[_T]) -> None:
        with self._lock:
            if self._made is not made:
                return
            self._made = None
        _close(made)


def _usable(made: Future[_T] | None) -> _T | None:
    with contextlib.suppress(Exception):
        if made:
            sandbox = made.result()
            if sandbox.usable():
                return sandbox
            sandbox.close()
    return None


def _close(made: Future[_T] | None) -> None:
    with contextlib.suppress(Exception):
        if made:
            made.result(_CLOSE_SECONDS).close()
