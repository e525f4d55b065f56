"""Read the variants folder: parse every file, follow every chain, report every mistake."""

from __future__ import annotations

import contextlib
import os
import re
import stat
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from builder.errors import Problem, SpecError, did_you_mean, from_os_error
from builder.spec.assemble import stage_of, variant_of
from builder.spec.from_template import abstract_parents, cycles
from builder.spec.spec_file import SpecFile, positions
from builder.spec.validated import validate
from builder.spec.variant import SHARED_PREFIX, Stage, Variant

# Also the name of a stage, which begins with a letter; an abstract spec gets a prefix there.
_STEM = re.compile(r"_[a-z0-9][a-z0-9_-]*|[a-z][a-z0-9_-]*")
_MAX_SPEC_BYTES = 1 << 20
# The last stage of every Dockerfile, two names that Docker reserves, and the prefix of the stages
# of abstract specs.
RESERVED_STEMS = ("template", "scratch", "context")


@dataclass(frozen=True, kw_only=True, slots=True)
class Source:
    """A spec: one TOML file of the variants folder.

    `name` is None if it has no readable name. `problems` are its own mistakes and those of the
    specs that it extends; with any of them, `variant` is None.
    """

    stem: str
    shown: str
    name: str | None
    shared: bool
    variant: Variant | None
    problems: tuple[Problem, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Specs:
    """All specs of a variants folder; `problems` are those of every file."""

    sources: tuple[Source, ...]
    problems: tuple[Problem, ...]

    @property
    def variants(self) -> tuple[Variant, ...]:
        """Return the variants without mistakes, sorted by name."""
        variants = [source.variant for source in self.sources if source.variant]
        return tuple(sorted(variants, key=lambda variant: variant.name))


def load_variants(folder: Path) -> tuple[Variant, ...]:
    """Return every buildable variant of `folder`, sorted by name.

    Raise `SpecError` with all mistakes in all files.
    """
    specs = load_specs(folder)
    if specs.problems:
        raise SpecError(specs.problems)
    return specs.variants


def load_specs(folder: Path) -> Specs:
    """Read every spec of `folder`; a mistake only affects variants that need the spec."""
    read = list(_read(folder))
    files = {file.stem: file for file in read}
    validate(folder, [file for file in read if not file.problems])
    also = _check_names(files.values())
    chains = {stem: _lineage(files, stem) for stem in files}
    _check_chains(files, chains)
    complete = {
        stem: chain
        for stem, chain in chains.items()
        if chain[0].extends is None and all(link.model for link in chain)
    }
    stages: dict[str, Stage] = {}
    for chain in complete.values():
        for depth, link in enumerate(chain, 1):
            if link.stem not in stages:
                stages[link.stem] = stage_of(folder, chain[:depth])
    variants: dict[str, Variant | None] = {}
    for stem, chain in complete.items():
        if not files[stem].shared:
            links = tuple(stages[link.stem] for link in chain)
            variants[stem], problems = variant_of(chain, links)
            also.setdefault(stem, []).extend(problems)
    _check_parents(files, variants, complete, also)
    sources = []
    for file in read:
        inherited = [problem for link in chains[file.stem] for problem in link.problems]
        problems = [*inherited, *also.get(file.stem, ())]
        sources.append(
            Source(
                stem=file.stem,
                shown=file.shown,
                name=file.name,
                shared=file.shared,
                variant=None if problems else variants.get(file.stem),
                problems=tuple(problems),
            )
        )
    all_problems = [problem for source in sources for problem in source.problems]
    if not all_problems and not any(source.variant for source in sources):
        message = (
            "there are only abstract specs: every .toml file has a leading `_`"
            if sources
            else "there are no specs (.toml files) in it"
        )
        all_problems.append(Problem(f"{folder.name}/", message))
    return Specs(sources=tuple(sources), problems=tuple(dict.fromkeys(all_problems)))


def is_stem(text: str) -> bool:
    """Return whether a spec may be called like this, which is also the name of its stage."""
    reserved = text in RESERVED_STEMS or text.startswith(SHARED_PREFIX)
    return bool(_STEM.fullmatch(text)) and not reserved


def _check_parents(
    files: Mapping[str, SpecFile],
    variants: Mapping[str, Variant | None],
    chains: Mapping[str, Sequence[SpecFile]],
    also: Mapping[str, list[Problem]],
) -> None:
    loaded = [(variant, chains[stem][0]) for stem, variant in variants.items() if variant]
    for variant, problem in (*cycles(loaded), *abstract_parents(files, loaded)):
        also[variant.stem].append(problem)


def place_of(folder: Path, source: str, key: Sequence[str | int]) -> str:
    """Return the place of `key` in a loaded spec, such as `variants/ml.toml:8`."""
    try:
        line, _ = positions((folder / Path(source).name).read_text(encoding="utf-8-sig")).of(key)
    except OSError:
        return source
    return f"{source}:{line}" if line else source


def place_in(chain: Sequence[Stage], key: Sequence[str | int]) -> str:
    """Return the line of the last stage in `chain` that sets `key`, or else the last file."""
    places = [
        place_of(stage.path.parent, stage.source, key) if stage.path else stage.source
        for stage in reversed(chain)
    ]
    return next((place for place in places if ":" in place), places[0])


def problem_in(
    folder: Path, source: str, key: Sequence[str | int], message: str, hint: str | None = None
) -> Problem:
    """Return a mistake at `key` of a loaded spec."""
    file = SpecFile(stem=Path(source).stem, shown=source)
    with contextlib.suppress(OSError):
        file.text = (folder / Path(source).name).read_text(encoding="utf-8-sig")
    return file.problem(key, message, hint)


def _read(folder: Path) -> Iterable[SpecFile]:
    try:
        names = sorted(name for name in os.listdir(folder) if name.endswith(".toml"))
    except OSError as error:
        raise from_os_error(error, f"reading `{folder}`") from error
    for name in names:
        file = SpecFile(stem=name.removesuffix(".toml"), shown=f"{folder.name}/{name}")
        if not _STEM.fullmatch(file.stem):
            file.add(
                (),
                "the file name of a spec consists of a-z, 0-9, - and _, and begins with a letter",
            )
        elif file.stem in RESERVED_STEMS or file.stem.startswith(SHARED_PREFIX):
            file.add((), "this file name is reserved for a stage of the Dockerfile")
        else:
            _read_text(folder / name, file)
        yield file


def _read_text(path: Path, file: SpecFile) -> None:
    try:
        status = os.stat(path)
        if not stat.S_ISREG(status.st_mode):
            file.add((), "is not a regular file")
        elif status.st_size > _MAX_SPEC_BYTES:
            file.add((), f"is larger than {_MAX_SPEC_BYTES} bytes")
        else:
            file.text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError:
        file.add((), "is not UTF-8 text")
    except OSError as error:
        file.add((), f"cannot be read: {error.strerror}")


def _check_names(files: Iterable[SpecFile]) -> dict[str, list[Problem]]:
    """Check the names; return the problems that concern a second file, by its stem."""
    seen: dict[str, SpecFile] = {}
    also: dict[str, list[Problem]] = {}
    for file in files:
        name = file.name
        if file.shared:
            if name is not None:
                file.add(("name",), "an abstract spec (leading `_`) is never built and has no name")
        elif name is None and file.model:
            file.add(("name",), "is missing", "every spec without a leading `_` needs a name")
        elif name in seen:
            file.add(("name",), f"{name!r} is already the name of {seen[name].shown}")
            also.setdefault(seen[name].stem, []).append(file.problems[-1])
        elif name:
            seen[name] = file
    return also


def _check_chains(files: Mapping[str, SpecFile], chains: Mapping[str, Sequence[SpecFile]]) -> None:
    for stem, file in files.items():
        parent, path = file.extends, [link.stem for link in chains[stem]]
        if parent is not None and parent not in files:
            others = [other for other in files if other != stem]
            hint = did_you_mean(parent, others) or f"there are: {', '.join(sorted(others))}"
            file.add(("extends",), f"there is no {parent!r} to extend", hint)
        elif chains[stem][0].extends == stem == min(path):
            file.add(("extends",), f"extends itself: {' → '.join([*reversed(path), stem])}")


def _lineage(files: Mapping[str, SpecFile], stem: str) -> list[SpecFile]:
    """Return a file after those that it extends, as far as they exist."""
    chain = [files[stem]]
    while (parent := files.get(chain[0].extends or "")) and parent not in chain:
        chain.insert(0, parent)
    return chain
