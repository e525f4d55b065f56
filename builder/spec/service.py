"""The service of a chain of specs, and how it says that it is ready."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from builder.errors import Problem
from builder.spec import defaults
from builder.spec.spec_file import SpecFile
from builder.spec.variant import is_local

READY_KEYS = ("ready_url", "ready_command", "ready_port")


def service_of(chain: Sequence[SpecFile]) -> dict[str, Any]:
    """Return the keys of `[service]`. A file that sets one of `READY_KEYS` replaces them all.

    The default service is that of the default image.
    """
    merged: dict[str, Any] = dict.fromkeys(("command", *READY_KEYS))
    bases = [file.tables.base for file in chain]
    if not any(base and "image" in base.model_fields_set for base in bases):
        merged |= {"command": list(defaults.COMMAND), "ready_url": defaults.READY_URL}
    for file in chain:
        if service := file.tables.service:
            if _ready_keys(file):
                merged |= dict.fromkeys(READY_KEYS)
            merged |= {key: getattr(service, key) for key in service.model_fields_set}
    return merged


def service_problems(chain: Sequence[SpecFile], merged: Mapping[str, Any]) -> Iterator[Problem]:
    """Report a service that says in no way, or in several, that it is ready."""
    for file in chain:
        keys = _ready_keys(file)
        for key in keys[1:]:
            message = f"excludes `service.{keys[0]}`: a service is ready in one way"
            yield file.problem(("service", key), message, "keep one of the two")
        service = file.tables.service
        if service and not is_local(service.ready_url):
            message = f"{service.ready_url!r} is not a service of the sandbox"
            hint = (
                "write a URL on localhost; a `ready-command` with curl, say, can reach other hosts"
            )
            yield file.problem(("service", "ready-url"), message, hint)
    setting = [(file, key) for file in reversed(chain) for key in _ready_keys(file)]
    if merged["command"] and not any(merged[key] for key in READY_KEYS):
        hint = (
            "set the URL that answers 200 once the service is up, or `ready-port` or"
            " `ready-command`"
        )
        message = "is required with `service.command`"
        yield chain[-1].problem(("service", "ready-url"), message, hint)
    if setting and not merged["command"]:
        file, key = setting[0]
        message = "has no effect without `service.command`"
        hint = "set the command that starts the service, or remove this key"
        yield file.problem(("service", key), message, hint)


def _ready_keys(file: SpecFile) -> list[str]:
    """Return the keys about readiness that a file sets, as they are written."""
    service = file.tables.service
    written = service.model_fields_set if service else ()
    return [key.replace("_", "-") for key in READY_KEYS if key in written]
