"""What the record of a build holds."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from builder import __version__
from builder.plan import inputs_of
from builder.registry import Record
from builder.registry.history import now
from builder.render import RESEED_FILE, Rendered
from builder.spec import Check, Stage, Variant
from builder.verify import Verified

__all__ = ["Recalled", "contents_of", "fields_of", "first_stages_of", "recalled", "stages_of"]

# Between two requirements, not between the bounds or the extras of one.
_SEPARATOR = re.compile(r", (?=[A-Za-z0-9])(?![^\[]*\])")
_CHECK = re.compile(r"[^:]+: verify '(.+)'")
_ALGORITHM = 2  # of the stages' digests; recorded with them


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
        **({"base_fetched": True} if built.base_fetched else {}),
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
        "warnings": [*rendered.lock.notes, *built.warnings, *verified.warnings],
    }


def contents_of(rendered: Rendered) -> dict[str, Any]:
    """What a build of it would be, as its record would say it; its packages are the lock's."""
    variant, lock, inputs = rendered.variant, rendered.lock, inputs_of(rendered)
    return {
        "digest": rendered.digest,
        "base_image": lock.image.pinned,
        "packages": lock.packages,
        "stages": stages_of(rendered),
        "stages_algorithm": _ALGORITHM,
        "resources": {"cpu": variant.cpu, "memory_mb": variant.memory_mb},
        "warmup": {"level": variant.level, "imports": list(variant.imports)},
        "env": dict(variant.env),
        "checks": [
            {"source": stage.source, **dataclasses.asdict(check)}
            for stage in variant.stages
            for check in stage.checks
        ],
        "inputs": inputs,
    }


@dataclass(frozen=True, kw_only=True, slots=True)
class Recalled:
    """What was promised of a build, by its record: as much of its variant as its checks need.

    `left_out` are the checks that the record names and does not have; `reseeds` says whether copies
    of its warm interpreter get seeds of their own.
    """

    variant: Variant
    locked: Mapping[str, str]
    reseeds: bool
    left_out: tuple[str, ...]


def recalled(found: Record) -> Recalled:
    """What was promised of a recorded build, in whatever form this program has recorded it."""
    fields = found.fields
    spec = fields.get("inputs", {}).get("spec", {})
    stages = []
    for stem in spec.get("extends", "").split(" → "):
        text = spec.get(f"{stem}: python.packages", "")
        stages.append(_stage(stem, stem, requirements=tuple(filter(None, _SEPARATOR.split(text)))))
    for known in fields.get("checks", []):
        check = Check(
            name=known["name"],
            code=known["code"],
            stdout=known.get("stdout"),
            timeout=known["timeout"],
        )
        stages.append(_stage("", known["source"], checks=(check,)))
    named = [m[1] for key in spec if (m := _CHECK.fullmatch(key))]
    warmup = fields.get("warmup", {})
    variant = Variant(
        name=found.name,
        stem="",
        source="",
        description="",
        stages=tuple(stages),
        image="",
        python="",
        python_floor="",
        env=fields.get("env", {}),
        command=(),
        ready_url=None,
        cpu=0,
        memory_mb=0,
        free_disk_mb=None,
        level=warmup.get("level", "none"),
        imports=tuple(warmup.get("imports", ())),
    )
    left_out = () if "checks" in fields else tuple(named)
    return Recalled(
        variant=variant,
        locked=fields.get("packages", {}),
        reseeds=RESEED_FILE in fields.get("inputs", {}).get("files", {}),
        left_out=left_out,
    )


def _stage(
    stem: str, source: str, *, requirements: tuple[str, ...] = (), checks: tuple[Check, ...] = ()
) -> Stage:
    return Stage(
        stem=stem,
        source=source,
        env={},
        system=(),
        requirements=requirements,
        torch_backend=None,
        files=(),
        checks=checks,
        declared="",
    )


def stages_of(rendered: Rendered) -> dict[str, str]:
    """Stage → `sha256:…` of all that it declares, its lock and files, its parents included.

    Builds that share a stage's digest share that stage.
    """
    locks = {f.path: hashlib.sha256(f.content).hexdigest() for f in rendered.files}
    digest, stages = _sha256(rendered.lock.image.pinned), {}
    for stage in rendered.variant.stages:
        files = [(f.target, f.mode, hashlib.sha256(f.content).hexdigest()) for f in stage.files]
        lock = locks.get(f"requirements/{stage.stem}.txt", "")
        digest = _sha256([digest, stage.declared, files, lock])
        stages[stage.stem] = f"sha256:{digest}"
    return stages


def first_stages_of(inputs: Mapping[str, Mapping[str, str]]) -> dict[str, str]:
    """The same by the first algorithm, which left out environment, service, resources and warm-up.

    Revocations from then still hold for builds of today.
    """
    digest, stages = _sha256(inputs.get("base", {})), {}
    spec = inputs.get("spec", {})
    for stem in spec.get("extends", "").split(" → "):
        kinds = ("python.packages", "system.packages", "verify ", "file ")
        starts = tuple(f"{stem}: {kind}" for kind in kinds)
        own = {key: value for key, value in spec.items() if key.startswith(starts)}
        lock = inputs.get("files", {}).get(f"requirements/{stem}.txt", "")
        digest = _sha256([digest, own, lock])
        stages[stem] = f"sha256:{digest}"
    return stages


def _sha256(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()
