"""Tell whether a template's service is E2B's code service, and what needs it if it is not."""

from __future__ import annotations

from builder.sandbox.session import CODE_SERVICE_PORT
from builder.spec import Variant
from builder.targets.e2b.program import place_in

# Starts the code service in E2B's image.
_START_UP = "/.jupyter/start-up.sh"


def cannot_be_checked(variant: Variant) -> str | None:
    """Return why the template does not do in E2B's sandboxes what its spec needs, or None."""
    if variant.runs_code:
        return None
    needs = _needs_of_code(variant)
    if _is_started(variant):
        place = place_in(variant.stages, ("service", variant.ready_key))
        return (
            f"`service.{variant.ready_key}` ({place}) is not about the code service that"
            f" `service.command` starts, on port {CODE_SERVICE_PORT}: use"
            f' ready-url = "http://localhost:{CODE_SERVICE_PORT}/health"'
        )
    if not needs:
        return None
    return f"nothing runs code in its sandboxes, since {_no_code(variant)}: {'; '.join(needs)}"


def _needs_of_code(variant: Variant) -> list[str]:
    """Return what needs a code service, each with its place and what to write instead."""
    checks = [
        f"write `command` or `http` instead of `code` in the check `{check.name}`"
        f" ({place_in([stage], ('verify', number, 'code'))})"
        for stage in variant.stages
        for number, check in enumerate(stage.checks)
        if check.code is not None
    ]
    if variant.level != "memory":
        return checks
    place = place_in(variant.stages, ("warmup", "level"))
    return [*checks, f'set `warmup.level` to "disk" ({place})']


def _no_code(variant: Variant) -> str:
    """Return why nothing runs code."""
    if not variant.command:
        return "there is no [service]"
    place = place_in(variant.stages, ("service", variant.ready_key))
    return (
        f"`service.{variant.ready_key}` ({place}) is not about http://localhost:{CODE_SERVICE_PORT},"
        " where E2B's code service answers"
    )


def _is_started(variant: Variant) -> bool:
    """Return whether the service is started as in E2B's image."""
    return any(word.endswith(_START_UP) for word in variant.command)


def runs_no_code(variant: Variant) -> tuple[str, ...]:
    """Return a line if nothing runs code in the template's sandboxes."""
    if variant.runs_code:
        return ()
    instead = "run commands in them, and reach its service" if variant.command else "run commands"
    return (
        f"running code in its sandboxes, since {_no_code(variant)}: applications can {instead}",
    )


def unknown_service(variant: Variant) -> tuple[str, ...]:
    """Return a line if the service does not start as in E2B's image: only a build can tell then
    whether it runs code."""
    if not variant.runs_code or _is_started(variant):
        return ()
    place = place_in(variant.stages, ("service", "command"))
    line = (
        f"a check before the build that `service.command` ({place}) starts a code service: it is"
        f" not that of E2B's image, /root{_START_UP}, and verification fails unless a code service"
        f" listens on port {CODE_SERVICE_PORT}"
    )
    return (line,)
