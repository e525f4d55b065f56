"""One thing that is made ahead of need."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Hashable
from concurrent.futures import Future
from typing import Generic, Protocol, TypeVar

_NEEDED_BEFORE = 2  # what was needed that often will be needed again


class Usable(Protocol):
    """Something that may become unusable while it waits."""

    def usable(self) -> bool:
        """Return whether it can still be used."""

    def close(self) -> None:
        """End it."""


_T = TypeVar("_T", bound=Usable)


class Spare(Generic[_T]):
    """At most one of something, made in a thread for the next caller. Methods may be called from
    any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._kind: Hashable = None
        self._made: Future[_T] | None = None
        self._needed = 0
        self._closed = False

    def take(self, kind: Hashable) -> _T | None:
        """Return the one that was made, or wait for it; None if there is none of this kind."""
        with self._lock:
            self._needed += 1
            if self._made is None or self._kind != kind:
                return None
            made, self._made = self._made, None
        return _usable(made)

    def make(self, kind: Hashable, make: Callable[[], _T]) -> None:
        """Have one made for the next caller, from the second one on. One of another kind is
        ended."""
        with self._lock:
            if self._closed or self._needed < _NEEDED_BEFORE or (self._made and self._kind == kind):
                return
            before, made = self._made, Future[_T]()
            self._made, self._kind = made, kind

        def run() -> None:
            _end(before)
            try:
                made.set_result(make())
            except BaseException as error:  # noqa: BLE001 - the next caller makes it, and sees why
                made.set_exception(error)

        try:
            threading.Thread(target=run, name="next sandbox", daemon=True).start()
        except RuntimeError as error:  # no more threads can be started
            _end(before)
            made.set_exception(error)

    def close(self) -> None:
        """End the one that was made, and have no more made."""
        with self._lock:
            self._closed = True
            made, self._made = self._made, None
        _end(made)


def _usable(made: Future[_T]) -> _T | None:
    with contextlib.suppress(Exception):
        one = made.result()
        if one.usable():
            return one
        one.close()
    return None


def _end(made: Future[_T] | None) -> None:
    with contextlib.suppress(Exception):
        if made:
            made.result().close()
