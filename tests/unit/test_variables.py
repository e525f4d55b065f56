"""Values of `[env]` that refer to other variables."""

from __future__ import annotations

import dataclasses
import subprocess
from collections.abc import Mapping
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from builder.errors import SpecError, TemplateError
from builder.flatten import flatten
from builder.lock.base_image import BaseImage
from builder.lock.base_variables import base_variables
from builder.lock.committed import read_committed
from builder.render import render, write
from builder.spec import Parent, inherit
from builder.spec.references import unset_variables
from builder.targets.local.place import sandbox_variables
from tests.support.samples import load, lock_of, rendered_of

BASE = (
    'schema = 1\n[base]\nimage = "python:3.13"\npython = ">=3.11"\n'
    '[env]\nTOOLS = "/opt/tools"\nPATH = "$TOOLS/bin:${PATH}"\n'
)
IMAGE_OF_BASE = BaseImage(reference="python:3.13", digest=None)
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


def test_dollar_sign_alone_has_a_place(tmp_path: Path) -> None:
    """A dollar sign that begins no reference is an error with its place."""
    with pytest.raises(SpecError) as error:
        variables(tmp_path, 'C = "${A!}"\nD = "5$"\n')
    dollar = "write `$$` for a dollar sign, `$NAME` or `${NAME}` for the value of a variable"
    assert str(error.value).splitlines()[1:] == [
        "variants/leaf.toml:5:1: `env.C`: '${A!}' contains a `$` that begins no variable"
        f" ({dollar})",
        f"variants/leaf.toml:6:1: `env.D`: '5$' contains a `$` that begins no variable ({dollar})",
    ]


IMAGE = {"LANG": "C.UTF-8", "HOME_OF_JAVA": "/opt/$java", "ODD": "two\nlines"}
REFERRING = (
    'A = "$TOOL"\nB = "${LANG}"\nLATER = "$LATER"\nODD = "$ODD"\nLIST = "$A:$LANGUAGE"\n'
    '[[run]]\ncommand = "x"\nenv = { C = "$LANG", D = "$C$NO" }\n'
)


def unset(folder: Path, values: Mapping[str, str] | None) -> list[str]:
    """Return the mistakes in `REFERRING` on an image with these variables."""
    leaf = load(folder, _base=BASE, leaf=f"{LEAF}[env]\n{REFERRING}")["leaf"]
    error = base_variables(leaf, IMAGE_OF_BASE, lambda _: values, folder / "variants")
    assert isinstance(error, SpecError)
    return str(error).splitlines()[1:]


def test_unknown_names_have_a_place(tmp_path: Path) -> None:
    """A reference to a variable that neither the chain nor the base image sets is an error with its
    place and near matches, and so is a value of several lines."""
    unknown = (
        "has no value: neither a line above nor an extended spec sets it, and the base image"
        " `python:3.13` sets only HOME_OF_JAVA, LANG"
    )
    assert unset(tmp_path, IMAGE) == [
        f"variants/leaf.toml:5:1: `env.A`: `$TOOL` {unknown} (did you mean `TOOLS`?; write"
        " `$$TOOL` for that text itself)",
        f"variants/leaf.toml:7:1: `env.LATER`: `$LATER` {unknown} (write `$$LATER` for that text"
        " itself)",
        f"variants/leaf.toml:8:1: `env.ODD`: `$ODD` {unknown} (write `$$ODD` for that text itself)",
        f"variants/leaf.toml:9:1: `env.LIST`: `$LANGUAGE` {unknown} (did you mean `LANG`?; write"
        " `$$LANGUAGE` for that text itself)",
        f"variants/leaf.toml:12:22: `run[0].env.D`: `$NO` {unknown} (write `$$NO` for that text"
        " itself)",
    ]


def test_base_image_whose_variables_are_not_known(tmp_path: Path) -> None:
    """If the variables of the base image are unknown, each reference to them is an error."""
    lines = unset(tmp_path, None)
    assert len(lines) == 7
    assert lines[1] == (
        "variants/leaf.toml:6:1: `env.B`: `$LANG` has no value: neither a line above nor an"
        " extended spec sets it, and the variables of the base image `python:3.13` are not known:"
        " neither its registry nor a Docker engine of this machine gives them (write `$$LANG` for"
        " that text itself)"
    )


def test_variables_of_the_base_image_arrive_everywhere(tmp_path: Path) -> None:
    """The lock holds the values. The image, commands, login shells, E2B's ENV and start command,
    and a local sandbox get them. The value of an extended spec takes precedence."""
    base = BASE + 'LANG_OF_BASE = "$LANG"\n'
    env = '[env]\nLANG = "en:$LANG"\nBOTH = "$LANG $$5"\nJAVA = "$HOME_OF_JAVA/bin"\n'
    run = '[[run]]\ncommand = "x"\nenv = { C = "$HOME_OF_JAVA", D = "$LANG" }\n'
    service = '[service]\ncommand = ["serve"]\nready-url = "http://localhost/"\n'
    leaf = load(tmp_path, _base=base, leaf=f"{LEAF}{service}{env}{run}")["leaf"]
    locked = base_variables(leaf, IMAGE_OF_BASE, lambda _: IMAGE, tmp_path)
    assert locked == {"LANG": "C.UTF-8", "HOME_OF_JAVA": "/opt/$$java"}
    result = render(leaf, dataclasses.replace(lock_of(leaf), env=locked))
    values = {"LANG": "en:C.UTF-8", "BOTH": "en:C.UTF-8 $5", "JAVA": "/opt/$java/bin"}
    values |= {"TOOLS": "/opt/tools", "LANG_OF_BASE": "C.UTF-8"}
    text = result.content("Dockerfile").decode()
    assert '\n    LANG_OF_BASE="C.UTF-8"\n' in text
    assert (
        'ENV LANG="en:C.UTF-8" \\\n    BOTH="en:C.UTF-8 \\$5" \\\n    JAVA="/opt/\\$java/bin"'
        in text
    )
    assert r"""export C='/opt/$java' D=\"$LANG\"\nx"]""" in text
    program = flatten(text)
    steps = {step.kind: step.args for step in program.steps}
    sent = dict(zip(steps["ENV"][::2], steps["ENV"][1::2], strict=True))
    expected = {name: value.replace("$", "${0:+$}") for name, value in values.items()}
    assert {name: sent[name] for name in values} == expected
    local = sandbox_variables(result.variant.env, path=tmp_path, home=tmp_path)
    assert {name: local[name] for name in values} == values
    write([result], tmp_path / "generated", all_variants=True)
    assert read_committed([leaf], tmp_path / "generated") == {"leaf": result.lock}


def test_lock_without_a_variable_of_the_base_image(tmp_path: Path) -> None:
    """A committed lock that lacks a variable is stale, and a lock with a forged value is not
    valid."""
    generated = tmp_path / "generated"
    leaf = load(tmp_path, _base=BASE, leaf=f'{LEAF}[env]\nA = "$LANG"\n')["leaf"]
    result = render(leaf, dataclasses.replace(lock_of(leaf), env={"LANG": "C"}))
    write([result], generated, all_variants=True)
    more = load(tmp_path, _base=BASE, leaf=f'{LEAF}[env]\nA = "$LANG$B"\n')["leaf"]
    stale = read_committed([more], generated)["leaf"]
    assert isinstance(stale, TemplateError)
    assert stale.message == (
        "the committed lock of `leaf` does not match its spec:\n  it lacks `$B` of the base image"
    )
    place = generated / "leaf" / "template.toml"
    place.write_text(place.read_text().replace('LANG = "C"', 'LANG = "C\\nRUN x"'))
    forged = read_committed([leaf], generated)["leaf"]
    assert isinstance(forged, TemplateError)
    assert forged.message == (
        "generated/leaf/template.toml is not valid: `lock.env.LANG` is 'C\\nRUN x'"
    )


def test_variables_of_a_parent_are_known(tmp_path: Path) -> None:
    """A template can refer to the variables of its parent and, in a later spec of its chain, to the
    PATH of an earlier spec."""
    parent = Parent(
        reference="below", target="e2b", ref="a:b", env={"DATA": "/data", "PATH": "/below:${PATH}"}
    )
    first = "schema = 1\nfrom-template = 'below'\n[env]\nPATH = '/first:$PATH'\n"
    env = "[env]\nPATH = '/leaf:$PATH'\nSETS = '$DATA/sets'\n"
    variant = load(tmp_path, _base=first, leaf=f"{LEAF}{env}")["leaf"]
    assert unset_variables(variant) == ("DATA",)
    bound = inherit(variant, parent)
    assert unset_variables(bound) == ()
    assert bound.env == {
        "DATA": "/data",
        "PATH": "/leaf:/first:/below:${PATH}",
        "SETS": "/data/sets",
    }
    assert bound.stages[0].env_instruction == {"PATH": "/first:${PATH}"}
    assert bound.stages[1].env_instruction == {"PATH": "/leaf:${PATH}", "SETS": "/data/sets"}


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


@pytest.mark.parametrize("before", ["/opt/a b/bin", "/it's", "/opt/$x*"])
def test_path_is_extended_once(before: str) -> None:
    """The start command of E2B adds folders to PATH, unless the login shell has added them."""
    quote = '"' if "'" in before else "'"
    text = f"FROM x\nENV PATH={quote}{before}{quote}:$PATH\n"
    command = flatten(f'{text}ENTRYPOINT []\nCMD ["printenv", "PATH"]\n').start_command
    assert command is not None
    for known in ("/usr/bin:/bin", f"{before}:/usr/bin:/bin"):
        done = subprocess.run(
            ["/bin/bash", "-c", command],
            env={"PATH": known},
            capture_output=True,
            text=True,
            check=True,
        )
        assert done.stdout == f"{before}:/usr/bin:/bin\n"


def test_path_of_env_is_extended_once() -> None:
    """ENV on E2B, which a login shell expands, does not repeat folders that /etc/profile.d has
    added to PATH."""
    for written, sent in {
        "/a/bin:$PATH": "/a/bin:${PATH#/a/bin:}",
        "$PATH:/b": "${PATH%:/b}:/b",
        "/a*:$PATH": "/a*:$PATH",
    }.items():
        (step,) = [
            step for step in flatten(f"FROM x\nENV PATH={written}").steps if step.kind == "ENV"
        ]
        assert step.args == ("PATH", sent)


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(value=st.text(alphabet=st.characters(max_codepoint=0x2FF)).filter(str.isprintable))
def test_value_of_the_base_image_arrives_to_the_character(tmp_path: Path, value: str) -> None:
    """A value of the base image reaches a sandbox unchanged, and adds no instruction."""
    leaf = load(tmp_path, _base=BASE, leaf=f'{LEAF}[env]\nA = "a$LANG"\nB = "$A$LANG"\n')["leaf"]
    locked = base_variables(leaf, IMAGE_OF_BASE, lambda _: {"LANG": value}, tmp_path)
    assert isinstance(locked, dict)
    plain = render(leaf, dataclasses.replace(lock_of(leaf), env={"LANG": "x"}))
    result = render(leaf, dataclasses.replace(lock_of(leaf), env=locked))
    local = sandbox_variables(result.variant.env, path=tmp_path, home=tmp_path)
    assert (local["A"], local["B"]) == (f"a{value}", f"a{value}{value}")
    texts = [each.content("Dockerfile").decode() for each in (plain, result)]
    expected, kinds = [[step.kind for step in flatten(text).steps] for text in texts]
    assert kinds == expected
