from __future__ import annotations

import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer.main

from builder.cli.app import program


def leaves(group: Any, *path: str) -> Iterator[tuple[list[str], Any]]:
    for name, command in group.commands.items():
        if hasattr(command, "commands"):
            yield from leaves(command, *path, name)
        else:
            yield [*path, name], command


COMMANDS = {" ".join(path): command for path, command in leaves(typer.main.get_command(program()))}


@pytest.mark.parametrize("name", COMMANDS)
def test_the_example_of_each_command_can_be_run(name: str) -> None:
    """The help of each command ends with an example whose names and options the command takes."""
    command = COMMANDS[name]
    (example,) = re.findall(r"\n\nExample: `template-builder (.+)`$", command.help)
    assert example.startswith(name)
    command.make_context(name, shlex.split(example.removeprefix(name)))


def test_texts_and_paths_are_taken_without_pydantic() -> None:
    """A command with only texts and paths as arguments runs without pydantic, which is slow to
    load."""
    program = (
        "import sys; from builder.cli.app import run; run(sys.argv[1:]);"
        " sys.exit('pydantic' in sys.modules)"
    )
    command = [sys.executable, "-c", program, "list", "tta-ml-minimal", "--project"]
    subprocess.run([*command, str(Path(__file__).parents[2])], check=True)
