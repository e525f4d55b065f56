from __future__ import annotations

import re
import shlex
import subprocess
import sys
import tomllib

import typer.main

from builder.cli.app import program
from tests.conftest import ROOT
from tests.support.pages import blocks

PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]


def commands(name: str) -> list[str]:
    return [
        line for kind, text in blocks(ROOT / name) if kind == "sh" for line in text.splitlines()
    ]


def test_readme_gives_the_commands_that_ci_runs() -> None:
    """The README has two commands, one of them also for a single template, and CI runs its test
    command as it stands there."""
    light, build, tests = commands("README.md")
    assert light == f"{build} -- tta-data-minimal"
    assert build == "python -m pip install nox && python -m nox -s build_templates"
    assert tests == "python -m pip install nox && python -m nox -s tests"
    assert f"    {tests}\n" in (ROOT / ".ci" / "run").read_text()


def test_sessions_that_are_named_exist() -> None:
    """Every nox session that a page mentions is in the noxfile."""
    defined = set(
        re.findall(r"@nox\.session\n(?:@.+\n)?def (\w+)", (ROOT / "noxfile.py").read_text())
    )
    for page in PAGES:
        for words in re.findall(r"nox -s ([\w ]+)", page.read_text()):
            assert set(words.split()) <= defined, page


def test_commands_that_are_named_exist() -> None:
    """Every `template-builder` command line on a page has a command and options that exist."""
    known = typer.main.get_command(program()).commands  # type: ignore[attr-defined]
    for page in PAGES:
        inline = re.findall(r"`template-builder ((?!\[)[^`|\n]*)", page.read_text())
        in_blocks = re.findall(
            r"template-builder ((?!\[)[^`|\n]*)",
            "".join(text for kind, text in blocks(page) if kind in {"sh", "yaml", ""}),
        )
        for line in (*inline, *in_blocks):
            words = [word for word in shlex.split(line, comments=True) if not word.startswith("[")]
            if not words or not re.fullmatch(r"[a-z]+", words[0]) or page.name == "CHANGELOG.md":
                continue
            assert words[0] in known, (page, line)
            command = known[words[0]]
            if inner := getattr(command, "commands", None):
                assert words[1] in inner, (page, line)
                command = inner[words[1]]
            options = {f for param in command.params for f in (*param.opts, *param.secondary_opts)}
            assert {w for w in words if w.startswith("-")} <= options | {"--help"}, (page, line)


def test_every_command_is_documented() -> None:
    """The page of commands has a section for every command there is."""
    page = (ROOT / "docs" / "commands.md").read_text()
    for name in typer.main.get_command(program()).commands:  # type: ignore[attr-defined]
        assert f"\n## `template-builder {name}" in page


def test_generated_pages_are_up_to_date() -> None:
    """The reference pages are what the program says of itself today."""
    check = [sys.executable, str(ROOT / "docs" / "generate.py"), "--check"]
    done = subprocess.run(check, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_links_lead_somewhere() -> None:
    """Every relative link on a page leads to a file or folder that exists."""
    for page in PAGES:
        for target in re.findall(r"\]\((?!http)([^)#]+)", page.read_text()):
            assert (page.parent / target).exists(), (page, target)


def test_toml_of_every_page_is_valid() -> None:
    """No TOML block on any page is broken."""
    for page in PAGES:
        for kind, text in blocks(page):
            if kind == "toml":
                tomllib.loads(text)
