"""Resolve names on the command line: template names, file stems, paths and globs."""

from __future__ import annotations

import fnmatch
import warnings
from collections.abc import Iterable, Sequence
from pathlib import Path

from builder import spec
from builder.errors import SelectionError, SpecError, near
from builder.project import Project


class LeftOutWarning(UserWarning):
    """Specs with mistakes that the selected variants do not need."""


def variants_called(project: Project, names: Sequence[str]) -> tuple[spec.Variant, ...]:
    """Return the variants called `names`, by default all of them.

    Raise `SpecError` with the mistakes of these variants and of the specs that they extend, and
    `SelectionError` for unknown names. Warn about other specs with mistakes.
    """
    specs = spec.load_specs(project.variants)
    if not names:
        if specs.problems:
            raise SpecError(specs.problems)
        return specs.variants
    matches = {name: _matches(name, specs.sources, project) for name in names}
    if unknown := [name for name, sources in matches.items() if not sources]:
        raise _unknown(unknown, specs)
    chosen = {source.shown: source for sources in matches.values() for source in sources}
    for name, sources in matches.items():
        if any(source.shared for source in sources):
            raise SelectionError(f"`{name}` is an abstract spec and never built alone")
    if problems := [problem for source in chosen.values() for problem in source.problems]:
        raise SpecError(problems)
    if broken := sorted({problem.file for problem in specs.problems}):
        warnings.warn(
            f"skipped because of mistakes: {', '.join(broken)}; `template-builder validate` reports"
            " them",
            LeftOutWarning,
            stacklevel=2,
        )
    return tuple(source.variant for source in chosen.values() if source.variant)


def template_names(name: str, recorded: Iterable[str], project: Project | None) -> list[str]:
    """Return the names of templates that `name` means, among `recorded` and the project's specs.

    Raise `SpecError` for a spec whose `name` cannot be read.
    """
    recorded = list(recorded)
    if name in recorded:
        return [name]
    sources = spec.load_specs(project.variants).sources if project else ()
    named = _matches(name, sources, project) if project else []
    if not is_glob(name):
        for source in named:
            if source.name is None and source.problems:
                raise SpecError(source.problems)
    matching = fnmatch.filter(recorded, name) if is_glob(name) else []
    return sorted({*matching, *(source.name for source in named if source.name)})


def _matches(name: str, sources: Sequence[spec.Source], project: Project) -> list[spec.Source]:
    """Return the specs that `name` means: by template name, else stem, else path, else glob."""
    by_name = [source for source in sources if source.name == name]
    by_stem = [source for source in sources if source.stem == name]
    if by_name or by_stem:
        return by_name or by_stem
    if name.endswith(".toml"):
        paths = {Path(name).resolve(), (project.root / name).resolve()}
        by_path = [s for s in sources if (project.variants / f"{s.stem}.toml").resolve() in paths]
        if by_path:
            return by_path
    if not is_glob(name):
        return []
    buildable = [source for source in sources if not source.shared]
    return [s for s in buildable if fnmatch.filter((s.name or "", s.stem, s.shown), name)]


def is_glob(name: str) -> bool:
    """Return whether `name` is a pattern."""
    return any(character in name for character in "*?[")


def _unknown(names: Sequence[str], specs: spec.Specs) -> SelectionError:
    parts = []
    for verb, glob in (("is called", False), ("matches", True)):
        if words := [f"`{name}`" for name in names if is_glob(name) is glob]:
            parts.append(f"no spec {verb} {' or '.join(words)}")
    buildable = [source for source in specs.sources if not source.shared]
    listed = sorted(source.name or source.shown for source in buildable)
    words_known = dict.fromkeys(t for s in buildable for t in (s.name, s.stem, s.shown) if t)
    hints = [
        " or ".join(f"`{m}`" for m in matches) + (f" for `{name}`" if len(names) > 1 else "")
        for name in names
        if (matches := near(name, words_known, count=len(words_known) or 1))
    ]
    return SelectionError(
        f"{' and '.join(parts)}; there are: {', '.join(listed) or 'none'}",
        hint=f"did you mean {', '.join(hints)}?" if hints else None,
    )
