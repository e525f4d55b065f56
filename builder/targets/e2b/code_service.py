"""Tell whether a template's service is E2B's code service, and what needs it if it is not."""

from __future__ import annotations

import re
from collections.abc import Sequence
from urllib.parse import urlsplit

from builder.sandbox.session import CODE_SERVICE_PORT
from builder.spec import Variant, place_in

# Starts the code service in E2B's image.
_START_UP = "/.jupyter/start-up.sh"
_PORTS = {"http": 80, "https": 443}
_PORT = re.compile(r"(?:^| )-[\w.-]*(?:port|bind|address|listen)[= ](?:\S*:)?(\d{2,5})(?= |$)")


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


def service_notes(variant: Variant) -> tuple[str, ...]:
    """Return a line for what E2B cannot do, or not be sure of, with the template's service."""
    lines = (
        f"a check before the build of `service.command` ({place}): {text}"
        for place, text in service_doubts(variant)
    )
    return (*_runs_no_code(variant), *lines)


def service_doubts(variant: Variant) -> list[tuple[str, str]]:
    """Return why a build may wait for the service in vain, each with the place of its command."""
    if not variant.command or _is_started(variant):
        return []
    doubts, (ready, named) = [], (_ready_port(variant), _named_ports(variant.command))
    if variant.runs_code:
        doubts.append(
            f"it is not that of E2B's image, /root{_START_UP}, and verification fails unless a code"
            f" service listens on port {CODE_SERVICE_PORT}"
        )
    if ready and named and ready not in named:
        place = place_in(variant.stages, ("service", variant.ready_key))
        doubts.append(
            f"it names port {', '.join(map(str, sorted(named)))}, but `service.{variant.ready_key}`"
            f" ({place}) waits for port {ready}"
        )
    place = place_in(variant.stages, ("service", "command"))
    return [(place, text) for text in doubts]


def _ready_port(variant: Variant) -> int | None:
    """Return the port where the service is ready, None if a program tells when it is."""
    if variant.ready_command:
        return None
    url = urlsplit(variant.ready_url or "")
    return variant.ready_port or url.port or _PORTS.get(url.scheme)


def _named_ports(command: Sequence[str]) -> set[int]:
    """Return the ports in options such as `--port 80`, `--server.port=80` and `--bind host:80`."""
    return {int(port) for port in _PORT.findall(" ".join(command))}


def _runs_no_code(variant: Variant) -> tuple[str, ...]:
    """Return a line if nothing runs code in the template's sandboxes."""
    if variant.runs_code:
        return ()
    instead = "run commands in them, and reach its service" if variant.command else "run commands"
    return (
        f"running code in its sandboxes, since {_no_code(variant)}: applications can {instead}",
    )
