from __future__ import annotations

from pathlib import Path
from unittest.mock import Mock

import pytest

from builder import registry
from builder.errors import ProjectError, RegistryError
from builder.project import Project
from builder.runtime import CodeExecutionPrimitive
from builder.system import documents, settings
from tests.support.records import made


def test_look_up_without_a_working_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the working directory is gone, a registry that is named is read, and without one the
    error says what to do."""
    path, (ref,) = made(tmp_path, "1.0")
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    monkeypatch.delenv("TEMPLATE_REGISTRY", raising=False)
    for look_up in (
        lambda: registry.resolve("leaf", target="local"),
        lambda: CodeExecutionPrimitive(template_id="leaf", target="local"),
    ):
        with pytest.raises(RegistryError) as caught:
            look_up()
        assert str(caught.value) == (
            "cannot look for a registry in the working directory: No such file"
            " or directory\n\nhint: set TEMPLATE_REGISTRY, or change to a folder that exists"
        )
    with pytest.raises(ProjectError, match=r"in the working directory \(No such file or directory"):
        Project.find()
    monkeypatch.setenv("TEMPLATE_REGISTRY", str(path))
    assert registry.resolve("leaf", target="local") == ref
    CodeExecutionPrimitive(template_id="leaf", target="local")


def test_settings_are_parsed_when_they_change(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A program that constructs one primitive after another parses its project's settings once, and
    again when they have changed."""
    made(tmp_path, "1.0")
    (tmp_path / "variants").mkdir(exist_ok=True)
    text = '[tool.template-builder.targets.here]\nkind = "local"\n'
    (tmp_path / "pyproject.toml").write_text(text)
    monkeypatch.chdir(tmp_path)
    parse = Mock(wraps=documents.parse_toml)
    monkeypatch.setattr(settings, "parse_toml", parse)
    for _ in range(3):
        CodeExecutionPrimitive(template_id="leaf", target="local")
    parse.assert_called_once_with(text)
    (tmp_path / "pyproject.toml").write_text(text.replace("local", "lokal"))
    with pytest.raises(ProjectError, match="`kind` is 'lokal'"):
        CodeExecutionPrimitive(template_id="leaf", target="local")
