"""Check `from-template` in a chain of specs, and between the templates of a project."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence

from builder.errors import Problem
from builder.spec.spec_file import SpecFile
from builder.spec.variant import Variant


def from_template_of(chain: Sequence[SpecFile]) -> str:
    """Return the key `from-template` of the first file, which stands in place of a base image."""
    return chain[0].tables.from_template or ""


def from_template_problems(chain: Sequence[SpecFile]) -> Iterator[Problem]:
    """Report what excludes `from-template`: to extend a spec, and a base image."""
    for file in chain[1:]:
        if file.tables.from_template:
            message = f"excludes `extends`: the base of this spec is that of {chain[0].shown}"
            hint = f"remove one of the two, or move `from-template` to {chain[0].shown}"
            yield file.problem(("from-template",), message, hint)
    if reference := from_template_of(chain):
        for file in chain:
            if file.tables.base:
                message = f"excludes `from-template`: the base is the template {reference!r}"
                yield file.problem(("base",), message, "remove one of the two")


def abstract_parents(
    files: Mapping[str, SpecFile], variants: Iterable[tuple[Variant, SpecFile]]
) -> Iterator[tuple[Variant, Problem]]:
    """Yield the variants that are from an abstract spec, which is never built, and the problem.
    Each variant comes with the file that has its `from-template`."""
    names = {file.name for file in files.values()}
    for variant, file in variants:
        parent = files.get(variant.parent_name or "")
        if parent and parent.shared and parent.stem not in names:
            message = f"{parent.shown} is an abstract spec, of which there is no template"
            hint = f'write `extends = "{parent.stem}"` instead'
            yield variant, file.problem(("from-template",), message, hint)


def cycles(
    variants: Iterable[tuple[Variant, SpecFile]],
) -> Iterator[tuple[Variant, Problem]]:
    """Yield the variants that are from themselves, by way of others, and the problem: one for each
    cycle. Each variant comes with the file that has its `from-template`."""
    files = {variant.name: (variant, file) for variant, file in variants}
    for name, (variant, _) in files.items():
        path = [name]
        while (parent := files[path[-1]][0].parent_name) in files and parent not in path:
            path.append(str(parent))
        if parent == name:
            first = min(path)
            start = path.index(first)
            around = [*path[start:], *path[:start], first]
            message = f"is from itself: {' → '.join(around)}"
            yield variant, files[first][1].problem(("from-template",), message)
