from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from builder import registry
from builder.errors import ProjectError
from builder.project import keeps_zygotes
from tests.conftest import Command

NAMED = '[tool.template-builder]\nregistry = "team/registry.json"\n'
MISTAKES = {
    "a byte order mark": (
        f"\ufeff{NAMED}",
        ":1: begins with a byte order mark, which TOML does not allow",
    ),
    "a key twice": (
        f"[project]\nname = 'a'\nname = 'b'\n{NAMED}",
        ":3: is not valid TOML: Cannot overwrite a value",
    ),
    "an end too early": (f"{NAMED}x = ", ":3: is not valid TOML: Invalid value"),
    "a byte of Latin-1": (f"{NAMED}# caf\udce9\n", ":3: is not UTF-8: "),
    "a key that is misspelt": (
        NAMED.replace("registry =", "registery ="),
        ":2: [tool.template-builder]: unknown key `registery`",
    ),
    "a number": (
        NAMED.replace('"team/registry.json"', "5"),
        ":2: [tool.template-builder]: `registry` is 5, expected a string",
    ),
    "a NUL": (
        NAMED.replace("team/", "team\\u0000"),
        ":2: [tool.template-builder]: `registry` is 'team\\x00registry.json', expected a string",
    ),
    "a value where a table is": (
        "[project]\n[tool]\ntemplate-builder = 3\n",
        ":3: [tool.template-builder]: expected a table",
    ),
}


def registry_of(ref: str) -> str:
    entry = {"channels": {"stable": ref}, "builds": {ref: {"template_id": ref}}}
    return json.dumps({"version": 1, "templates": {"light": {"e2b": entry}}})


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project that names a registry elsewhere, with another registry.json in its own folder."""
    (tmp_path / "team").mkdir()
    (tmp_path / "team" / "registry.json").write_text(registry_of("right"))
    (tmp_path / "registry.json").write_text(registry_of("wrong"))
    (tmp_path / "deep" / "er").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "deep" / "er")
    return tmp_path


@pytest.mark.parametrize("name", MISTAKES)
def test_mistake_in_the_settings_is_no_other_registry(folder: Path, name: str) -> None:
    """Whatever is wrong with the file that names the registry, a look-up fails with file and line;
    another registry, which may not know of a revocation, is never read instead."""
    text, message = MISTAKES[name]
    path = folder / "pyproject.toml"
    path.write_text(NAMED)
    assert registry.resolve("light") == "right"
    path.write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(ProjectError) as caught:
        registry.resolve("light")
    assert caught.value.message.startswith(f"{path}{message}")


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-32"])
def test_settings_in_another_encoding_are_no_other_registry(folder: Path, encoding: str) -> None:
    """A file in UTF-16, as some shells write it, is an error, too."""
    (folder / "pyproject.toml").write_bytes(NAMED.encode(encoding))
    with pytest.raises(ProjectError, match=r"pyproject\.toml:1: "):
        registry.resolve("light")


def test_every_command_tells_the_mistake(folder: Path, command: Command) -> None:
    """Commands that only look up and those that need a project end with the same error."""
    (folder / "variants").mkdir()
    (folder / "pyproject.toml").write_text(f"\ufeff{NAMED}")
    for arguments in (["resolve", "light"], ["list"], ["plan"], ["registry", "repair"]):
        done = command(*arguments, cwd=folder / "deep")
        assert done.returncode == ProjectError.exit_code, arguments
        assert done.stderr == (
            f"error: {folder / 'pyproject.toml'}:1: begins with a byte order mark, which TOML does"
            " not allow\n\nhint: save it as UTF-8 without one (`UTF-8`, not `UTF-8 with BOM`, in"
            " your editor)\n"
        )


def test_settings_of_other_tools_may_be_wrong(folder: Path) -> None:
    """A pyproject.toml that cannot be parsed and does not know this program stops no
    application."""
    (folder / "deep" / "pyproject.toml").write_text("\ufeff[project]\nname = {{ name }}\n")
    (folder / "pyproject.toml").write_text(NAMED)
    assert registry.resolve("light") == "right"


def test_named_registry_needs_no_settings(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """TEMPLATE_REGISTRY is taken as it is, and no pyproject.toml is read for it."""
    (folder / "pyproject.toml").write_text(f"\ufeff{NAMED}")
    monkeypatch.setenv("TEMPLATE_REGISTRY", str(folder / "team" / "registry.json"))
    assert registry.resolve("light") == "right"


def test_settings_that_are_no_file_are_no_other_registry(folder: Path) -> None:
    """A folder or a pipe in the place of the settings is refused, and not passed over."""
    (folder / "pyproject.toml").mkdir()
    with pytest.raises(ProjectError, match=r"pyproject\.toml cannot be read: Is a directory"):
        registry.resolve("light")
    (folder / "pyproject.toml").rmdir()
    os.mkfifo(folder / "pyproject.toml")
    with pytest.raises(ProjectError, match="it is not a regular file"):
        registry.resolve("light")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_settings_that_may_not_be_read_are_no_other_registry(folder: Path) -> None:
    """Settings that exist and cannot be read may name a registry."""
    (folder / "pyproject.toml").write_text(NAMED)
    (folder / "pyproject.toml").chmod(0)
    with pytest.raises(ProjectError, match="cannot be read: Permission denied"):
        registry.resolve("light")


def test_zygote_is_kept_or_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The variable takes precedence over the setting, and any other value of either is refused."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("TEMPLATE_ZYGOTE", raising=False)
    assert not keeps_zygotes()
    (tmp_path / "variants").mkdir()
    settings = tmp_path / "pyproject.toml"
    settings.write_text('[tool.template-builder]\nzygote = "keep"\n')
    assert keeps_zygotes()
    monkeypatch.setenv("TEMPLATE_ZYGOTE", "end")
    assert not keeps_zygotes()
    monkeypatch.setenv("TEMPLATE_ZYGOTE", "yes")
    with pytest.raises(ProjectError) as caught:
        keeps_zygotes()
    assert caught.value.message == 'TEMPLATE_ZYGOTE is \'yes\', expected "keep" or "end"'
    monkeypatch.delenv("TEMPLATE_ZYGOTE")
    settings.write_text("[tool.template-builder]\nzygote = true\n")
    with pytest.raises(ProjectError) as caught:
        keeps_zygotes()
    assert caught.value.message == (
        f'{settings}:2: [tool.template-builder]: `zygote` is True, expected "keep" or "end"'
    )
