"""What the record of a build holds."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from builder import __version__
from builder.history import now
from builder.plan import inputs_of
from builder.render import Rendered
from builder.verify import Verified

__all__ = ["contents_of", "fields_of", "stages_of"]


def fields_of(verified: Verified, rendered: Rendered, source: Mapping[str, Any]) -> dict[str, Any]:
    """The record of a verified build; `source` says which commit its spec is from.

    Where the same build can be made on many machines, what this one has measured is not in it.
    """
    built, contents = verified.built, contents_of(rendered)
    measures = {} if built.one_of_many else verified.measures
    seconds = measures.pop("seconds", None)
    files = contents["inputs"]["files"]
    locked = {path: hash_ for path, hash_ in files.items() if path.startswith("requirements/")}
    return {
        **contents,
        "template_id": built.template_id,
        "build_id": built.build_id,
        "origin": "built",
        "digest": built.digest,
        "packages": dict(verified.packages),
        "other_packages": dict(verified.other_packages),
        **measures,
        **({"steps": list(built.steps)} if built.steps else {}),
        "built_at": now(),
        "provenance": {
            **source,
            "renderer": f"template-builder {__version__}",
            "lock": f"sha256:{_sha256(locked)}",
        },
        "verified": {
            "checks": [check.name for check in verified.checks],
            **({"seconds": seconds} if seconds else {}),
        },
        "warnings": [*rendered.lock.notes, *built.warnings],
    }


def contents_of(rendered: Rendered) -> dict[str, Any]:
    """What a build of it would be, as its record would say it; its packages are the lock's."""
    variant, lock, inputs = rendered.variant, rendered.lock, inputs_of(rendered)
    return {
        "digest": rendered.digest,
        "base_image": lock.image.pinned,
        "packages": lock.packages,
        "stages": stages_of(inputs),
        "resources": {"cpu": variant.cpu, "memory_mb": variant.memory_mb},
        "warmup": {"level": variant.level, "imports": list(variant.imports)},
        "env": dict(variant.env),
        "inputs": inputs,
    }


def stages_of(inputs: Mapping[str, Mapping[str, str]]) -> dict[str, str]:
    """Stage → `sha256:…` of what it is made of, its parents included.

    Builds that share a stage's digest share that stage.
    """
    digest, found = _sha256(inputs["base"]), {}
    for stem in inputs["spec"].get("extends", "").split(" → "):
        own = {k: v for k, v in inputs["spec"].items() if k.startswith(f"{stem}: ")}
        lock = inputs["files"].get(f"requirements/{stem}.txt", "")
        digest = _sha256([digest, own, lock])
        found[stem] = f"sha256:{digest}"
    return found


def _sha256(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()
