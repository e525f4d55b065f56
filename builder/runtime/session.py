"""Opening sandboxes of a template, on either target."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Mapping
from dataclasses import replace

from builder.errors import InterpreterDiedError, SandboxError, TemplateError, UnknownTemplateError
from builder.runtime.template import Template, check_not_revoked, near_names
from builder.sandbox.execution import WARM_SECONDS, Execution, warm_up_code
from builder.sandbox.files import FileEntry
from builder.sandbox.session import Session
from builder.system import telemetry
from builder.system.tasks import run_to_completion

_logger = logging.getLogger(__name__)
_KEPT_CHARACTERS = 10_000
_LISTING_SECONDS = 10.0


async def open_session(template: Template, *, seconds: int, warm: bool) -> Session:
    """A sandbox whose service is up; with `warm`, a first execution and the template's warm-up
    imports are behind it. It lives for `seconds` where its target has a limit.

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
            await changed_files(session)  # those that are there before any code runs
    except BaseException:
        await end(session)
        raise
    return session


async def execute(
    session: Session,
    code: str,
    *,
    seconds: float,
    language: str = "python",
    variables: Mapping[str, str],
    limit: int,
) -> Execution:
    """Run code once. That it has ended its interpreter is in the output, and no error where it
    ended well; the rest is raised as `Session.run` raises it."""
    try:
        return await session.run(
            code, seconds=seconds, language=language, variables=variables, limit=limit
        )
    except InterpreterDiedError as error:
        seen = error.seen if isinstance(error.seen, Execution) else Execution()
        message = None if error.status == 0 else f"InterpreterDied: {error.message}"
        return replace(seen, error=message, lost=True)


async def changed_files(session: Session) -> list[FileEntry]:
    """The files that code has made or changed since last time; none where they cannot be listed,
    which next time makes up for."""
    try:
        async with asyncio.timeout(_LISTING_SECONDS):
            return await session.files.changed()
    except (TemplateError, TimeoutError) as error:
        _logger.warning("the files of the sandbox %s cannot be listed: %s", session.id, error)
        return []


async def end(session: Session) -> None:
    """Close a session, even when the caller is cancelled meanwhile."""
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
        )
    from builder.targets.e2b.session import CloudSession

    assert template.account is not None
    return await CloudSession.open(template.ref, account=template.account, seconds=seconds)


async def _warm_up(session: Session, template: Template) -> None:
    for code in ("pass", *([warm_up_code(template.imports)] if template.imports else [])):
        execution = await execute(
            session, code, seconds=WARM_SECONDS, variables={}, limit=_KEPT_CHARACTERS
        )
        if execution.error or execution.timed_out:
            raise SandboxError(
                f"the warm-up of `{template.ref}` fails in its sandbox:"
                f" {execution.error or 'no end'}"
            )
