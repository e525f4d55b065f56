"""From the parsed files of a chain to its stages and the variant at its end."""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import Any, cast

from builder.errors import Problem
from builder.spec.models import TABLES, VariantFile, python_floor
from builder.spec.secret_shapes import secret_in
from builder.spec.spec_file import SpecFile
from builder.spec.variant import Check, FileEntry, Stage, Variant, WarmupLevel
from builder.spec.wording import NO_SECRETS

# What says nothing of what a stage makes, or is its parents' own.
_DESCRIBING = {"schema_version", "name", "description", "extends"}
_MAX_TEXT_BYTES = 1 << 20
_MAX_SOURCE_BYTES = 64 << 20


def _merged(chain: Sequence[SpecFile], table: str, key: str) -> Any:
    """The value that the last file of the chain that sets it gives, or the field's default."""
    for file in reversed(chain):
        found = getattr(file.model, table)
        if found is not None and key in found.model_fields_set:
            return getattr(found, key)
    return TABLES[table].model_fields[key].default


def stage_of(folder: Path, chain: Sequence[SpecFile]) -> Stage:
    """What the last file of `chain` adds; mistakes that its copied files show are noted in it."""
    file = chain[-1]
    model = cast(VariantFile, file.model)
    return Stage(
        stem=file.stem,
        source=file.shown,
        env=dict(model.env),
        system=tuple(model.system.packages) if model.system else (),
        requirements=tuple(model.python.packages) if model.python else (),
        torch_backend=_merged(chain, "python", "torch_backend"),
        files=tuple(_files(folder, file)),
        checks=tuple(Check(**table.model_dump()) for table in model.verify),
        declared=json.dumps(
            model.model_dump(mode="json", exclude_unset=True, exclude=_DESCRIBING), sort_keys=True
        ),
        path=folder / f"{file.stem}.toml",
    )


def _files(folder: Path, file: SpecFile) -> Iterable[FileEntry]:
    seen = set()
    for number, entry in enumerate(cast(VariantFile, file.model).files):
        key = ("files", number, "source")
        path = folder / entry.source
        if entry.target in seen:
            file.add(("files", number, "target"), f"{entry.target!r} is written twice")
            continue
        seen.add(entry.target)
        steps = [
            folder / Path(*path.parts[len(folder.parts) : n + 1])
            for n in range(len(folder.parts), len(path.parts))
        ]
        if any(step.is_symlink() for step in steps):
            file.add(key, f"{entry.source!r} is, or is behind, a symbolic link")
            continue
        try:
            found = os.stat(path)
            if not stat.S_ISREG(found.st_mode):
                file.add(key, f"{entry.source!r} is not a regular file")
                continue
            if found.st_size > _MAX_SOURCE_BYTES:
                message = f"{entry.source!r} is larger than {_MAX_SOURCE_BYTES >> 20} MiB"
                file.add(key, message, "have a sandbox fetch it, or put it into a package")
                continue
            content = path.read_bytes()
        except OSError as error:
            file.add(key, f"{entry.source!r} cannot be read: {error.strerror}")
            continue
        text = content.decode("latin-1") if len(content) <= _MAX_TEXT_BYTES else ""
        if kind := secret_in(text):  # keys are small; what is large is data
            file.add(key, f"{entry.source!r} holds {kind}; {NO_SECRETS}")
            continue
        yield FileEntry(source=entry.source, target=entry.target, mode=entry.mode, content=content)


def _target_problems(chain: Sequence[SpecFile]) -> Iterator[Problem]:
    """No file may stand where another one needs a folder."""
    targets = {e.target: f for f in chain for e in cast(VariantFile, f.model).files}
    for file in chain:
        for number, entry in enumerate(cast(VariantFile, file.model).files):
            for parent in PurePosixPath(entry.target).parents:
                if other := targets.get(str(parent)):
                    message = f"{entry.target!r} is below {str(parent)!r}, a file of {other.shown}"
                    yield file.problem(("files", number, "target"), message)


def _warmup_problems(
    leaf: SpecFile, level: WarmupLevel, *, imports: Sequence[str], command: Sequence[str]
) -> Iterator[Problem]:
    """What does not go together with the warm-up's level."""
    if level != "none" and not imports:
        hint = "list modules in `warmup.imports`, or set the level to none"
        message = f"is {level!r}, but there is nothing to import"
        yield leaf.problem(("warmup", "level"), message, hint)
    if level == "memory" and not command:
        hint = "add [service], or set the level to disk"
        message = "is 'memory', but there is no service whose interpreter could be kept warm"
        yield leaf.problem(("warmup", "level"), message, hint)
    table = cast(VariantFile, leaf.model).warmup
    if level != "memory" and table and table.reseed:
        hint = 'set `warmup.level` to "memory", or leave `warmup.reseed` out'
        message = f"has no effect at level {level!r}: each sandbox's interpreter starts anew"
        yield leaf.problem(("warmup", "reseed"), message, hint)


def variant_of(
    chain: Sequence[SpecFile], stages: tuple[Stage, ...]
) -> tuple[Variant | None, list[Problem]]:
    """The variant at the end of `chain`, and what is wrong with it that no file alone shows."""
    leaf = chain[-1]
    model = cast(VariantFile, leaf.model)
    problems: list[Problem] = []
    image = _merged(chain, "base", "image")
    python = _merged(chain, "base", "python")
    for key, value, example in (("image", image, "python:3.13"), ("python", python, ">=3.11")):
        if value is None:
            files = " or ".join(file.shown for file in chain)
            hint = f'write [base] {key} = "{example}" in {files}'
            problems.append(leaf.problem(("base", key), "is missing in the whole chain", hint))
    command = _merged(chain, "service", "command") or ()
    ready_url = _merged(chain, "service", "ready_url")
    level: WarmupLevel = _merged(chain, "warmup", "level")
    imports = tuple(_merged(chain, "warmup", "imports"))
    problems += _warmup_problems(leaf, level, imports=imports, command=command)
    if command and not ready_url:
        hint = "say which URL answers 200 when it is up"
        message = "is missing beside `service.command`"
        problems.append(leaf.problem(("service", "ready-url"), message, hint))
    problems += _target_problems(chain)
    names: dict[str, str] = {}
    for stage, file in zip(stages, chain, strict=True):
        for number, check in enumerate(stage.checks):
            if check.name in names:
                message = f"{check.name!r} is the name of a check in {names[check.name]}, too"
                problems.append(file.problem(("verify", number, "name"), message))
            names[check.name] = stage.source
    if problems or model.name is None:
        return None, problems
    variant = Variant(
        name=model.name,
        stem=leaf.stem,
        source=leaf.shown,
        description=model.description,
        stages=stages,
        image=image,
        python=python,
        python_floor=python_floor(python),
        env={name: value for stage in stages for name, value in stage.env.items()},
        command=tuple(command),
        ready_url=ready_url,
        cpu=_merged(chain, "resources", "cpu"),
        memory_mb=_merged(chain, "resources", "memory_mb"),
        free_disk_mb=_merged(chain, "resources", "free_disk_mb"),
        level=level,
        imports=imports,
        reseed=_merged(chain, "warmup", "reseed"),
        accept_broken=tuple(
            name
            for file in chain
            if (table := cast(VariantFile, file.model).python)
            for name in table.accept_broken
        ),
    )
    return variant, problems
