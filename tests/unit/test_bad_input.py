from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from builder import errors
from tests.conftest import Command

FROM_GIT = "\n\nhint: restore the file from git\n"


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        (None, "the entry of template `light` is not a table of targets"),
        ([], "the entry of template `light` is not a table of targets"),
        (5, "the entry of template `light` is not a table of targets"),
        ({"local": 3}, "the entry of template `light` is not a table of targets"),
        (
            {"local": {"channels": []}},
            "`channels` of template `light` on `local` is [], expected a table",
        ),
        (
            {"local": {"builds": None}},
            "`builds` of template `light` on `local` is null, expected a table",
        ),
        (
            {"local": {"channels": {"stable": 1}}},
            "channel `stable` of template `light` on `local` is 1, expected text",
        ),
        (
            {"local": {"builds": {"r": None}}},
            "build `r` of template `light` on `local` is null, expected a table",
        ),
        (
            {"local": {"builds": {"r": {"inputs": []}}}},
            "`inputs` of build `r` of template `light` on `local` is [], expected a table",
        ),
        (
            {"local": {"builds": {"r": {"inputs": {"spec": 3}}}}},
            "`inputs.spec` of build `r` of template `light` on `local` is 3, expected a table",
        ),
        (
            {"local": {"builds": {"r": {"digest": {"a": 1}}}}},
            '`digest` of build `r` of template `light` on `local` is {"a": 1}, expected text',
        ),
        (
            {"local": {"builds": {"r": {"packages": {"a": 3}}}}},
            "`packages.a` of build `r` of template `light` on `local` is 3, expected text",
        ),
        (
            {"local": {"builds": {"r": {"verified": {"seconds": 3}}}}},
            "`verified.seconds` of build `r` of template `light` on `local` is 3, expected a table",
        ),
        (
            {"local": {"history": [{"action": "build"}, {"channel": [1]}]}},
            "`channel` of event 2 of the history of template `light` on `local` is [1],"
            " expected text",
        ),
    ],
)
def test_registry_of_another_shape(
    project: Path, command: Command, entry: Any, message: str
) -> None:
    """A registry of valid JSON that cannot be meant is refused with the entry that is wrong."""
    path = project / "registry.json"
    path.write_text(json.dumps({"version": 1, "templates": {"light": entry}}))
    done = command("list", cwd=project)
    assert done.returncode == errors.RegistryError.exit_code
    assert done.stderr.endswith(f"error: {path}: {message}{FROM_GIT}")


def test_no_command_takes_a_registry_of_another_shape(project: Path, command: Command) -> None:
    """Commands that plan and build refuse it, too, and leave it as it is."""
    path = project / "registry.json"
    path.write_text('{"version": 1, "templates": {"light": {"local": {"channels": []}}}}')
    before = path.read_bytes()
    message = "`channels` of template `light` on `local` is [], expected a table"
    for arguments in (["plan", "--frozen"], ["build", "--frozen"]):
        done = command(*arguments, cwd=project)
        assert done.returncode == errors.RegistryError.exit_code
        assert done.stderr.endswith(f"error: {path}: {message}{FROM_GIT}")
    assert path.read_bytes() == before


def test_entry_that_is_null_is_no_unknown_template(project: Path, command: Command) -> None:
    """A template whose entry was emptied is a broken registry, not a template nobody recorded."""
    (project / "registry.json").write_text('{"version": 1, "templates": {"light": null}}')
    assert command("resolve", "light", cwd=project).returncode == errors.RegistryError.exit_code


def test_registry_that_is_a_pipe(project: Path, command: Command) -> None:
    """A pipe in the registry's place is refused, not waited for."""
    os.mkfifo(project / "registry.json")
    found = command("plan", "--frozen", cwd=project)
    assert found.returncode == errors.RegistryError.exit_code


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ("tool = 3", "1: [tool]: expected a table"),
        (
            "[tool.template-builder]\ntargets = 1",
            "2: [tool.template-builder.targets]: expected a table",
        ),
        (
            "[tool.template-builder]\ntargets = []",
            "2: [tool.template-builder.targets]: expected a table",
        ),
        (
            "[[tool.template-builder.targets]]\na = 1",
            "1: [tool.template-builder.targets]: expected a table",
        ),
        (
            '[tool.template-builder.targets."a/b"]\nkind = "local"',
            "1: [tool.template-builder.targets]: 'a/b' is not a name for a target, which consists of"
            " a-z, 0-9, - and _",
        ),
        (
            '[tool.template-builder.targets.local]\nkind = "e2b"',
            "2: [tool.template-builder.targets.local]: `kind` is 'e2b', but the built-in target"
            " `local` has a fixed kind\n\nhint: use another name for the target",
        ),
        (
            "[tool.template-builder.targets.x]\nkind = 3",
            "2: [tool.template-builder.targets.x]: `kind` is 3, expected one of ('e2b', 'local')",
        ),
        (
            '[tool.template-builder.targets.x]\nkind = "e2b"\ndomain = 3',
            "3: [tool.template-builder.targets.x]: `domain` is 3, expected a string",
        ),
    ],
)
def test_settings_of_another_shape(
    project: Path, command: Command, settings: str, message: str
) -> None:
    """Settings that cannot be meant are refused with file, line and table."""
    (project / "pyproject.toml").write_text(settings)
    found = command("validate", cwd=project)
    assert found.returncode == errors.ProjectError.exit_code
    assert found.stderr == f"error: {project / 'pyproject.toml'}:{message}\n"


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (f"a = 1\nx = {'[' * 3000}", ":2: is not valid TOML: it is nested deeper than 100 levels"),
        (f"\n\nx = {'9' * 5000}", ":3: is not valid TOML: a number with thousands of digits"),
        ("a = 1\nx =", ":2: is not valid TOML: Invalid value"),
        ("[project]\nname = 'a'\nname = 'b'\n", ":3: is not valid TOML: Cannot overwrite a value"),
        ("\ufeffa = 1", ":1: begins with a byte order mark, which TOML does not allow"),
        ("a = 1\nb = '\udce9'", ":2: is not UTF-8: "),
    ],
)
def test_settings_that_are_no_toml(
    project: Path, command: Command, settings: str, message: str
) -> None:
    """A pyproject.toml that the parser gives up on is told with its line, not with a traceback."""
    (project / "pyproject.toml").write_bytes(settings.encode("utf-8", "surrogateescape"))
    found = command("validate", cwd=project)
    assert found.returncode == errors.ProjectError.exit_code
    assert found.stderr.startswith(f"error: {project / 'pyproject.toml'}{message}")
    assert "Traceback" not in found.stderr


def test_settings_that_are_a_pipe(project: Path, command: Command) -> None:
    """A pipe in the place of pyproject.toml is refused, not waited for."""
    os.mkfifo(project / "pyproject.toml")
    found = command("validate", cwd=project)
    assert (
        found.stderr
        == f"error: {project / 'pyproject.toml'} cannot be read: it is not a regular file\n"
    )


@pytest.mark.parametrize("channel", ["", "a\nb", "Ä", "a b"])
def test_channel_is_a_name(project: Path, command: Command, channel: str) -> None:
    """What could not be a tag on E2B cannot be a channel."""
    found = command("build", "--frozen", "--channel", channel, cwd=project)
    assert found.returncode == errors.USAGE
    assert "is not a channel name" in found.stderr


UUID = "3b625f7d-c126-441d-bfa2-116b2bb4b294"


@pytest.mark.parametrize(
    ("channel", "told"),
    [
        ("default", "is reserved for builds on E2B: choose another name"),
        ("sha256-1", "is reserved for builds on E2B: choose another name"),
        (f"x.{UUID}", "is reserved for builds on E2B: choose another name"),
        (f"x.y.{UUID}", "is reserved for builds on E2B: choose another name"),
        (UUID, "is a UUID, like the ID of a build on E2B: choose another name"),
        (UUID.replace("-", ""), "is a UUID, like the ID of a build on E2B: choose another name"),
    ],
)
def test_channel_is_not_called_like_a_tag_of_builds(
    project: Path, command: Command, channel: str, told: str
) -> None:
    """A channel whose tag on E2B would be that of a digest or a claim, or could not be one, is
    refused before anything is built."""
    for arguments in (["build", "--frozen"], ["promote", "light"], ["plan"]):
        found = command(*arguments, "--channel", channel, cwd=project)
        assert found.returncode == errors.USAGE
        assert f"{channel!r} {told}" in " ".join(found.stderr.split())


@pytest.mark.parametrize("option", ["--force", "--refresh-base"])
def test_steps_run_anew_are_not_required_from_the_cache(
    project: Path, command: Command, option: str
) -> None:
    """Options that contradict each other are refused before anything is built."""
    found = command("build", "--frozen", option, "--require-cache", cwd=project)
    assert (found.returncode, found.stderr) == (
        errors.SelectionError.exit_code,
        f"error: {option} runs steps again, and --require-cache fails if they are\n\n"
        "hint: use only one of the two\n",
    )


def test_plan_ends_with_the_failure_of_a_lock(project: Path, command: Command) -> None:
    """A plan that could not be made for a variant shows why, and does not end as if all was well."""
    found = command("plan", "--frozen", "-q", cwd=project)
    assert found.returncode == errors.StaleLockError.exit_code
    assert "`light` has no committed lock" in found.stderr
