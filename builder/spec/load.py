"""Reading the variants folder: parse every file, follow every chain, report every mistake."""

from __future__ import annotations

import functools
import os
import re
import stat
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any, cast

from pydantic import ValidationError

from builder.documents import NestingError, parse_toml
from builder.errors import Problem, SpecError, did_you_mean, from_os_error
from builder.spec.models import TABLES, VariantFile, python_floor
from builder.spec.secret_shapes import secret_in, secrets_of
from builder.spec.variant import Check, FileEntry, Stage, Variant, WarmupLevel
from builder.spec.wording import dotted, worded

__all__ = ["load_variants", "place_of"]

# The name of a stage, too, which begins with a letter; a shared one gets a prefix there.
_STEM = re.compile(r"_[a-z0-9][a-z0-9_-]*|[a-z][a-z0-9_-]*")
# More digits than Python is willing to read as a number.
_TOO_LONG_NUMBER = re.compile(r"[0-9_]{4301,}")
_NO_SECRETS = (
    "what a template holds can be read by all who can use it. Give secrets to a sandbox when it is"
    " opened"
)
_MAX_SPEC_BYTES = 1 << 20
_MAX_SOURCE_BYTES = 64 << 20
_MAX_DEPTH = 20
# The name of the last stage of every Dockerfile, the two names that Docker keeps for itself, and
# the prefix that shared stages get.
RESERVED_STEMS = ("template", "scratch", "context")
SHARED_PREFIX = "shared-"


@dataclass
class _File:
    stem: str
    shown: str
    text: str
    model: VariantFile | None = None
    # As written, so that names and chains are checked in files that have other mistakes, too.
    name: str | None = None
    extends: str | None = None


@dataclass
class _Report:
    problems: list[Problem] = field(default_factory=list)

    def add(
        self, file: _File, key: Sequence[str | int], message: str, hint: str | None = None
    ) -> None:
        line, column = _positions(file.text).of(key) if file.text else (0, 0)
        self.problems.append(
            Problem(file.shown, message, line=line, column=column, key=dotted(key), hint=hint)
        )


def load_variants(folder: Path) -> tuple[Variant, ...]:
    """Every buildable variant of `folder`, sorted by name.

    Raises `SpecError` with all mistakes of all files.
    """
    report = _Report()
    files = {file.stem: file for file in _read(folder, report)}
    for file in files.values():
        _parse(file, report)
    _check_names(files.values(), report)
    broken = _check_chains(files, report)
    stages: dict[str, Stage] = {}
    variants = []
    for stem, file in files.items():
        if stem in broken or file.model is None:
            continue
        chain = _chain(files, stem)
        if any(link.model is None for link in chain):
            continue
        for depth, link in enumerate(chain):
            if link.stem not in stages:
                stages[link.stem] = _stage(folder, chain[: depth + 1], report)
        if not stem.startswith("_"):
            variant = _variant(chain, tuple(stages[link.stem] for link in chain), report)
            variants.append(variant)
    if not variants and not report.problems:
        message = "there are shared stages only: no .toml file without a leading `_`"
        report.problems.append(Problem(f"{folder.name}/", message))
    if report.problems:
        raise SpecError(report.problems)
    return tuple(sorted((v for v in variants if v), key=lambda v: v.name))


def place_of(folder: Path, source: str, key: Sequence[str | int]) -> str:
    """`variants/ml.toml:8`, the place of `key` in a spec that was loaded, for a later error."""
    try:
        line, _ = _positions((folder / Path(source).name).read_text(encoding="utf-8")).of(key)
    except OSError:
        return source
    return f"{source}:{line}" if line else source


@functools.lru_cache(maxsize=64)
def _positions(text: str) -> Any:
    # Loaded when there is something to report, and never otherwise.
    from builder.spec.positions import Positions

    return Positions(text)


def _read(folder: Path, report: _Report) -> Iterable[_File]:
    shown_folder = folder.name
    try:
        names = sorted(name for name in os.listdir(folder) if name.endswith(".toml"))
    except OSError as error:
        raise from_os_error(error, f"reading `{folder}`") from error
    if not names:
        report.problems.append(
            Problem(f"{shown_folder}/", "there is no variant, that is no .toml file, in it")
        )
    for name in names:
        file = _File(stem=name.removesuffix(".toml"), shown=f"{shown_folder}/{name}", text="")
        if not _STEM.fullmatch(file.stem):
            report.add(
                file, (), "a variant's file name holds a-z, 0-9, - and _, and begins with a letter"
            )
            continue
        if file.stem in RESERVED_STEMS or file.stem.startswith(SHARED_PREFIX):
            report.add(file, (), "this file name is kept for a stage of the Dockerfile")
            continue
        if _read_text(folder / name, file, report):
            yield file


def _read_text(path: Path, file: _File, report: _Report) -> bool:
    try:
        found = os.stat(path)
        if not stat.S_ISREG(found.st_mode):
            report.add(file, (), "is not a regular file")
        elif found.st_size > _MAX_SPEC_BYTES:
            report.add(file, (), f"is larger than {_MAX_SPEC_BYTES} bytes")
        else:
            file.text = path.read_text(encoding="utf-8")
            return True
    except UnicodeDecodeError:
        report.add(file, (), "is not UTF-8 text")
    except OSError as error:
        report.add(file, (), f"cannot be read: {error.strerror}")
    return False


def _parse(file: _File, report: _Report) -> None:
    try:
        document = parse_toml(file.text, max_depth=_MAX_DEPTH)
    except NestingError as error:
        # Neither the validator nor the search for places gets to the bottom of that.
        line = column = 0
        if error.offset is not None:
            line = file.text.count("\n", 0, error.offset) + 1
            column = error.offset - file.text.rfind("\n", 0, error.offset)
        message = f"is nested deeper than {_MAX_DEPTH} levels"
        report.problems.append(Problem(file.shown, message, line=line, column=column))
        return
    except ValueError as error:
        if too_long := _TOO_LONG_NUMBER.search(file.text):
            line = file.text.count("\n", 0, too_long.start()) + 1
            column = too_long.start() - file.text.rfind("\n", 0, too_long.start())
            message = "is not valid TOML: a number of thousands of digits"
            report.problems.append(Problem(file.shown, message, line=line, column=column))
            return
        place = re.search(r" \(at line (\d+), column (\d+)\)$", str(error))
        lines = file.text.split("\n")
        line, column = (int(place[1]), int(place[2])) if place else (len(lines), len(lines[-1]) + 1)
        message = re.sub(r" \(at .*\)$", "", str(error))
        report.problems.append(
            Problem(file.shown, f"is not valid TOML: {message}", line=line, column=column)
        )
        return
    # First: what checks them further would repeat the values in its messages.
    secrets = list(secrets_of(document))
    for key, kind in secrets:
        report.add(file, key, f"{kind}; {_NO_SECRETS}")
    name, extends = document.get("name"), document.get("extends")
    file.name = name if isinstance(name, str) else None
    file.extends = extends if isinstance(extends, str) else None
    if secrets:
        return
    try:
        file.model = VariantFile.model_validate(document)
    except ValidationError as error:
        for found in error.errors(include_url=False):
            key = tuple(part for part in found["loc"] if part != "[key]")
            message, hint = worded(found, key)
            report.add(file, key, message, hint)


def _check_names(files: Iterable[_File], report: _Report) -> None:
    seen: dict[str, _File] = {}
    for file in files:
        name = file.name
        if file.stem.startswith("_"):
            if name is not None:
                report.add(file, ("name",), "a shared stage (leading `_`) is never built: no name")
        elif name is None and file.model:
            report.add(file, ("name",), "is missing", "every variant without a leading `_` has one")
        elif name in seen:
            report.add(file, ("name",), f"{name!r} is the name of {seen[name].shown}, too")
        elif name:
            seen[name] = file


def _check_chains(files: Mapping[str, _File], report: _Report) -> set[str]:
    broken = set()
    for stem, file in files.items():
        parent = file.extends
        if parent is not None and parent not in files:
            others = [other for other in files if other != stem]
            hint = did_you_mean(parent, others) or f"there are: {', '.join(sorted(others))}"
            report.add(file, ("extends",), f"there is no {parent!r} to extend", hint)
            broken.add(stem)
    for stem, file in files.items():
        path = [stem]
        while (parent := files[path[-1]].extends) in files:
            path.append(cast(str, parent))
            if path[-1] in path[:-1]:
                if path[-1] == stem and stem == min(path):
                    report.add(file, ("extends",), f"a circle: {' → '.join(path)}")
                broken.add(stem)
                break
        if broken & set(path):
            broken.add(stem)
    return broken


def _chain(files: Mapping[str, _File], stem: str) -> list[_File]:
    chain = [files[stem]]
    while parent := chain[0].extends:
        chain.insert(0, files[parent])
    return chain


def _merged(chain: Sequence[_File], table: str, key: str) -> Any:
    """The value that the last file of the chain that sets it gives, or the field's default."""
    for file in reversed(chain):
        found = getattr(file.model, table)
        if found is not None and key in found.model_fields_set:
            return getattr(found, key)
    return TABLES[table].model_fields[key].default


def _stage(folder: Path, chain: Sequence[_File], report: _Report) -> Stage:
    file = chain[-1]
    model = cast(VariantFile, file.model)
    return Stage(
        stem=file.stem,
        source=file.shown,
        env=dict(model.env),
        system=tuple(model.system.packages) if model.system else (),
        requirements=tuple(model.python.packages) if model.python else (),
        torch_backend=_merged(chain, "python", "torch_backend"),
        files=tuple(_files(folder, file, report)),
        checks=tuple(
            Check(name=v.name, code=v.code, stdout=v.stdout, timeout=v.timeout)
            for v in model.verify
        ),
    )


def _files(folder: Path, file: _File, report: _Report) -> Iterable[FileEntry]:
    seen = set()
    for number, entry in enumerate(cast(VariantFile, file.model).files):
        key = ("files", number, "source")
        path = folder / entry.source
        if entry.target in seen:
            report.add(file, ("files", number, "target"), f"{entry.target!r} is written twice")
            continue
        seen.add(entry.target)
        steps = [
            folder / Path(*path.parts[len(folder.parts) : n + 1])
            for n in range(len(folder.parts), len(path.parts))
        ]
        if any(step.is_symlink() for step in steps):
            report.add(file, key, f"{entry.source!r} is, or is behind, a symbolic link")
            continue
        try:
            found = os.stat(path)
            if not stat.S_ISREG(found.st_mode):
                report.add(file, key, f"{entry.source!r} is not a regular file")
                continue
            if found.st_size > _MAX_SOURCE_BYTES:
                message = f"{entry.source!r} is larger than {_MAX_SOURCE_BYTES >> 20} MiB"
                report.add(file, key, message, "have a sandbox fetch it, or put it into a package")
                continue
            content = path.read_bytes()
        except OSError as error:
            report.add(file, key, f"{entry.source!r} cannot be read: {error.strerror}")
            continue
        text = content.decode("latin-1") if len(content) <= _MAX_SPEC_BYTES else ""
        if kind := secret_in(text):  # keys are small; what is large is data
            report.add(file, key, f"{entry.source!r} holds {kind}; {_NO_SECRETS}")
            continue
        yield FileEntry(source=entry.source, target=entry.target, mode=entry.mode, content=content)


def _check_targets(chain: Sequence[_File], report: _Report) -> None:
    """No file may stand where another one needs a folder."""
    targets = {e.target: f for f in chain for e in cast(VariantFile, f.model).files}
    for file in chain:
        for number, entry in enumerate(cast(VariantFile, file.model).files):
            for parent in PurePosixPath(entry.target).parents:
                if other := targets.get(str(parent)):
                    message = f"{entry.target!r} is below {str(parent)!r}, a file of {other.shown}"
                    report.add(file, ("files", number, "target"), message)


def _variant(chain: Sequence[_File], stages: tuple[Stage, ...], report: _Report) -> Variant | None:
    leaf = chain[-1]
    model = cast(VariantFile, leaf.model)
    before = len(report.problems)
    image = _merged(chain, "base", "image")
    python = _merged(chain, "base", "python")
    for key, value, example in (("image", image, "python:3.13"), ("python", python, ">=3.11")):
        if value is None:
            files = ", ".join(file.shown for file in chain)
            hint = f'write [base] {key} = "{example}" in one of {files}'
            report.add(leaf, ("base", key), "is missing in the whole chain", hint)
    command = _merged(chain, "service", "command") or ()
    ready_url = _merged(chain, "service", "ready_url")
    level: WarmupLevel = _merged(chain, "warmup", "level")
    imports = tuple(_merged(chain, "warmup", "imports"))
    if level != "none" and not imports:
        hint = "list modules in `warmup.imports`, or set the level to none"
        report.add(leaf, ("warmup", "level"), f"is {level!r}, but there is nothing to import", hint)
    if level == "memory" and not command:
        hint = "add [service], or set the level to disk"
        message = "is 'memory', but there is no service whose interpreter could be kept warm"
        report.add(leaf, ("warmup", "level"), message, hint)
    if command and not ready_url:
        hint = "say which URL answers 200 when it is up"
        report.add(leaf, ("service", "ready-url"), "is missing beside `service.command`", hint)
    _check_targets(chain, report)
    names: dict[str, str] = {}
    for stage, file in zip(stages, chain, strict=True):
        for number, check in enumerate(stage.checks):
            if check.name in names:
                message = f"{check.name!r} is the name of a check in {names[check.name]}, too"
                report.add(file, ("verify", number, "name"), message)
            names[check.name] = stage.source
    if len(report.problems) > before or model.name is None:
        return None
    return Variant(
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
        accept_broken=tuple(
            name
            for file in chain
            if (table := cast(VariantFile, file.model).python)
            for name in table.accept_broken
        ),
    )
