"""Completion in shells."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = Path(sys.executable).parent / "template-builder"


def run(*arguments: str, **variables: str) -> str:
    done = subprocess.run(
        [PROGRAM, *arguments],
        capture_output=True,
        text=True,
        check=True,
        env=os.environ | variables,
    )
    return done.stdout


@pytest.mark.parametrize(
    ("shell", "script", "line"),
    [
        ("bash", ".bash_completions/template-builder.sh", "complete -o default -F "),
        ("zsh", ".zfunc/_template-builder", "#compdef template-builder"),
        ("fish", ".config/fish/completions/template-builder.fish", "complete --command template-"),
    ],
)
def test_completion_is_installed(tmp_path: Path, shell: str, script: str, line: str) -> None:
    """`--install-completion` writes a script for the shell that calls the program."""
    variables = {"_TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION": "1", "HOME": str(tmp_path)}
    assert f"{shell} completion installed in" in run("--install-completion", shell, **variables)
    written = (tmp_path / script).read_text()
    assert line in written
    assert f"_TEMPLATE_BUILDER_COMPLETE=complete_{shell}" in written


@pytest.mark.parametrize(
    ("words", "number", "completed"),
    [("template-builder ex", "1", "explain"), ("template-builder plan --fro", "2", "--frozen")],
)
def test_commands_and_options_are_completed(words: str, number: str, completed: str) -> None:
    """A shell gets the names of commands, and those of the options of a command."""
    variables = {"COMP_WORDS": words, "COMP_CWORD": number}
    assert run(_TEMPLATE_BUILDER_COMPLETE="complete_bash", **variables).split() == [completed]
