"""Values of `[env]` that refer to other variables."""

from __future__ import annotations

from pathlib import Path

import pytest

from builder.errors import SpecError
from builder.flatten import flatten
from builder.targets.local.place import sandbox_variables
from tests.support.samples import load, rendered_of

BASE = (
    'schema = 1\n[base]\nimage = "python:3.13"\npython = ">=3.11"\n'
    '[env]\nTOOLS = "/opt/tools"\nPATH = "$TOOLS/bin:${PATH}"\n'
)
LEAF = 'schema = 1\nname = "leaf"\nextends = "_base"\n'


def variables(folder: Path, env: str) -> dict[str, str]:
    return dict(load(folder, _base=BASE, leaf=f"{LEAF}[env]\n{env}")["leaf"].env)


def test_references_have_the_value_so_far(tmp_path: Path) -> None:
    """A reference is the value that a line above or an extended spec sets, also that of its own
    variable; PATH begins with the base image's, and `$$` stays a dollar sign."""
    env = 'PATH = "/opt/leaf:$PATH"\nDATA = "${TOOLS}/data"\nBOTH = "$DATA:$DATA"\nPRICE = "5$$"\n'
    assert variables(tmp_path, env) == {
        "TOOLS": "/opt/tools",
        "PATH": "/opt/leaf:/opt/tools/bin:${PATH}",
        "DATA": "/opt/tools/data",
        "BOTH": "/opt/tools/data:/opt/tools/data",
        "PRICE": "5$$",
    }


def test_mistakes_in_references_have_a_place(tmp_path: Path) -> None:
    """An unknown name, a name that is set only below, and a dollar sign alone are errors."""
    with pytest.raises(SpecError) as error:
        variables(tmp_path, 'A = "$TOOL"\nB = "$LATER"\nC = "${A!}"\nLATER = ""\nD = "5$"\n')
    unknown = (
        "has no value: neither a line above nor an extended spec sets it, and of the base image"
        " only PATH can be used"
    )
    dollar = "write `$$` for a dollar sign, `$NAME` or `${NAME}` for the value of a variable"
    assert str(error.value).splitlines()[1:] == [
        f"variants/leaf.toml:5:1: `env.A`: `$TOOL` {unknown} (did you mean `TOOLS`?; write"
        " `$$TOOL` for that text itself)",
        f"variants/leaf.toml:6:1: `env.B`: `$LATER` {unknown} (write `$$LATER` for that text"
        " itself)",
        "variants/leaf.toml:7:1: `env.C`: '${A!}' contains a `$` that begins no variable"
        f" ({dollar})",
        f"variants/leaf.toml:9:1: `env.D`: '5$' contains a `$` that begins no variable ({dollar})",
    ]


def test_path_of_the_base_image_arrives_everywhere(tmp_path: Path) -> None:
    """The image, login shells, each step of E2B, its ENV and its start command put a PATH in front
    of the base image's, and a local sandbox in front of this machine's."""
    service = '[service]\ncommand = ["serve"]\nready-url = "http://localhost/"\n'
    env = 'PATH = "/it\'s:$PATH:/z"\n'
    variant = load(tmp_path, _base=BASE, leaf=f"{LEAF}{service}[env]\n{env}")["leaf"]
    text = rendered_of(variant).content("Dockerfile").decode()
    assert '\nENV TOOLS="/opt/tools" \\\n    PATH="/opt/tools/bin:${PATH}"\n' in text
    assert '\nENV PATH="/it\'s:${PATH}:/z"\n' in text
    program = flatten(text)
    path = """PATH='/it'"'"'s:/opt/tools/bin:'"$PATH"':/z'"""
    steps = {step.kind: step.args for step in program.steps}
    assert dict(zip(steps["ENV"][::2], steps["ENV"][1::2], strict=True)) == {
        "TOOLS": "/opt/tools",
        "PATH": "/it's:/opt/tools/bin:$PATH:/z",
    }
    assert any(path in step.args[0] for step in program.steps if step.kind == "RUN")
    assert program.start_command is not None
    assert program.start_command.startswith(f"export TOOLS=/opt/tools {path} && exec ")
    local = sandbox_variables(variant.env, path=tmp_path, home=tmp_path)
    assert local["PATH"] == f"{tmp_path}/bin:/it's:/opt/tools/bin:/usr/local/bin:/usr/bin:/bin:/z"
