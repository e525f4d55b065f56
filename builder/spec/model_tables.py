"""Check the models and datasets of a chain of specs, and return them as values."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Literal, cast

from builder.errors import Problem
from builder.spec.downloads import owner_of
from builder.spec.spec_file import SpecFile
from builder.spec.variant import Model, Stage

if TYPE_CHECKING:
    from builder.spec.models import ModelTable

_SOURCES: tuple[Literal["repo", "url", "path"], ...] = ("repo", "url", "path")
_NAME = re.compile(r"[A-Za-z0-9._+@%~=,-]+(/[A-Za-z0-9._+@%~=,-]+)?")


def models_of(project: Path, file: SpecFile) -> tuple[Model, ...]:
    """Return the models and datasets of a spec, and note mistakes in them."""
    tables = file.tables
    models = []
    for kind, entries in (("model", tables.model), ("dataset", tables.dataset)):
        for number, table in enumerate(entries):
            model = _model(kind, number, table, project, file)  # type: ignore[arg-type]
            if model:
                models.append(model)
    return tuple(models)


def _model(
    kind: Literal["model", "dataset"],
    number: int,
    table: ModelTable,
    project: Path,
    file: SpecFile,
) -> Model | None:
    key = (kind, number)
    given = [name for name in _SOURCES if getattr(table, name) is not None]
    if len(given) != 1:
        message = f"has {' and '.join(f'`{name}`' for name in given) or 'no source'}"
        file.add(key, message, "write one of `repo`, `url` and `path`")
        return None
    (source,) = given
    location = cast(str, getattr(table, source))
    if "revision" in table.model_fields_set and source != "repo":
        file.add((*key, "revision"), f"is only for `repo`, not for `{source}`")
    if table.files and source == "url" and location.startswith("http"):
        file.add((*key, "files"), "is not for a URL, which is one file")
    if source == "path" and not (project / location).exists():
        file.add((*key, "path"), f"{location!r} does not exist in the project")
    target = table.target or _default_target(kind, source, location)
    if target is None:
        message = f"is required: the name of {location} is not one for a path"
        file.add((*key, "target"), message)
        return None
    return Model(
        kind=kind,
        source=source,
        location=location,
        revision=table.revision if source == "repo" else None,
        files=tuple(table.files),
        target=target,
        owner=owner_of(target, None),
        number=number,
        project=project,
    )


def _default_target(kind: str, source: str, location: str) -> str | None:
    name = location
    if source != "repo":
        name = PurePosixPath(location.partition("?")[0].partition("#")[0].rstrip("/")).name
    return f"/home/user/{kind}s/{name}" if _NAME.fullmatch(name) else None


def model_problems(stages: Sequence[Stage], chain: Sequence[SpecFile]) -> Iterator[Problem]:
    """Report models that are placed where something else is, or inside of it."""
    placed: dict[str, str] = {}
    folders: dict[str, str] = {}
    for stage in stages:
        placed |= {entry.target: stage.source for entry in stage.all_files}
        folders |= {path: stage.source for entry in stage.folders for path in entry.folders}
        placed |= {download.target: stage.source for download in stage.downloads}
    for stage, file in zip(stages, chain, strict=True):
        for model in stage.models:
            above = [model.target, *map(str, PurePosixPath(model.target).parents)]
            other = next((path for path in above if path in placed), None)
            if other:
                message = f"{model.target!r} is already the target of a key in {placed[other]}"
                if other != model.target:
                    message = f"{model.target!r} is below {other!r}, a target in {placed[other]}"
                yield file.problem((model.kind, model.number), message)
            elif model.target in folders:
                message = f"{model.target!r} is already a folder of {folders[model.target]}"
                yield file.problem((model.kind, model.number), message)
            placed[model.target] = stage.source
