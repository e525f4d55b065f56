"""From names on the command line to templates, accounts and registries.

The workflow is imported where a name is not that of a recorded template: `resolve` needs no specs.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from pathlib import Path

from builder import registry
from builder.cli import progress
from builder.errors import SelectionError, UnknownTemplateError, near
from builder.project import Project, TargetSettings
from builder.system.events import Event, Reporter
from builder.targets.adapters import choose_account


def open_registry(project: Path | None) -> registry.Registry:
    """Return the registry in use, or that of a project. Raises `RegistryError`."""
    if project:
        from builder import workflow

        return workflow.read_registry(Project.find(project))
    return registry.load(registry_in_use()).checked()


def registry_in_use() -> str:
    """Return where the registry in use is; with a note if it is the one that the package ships."""
    path = registry.find()
    shipped = Path(registry.__file__).with_name("shipped.json")
    if Path(path) == shipped and not os.environ.get("TEMPLATE_REGISTRY"):
        progress.show_message(
            f"note: no registry.json here or above; using the package's own: {path}"
        )
    return path


def account_named(project: Project, target: str | None, report: Reporter) -> TargetSettings:
    """Return the account on E2B that `target` or TEMPLATE_TARGET names; `e2b` by default."""
    settings, why = choose_account(project, target)
    if why:
        report(Event(kind="note", text=why))
    return settings


def recorded_name(project: Project, name: str) -> str:
    """Return the template that `name` means in the project's registry, as `template_called`."""
    from builder import workflow

    return template_called(name, workflow.read_registry(project).templates, project.root)


def template_called(name: str, known: Iterable[str], project: Path | None) -> str:
    """Return the one template that `name` means: its name, its spec's stem or path, or a glob.

    Anything after an `@` is kept. An unknown name is returned as it is, for the look-up to refuse.
    Raises `SelectionError` for a glob that does not match exactly one template.
    """
    known = list(known)
    if name in known:
        return name
    from builder import workflow

    head, at, build = name.partition("@")
    matches = workflow.template_names(head, known, _project(project))
    if len(matches) > 1:
        listed = ", ".join(f"`{match}`" for match in matches)
        raise SelectionError(f"`{head}` means several templates: {listed}", hint="name one of them")
    if not matches and workflow.is_glob(head):
        raise SelectionError(f"no template matches `{head}`; there are: {_listed(known)}")
    return f"{matches[0]}{at}{build}" if matches else name


def templates_called(
    names: Sequence[str], recorded: registry.Registry, project: Path | None
) -> set[str]:
    """Return the recorded templates that `names` mean. Raises `UnknownTemplateError` for names that
    match none, with near matches."""
    from builder import workflow

    known = recorded.templates
    matches = {
        name: [
            template
            for template in workflow.template_names(name, known, _project(project))
            if template in known
        ]
        for name in names
    }
    unknown = [name for name, templates in matches.items() if not templates]
    if len(unknown) == 1 and not workflow.is_glob(unknown[0]):
        recorded.target_of(unknown[0])
    if unknown:
        hints = [
            f"{' or '.join(f'`{template}`' for template in similar)} for `{name}`"
            for name in unknown
            if (similar := near(name, known))
        ]
        raise UnknownTemplateError(
            f"no template is called or matches {' or '.join(f'`{name}`' for name in unknown)} in"
            f" {recorded.path}; there are: {_listed(known)}",
            hint=f"did you mean {', '.join(hints)}?" if hints else None,
        )
    return {template for templates in matches.values() for template in templates}


def _listed(known: Iterable[str]) -> str:
    return ", ".join(sorted(known)) or "none"


def _project(folder: Path | None) -> Project | None:
    return Project.find(folder) if folder or Project.nearest() else None
