"""The features of a spec that sandboxes on this machine lack, in words. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from builder.spec import Stage, Variant
from builder.spec.downloads import owner_of
from builder.spec.variant import DEFAULT_WORKDIR
from builder.targets.local.absolute import provided, workdir_provided
from builder.targets.local.home import in_home


def unsupported(variant: Variant, *, confined: bool) -> tuple[str, ...]:
    """List the features of a variant that need a separate machine, `missing` first."""
    inherited = (
        f"what it does not provide of `{parent.title}`, which this template is from:"
        f" `template-builder show {parent.title} --target {parent.target}` lists it"
        for parent in (variant.parent,)
        if parent
    )
    lines = (
        *missing(variant, confined=confined),
        *inherited,
        f"the base image {variant.image} and its service: Python comes from this machine",
    )
    if confined:
        return lines
    return (
        *lines,
        (
            f"limits: {variant.cpu} CPUs and {variant.memory_mb} MiB are not enforced,"
            " and it is no security boundary"
        ),
    )


def missing(variant: Variant, *, confined: bool) -> tuple[str, ...]:
    """List the packages and files of a variant that sandboxes cannot have. Sandboxes that are not
    `confined` have files only in their home."""

    def elsewhere(target: str) -> bool:
        return not provided(target) if confined else in_home(target) is None

    where = "at reserved paths" if confined else "outside of /home/user"
    lines: list[str] = []
    for stage in variant.stages:
        lines += _not_installed(stage)
        targets = [entry.target for entry in stage.all_files if elsewhere(entry.target)]
        if targets:
            lines.append(f"files {where} of {stage.source}: {', '.join(targets)}")
        lines += _fetched_elsewhere(stage, elsewhere, where)
        lines += _owned_by_others(stage)
        if asking := [f"`{check.name}`" for check in stage.checks if check.http]:
            lines.append(f"the service that checks of {stage.source} ask: {', '.join(asking)}")
    workdir = variant.workdir
    if workdir != DEFAULT_WORKDIR:
        start = "sandboxes start in their home"
        if confined and workdir_provided(workdir):
            start = "commands start there, and code in the home"
        lines.append(f"the working folder {workdir}: {start}")
    return tuple(lines)


def _not_installed(stage: Stage) -> Iterator[str]:
    """Yield a line for each kind of package, and for commands, which need an image."""
    if stage.system:
        yield f"Debian packages of {stage.source}: {', '.join(stage.system)}"
    if stage.repositories:
        addresses = ", ".join(repository.uri for repository in stage.repositories)
        yield f"repositories of Debian packages of {stage.source}: {addresses}"
    if stage.node:
        yield f"npm packages of {stage.source}: {', '.join(stage.node)}"
    if stage.runs:
        commands = ", ".join(f"`{run.summary}`" for run in stage.runs)
        yield f"commands of {stage.source}, which this target does not run: {commands}"


def _owned_by_others(stage: Stage) -> Iterator[str]:
    owned = [(entry.target, entry.owner) for entry in stage.all_files]
    owned += [(download.target, download.owner) for download in stage.downloads]
    owners = [
        f"{target} ({owner})"
        for target, owner in owned
        if in_home(target) is not None and owner != owner_of(target, None)
    ]
    if owners:
        yield f"owners of files of {stage.source}, which belong to you here: {', '.join(owners)}"


def _fetched_elsewhere(stage: Stage, elsewhere: Callable[[str], bool], where: str) -> Iterator[str]:
    """Yield a line for each kind of content that a stage fetches for places `elsewhere`."""
    targets: dict[str, list[str]] = {}
    for kind, target in (
        *(("download", each.target) for each in stage.downloads),
        *((each.kind, each.target) for each in stage.models),
    ):
        if elsewhere(target):
            targets.setdefault(kind, []).append(target)
    for kind, paths in targets.items():
        yield f"{kind}s {where} of {stage.source}: {', '.join(paths)}"
