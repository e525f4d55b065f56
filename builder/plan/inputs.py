"""List the inputs of a build, and compare two such lists."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Literal

from builder.plan.values import Reason
from builder.registry import Ref
from builder.registry.model import Build
from builder.render import Rendered
from builder.spec.downloads import owner_of
from builder.spec.variant import DEFAULT_WORKDIR, Run, Stage


def inputs_of(rendered: Rendered) -> dict[str, dict[str, str]]:
    """Return the inputs of a build as flat tables, so that builds can be compared key by key.

    `spec` is by key of the spec, `packages` by distribution, `files` (SHA-256) by path.
    """
    variant, lock = rendered.variant, rendered.lock
    spec = {
        "description": variant.description,
        "extends": " → ".join(stage.stem for stage in variant.stages),
        "resources.cpu": str(variant.cpu),
        "resources.memory-mb": str(variant.memory_mb),
        "resources.free-disk-mb": "" if variant.free_disk_mb is None else str(variant.free_disk_mb),
        "network": str(variant.network or ""),
        "base.python": variant.python,
        "service.command": " ".join(variant.command),
        "service.ready-url": variant.ready_url or "",
        "service.ready-command": " ".join(variant.ready_command),
        "service.ready-port": str(variant.ready_port or ""),
        "python.not-imported": ", ".join(variant.not_imported),
        "workdir.path": "" if variant.workdir == DEFAULT_WORKDIR else variant.workdir,
        "warmup.level": variant.level,
        "warmup.imports": ", ".join(variant.imports),
        "warmup.reseed": variant.reseed and _short_hash(variant.reseed.encode()),
    }
    spec |= {f"env.{name}": value for name, value in variant.env.items()}
    for stage in variant.stages:
        spec[f"{stage.stem}: python.packages"] = ", ".join(stage.requirements)
        spec[f"{stage.stem}: python.torch-backend"] = stage.torch_backend or ""
        spec |= _wheels(stage)
        spec[f"{stage.stem}: system.packages"] = ", ".join(stage.system)
        spec[f"{stage.stem}: node.packages"] = ", ".join(stage.node)
        for check in stage.checks:
            decisive: tuple[object, ...] = (check.code, check.stdout, check.timeout)
            if check.code is None:
                decisive = (check.command, check.exit_code, check.http, *decisive)
            key = f"{stage.stem}: verify {check.name!r}"
            spec[key] = _short_hash(repr(decisive).encode())
        for entry in stage.all_files:
            owner = "" if entry.owner == owner_of(entry.target, None) else f"{entry.owner} "
            spec[f"{stage.stem}: file {entry.target}"] = (
                f"{owner}{entry.mode} {_short_hash(entry.content)}"
            )
        for folder in stage.folders:
            modes = f"{folder.owner} {folder.folder_mode}"
            spec |= {f"{stage.stem}: folder {path}": modes for path in folder.folders}
        for number, run in enumerate(stage.runs, 1):
            spec[f"{stage.stem}: run {number}"] = _described(run)
        for repository in stage.repositories:
            words = (*repository.suites, *repository.components)
            key = repository.key_sha256 or hashlib.sha256(repository.key or b"").hexdigest()
            spec[f"{stage.stem}: repository {repository.uri}"] = f"{' '.join(words)} {key[:12]}"
        spec |= _chosen(stage)
    for content in rendered.fetched:
        rights = f"{content.owner} {content.mode or ''}".strip()
        source = f"{content.title} {content.files[0].sha256[:12]}"
        if content.kind != "download":
            source = f"{content.title.partition(' ')[2]}, {content.key}"
        spec[f"{content.stage}: {content.kind} {content.target}"] = (
            f"{rights} {source}{' extracted' * content.extract}"
        )
    return {
        "spec": {key: value for key, value in spec.items() if value},
        "base": _base(rendered),
        "packages": lock.packages,
        "files": {f.path: hashlib.sha256(f.content).hexdigest() for f in rendered.files},
    }


def _wheels(stage: Stage) -> dict[str, str]:
    """Return a hash of each wheel of the project."""
    wheels = {wheel.source: wheel.content for wheel in stage.wheels}
    return {f"{stage.stem}: wheel {path}": _short_hash(wheels[path]) for path in wheels}


def _chosen(stage: Stage) -> dict[str, str]:
    """Return the revision and the patterns of each model and dataset."""
    chosen: dict[str, str] = {}
    for model in stage.models:
        key = f"{stage.stem}: {model.kind} {model.target}"
        chosen[f"{key} revision"] = model.revision or ""
        chosen[f"{key} files"] = ", ".join(model.files)
    return chosen


def _base(rendered: Rendered) -> dict[str, str]:
    if parent := rendered.variant.parent:
        return {"from-template": f"{parent.title} {Ref(parent.ref).short}"}
    return {"base.image": rendered.lock.image.pinned}


def _described(run: Run) -> str:
    """Return a command in short, and a hash of all that it is."""
    inputs = [(entry.source, entry.content) for entry in run.inputs]
    decisive = (run.command, run.user, run.before_packages, inputs, dict(run.env), run.network)
    network = "" if run.network else "network = false, "
    return f"{run.summary} ({network}{_short_hash(repr(decisive).encode())})"


def _short_hash(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:12]


def differences(recorded: Build, new: Mapping[str, Mapping[str, str]]) -> Iterable[Reason]:
    """Return the reasons why a recorded build differs from new inputs."""
    old = recorded.inputs
    kinds: Sequence[tuple[Literal["spec", "base", "package"], str]] = (
        ("spec", "spec"),
        ("base", "base"),
        ("package", "packages"),
    )
    reasons = [
        Reason(
            kind=kind,
            subject=key,
            old=_with_owner(key, old.get(part, {}).get(key), new[part].get(key)),
            new=_with_owner(key, new[part].get(key), old.get(part, {}).get(key)),
        )
        for kind, part in kinds
        for key in sorted({*old.get(part, {}), *new[part]})
        if old.get(part, {}).get(key) != new[part].get(key)
    ]
    if not reasons:
        before, after = old.get("files", {}), new["files"]
        reasons = [
            Reason(kind="renderer", subject=path)
            for path in sorted({*before, *after})
            if before.get(path) != after.get(path)
        ]
    return reasons or [Reason(kind="state", subject="the recorded build has a different digest")]


def _with_owner(key: str, value: str | None, other: str | None) -> str | None:
    """Return the value of a file, with its owner if only the other value names one: inputs leave
    the default owner out."""
    path = key.partition(": file ")[2]
    if path and value and other and len(value.split()) < len(other.split()):
        return f"{owner_of(path, None)} {value}"
    return value
