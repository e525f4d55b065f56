"""Sessions of `local`: kernels, each with its own thread."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import logging
import os
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar, Unpack

from builder.errors import SandboxError, TemplateError
from builder.registry import Ref
from builder.sandbox.boundary import Boundary
from builder.sandbox.commands import CommandResult
from builder.sandbox.execution import Execution
from builder.sandbox.session import RunOptions
from builder.system.limits import named, room
from builder.system.tasks import run_to_completion
from builder.targets.local import place
from builder.targets.local.commands import MARGIN_SECONDS, command_code, command_result
from builder.targets.local.confine import remembered
from builder.targets.local.confine.confinement import Confinement, check, confinement
from builder.targets.local.files import LocalFiles
from builder.targets.local.kept import KeptZygote
from builder.targets.local.kernel import KernelSandbox
from builder.targets.local.launch import CannotForkError, Zygote, forks, zygote_of

_T = TypeVar("_T")
_logger = logging.getLogger(__name__)
_not_forked: set[Path] = set()
_ZYGOTES = 3  # attempts to open a sandbox when zygotes die
_LANGUAGES = ("python", "python3")


class LocalSession:
    """A kernel in an environment of this machine, confined or not."""

    def __init__(self, sandbox: KernelSandbox, thread: ThreadPoolExecutor) -> None:
        self._sandbox, self._thread = sandbox, thread
        self.id = sandbox.home.parent.name
        self.files = LocalFiles(sandbox.home, sandbox.fetched, confined=sandbox.confined)
        self.isolation = "confined" if sandbox.confined else "none"
        self.timings: Mapping[str, float] = sandbox.timings
        self.opened_at = time.monotonic()
        self.lifetime = float("inf")
        self._closed = False
        self._owner = os.getpid()

    @classmethod
    async def open(
        cls,
        ref: str,
        *,
        name: str,
        warm: Sequence[str],
        env: Mapping[str, str],
        boundary: Boundary,
        keep_zygote: bool = False,
    ) -> LocalSession:
        """Open a sandbox of the build `ref` (`local:<name>@sha256-…`) with the modules of `warm`
        imported; with `keep_zygote`, your next programs need not import them again. Raises
        `NotOnThisMachineError`, `SandboxError`, also where it cannot have the `boundary`."""
        digest = Ref(ref).digest

        def start(given_up: threading.Event) -> KernelSandbox:
            assumed = remembered.assumed() if boundary.isolation == "confined" else None
            try:
                return opened(given_up)
            except SandboxError:
                if assumed is None or given_up.is_set() or remembered.confirmed(assumed):
                    raise
                return opened(given_up)

        def opened(given_up: threading.Event) -> KernelSandbox:
            with contextlib.ExitStack() as stack:
                stack.enter_context(room())
                check(boundary)
                path = stack.enter_context(place.opened(ref, name=name))
                confined = confinement(path, boundary)
                if forks() and path not in _not_forked:
                    try:
                        return _forked(
                            path,
                            digest=digest,
                            warm=warm,
                            env=env,
                            confined=confined,
                            kind=KeptZygote if keep_zygote else Zygote,
                            given_up=given_up,
                        )
                    except CannotForkError as error:
                        _not_forked.add(path)
                        _logger.warning("each sandbox of %s imports for itself: %s", name, error)
                return KernelSandbox(path, warm=warm, env=env, confined=confined, given_up=given_up)

        return await cls.of(start)

    @classmethod
    async def of(cls, start: Callable[[threading.Event], KernelSandbox]) -> LocalSession:
        """Open a session of the kernel that `start` starts; the event is set when the caller has
        given up."""
        thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="sandbox")
        given_up = threading.Event()
        with named():
            starting = asyncio.wrap_future(thread.submit(start, given_up))
        try:
            return cls(await asyncio.shield(starting), thread)
        except asyncio.CancelledError:
            # It may still start: it must not be left behind.
            given_up.set()
            await run_to_completion(_discarded(starting, thread))
            raise
        except BaseException:
            thread.shutdown(wait=False)
            raise

    async def wait_until_ready(self) -> None:
        """Do nothing: a kernel is ready when its session opens."""

    async def run(self, code: str, **options: Unpack[RunOptions]) -> Execution:
        """Run code. Raises `SandboxError` when the kernel is gone, `ValueError` for a language
        other than Python."""
        if options["language"] not in _LANGUAGES:
            raise ValueError(f"target `local` runs Python, not {options['language']!r}")
        run = functools.partial(
            self._sandbox.run,
            code,
            timeout=options["seconds"],
            variables=options["variables"],
            limit=options["limit"],
        )
        running = self._in_thread(run)
        try:
            return await asyncio.shield(running)
        except asyncio.CancelledError:
            self._sandbox.abort()
            with contextlib.suppress(SandboxError):
                await run_to_completion(running)
            raise

    async def command(self, text: str, *, seconds: float) -> CommandResult:
        """Run a command in a shell that the kernel starts, in the template's working folder if
        there are walls; what it leaves running is ended.

        It is no login shell, which would take the environment's programs from `PATH`.
        """
        confined = self._sandbox.confined
        execution = await self.run(
            command_code(text, seconds, folder=confined.view.workdir if confined else None),
            seconds=seconds + MARGIN_SECONDS,
            language="python",
            variables={},
            limit=None,
        )
        return command_result(execution)

    def usable(self) -> bool:
        """Return True unless the session is known to be unusable."""
        return not self._closed and self._sandbox.alive()

    async def check(self) -> bool:
        """Return the same: this needs no request."""
        return self.usable()

    async def close(self) -> None:
        """End the kernel and all it has started, and remove its folder."""
        if self._closed or os.getpid() != self._owner:
            return
        self._closed = True
        self._sandbox.abort()
        try:
            await run_to_completion(self._in_thread(self._sandbox.close))
        finally:
            self._thread.shutdown(wait=False)

    def _in_thread(self, call: Callable[[], _T]) -> asyncio.Future[_T]:
        return asyncio.wrap_future(self._thread.submit(call))


def _forked(
    path: Path,
    *,
    digest: str,
    warm: Sequence[str],
    env: Mapping[str, str],
    confined: Confinement | None,
    kind: type[Zygote],
    given_up: threading.Event,
) -> KernelSandbox:
    """Fork a kernel, from another zygote if the first one dies meanwhile."""
    for attempt in range(1, _ZYGOTES + 1):
        view = confined.view if confined else None
        zygote = zygote_of(path, digest=digest, warm=warm, env=env, view=view, kind=kind)
        try:
            return KernelSandbox(
                path, warm=(), env=env, zygote=zygote, confined=confined, given_up=given_up
            )
        except TemplateError:
            if attempt == _ZYGOTES or given_up.is_set() or not zygote.died():
                raise
    raise AssertionError("unreachable")


async def _discarded(starting: asyncio.Future[KernelSandbox], thread: ThreadPoolExecutor) -> None:
    with contextlib.suppress(Exception):
        sandbox = await starting
        await asyncio.wrap_future(thread.submit(sandbox.close))
    thread.shutdown(wait=False)
