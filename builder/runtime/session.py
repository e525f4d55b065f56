"""Open, warm, use and end the sandboxes of a template, on either target."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from dataclasses import replace
from typing import Unpack

from builder.errors import InterpreterDiedError, SandboxError, TemplateError, UnknownTemplateError
from builder.runtime.template import Template, check_not_revoked, near_names
from builder.sandbox.boundary import Boundary
from builder.sandbox.execution import WARM_SECONDS, Execution, warm_up_code
from builder.sandbox.files import FileEntry
from builder.sandbox.session import RunOptions, Session
from builder.system import telemetry
from builder.system.isolation import DEFAULT
from builder.system.tasks import run_to_completion

_logger = logging.getLogger(__name__)
_KEPT_CHARACTERS = 10_000
_LISTING_SECONDS = 10.0


async def open_session(template: Template, *, seconds: int, warm: bool) -> Session:
    """Open a sandbox and wait until it is ready; with `warm`, also run a first execution and the
    template's warm-up imports. It lives for `seconds` if its target has a limit.

    Raises `RevokedError`, `UnknownTemplateError`, `SandboxError` and what the target raises; then
    no sandbox is left behind.
    """
    check_not_revoked(template)
    try:
        with telemetry.measured("open", template.attributes):
            session = await _opened(template, seconds)
    except UnknownTemplateError as error:
        if error.hint is None:
            error.hint = near_names(template)
        raise
    try:
        with telemetry.measured("ready", template.attributes):
            await session.wait_until_ready()
            if warm:
                await _warm_up(session, template)
            await changed_files(session)  # files that exist before any code runs
    except BaseException:
        await end(session)
        raise
    return session


async def execute(session: Session, code: str, **options: Unpack[RunOptions]) -> Execution:
    """Run code once. An interpreter that the code ended is an error in the output, unless it exited
    with status 0. Raises what else `Session.run` raises."""
    try:
        return await session.run(code, **options)
    except InterpreterDiedError as error:
        seen = error.seen if isinstance(error.seen, Execution) else Execution()
        message = None if error.status == 0 else f"InterpreterDied: {error.message}"
        return replace(seen, error=message, lost=True)


async def changed_files(session: Session) -> list[FileEntry]:
    """Return the files that code created or changed since last time; none if they cannot be listed,
    in which case the next call includes them."""
    try:
        async with asyncio.timeout(_LISTING_SECONDS):
            return await session.files.changed()
    except (TemplateError, TimeoutError) as error:
        _logger.warning("the files of the sandbox %s cannot be listed: %s", session.id, error)
        return []


async def end(session: Session) -> None:
    """Close a session, even if the caller is cancelled meanwhile."""
    with contextlib.suppress(Exception):
        await run_to_completion(session.close())


async def _opened(template: Template, seconds: int) -> Session:
    if template.local:
        from builder.targets.local.session import LocalSession

        assert template.name is not None
        return await LocalSession.open(
            template.ref,
            name=template.name,
            warm=template.imports if template.level == "memory" else (),
            env=dict(template.env),
            boundary=Boundary(
                isolation=template.isolation or DEFAULT,
                network=template.network,
                cpu=template.cpu,
                memory_mb=template.memory_mb,
            ),
            keep_zygote=template.keep_zygote,
        )
    from builder.targets.e2b.session import CloudSession

    assert template.account is not None
    return await CloudSession.open(
        template.ref, account=template.account, seconds=seconds, network=template.network
    )


async def _warm_up(session: Session, template: Template) -> None:
    for code in ("pass", *([warm_up_code(template.imports)] if template.imports else [])):
        execution = await execute(
            session,
            code,
            seconds=WARM_SECONDS,
            language="python",
            variables={},
            limit=_KEPT_CHARACTERS,
        )
        if execution.error or execution.timed_out:
            raise SandboxError(
                f"the warm-up of `{template.ref}` failed in its sandbox:"
                f" {execution.error or 'it did not finish'}"
            )
