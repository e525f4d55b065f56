"""Take over an e2b.toml, the configuration of E2B's command line."""

from __future__ import annotations

import posixpath
from collections.abc import Mapping

from builder.convert.dockerfile import DEFAULT_DOCKERFILES, convert_dockerfile
from builder.convert.draft import Draft
from builder.convert.service import Service
from builder.convert.toml import Table
from builder.convert.values import Files, Line

_RESOURCES = {"cpu_count": "cpu", "memory_mb": "memory-mb"}
_COMMANDS: Mapping[str, str] = {"start_cmd": "start", "ready_cmd": "ready"}
_NAMES = ("dockerfile", "template_name")


def convert_e2b_toml(document: Table, draft: Draft, files: Files) -> None:
    """Take over the Dockerfile that it names, the commands and the resources."""
    path = str(document.get("dockerfile") or "")
    candidates = [path] if path else DEFAULT_DOCKERFILES
    folder = posixpath.dirname(document.line().file)
    paths = [posixpath.normpath(posixpath.join(folder, name)) for name in candidates]
    path, content = next(
        ((path, content) for path in paths if (content := files.content(path)) is not None),
        (paths[0], None),
    )
    if content is None:
        draft.note(document.line("dockerfile"), f"there is no file `{path}` here")
        service = Service(is_code_interpreter=True)
    else:
        service = convert_dockerfile(content.decode("utf-8", "replace"), path, draft, files)
    draft.name = str(document.get("template_name") or "") or None
    for key, value in document.items():
        line = document.line(key)
        if key in _RESOURCES:
            draft.set(line, "resources", _RESOURCES[key], value)
        elif key in _COMMANDS:
            _command(key, line, str(value), service)
        elif key == "template_id":
            draft.note(
                line,
                "the build on E2B is not used; `template-builder adopt` records it under a name",
            )
        elif key == "team_id":
            draft.note(line, "the API key decides which team builds")
        elif key not in _NAMES:
            draft.note(line, "unknown key")
    service.take_over(draft)


def _command(key: str, line: Line, value: str, service: Service) -> None:
    if key == "start_cmd":
        service.start(line, ["/bin/bash", "-c", value] if value else [])
    else:
        service.ready(line, value)
