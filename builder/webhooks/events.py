"""Events of sandboxes on E2B: payloads in either spelling, signatures and names."""

from __future__ import annotations

import base64
import binascii
import datetime as dt
import hashlib
import hmac
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from builder.errors import did_you_mean
from builder.system.documents import parse_json

_PREFIX = "sandbox.lifecycle."
EVENTS = tuple(
    f"{_PREFIX}{name}"
    for name in ("created", "killed", "updated", "paused", "resumed", "checkpointed")
)
_HUMP = re.compile(r"(?<=[a-z0-9])([A-Z])")


class InvalidEventError(ValueError):
    """A delivery that is not a valid event."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Event:
    """One event of one sandbox.

    `template` is the registry's name for `template_id`, if it has one; `at` is the time of the
    event, in UTC. On killed and paused, `started_at` is when the sandbox started, and `seconds` how
    long it ran. `data` is the payload with its keys in snake case.
    """

    id: str
    type: str
    at: dt.datetime
    sandbox_id: str
    template_id: str
    build_id: str | None = None
    template: str | None = None
    started_at: dt.datetime | None = None
    seconds: float | None = None
    cpus: int | None = None
    memory_mb: int | None = None
    data: Mapping[str, Any] = field(default_factory=dict, repr=False)

    @property
    def name(self) -> str:
        """The last word of the type, such as "created"."""
        return self.type.rpartition(".")[2]


def full_name(event: str) -> str:
    """Return `sandbox.lifecycle.created` for `created` or `sandbox.created`.

    Raises `ValueError` for an unknown event.
    """
    name = f"{_PREFIX}{event.removeprefix(_PREFIX).removeprefix('sandbox.')}"
    if name not in EVENTS:
        short = [known.removeprefix(_PREFIX) for known in EVENTS]
        hint = did_you_mean(event.rpartition(".")[2], short) or f"there are: {', '.join(short)}"
        raise ValueError(f"E2B has no event {event!r} ({hint})")
    return name


def signature(secret: str, body: bytes) -> str:
    """Return E2B's signature of a body: base64 of SHA-256 of secret and body, without padding."""
    return base64.b64encode(hashlib.sha256(secret.encode() + body).digest()).decode().rstrip("=")


def signed(secret: str, body: bytes, header: str) -> bool:
    """Return whether `header` is the signature of `body`, in either alphabet of base64."""
    text = header.strip().rstrip("=").translate(str.maketrans("-_", "+/"))
    try:
        digest = base64.b64decode(text + "=" * (-len(text) % 4), validate=True)
    except (ValueError, binascii.Error):
        return False
    return hmac.compare_digest(digest, hashlib.sha256(secret.encode() + body).digest())


def parse(body: bytes, names: Mapping[str, str]) -> Event:
    """Return the event in a body; `names` maps template IDs to the registry's names. Raises
    `InvalidEventError`."""
    try:
        document = parse_json(body)
    except ValueError as error:
        raise InvalidEventError(f"the body is not JSON: {error}") from error
    if not isinstance(document, dict):
        raise InvalidEventError("the body is not a JSON object")
    payload = _snake(document)
    template_id = _text(payload, "sandbox_template_id")
    inner = payload.get("event_data")
    execution = inner.get("execution") if isinstance(inner, dict) else None
    if not isinstance(execution, dict):
        execution = {}
    milliseconds = _number(execution, "execution_time")
    return Event(
        id=_text(payload, "id"),
        type=_text(payload, "type"),
        at=_moment(payload, "timestamp"),
        sandbox_id=_text(payload, "sandbox_id"),
        template_id=template_id,
        build_id=_optional(payload, "sandbox_build_id"),
        template=names.get(template_id),
        started_at=_moment(execution, "started_at") if "started_at" in execution else None,
        seconds=None if milliseconds is None else milliseconds / 1000,
        cpus=_whole(execution, "vcpu_count"),
        memory_mb=_whole(execution, "memory_mb"),
        data=payload,
    )


def _snake(value: Any, depth: int = 0) -> Any:
    """Return keys in snake case; metadata below the known depth keeps its keys."""
    if not isinstance(value, dict) or depth > 3:
        return value
    return {
        _HUMP.sub(lambda match: f"_{match[1].lower()}", key): _snake(inner, depth + 1)
        for key, inner in value.items()
    }


def _text(payload: Mapping[str, Any], key: str) -> str:
    value = payload.get(key)
    if not isinstance(value, str) or not value or len(value) > 256:
        raise InvalidEventError(f"`{key}` is missing or not text")
    try:
        value.encode()
    except UnicodeEncodeError:
        raise InvalidEventError(f"`{key}` contains half a character") from None
    return value


def _optional(payload: Mapping[str, Any], key: str) -> str | None:
    return _text(payload, key) if payload.get(key) else None


def _number(payload: Mapping[str, Any], key: str) -> float | None:
    value = payload.get(key)
    if value is None:
        return None
    # More than a year: no sandbox lives as long.
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < 4e10:
        raise InvalidEventError(f"`{key}` is not a number in range")
    return float(value)


def _whole(payload: Mapping[str, Any], key: str) -> int | None:
    number = _number(payload, key)
    return None if number is None else int(number)


def _moment(payload: Mapping[str, Any], key: str) -> dt.datetime:
    try:
        moment = dt.datetime.fromisoformat(_text(payload, key))
        if moment.tzinfo is None:
            moment = moment.replace(tzinfo=dt.UTC)
        return moment.astimezone(dt.UTC)
    except (ValueError, OverflowError) as error:
        raise InvalidEventError(f"`{key}` is not a time: {error}") from error
