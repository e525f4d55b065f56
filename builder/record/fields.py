"""The content of the record of a build."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, cast

from builder import __version__
from builder.plan import inputs_of
from builder.registry import Record, model
from builder.registry.history import now
from builder.registry.identity import Digest, Ref
from builder.registry.model import Build
from builder.registry.tables import explicit
from builder.render import RESEED_FILE, Rendered
from builder.spec import Check, Stage, Variant
from builder.spec.variant import HttpRequest, WarmupLevel
from builder.verify import Verified

# Between two requirements, not between the bounds or extras of one requirement.
_SEPARATOR = re.compile(r", (?=[A-Za-z0-9])(?![^\[]*\])")
_CHECK = re.compile(r"[^:]+: verify '(.+)'")
_ALGORITHM = 2  # version of the stages' digests; recorded with them

# What stages copy beside single files; earlier versions had only those.
_COPIED = ("folders", "node", "run", "repositories", "wheels")


def build_of(verified: Verified, rendered: Rendered, source: Mapping[str, Any]) -> Build:
    """Return the record of a verified build; `source` says which commit its spec is from.

    Measurements are left out if other machines can make the same build.
    """
    built, contents = verified.built, contents_of(rendered)
    measures = {} if built.one_of_many else verified.measures
    seconds = measures.get("seconds")
    checked = explicit(model.Verified, checks=tuple(check.name for check in verified.checks))
    locked = {
        path: digest
        for path, digest in contents.inputs["files"].items()
        if path.startswith("requirements/")
    }
    build = explicit(
        Build,
        template_id=built.template_id,
        build_id=built.build_id,
        origin="built",
        digest=built.digest,
        packages=dict(verified.packages),
        other_packages=dict(verified.other_packages),
        built_at=now(),
        provenance=model.Provenance.from_json(
            {
                **source,
                "renderer": f"template-builder {__version__}",
                "lock": f"sha256:{_sha256(locked)}",
            }
        ),
        verified=replace(checked, seconds=seconds and model.Seconds.from_json(seconds)),
        warnings=(*rendered.lock.notes, *built.warnings, *verified.warnings),
    )
    build = replace(
        build,
        size_bytes=measures.get("size_bytes"),
        steps=built.steps,
        base_fetched=built.base_fetched or None,
    )
    if built.one_of_many:  # a kernel of each machine runs code, whatever the service is
        contents = replace(contents, runs_code=True)
    return contents.updated(build)


def contents_of(rendered: Rendered) -> Build:
    """Return the record that a build would have before it is built; its packages are the lock's."""
    variant, lock, inputs = rendered.variant, rendered.lock, inputs_of(rendered)
    base: dict[str, Any] = {"base_image": lock.image.pinned} if lock.image.pinned else {}
    if variant.parent:
        base["from_template"] = Ref(variant.parent.ref)
    build = explicit(
        Build,
        digest=rendered.digest,
        **base,
        packages=dict(rendered.locked),
        stages=stages_of(rendered),
        stages_algorithm=_ALGORITHM,
        resources=model.Resources(cpu=variant.cpu, memory_mb=variant.memory_mb),
        warmup=explicit(model.Warmup, level=variant.level, imports=tuple(variant.imports)),
        env=dict(variant.env),
        checks=tuple(
            _recorded_check(source, check)
            for source, check in (
                *((variant.source, check) for check in rendered.loading_checks),
                *((stage.source, check) for stage in variant.stages for check in stage.checks),
            )
        ),
        inputs=inputs,
    )
    # Written only if they say something, which keeps records as earlier versions wrote them.
    build = replace(build, network=variant.network)
    return build if variant.runs_code else replace(build, runs_code=False)


def _recorded_check(source: str, check: Check) -> model.Check:
    # Earlier versions need `code`.
    values: dict[str, Any] = {"code": check.code or ""}
    if check.command is not None:
        values |= {"command": check.command, "exit_code": check.exit_code}
    if check.http:
        values["http"] = explicit(model.HttpRequest, **dataclasses.asdict(check.http))
    values |= {"source": source, "name": check.name}
    return explicit(model.Check, **values, stdout=check.stdout, timeout=check.timeout)


def _recalled_check(known: model.Check) -> Check:
    http = known.http
    return Check(
        name=known.name,
        code=None if known.command is not None or http else known.code,
        command=known.command,
        exit_code=known.exit_code,
        http=HttpRequest(url=http.url, status=http.status, contains=http.contains)
        if http
        else None,
        stdout=known.stdout,
        timeout=known.timeout,
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class Recalled:
    """What the record of a build promises: as much of its variant as its checks need.

    `left_out` are the tests that the record names but does not contain; `reseeds` says whether
    copies of its warm interpreter get their own random seeds, `runs_code` whether its service is
    E2B's code service.
    """

    variant: Variant
    locked: Mapping[str, str]
    reseeds: bool
    runs_code: bool
    left_out: tuple[str, ...]

    @property
    def loading_checks(self) -> tuple[Check, ...]:
        """Return none: they are among the recorded checks."""
        return ()


def required_by(spec: Mapping[str, str], stem: str) -> tuple[str, ...]:
    """Return the requirements of a stage, from the inputs of a record."""
    return tuple(filter(None, _SEPARATOR.split(spec.get(f"{stem}: python.packages", ""))))


def recalled(recorded: Record) -> Recalled:
    """Return what a recorded build promises, from records of any version."""
    build = recorded.build
    spec = build.inputs.get("spec", {})
    stages = []
    for stem in spec.get("extends", "").split(" → "):
        requirements = required_by(spec, stem)
        stages.append(Stage(stem=stem, source=stem, requirements=requirements))
    stages += [
        Stage(stem="", source=known.source, checks=(_recalled_check(known),))
        for known in build.checks or ()
    ]
    named = [m[1] for key in spec if (m := _CHECK.fullmatch(key))]
    variant = Variant(
        name=recorded.name,
        stages=tuple(stages),
        env=build.env,
        cpu=0,
        memory_mb=0,
        level=cast("WarmupLevel", build.warmup.level),
        imports=build.warmup.imports,
        network=build.network,
        not_imported=tuple(filter(None, spec.get("python.not-imported", "").split(", "))),
    )
    left_out = tuple(named) if build.checks is None else ()
    return Recalled(
        variant=variant,
        locked=build.packages,
        reseeds=RESEED_FILE in build.inputs.get("files", {}),
        runs_code=build.runs_code,
        left_out=left_out,
    )


def stages_of(rendered: Rendered) -> dict[str, Digest]:
    """Return stage → digest of all that it and its parents declare, with lock and files.

    Builds that share a stage's digest share that stage.
    """
    locks = {f.path: hashlib.sha256(f.content).hexdigest() for f in rendered.files}
    parent = rendered.variant.parent
    digest = _sha256(parent.ref if parent else rendered.lock.image.pinned)
    stages = {stem: Digest(known) for stem, known in parent.stages.items()} if parent else {}
    for stage in rendered.variant.stages:
        files = [(f.target, f.mode, hashlib.sha256(f.content).hexdigest()) for f in stage.files]
        lock = locks.get(f"requirements/{stage.stem}.txt", "")
        fetched = [
            [(content.target, file.path, file.sha256) for file in content.files]
            for content in rendered.fetched
            if content.stage == stage.stem
        ]
        # Left out where there is none, so that earlier digests remain valid.
        own: list[Any] = [digest, stage.declared, files, lock, *fetched]
        folders = tuple(f"{kind}/{stage.stem}/" for kind in _COPIED)
        if more := {path: each for path, each in locks.items() if path.startswith(folders)}:
            own.append(more)
        if commits := locks.get(f"requirements/commits/{stage.stem}.txt"):
            own.append(commits)
        digest = _sha256(own)
        stages[stage.stem] = Digest(f"sha256:{digest}")
    return stages


def first_stages_of(inputs: Mapping[str, Mapping[str, str]]) -> dict[str, Digest]:
    """Return the same by the first algorithm, which left out environment, service, resources and
    warm-up, so that revocations from then still hold for today's builds.
    """
    digest, stages = _sha256(inputs.get("base", {})), {}
    spec = inputs.get("spec", {})
    for stem in spec.get("extends", "").split(" → "):
        kinds = ("python.packages", "system.packages", "verify ", "file ")
        starts = tuple(f"{stem}: {kind}" for kind in kinds)
        own = {key: value for key, value in spec.items() if key.startswith(starts)}
        lock = inputs.get("files", {}).get(f"requirements/{stem}.txt", "")
        digest = _sha256([digest, own, lock])
        stages[stem] = Digest(f"sha256:{digest}")
    return stages


def _sha256(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()
