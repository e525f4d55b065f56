"""`CodeExecutionPrimitive`: run code in a sandbox of a template."""

from __future__ import annotations

import asyncio
import contextlib
import copy
import logging
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Mapping
from typing import Any, Literal

from builder.errors import SandboxError, SandboxGoneError
from builder.registry import DEFAULT_CHANNEL
from builder.runtime import composition
from builder.runtime.files import Files, put
from builder.runtime.pool import Pool, pool_of
from builder.runtime.session import changed_files, end, execute, open_session
from builder.runtime.template import check_not_revoked, find
from builder.runtime.values import LONGEST_SECONDS, CodeInput, CodeOutput, checked, output_of
from builder.sandbox.files import FileEntry, SandboxFiles
from builder.sandbox.session import Session
from builder.system import telemetry

_logger = logging.getLogger(__name__)
Readiness = Literal["wait", "warmup", "background"]
_READINESS = ("wait", "warmup", "background")
# How long a sandbox outlives the age at which it is replaced, for what still runs in it.
_MARGIN_SECONDS = 300
_OUTPUT_CHARACTERS = 1_000_000
_CLEANED_UP = "it was cleaned up while its sandbox was being opened"


class CodeExecutionPrimitive:
    """Runs code in sandboxes of one template; what one execution defines, the next one finds.

    Use it as an async context manager, or call `cleanup` at the end. Executions of one primitive
    follow each other; `session` gives a caller a sandbox of its own.
    """

    def __init__(
        self,
        api_key: str | None = None,
        default_timeout: float = 30,
        session_max_age: float = 3300,
        template_id: str | None = None,
        *,
        target: str | None = None,
        channel: str = DEFAULT_CHANNEL,
        readiness: Readiness = "wait",
        pool_size: int = 0,
        max_output: int = _OUTPUT_CHARACTERS,
    ) -> None:
        """Find the template; no sandbox is opened yet.

        `template_id` is a name of the registry, or an ID, name or ref of E2B's own. `api_key`
        defaults to `E2B_API_KEY`, then `E2B_KEY`, or what the target names. `default_timeout` and
        `session_max_age` are seconds; a session is replaced before it is older. `readiness` is
        "wait" (until the service is up), "warmup" (and until the template's imports are done) or
        "background" (opened and warmed while the program does something else). `pool_size` is how
        many sandboxes are kept warm ahead of need, by all primitives of this template together.
        Of each stream of an execution `max_output` characters are kept.

        Raises `LookupError` for a template that is missing or revoked, `ValueError` for a missing
        key and for arguments out of range.
        """
        if readiness not in _READINESS:
            raise ValueError(f"readiness is {readiness!r}, expected one of {', '.join(_READINESS)}")
        _check_numbers(default_timeout, session_max_age, pool_size, max_output)
        for name, text in (("template_id", template_id), ("target", target), ("channel", channel)):
            if text is not None and not isinstance(text, str):
                raise TypeError(f"{name} is {type(text).__name__}, expected text")
        self.default_timeout = default_timeout
        self.session_max_age = session_max_age
        self.template_id = template_id
        with telemetry.measured("resolve", {"template.name": template_id or ""}) as measured:
            self._template = find(template_id, target=target, channel=channel, api_key=api_key)
            measured.add(self._template.attributes)
        self._readiness, self._pool_size, self._max_output = readiness, pool_size, max_output
        self._reset()

    def _reset(self) -> None:
        self._guard = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._lock = asyncio.Lock()
        self._users = self._cleanups = 0
        self._session: Session | None = None
        self._opening: asyncio.Task[Session] | None = None
        self._source = "cold"

    @property
    def ref(self) -> str:
        """What sandboxes are created from; it does not change while this object lives."""
        return self._template.ref

    async def execute(
        self, input_data: CodeInput | Mapping[str, Any], context: object = None
    ) -> CodeOutput:
        """Run code in the session, opening it first where there is none.

        Errors of the code, and a time-out, are in the output. Raises `ValueError` and `TypeError`
        for input that cannot be run, `SandboxError` and its kin where there is no sandbox to run
        it in; code that has begun to run is never run again. A cancelled call takes its sandbox
        with it. `context` is what TTA.dev passes along; it may be left out.
        """
        asked = checked(input_data)
        timeout = asked.get("timeout", self.default_timeout)
        async with self._held():
            session = await self._current(timeout)
            try:
                return await self._run(session, asked, timeout, context)
            except SandboxGoneError:
                # It was gone before the code began to run: another sandbox may run it, a new one,
                # as those of a pool may be gone, too.
                await self._drop("replaced")
                session = await self._kept(self._opened_now(timeout))
                return await self._run(session, asked, timeout, context)

    @property
    def files(self) -> Files:
        """The files of the session: `write`, `read`, `list`, `remove`, `upload`, `download`."""
        return Files(self._with_files)

    @contextlib.asynccontextmanager
    async def _with_files(self) -> AsyncIterator[SandboxFiles]:
        async with self._held():
            session = await self._current(self.default_timeout)
            try:
                yield session.files
            except SandboxGoneError:
                await self._drop("lost")
                raise

    @contextlib.asynccontextmanager
    async def session(self) -> AsyncIterator[CodeExecutionPrimitive]:
        """A primitive with a sandbox of its own for the `async with` block, for callers that run
        code side by side."""
        own = copy.copy(self)
        own._reset()  # noqa: SLF001 - its own
        async with own:
            yield own

    async def cleanup(self) -> None:
        """End the session; the next execution opens another one."""
        self._cleanups += 1
        opening, self._opening = self._opening, None
        if opening:
            opening.cancel()
            with contextlib.suppress(asyncio.CancelledError, Exception):
                await end(await opening)
        await self._drop(None)

    async def __aenter__(self) -> CodeExecutionPrimitive:
        if self._readiness == "background":
            self._opening = asyncio.ensure_future(self._open(self.default_timeout))
        else:
            async with self._held():
                await self._current(self.default_timeout)
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.cleanup()

    def __rshift__(self, other: Any) -> Any:
        return composition.composed(self, other, "__rshift__")

    def __or__(self, other: Any) -> Any:
        return composition.composed(self, other, "__or__")

    async def _run(
        self, session: Session, asked: CodeInput, seconds: float, context: object
    ) -> CodeOutput:
        attributes = {**self._template.attributes, "sandbox.source": self._source}
        with telemetry.measured("execute", attributes) as measured:
            measured.tell("sandbox.id", session.id)
            for name in ("workflow_id", "session_id", "correlation_id"):
                if value := getattr(context, name, None):
                    measured.tell(f"workflow.{name}", str(value))
            for path, data in asked.get("files", {}).items():
                await put(session.files, path, data)
            try:
                execution = await execute(
                    session,
                    asked["code"],
                    seconds=seconds,
                    language=asked.get("language", "python").strip().lower(),
                    variables=asked.get("env_vars", {}),
                    limit=self._max_output,
                )
            except asyncio.CancelledError:
                await self._drop("cancelled")
                raise
            except SandboxGoneError:
                raise
            except SandboxError:
                await self._drop("lost")
                raise
            success = execution.error is None and not execution.timed_out
            measured.tell("code.success", success)
            ended = "timed out" if execution.timed_out else "ok" if success else "code failed"
            measured.add({"outcome": ended})
        files: list[FileEntry] = []
        if session.usable():
            files = await changed_files(session)
        else:
            await self._drop("lost")
        return output_of(execution, sandbox_id=session.id, timeout=seconds, files=files)

    async def _current(self, seconds: float) -> Session:
        """The session, replaced where it is too old for an execution of `seconds`."""
        if opening := self._opening:
            try:
                # Shielded: of a call that is cancelled now, what is opened is still ended.
                self._session = await asyncio.shield(opening)
            except asyncio.CancelledError:
                task = asyncio.current_task()
                if opening.cancelled() and task and not task.cancelling():
                    raise SandboxError(_CLEANED_UP) from None
                raise
            except BaseException:
                self._opening = None
                raise
            if self._opening is not opening:
                await self._drop(None)
                raise SandboxError(_CLEANED_UP)
            self._opening = None
        session = self._session
        if session:
            age = time.monotonic() - session.opened_at
            if not session.usable():
                await self._drop("replaced")
            elif age >= self.session_max_age or not _outlives(session, seconds):
                _logger.info("the sandbox %s is %.0f seconds old: taking another", session.id, age)
                await self._drop("rotated")
        return self._session or await self._kept(self._open(seconds))

    async def _kept(self, opening: Awaitable[Session]) -> Session:
        """The session that is being opened, unless somebody has cleaned up meanwhile."""
        cleanups = self._cleanups
        session = await opening
        if cleanups != self._cleanups:
            await end(session)
            raise SandboxError(_CLEANED_UP)
        self._session = session
        return session

    @contextlib.asynccontextmanager
    async def _held(self) -> AsyncIterator[None]:
        """One execution at a time, all in one event loop. Raises `RuntimeError` otherwise."""
        loop = asyncio.get_running_loop()
        with self._guard:
            if self._loop is not loop:
                if self._users:
                    raise RuntimeError(
                        "this CodeExecutionPrimitive is in use in another event loop: give each"
                        " thread one of its own"
                    )
                self._loop, self._lock = loop, asyncio.Lock()
            self._users += 1
        try:
            async with self._lock:
                yield
        finally:
            with self._guard:
                self._users -= 1

    def _lifetime(self, timeout: float) -> int:
        return int(max(self.session_max_age, timeout) + _MARGIN_SECONDS)

    async def _open(self, seconds: float) -> Session:
        if self._pool_size and seconds <= self._lifetime(self.default_timeout) - _MARGIN_SECONDS:
            check_not_revoked(self._template)
            pool = self._pool()
            ready = pool.ready()
            session = await pool.take()
            if _outlives(session, seconds):
                self._source = "pool" if ready else "cold"
                return session
            await end(session)
        return await self._opened_now(seconds)

    async def _opened_now(self, seconds: float) -> Session:
        self._source = "cold"
        warm = self._readiness != "wait"
        return await open_session(self._template, seconds=self._lifetime(seconds), warm=warm)

    def _pool(self) -> Pool:
        return pool_of(
            self._template,
            seconds=self._lifetime(self.default_timeout),
            size=self._pool_size,
            max_age=self.session_max_age / 2,
        )

    async def _drop(self, why: str | None) -> None:
        session, self._session = self._session, None
        if session:
            if why:
                telemetry.count(why, self._template.attributes)
            await end(session)


def _outlives(session: Session, seconds: float) -> bool:
    """Whether its target lets a session live for as long as an execution may take."""
    return time.monotonic() - session.opened_at + seconds <= session.lifetime


def _check_numbers(
    default_timeout: float, session_max_age: float, pool_size: int, max_output: int
) -> None:
    for name, value in (("default_timeout", default_timeout), ("session_max_age", session_max_age)):
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise TypeError(f"{name} is {type(value).__name__}, expected seconds")
        if not 0 < value <= LONGEST_SECONDS:
            raise ValueError(f"{name} is {value}, expected more than 0, {LONGEST_SECONDS} at most")
    for name, number, least in (("pool_size", pool_size, 0), ("max_output", max_output, 1)):
        if isinstance(number, bool) or not isinstance(number, int):
            raise TypeError(f"{name} is {type(number).__name__}, expected a whole number")
        if number < least:
            raise ValueError(f"{name} is {number}, expected {least} or more")


# The name it has in TTA.dev.
E2BPrimitive = CodeExecutionPrimitive
