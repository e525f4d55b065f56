"""Assemble a variant from the parsed files of its chain."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from builder.errors import Problem, did_you_mean
from builder.sandbox.network import Network
from builder.spec.checks import checks_of, code_problems
from builder.spec.commands import repositories_of, runs_of, unset_in
from builder.spec.downloads import downloads_of
from builder.spec.files import files_of, wheels_of
from builder.spec.from_template import from_template_of, from_template_problems
from builder.spec.model_tables import model_problems, models_of
from builder.spec.python import python_floor
from builder.spec.service import service_of, service_problems
from builder.spec.spec_file import SpecFile
from builder.spec.targets import target_problems
from builder.spec.variant import Reference, Stage, Variant
from builder.system.variables import NoReferenceError, as_reference, expand


def _merged(chain: Sequence[SpecFile], *tables: str) -> dict[str, Any]:
    """Return the fields of `tables`, each from the last file of the chain that sets it."""
    merged: dict[str, Any] = {}
    for name in tables:
        merged |= chain[0].defaults[name]
        for file in chain:
            if table := getattr(file.tables, name):
                merged |= {key: getattr(table, key) for key in table.model_fields_set}
    return merged


def stage_of(folder: Path, chain: Sequence[SpecFile]) -> Stage:
    """Return what the last file of `chain` adds, and note mistakes in the files that it copies."""
    file = chain[-1]
    model, (env, unset) = file.tables, _env(chain)
    runs, unset_in_runs = runs_of(folder, chain)
    files, folders = files_of(folder, file)
    return Stage(
        stem=file.stem,
        source=file.shown,
        env=env,
        env_instruction=_instruction(chain),
        references=(*unset, *unset_in_runs),
        system=tuple(model.system.packages) if model.system else (),
        requirements=tuple(model.python.packages) if model.python else (),
        torch_backend=_merged(chain, "python")["torch_backend"],
        downloads=downloads_of(file),
        node=tuple(model.node.packages) if model.node else (),
        repositories=repositories_of(folder, file),
        wheels=wheels_of(folder, file),
        files=files,
        folders=folders,
        runs=runs,
        models=models_of(folder.parent, file),
        checks=tuple(checks_of(file)),
        declared=file.declared,
        path=folder / f"{file.stem}.toml",
    )


def _env(chain: Sequence[SpecFile]) -> tuple[dict[str, str], tuple[Reference, ...]]:
    """Return the variables of the last file of `chain`, expanded, and its references to variables
    that are not set; note what is no reference."""
    known: dict[str, str] = {}
    unset: list[Reference] = []
    for file in chain:
        unset = []
        for name, value in file.tables.env.items():
            try:
                unset += unset_in(("env", name), value, known)
                known[name] = expand(value, known)
            except NoReferenceError as error:
                known[name] = ""
                if file is chain[-1]:
                    file.add(("env", name), str(error), error.hint)
    return {name: known[name] for name in chain[-1].tables.env}, tuple(unset)


def _instruction(chain: Sequence[SpecFile]) -> dict[str, str]:
    """Return the same variables as an ENV instruction of the last file's stage sets them: it sees
    those of earlier stages, but not those that it sets itself."""
    *earlier, own = (file.tables.env for file in chain)
    known = {name: as_reference(name) for env in earlier for name in env}
    for name, value in own.items():
        with contextlib.suppress(NoReferenceError):
            known[name] = expand(value, known)
    return {name: known[name] for name in own if name in known}


def _import_problems(chain: Sequence[SpecFile], warm: Sequence[str]) -> Iterator[Problem]:
    """Report packages that are not to be imported but are not packages of the chain, or that the
    warm-up imports by their own name."""
    tables = [file.tables.python for file in chain]
    if not any(table and table.not_imported for table in tables):
        return
    from packaging.requirements import Requirement  # slow to load
    from packaging.utils import canonicalize_name

    names = [Requirement(text).name for table in tables if table for text in table.packages]
    known = {canonicalize_name(name): name for name in names}
    imported = {canonicalize_name(module.partition(".")[0]): module for module in warm}
    for file, table in zip(chain, tables, strict=True):
        for number, name in enumerate(table.not_imported if table else ()):
            key = ("python", "not-imported", number)
            if canonicalize_name(name) not in known:
                hint = did_you_mean(name, known.values()) or "name one of `python.packages`"
                yield file.problem(key, f"{name!r} is not a package of this spec", hint)
            elif module := imported.get(canonicalize_name(name)):
                message = f"{name!r} is imported by the warm-up: {module!r} is in `warmup.imports`"
                yield file.problem(key, message, "remove it from one of the two")


def _warmup_problems(leaf: SpecFile, merged: Mapping[str, Any]) -> Iterator[Problem]:
    """Report settings that do not fit the warm-up level."""
    level = merged["level"]
    if level != "none" and not merged["imports"]:
        hint = "list modules in `warmup.imports`, or set the level to none"
        message = f"is {level!r}, but there is nothing to import"
        yield leaf.problem(("warmup", "level"), message, hint)
    if level == "memory" and not merged["command"]:
        hint = "add [service], or set the level to disk"
        message = "is 'memory', but there is no service whose interpreter can be kept warm"
        yield leaf.problem(("warmup", "level"), message, hint)
    table = leaf.tables.warmup
    if level != "memory" and table and table.reseed:
        hint = 'set `warmup.level` to "memory", or leave `warmup.reseed` out'
        message = f"has no effect at level {level!r}: every sandbox starts a new interpreter"
        yield leaf.problem(("warmup", "reseed"), message, hint)


def _check_problems(chain: Sequence[SpecFile], stages: Sequence[Stage]) -> Iterator[Problem]:
    """Report checks of the chain that have the same name."""
    sources: dict[str, str] = {}
    for stage, file in zip(stages, chain, strict=True):
        for number, check in enumerate(stage.checks):
            if check.name in sources:
                message = f"{check.name!r} is already the name of a check in {sources[check.name]}"
                yield file.problem(("verify", number, "name"), message)
            sources[check.name] = stage.source


def _network(chain: Sequence[SpecFile]) -> Network | None:
    """Return the network of the last file of `chain` that sets it."""
    values = [file.tables.network for file in chain]
    value = next((value for value in reversed(values) if value is not None), None)
    return None if value is None else Network.of(value)


def variant_of(
    chain: Sequence[SpecFile], stages: tuple[Stage, ...]
) -> tuple[Variant | None, list[Problem]]:
    """Return the variant at the end of `chain`, and the mistakes that no single file shows."""
    leaf = chain[-1]
    model = leaf.tables
    merged = _merged(chain, "base", "resources", "warmup") | service_of(chain)
    from_template = from_template_of(chain)
    problems = [
        *from_template_problems(chain),
        *service_problems(chain, merged),
        *_import_problems(chain, merged["imports"]),
        *_warmup_problems(leaf, merged),
        *target_problems(chain, stages),
        *model_problems(stages, chain),
        *_check_problems(chain, stages),
        # The Python of a parent is not known here.
        *(() if from_template else code_problems(chain, python_floor(merged["python"]))),
    ]
    if problems or model.name is None:
        return None, problems
    tables = [file.tables.python for file in chain]
    lists = ("command", "ready_command", "imports")
    merged |= {key: tuple(merged[key] or ()) for key in lists}
    workdir = _merged(chain, "workdir")["path"]
    if from_template:
        merged["image"] = ""
    variant = Variant(
        name=model.name,
        stem=leaf.stem,
        source=leaf.shown,
        description=model.description,
        stages=stages,
        python_floor=python_floor(merged["python"]),
        env={name: value for stage in stages for name, value in stage.env.items()},
        accept_broken=tuple(name for table in tables if table for name in table.accept_broken),
        not_imported=tuple(name for table in tables if table for name in table.not_imported),
        network=_network(chain),
        workdir=workdir,
        from_template=from_template,
        **merged,
    )
    return variant, problems
