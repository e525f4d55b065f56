"""From what a person calls a recorded template to its name in the registry."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from builder import registry, workflow
from builder.errors import SelectionError, UnknownTemplateError, near
from builder.project import Project

__all__ = ["template_called", "templates_called"]


def template_called(name: str, known: Iterable[str], project: Path | None) -> str:
    """The one template that `name` means: its name, or its spec's stem or path, or a glob.

    What follows an `@` in it stays. A name of nothing is returned as it is, for the look-up to
    refuse. Raises `SelectionError` for a glob that does not match exactly one.
    """
    known = list(known)
    if name in known:
        return name
    head, at, build = name.partition("@")
    found = workflow.template_names(head, known, _project(project))
    if len(found) > 1:
        listed = ", ".join(f"`{one}`" for one in found)
        raise SelectionError(
            f"`{head}` means several templates: {listed}", hint="this command takes one"
        )
    if not found and workflow.is_glob(head):
        raise SelectionError(f"no template matches `{head}`; there are: {_listed(known)}")
    return f"{found[0]}{at}{build}" if found else name


def templates_called(
    names: Sequence[str], recorded: registry.Registry, project: Path | None
) -> set[str]:
    """The recorded templates that `names` mean. Raises `UnknownTemplateError` for all that mean
    none, with their near matches."""
    known = recorded.templates
    found = {
        name: [
            one for one in workflow.template_names(name, known, _project(project)) if one in known
        ]
        for name in names
    }
    unknown = [name for name, templates in found.items() if not templates]
    if len(unknown) == 1 and not workflow.is_glob(unknown[0]):
        recorded.target_of(unknown[0])
    if unknown:
        hints = [
            f"{' or '.join(f'`{match}`' for match in matches)} for `{name}`"
            for name in unknown
            if (matches := near(name, known))
        ]
        raise UnknownTemplateError(
            f"no template is called or matches {' or '.join(f'`{name}`' for name in unknown)} in"
            f" {recorded.path}; there are: {_listed(known)}",
            hint=f"did you mean {', '.join(hints)}?" if hints else None,
        )
    return {template for templates in found.values() for template in templates}


def _listed(known: Iterable[str]) -> str:
    return ", ".join(sorted(known)) or "none"


def _project(folder: Path | None) -> Project | None:
    return Project.find(folder) if folder or Project.nearest() else None
