"""What an interpreter that was warmed by an image draws at random, in copies of it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.e2e.test_warmup import Image, image, port

__all__ = ["image", "port"]
pytestmark = pytest.mark.network

# The interpreter is copied as a snapshot does it: in the middle of its life, all of its memory.
COPIES = """
import contextlib, io, json, os, sys
from IPython.terminal.ipapp import TerminalIPythonApp

app = TerminalIPythonApp.instance()
app.initialize(["--no-banner", "--colors=NoColor"])
shell = app.shell
for code in ("%cd -q /", "import os; os.environ['A'] = 'b'"):  # the service's own
    shell.run_cell(code, silent=True)

def copy(*cells):
    reading, writing = os.pipe()
    if os.fork() == 0:
        said = io.StringIO()
        with contextlib.redirect_stdout(said):
            for cell in cells:
                shell.run_cell(cell)
        os.write(writing, said.getvalue().encode())
        os._exit(0)
    os.close(writing)
    with open(reading) as file:
        return file.read()

code = "import idna, random; print('idna', random.random(), getattr(idna, 'own', None))"
again = "random.seed(1); print(random.random()); random.seed(1)", "print(random.random())"
print(json.dumps([copy(code), copy(code), copy(code, *again)]))
"""


def copies(image: Image) -> list[str]:
    image.run(str(image.script), "install")
    state = image.script.parent / "state"
    state.mkdir()
    (state / "todo").touch()
    done = image.run("-c", COPIES)
    assert done.returncode == 0, done.stderr
    answer: list[str] = json.loads(done.stdout.splitlines()[-1])
    return answer


def own(image: Image, code: str) -> Path:
    path = image.script.parent / "warmup_reseed.py"
    path.write_text(code)
    return path


def test_first_execution_in_a_copy_reseeds(image: Image) -> None:
    """The first execution that somebody sends to a copy of the warm interpreter finds generators
    with seeds of its own, those after it find what the code has made of them; what the service
    executes for itself does not count."""
    own(image, "import idna, os\nidna.own = os.urandom(8).hex()\n")
    first, second, third = copies(image)
    drawn = [text.splitlines()[0].split() for text in (first, second, third)]
    assert [words[0] for words in drawn] == ["idna"] * 3
    assert len({words[1] for words in drawn}) == 3
    assert len({words[2] for words in drawn}) == 3
    assert third.splitlines()[1:] == ["0.13436424411240122"] * 2


def test_copy_that_cannot_reseed_runs_nothing(image: Image) -> None:
    """Where the template's own code fails, code is refused with what failed, each time."""
    own(image, "import idna\nidna.seed()\n")
    first, _, third = copies(image)
    refused = (
        "WarmupReseedError: `warmup.reseed` fails in the sandbox: AttributeError: module 'idna' has"
        " no attribute 'seed'"
    )
    assert refused in first
    assert "idna 0." not in first
    assert third.count(refused) == 3
