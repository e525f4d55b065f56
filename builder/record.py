"""The write side of registry.json: verified builds in, one at a time, never half.

Read, change and write happen under one lock, so that writers of several processes lose nothing of
each other's. What it does not know, it keeps.
"""

from __future__ import annotations

import datetime as dt
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from builder import registry
from builder.files import atomic_write, exclusive
from builder.plan import inputs_of
from builder.render import Rendered
from builder.verify import Verified

__all__ = ["point_channel", "record", "update"]


def record(
    path: Path,
    verified: Verified,
    rendered: Rendered,
    *,
    channel: str = registry.DEFAULT_CHANNEL,
) -> dict[str, Any]:
    """Add a verified build to the registry and point `channel` at it; returns what was recorded.

    Raises `RegistryError` when the file cannot be read, `StorageError` when it cannot be written;
    then the file is as it was.
    """
    built, variant, lock = verified.built, rendered.variant, rendered.lock
    warnings = [*lock.notes, *built.warnings]
    fields: dict[str, Any] = {
        "template_id": built.template_id,
        "build_id": built.build_id,
        "origin": "built",
        "digest": built.digest,
        "base_image": lock.image.pinned,
        "packages": dict(verified.packages),
        "resources": {"cpu": variant.cpu, "memory_mb": variant.memory_mb},
        "warmup": {"level": variant.level, "imports": list(variant.imports)},
        "env": dict(variant.env),
        **({} if built.size is None else {"size_bytes": built.size}),
        **({"steps": list(built.steps)} if built.steps else {}),
        "built_at": dt.datetime.now(dt.UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        "verified": {
            "checks": [check.name for check in verified.checks],
            "seconds": {
                "build": built.seconds,
                **verified.timings,
                "sandbox": verified.sandbox_seconds,
                "warm_sandbox": verified.warm_sandbox_seconds,
                "first_use": {k: dict(v) for k, v in verified.first_use.items()},
            },
        },
        "inputs": inputs_of(rendered),
        "warnings": warnings,
    }

    def change(templates: dict[str, Any]) -> None:
        target = templates.setdefault(built.name, {}).setdefault(built.target, {})
        builds = target.setdefault("builds", {})
        builds[built.ref] = builds.get(built.ref, {}) | fields
        target.setdefault("channels", {})[channel] = built.ref

    update(path, change)
    return fields


def point_channel(path: Path, *, name: str, target: str, channel: str, ref: str) -> None:
    """Point a channel at a build that is recorded already."""

    def change(templates: dict[str, Any]) -> None:
        templates[name][target].setdefault("channels", {})[channel] = ref

    update(path, change)


def update(path: Path, change: Callable[[dict[str, Any]], None]) -> None:
    """Apply `change` to the registry's templates: locked, read anew, written in one step."""
    path = Path(os.path.realpath(path))  # of a link, the file that it leads to is the registry
    with exclusive(path.parent / ".builder" / f"{path.name}.lock"):
        if path.exists():
            data = registry.load(path).checked().data
        else:
            data = {"version": registry.VERSION, "templates": {}}
        change(data["templates"])
        atomic_write(path, dump(data).encode())


def dump(data: dict[str, Any]) -> str:
    """The registry as text: sorted, indented by two, a final newline; merges stay local."""
    return json.dumps(data, indent=2, sort_keys=True, ensure_ascii=False) + "\n"
