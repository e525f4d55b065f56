"""Sandboxes on E2B for verification; those of a killed run are ended by the next one."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Unpack

from builder.errors import BuildError, NetworkError, NotOnThisMachineError, SandboxError
from builder.sandbox.blocking import BlockingSession
from builder.sandbox.commands import CommandResult, as_execution, python_command
from builder.sandbox.execution import Execution
from builder.sandbox.network import Network
from builder.sandbox.session import RunOptions, Sandbox
from builder.system.events import Event, Reporter
from builder.system.tasks import run_to_completion
from builder.targets.e2b.cloud import Cloud
from builder.targets.e2b.commands import wait_until_running
from builder.targets.e2b.failures import words_of
from builder.targets.e2b.retries import OF_BUILDS
from builder.targets.e2b.session import CloudSession
from builder.targets.journal import Entry, Journal
from builder.targets.protocol import Opening

_METADATA = "template-builder"
_LIFE_SECONDS = 900
_MARGIN_SECONDS = 120


def open_sandbox(
    cloud: Cloud,
    ref: str,
    *,
    metadata: Mapping[str, str],
    cold: bool = False,
    has_code_service: bool = True,
    network: Network | None = None,
    warn: Callable[[str], None],
) -> BlockingSession[CloudSession]:
    """Create a sandbox and wait for its code service, if it has one.

    A `cold` one runs code in a new interpreter instead of the snapshot's. `warn` receives a message
    if the sandbox cannot be ended. Raises `SandboxError` and what `Cloud` raises, having ended the
    sandbox.
    """

    async def opening() -> CloudSession:
        start = time.perf_counter()
        sandbox, seconds = await cloud.create_sandbox(
            ref, seconds=_LIFE_SECONDS, metadata=metadata, network=network
        )
        kind = _ExtendedSession if has_code_service else _CommandSession
        session = kind(sandbox, account=cloud.account, lifetime=seconds, start=start, warn=warn)
        try:
            await session.wait_until_ready()
            if cold:
                await session.service.renew()
        except BaseException:
            await run_to_completion(session.close())
            raise
        return session

    return BlockingSession(opening)


class _ExtendedSession(CloudSession):
    """A session that lives as long as its code runs."""

    async def run(self, code: str, **options: Unpack[RunOptions]) -> Execution:
        await self._extend(options["seconds"])
        return await super().run(code, **options)

    async def command(self, text: str, *, seconds: float) -> CommandResult:
        await self._extend(seconds)
        return await super().command(text, seconds=seconds)

    async def _extend(self, seconds: float) -> None:
        age = time.monotonic() - self.opened_at
        if self.lifetime - age < seconds + _MARGIN_SECONDS:
            life = int(seconds) + 2 * _MARGIN_SECONDS
            try:
                await OF_BUILDS.wait_for(partial(self.sandbox.set_timeout, life))
            except Exception as error:
                text = f"cannot extend its time-out: {words_of(error)}"
                raise SandboxError(self.worded(text)) from error
            self.lifetime = age + life


class _CommandSession(_ExtendedSession):
    """A session without a code service: the sandbox's `python3` runs code."""

    async def wait_until_ready(self) -> None:
        await wait_until_running(self.sandbox, worded=self.worded)

    async def run(self, code: str, **options: Unpack[RunOptions]) -> Execution:
        command = python_command(code)
        return as_execution(await self.command(command, seconds=options["seconds"]))


class Sandboxes:
    """The sandboxes that one project opens on a target.

    The journal keeps for which templates some may run, so that a later run can end them.
    """

    def __init__(self, cloud: Cloud, *, journal: Path, report: Reporter) -> None:
        """`report` receives events that concern no single template."""
        self.name, self.cloud = cloud.account.target, cloud
        self.journal = Journal(journal, target=self.name)
        self._report = report
        self._unended: set[str] = set()

    @contextlib.contextmanager
    def claimed(self, name: str) -> Iterator[None]:
        """Keep other processes of this project from the template, for the `with` block."""

        def waiting() -> None:
            text = "waiting for another process that builds it"
            self._report(Event(kind="step", variant=name, text=text))

        with self.journal.claimed(name, waiting=waiting):
            self._end_left_over(name)
            try:
                yield
            finally:
                entry = self.journal.read(name)
                if entry and entry.verifying and name not in self._unended:
                    self._ended(entry)

    def tidy(self) -> None:
        """End the sandboxes of killed runs."""
        for name in self.journal.names():
            with contextlib.suppress(BlockingIOError), self.journal.claimed(name, wait=False):
                self._end_left_over(name)

    def open(self, opening: Opening) -> Sandbox:
        """Create a sandbox of exactly the build.

        Code runs in the snapshot's interpreter, which has the variables and warm modules already,
        unless the sandbox is to be cold.
        """
        name, ref = opening.name, opening.ref
        entry = self.journal.read(name) or self.journal.begin(name, "")
        self.journal.write(replace(entry, verifying=True))

        def warn(text: str) -> None:
            self._unended.add(name)
            self._warn(text)

        try:
            return open_sandbox(
                self.cloud,
                ref,
                metadata=self._metadata(name),
                cold=opening.cold,
                has_code_service=opening.has_code_service,
                network=opening.network,
                warn=warn,
            )
        except NetworkError:
            self._unended.add(name)  # it may exist: perhaps only the response was lost
            raise
        except BuildError as error:
            raise NotOnThisMachineError(
                f"cannot create a sandbox of `{ref}` on {self.name}: {error.message}",
                hint=f"`template-builder plan {name} --target {self.name}` shows if the build is"
                " still there",
            ) from error

    def _metadata(self, name: str) -> dict[str, str]:
        return {_METADATA: f"{self.journal.owner}/{name}"}

    def _end_left_over(self, name: str) -> None:
        """End the sandboxes that a killed run left; only under the claim of `name`."""
        entry = self.journal.read(name)
        if entry is None or not entry.verifying:
            return
        try:
            for sandbox_id in self.cloud.sandboxes(self._metadata(name)):
                self.cloud.kill_sandbox(sandbox_id)
        except (BuildError, NetworkError) as error:
            self._warn(
                f"a sandbox that an earlier run opened for `{name}` may still run: {error.message};"
                " the next run tries again to end it"
            )
            return
        self._ended(entry)

    def _ended(self, entry: Entry) -> None:
        """Note that no sandbox of the entry runs any more."""
        if entry.digest:
            self.journal.write(replace(entry, verifying=False))
        else:
            self.journal.remove(entry.name)

    def _warn(self, text: str) -> None:
        self._report(Event(kind="warning", text=text))
