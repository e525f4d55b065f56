"""`CodeExecutionPrimitive`: run code in a sandbox of a template."""

from __future__ import annotations

import asyncio
import contextlib
import copy
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal

from builder.errors import SandboxError, SandboxGoneError
from builder.registry import DEFAULT_CHANNEL
from builder.runtime import composition
from builder.runtime.current import CurrentSession, Policy
from builder.runtime.files import Files, put
from builder.runtime.session import changed_files, execute
from builder.runtime.template import find
from builder.runtime.values import LONGEST_SECONDS, CodeInput, CodeOutput, checked, output_of
from builder.sandbox.files import FileEntry, SandboxFiles
from builder.sandbox.network import InvalidNetworkError, Network
from builder.sandbox.session import Session
from builder.system import telemetry
from builder.system.isolation import Isolation

Readiness = Literal["wait", "warmup", "background"]
_READINESS = ("wait", "warmup", "background")
_OUTPUT_CHARACTERS = 1_000_000


class CodeExecutionPrimitive:
    """Runs code in sandboxes of one template; each execution sees what earlier ones defined.

    Use it as an async context manager, or call `cleanup` at the end. Executions of one primitive
    run one after another; `session` opens a separate sandbox.
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
        network: str | Sequence[str] | None = None,
        isolation: Isolation | None = None,
    ) -> None:
        """Find the template; no sandbox is opened yet.

        `template_id` is a name in the registry, or an ID, name or ref on E2B. `api_key` defaults to
        `E2B_API_KEY`, then `E2B_KEY`, or the variable that the target names. `default_timeout` and
        `session_max_age` are in seconds; a session is replaced before it is older. `readiness` is
        "wait" (until the service is up), "warmup" (and until the template's imports are done) or
        "background" (open and warm a sandbox while the program goes on). `pool_size` sandboxes are
        kept warm ahead of need, shared by all primitives of this template. Each stream, error and
        text result is cut to `max_output` characters. `network` replaces the template's: "none",
        "allow" or a list of the hosts that the code may reach. `isolation` is that of sandboxes on
        this machine: "confined", or "none" for code that you trust; by default
        `TEMPLATE_ISOLATION`, then the project's setting. On E2B, a virtual machine is more than
        "confined", and "none" is an error.

        Raises `LookupError` for a missing or revoked template, `SandboxError` for one in whose
        sandboxes nothing runs code, `ValueError` for a missing key and for arguments out of range.
        """
        if readiness not in _READINESS:
            raise ValueError(f"readiness is {readiness!r}, expected one of {', '.join(_READINESS)}")
        _check_numbers(default_timeout, session_max_age, pool_size, max_output)
        for name, text in (("template_id", template_id), ("target", target), ("channel", channel)):
            if text is not None and not isinstance(text, str):
                raise TypeError(f"{name} is {type(text).__name__}, expected text")
        self._ended = False
        self.default_timeout = default_timeout
        self.session_max_age = session_max_age
        self.template_id = template_id
        allowed = None if network is None else _network(network)
        with telemetry.measured("resolve", {"template.name": template_id or ""}) as measured:
            template = find(
                template_id, target=target, channel=channel, api_key=api_key, isolation=isolation
            )
            if allowed:
                template = replace(template, network=allowed)
            measured.add(template.attributes)
        self._readiness, self._max_output = readiness, max_output
        self._current = CurrentSession(
            Policy(
                template=template,
                timeout=default_timeout,
                max_age=session_max_age,
                pool_size=pool_size,
                warm=readiness != "wait",
            )
        )

    @property
    def ref(self) -> str:
        """What sandboxes are created from; it does not change while this object exists."""
        return self._current.policy.template.ref

    async def execute(
        self, input_data: CodeInput | Mapping[str, Any], context: object = None
    ) -> CodeOutput:
        """Run code in the session, which is opened if there is none.

        Errors in the code, even crashes, and time-outs are returned in the output. Raises
        `ValueError` and `TypeError` for invalid input, and `SandboxError` or a subclass if there is
        no sandbox to run it in, and `RuntimeError` after the end of an `async with` block. Code
        that has started is never run again. Cancelling the call ends the sandbox. `context` is
        passed by TTA.dev, and optional.
        """
        code_input = checked(input_data)
        timeout = code_input.get("timeout", self.default_timeout)
        self._check_open()
        async with self._current.held():
            session = await self._current.get(timeout)
            try:
                return await self._run(session, code_input, timeout, context)
            except SandboxGoneError:
                # It was gone before the code started, so another sandbox may run it: a new one, as
                # those of a pool may be gone, too.
                session = await self._current.replace(timeout)
                return await self._run(session, code_input, timeout, context)

    @property
    def files(self) -> Files:
        """The files of the session: `write`, `read`, `list`, `remove`, `upload`, `download`."""
        return Files(self._with_files)

    @contextlib.asynccontextmanager
    async def _with_files(self) -> AsyncIterator[SandboxFiles]:
        self._check_open()
        async with self._current.held():
            session = await self._current.get(self.default_timeout)
            try:
                yield session.files
            except SandboxGoneError:
                await self._current.drop("lost")
                raise

    @contextlib.asynccontextmanager
    async def session(self) -> AsyncIterator[CodeExecutionPrimitive]:
        """Yield a primitive with a separate sandbox for the `async with` block, to run code side by
        side."""
        own = copy.copy(self)
        own._current = CurrentSession(self._current.policy)  # noqa: SLF001 - its own
        async with own:
            yield own

    async def cleanup(self) -> None:
        """End the session; the next execution opens another."""
        await self._current.clean_up()

    def _check_open(self) -> None:
        if self._ended:
            raise RuntimeError(
                "this CodeExecutionPrimitive has ended with its `async with` block: run code inside"
                " the block, or enter it again"
            )

    async def __aenter__(self) -> CodeExecutionPrimitive:
        self._ended = False
        if self._readiness == "background":
            self._current.open_in_background()
        else:
            async with self._current.held():
                await self._current.get(self.default_timeout)
        return self

    async def __aexit__(self, *_: object) -> None:
        self._ended = True
        await self.cleanup()

    def __rshift__(self, other: Any) -> Any:
        return composition.composed(self, other, "__rshift__")

    def __or__(self, other: Any) -> Any:
        return composition.composed(self, other, "__or__")

    async def _run(
        self, session: Session, code_input: CodeInput, seconds: float, context: object
    ) -> CodeOutput:
        current = self._current
        attributes = {**current.policy.template.attributes, "sandbox.source": current.source}
        with telemetry.measured("execute", attributes) as measured:
            measured.tell("sandbox.id", session.id)
            for name in ("workflow_id", "session_id", "correlation_id"):
                if value := getattr(context, name, None):
                    measured.tell(f"workflow.{name}", str(value))
            for path, data in code_input.get("files", {}).items():
                await put(session.files, path, data)
            try:
                execution = await execute(
                    session,
                    code_input["code"],
                    seconds=seconds,
                    language=code_input.get("language", "python").strip().lower(),
                    variables=code_input.get("env_vars", {}),
                    limit=self._max_output,
                )
            except asyncio.CancelledError:
                await self._current.drop("cancelled")
                raise
            except SandboxGoneError:
                raise
            except SandboxError:
                await self._current.drop("lost")
                raise
            success = execution.error is None and not execution.timed_out
            measured.tell("code.success", success)
            ended = "timed out" if execution.timed_out else "ok" if success else "code failed"
            measured.add({"outcome": ended})
        files: list[FileEntry] = []
        if session.usable():
            files = await changed_files(session)
        else:
            await self._current.drop("lost")
        return output_of(
            execution,
            sandbox_id=session.id,
            timeout=seconds,
            files=files,
            isolation=session.isolation,
        )


def _network(value: str | Sequence[str]) -> Network:
    try:
        return Network.of(value)
    except InvalidNetworkError as error:
        hint = f" ({error.hint})" if error.hint else ""
        raise ValueError(f"network: {error}{hint}") from error


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


# Its name in TTA.dev.
E2BPrimitive = CodeExecutionPrimitive
