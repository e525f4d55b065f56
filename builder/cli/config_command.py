"""The command that shows a resolved spec: config."""

from __future__ import annotations

from builder import workflow
from builder.cli.options import Names
from builder.cli.output import Document, Result
from builder.project import Project
from builder.spec.settings import as_toml, settings_of
from builder.spec.spec_file import dotted


def config(names: Names = None, *, project: Project) -> Result:
    """Show a spec with all that it extends and all defaults, and where each value is set."""
    resolved = {v.name: settings_of(v) for v in workflow.variants_called(project, names or [])}
    return Result(
        json={
            name: {
                dotted(setting.key): {"value": setting.value, "place": setting.place}
                for setting in settings
            }
            for name, settings in resolved.items()
        },
        data=[Document("\n".join(as_toml(settings) for settings in resolved.values()))],
    )
