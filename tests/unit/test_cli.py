from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from builder import __version__, errors
from builder.cli.doctor import examine
from tests.conftest import ASCII_LOCALE, ROOT, Command


def test_invalid_spec_ends_with_its_code(project: Path, command: Command) -> None:
    """A mistake in a spec ends every command that reads it, with the report and code 4."""
    (project / "variants" / "light.toml").write_text("schema = 1\nnmae = 'x'\n")
    found = command("validate", cwd=project)
    assert (found.returncode, found.stdout) == (errors.SpecError.exit_code, "")
    assert (
        found.stderr
        == (
            "error: 2 problems in the specs:\n"
            "variants/light.toml: `name`: is missing (every spec without a leading `_` needs a name)\n"
            "variants/light.toml:2:1: `nmae`: unknown key (did you mean `name`?)\n"
        )
        or "unknown key (did you mean `name`?)" in found.stderr
    )
    machine = command("validate", "--json", cwd=project)
    assert json.loads(machine.stdout)["error"]["kind"] == "SpecError"


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (
            ["plan", "lihgt"],
            5,
            "target local: the default without E2B_API_KEY\nerror: no spec is called `lihgt`; there are: light, other\n\nhint: did you mean `light`?\n",
        ),
        (
            ["plan", "variants/_base.toml"],
            5,
            "target local: the default without E2B_API_KEY\nerror: `variants/_base.toml` is an abstract spec and never built alone\n",
        ),
        (
            ["plan", "--target", "lcoal"],
            30,
            "error: there is no target `lcoal`; there are: e2b, local\n\nhint: did you mean `local`?\n",
        ),
        (
            ["build", "--target", "e2b"],
            30,
            "target e2b: requested\nerror: target `e2b` needs an account: `E2B_API_KEY` is not set"
            "\n\nhint: set `E2B_API_KEY` to an API key, or use `--target local`, which needs none\n",
        ),
        (["build", "--frozen", "light"], 11, None),
        (["render", "--check"], 13, None),
        (["verify", "light"], 42, None),
        (["resolve", "light"], 40, None),
        (
            ["logs", "light"],
            5,
            "error: there is no log of `light`; there are logs of: nothing\n\nhint: `template-builder build` writes one\n",
        ),
        (["validate", "--bogus"], 64, None),
        (["bogus"], 64, None),
        (["build", "--jobs", "0"], 64, None),
        (
            ["validate", "--project", "nowhere"],
            3,
            "error: `nowhere` is not a project: it has no `variants` folder\n\nhint: select the folder that contains `variants` with --project\n",
        ),
    ],
)
def test_exit_codes(
    project: Path, command: Command, arguments: list[str], code: int, message: str | None
) -> None:
    """Every kind of failure ends with its own code and one paragraph, never with a traceback."""
    found = command(*arguments, cwd=project, TEMPLATE_REGISTRY=str(project / "registry.json"))
    assert found.returncode == code, found.stderr
    assert "Traceback" not in found.stderr
    if message is not None:
        assert found.stderr == message


def test_broken_registry_stops_the_build_before_the_work(project: Path, command: Command) -> None:
    """A registry that cannot be read is told before anything is resolved or built."""
    (project / "registry.json").write_text('{"version": 1, "templates"')
    found = command("build", cwd=project, UV_OFFLINE="1")
    assert found.returncode == errors.RegistryError.exit_code
    assert not (project / "generated").exists()
    (project / "registry.json").write_text('{"version": 2, "templates": {}}')
    newer = command("build", cwd=project, UV_OFFLINE="1")
    assert newer.returncode == errors.RegistryVersionError.exit_code


def test_no_network_ends_with_its_code(project: Path, command: Command, tmp_path: Path) -> None:
    """Without a network, build ends with NetworkError's code and records nothing."""
    found = command("build", cwd=project, UV_OFFLINE="1", UV_CACHE_DIR=str(tmp_path / "none"))
    assert found.returncode == errors.NetworkError.exit_code
    assert "no network: resolving stage `light` could not reach a package index" in found.stderr
    assert not (project / "registry.json").exists()


def test_exit_codes_are_unique_and_documented() -> None:
    """No two kinds of failure share a code, and the docs list every one of them."""

    def tree(kind: type[errors.TemplateError]) -> list[type[errors.TemplateError]]:
        return [kind, *(found for child in kind.__subclasses__() for found in tree(child))]

    kinds = [k for k in tree(errors.TemplateError) if k.__module__ == "builder.errors"]
    kinds = [k for k in kinds if not k.__name__.startswith("_")]
    codes = [k.exit_code for k in kinds if k is not errors.TemplateLookupError]
    assert len(set(codes)) == len(codes)
    assert not {0, errors.SOMETHING_TO_DO, errors.USAGE} & set(codes)
    page = (ROOT / "docs" / "commands.md").read_text()
    listed = {int(code) for code in re.findall(r"^\| (\d+) \|", page, re.MULTILINE)}
    assert listed == {0, errors.SOMETHING_TO_DO, errors.USAGE, *codes}
    assert all(kind.__doc__ for kind in kinds)


def test_output_that_nobody_reads_to_the_end(project: Path) -> None:
    """A reader that closes the pipe early, as `head` does, is no failure."""
    shell = (
        f"{shlex.quote(sys.executable)} -m builder schema --json --project {project} | head -n 1"
    )
    found = subprocess.run(
        ["bash", "-o", "pipefail", "-c", shell],
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
    )
    assert "Traceback" not in found.stderr
    assert "Error" not in found.stderr


def test_doctor_tells_what_is_broken(project: Path, local_cache: Path) -> None:
    """doctor looks at everything at once and names what does not work."""
    (project / "registry.json").write_text("{")
    found = {finding.what: finding.state for finding in examine(project)}
    assert found["specs"] == "ok"
    assert found["uv"] == "ok"
    assert found["registry"] == "no"


def test_configured_targets_are_known(project: Path, command: Command) -> None:
    """Targets in pyproject.toml are known by name; a wrong key in them is told with its place."""
    settings = project / "pyproject.toml"
    settings.write_text('[tool.template-builder.targets.staging]\nkind = "local"\n')
    planned = command("plan", "--frozen", "--json", "--target", "staging", cwd=project)
    assert json.loads(planned.stdout)["target"] == "staging"
    settings.write_text('[tool.template-builder.targets.staging]\nknid = "local"\n')
    found = command("plan", cwd=project)
    assert found.returncode == errors.ProjectError.exit_code
    assert found.stderr == (
        f"error: {settings}:2: [tool.template-builder.targets.staging]: unknown key `knid`\n\n"
        "hint: did you mean `kind`?\n"
    )


@ASCII_LOCALE
def test_terminal_without_unicode(project: Path, command: Command) -> None:
    """Where the locale is plain ASCII, what cannot be shown is replaced, and nothing fails."""
    found = command(
        "validate", cwd=project, LC_ALL="POSIX", PYTHONUTF8="0", PYTHONCOERCECLOCALE="0"
    )
    assert found.returncode == 0, found.stderr
    assert found.stdout.splitlines()[0] == "variants/light.toml: light (_base ? light): valid"


def test_working_directory_that_is_gone(tmp_path: Path) -> None:
    """In a folder that was removed, the command says so."""
    folder = tmp_path / "gone"
    folder.mkdir()
    shell = f"rmdir {folder}; exec {shlex.quote(sys.executable)} -m builder validate"
    found = subprocess.run(
        ["bash", "-c", shell],
        capture_output=True,
        text=True,
        check=False,
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )
    assert found.returncode == errors.ProjectError.exit_code
    assert found.stderr.endswith(
        "error: the working directory cannot be used: No such file or directory\n\n"
        "hint: change to a folder that exists\n"
    )


def test_version(command: Command) -> None:
    """--version names the program and its version."""
    assert command("--version").stdout == f"template-builder {__version__}\n"


def test_usage_error_for_machines(project: Path, command: Command) -> None:
    """A command line that cannot be read is told as JSON where that is asked for."""
    found = command("build", "--json", "--jobs", "0", cwd=project)
    assert found.returncode == errors.USAGE
    assert json.loads(found.stdout)["error"]["exit_code"] == errors.USAGE


def test_list_of_commands_is_whole_sentences(command: Command) -> None:
    """The list of commands says all of each command's first sentence, also on a narrow terminal."""
    for arguments in ((), ("registry",)):
        shown = command(*arguments, "--help").stdout.partition("Commands:\n")[2]
        assert shown.rstrip().endswith(".")
        assert "..." not in shown


def test_value_that_an_option_does_not_take(project: Path, command: Command) -> None:
    """A wrong value of an option is told with those that it takes, in this program's words."""
    for arguments, known in (
        (("build", "--precheck", "maybe"), "'auto', 'always', 'never'"),
        (("init", "--ci", "maybe"), "'github'"),
    ):
        done = command(*arguments, cwd=project)
        assert done.returncode == errors.USAGE
        assert done.stderr.endswith(
            f"Error: Invalid value for '{arguments[1]}': 'maybe' is not one of {known}.\n"
        )
