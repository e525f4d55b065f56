"""What a spec gets that says nothing of it, and `config`, which shows that."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

from builder.spec import defaults
from tests.conftest import Command
from tests.support.samples import load, rendered_of

FOUR = 'schema = 1\nname = "four"\n[python]\npackages = ["six"]\n'


def test_four_lines_are_a_spec(tmp_path: Path) -> None:
    """A spec of four lines is a template on E2B's code interpreter, with its service and sizes."""
    variant = load(tmp_path, four=FOUR)["four"]
    assert (variant.image, variant.python) == ("e2bdev/code-interpreter:latest", ">=3.11")
    assert (variant.command, variant.ready_url) == (defaults.COMMAND, defaults.READY_URL)
    assert (variant.cpu, variant.memory_mb) == (2, 1024)
    text = rendered_of(variant).content("Dockerfile").decode()
    assert text.endswith('\nCMD ["python3", "/opt/template/warmup.py", "serve"]\n')


def test_defaults_of_the_service_are_those_of_the_default_image(tmp_path: Path) -> None:
    """Another base image has no service but that of the spec; each other key has its default."""
    other = FOUR + '[base]\nimage = "python:3.13"\n'
    service = '[service]\ncommand = ["serve"]\nready-url = "http://localhost/"\n'
    sudo = '[service]\ncommand = ["env", "A=1", "/root/.jupyter/start-up.sh"]\n'
    plain = load(tmp_path / "plain", four=other)["four"]
    assert (plain.command, plain.ready_url, plain.python) == ((), None, ">=3.11")
    served = load(tmp_path / "served", four=other + service)["four"]
    assert (served.command, served.ready_url) == (("serve",), "http://localhost/")
    wrapped = load(tmp_path / "wrapped", four=FOUR + sudo)["four"]
    assert wrapped.command == ("env", "A=1", "/root/.jupyter/start-up.sh")
    assert wrapped.ready_url == defaults.READY_URL


def test_validate_says_what_another_image_lacks(
    write: Callable[..., Path], command: Command
) -> None:
    """A template whose base image has no code service is valid, and `validate` says so in one
    sentence with the choice to make."""
    folder = write(four=FOUR + '[base]\nimage = "python:3.13"\n').parent
    done = command("validate", cwd=folder)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == (
        "variants/four.toml: four (four): valid\n"
        "variants/four.toml: four: nothing runs code in its sandboxes on E2B, since `base.image` is"
        " python:3.13; remove `base.image` to get E2B's code interpreter, or start a code service"
        " with [service]\n"
    )


SPECS = {
    "_base": (
        'schema = 1\ndescription = "shared"\n[env]\nA = "1"\nB = "2"\n'
        '[python]\npackages = ["six", "idna"]\n[warmup]\nlevel = "disk"\nimports = ["six", "idna"]\n'
        '[[verify]]\nname = "one"\ncode = "print(1)"\n'
    ),
    "leaf": (
        'schema = 1\nname = "leaf"\nextends = "_base"\n[env]\nB = "3"\n'
        '[resources]\ncpu = 4\n[python]\npackages = ["attrs"]\n[warmup]\nimports = ["attr"]\n'
        '[[verify]]\nname = "two"\ncode = """\na = 1\nprint(a)\n"""\n'
    ),
}
RESOLVED = '''\
schema = 1  # variants/leaf.toml:1
name = "leaf"  # variants/leaf.toml:2
extends = "_base"  # variants/leaf.toml:3

[base]
image = "e2bdev/code-interpreter:latest"  # default
python = ">=3.11"  # default

[env]
A = "1"  # variants/_base.toml:4
B = "3"  # variants/leaf.toml:5

[service]
# default
command = [
    "sudo",
    "--preserve-env=E2B_LOCAL",
    "/root/.jupyter/start-up.sh",
]
ready-url = "http://localhost:49999/health"  # default

[resources]
cpu = 4  # variants/leaf.toml:7
memory-mb = 1024  # default

[python]
packages = [
    "six",  # variants/_base.toml:7
    "idna",  # variants/_base.toml:7
    "attrs",  # variants/leaf.toml:9
]

[workdir]
path = "/home/user"  # default

[warmup]
level = "disk"  # variants/_base.toml:9
# variants/leaf.toml:11
imports = [
    "attr",
]

[[verify]]  # variants/_base.toml:11
name = "one"
code = "print(1)"

[[verify]]  # variants/leaf.toml:12
name = "two"
code = """
a = 1
print(a)
"""
'''


def test_config_shows_each_value_with_its_place(
    write: Callable[..., Path], command: Command
) -> None:
    """`config` prints the resolved spec as TOML, each value with its file and line or `default`,
    and as JSON by key."""
    folder = write(**SPECS).parent
    done = command("config", "leaf", cwd=folder)
    assert (done.returncode, done.stderr, done.stdout) == (0, "", RESOLVED)
    values = json.loads(command("config", "leaf", "--json", cwd=folder).stdout)["leaf"]
    assert values["env.B"] == {"value": "3", "place": "variants/leaf.toml:5"}
    assert values["python.packages[2]"] == {"value": "attrs", "place": "variants/leaf.toml:9"}
    assert values["verify[1]"]["value"]["name"] == "two"
    assert values["base.python"] == {"value": ">=3.11", "place": "default"}


def test_variables_keep_the_order_in_which_they_are_set(
    write: Callable[..., Path], command: Command
) -> None:
    """A variable that a spec sets again comes after the variables that its new value refers to."""
    folder = write(
        _base='schema = 1\n[env]\nB = "1"\nA = "2"\n',
        leaf='schema = 1\nname = "leaf"\nextends = "_base"\n[env]\nC = "3"\nB = "$C$A"\n',
    ).parent
    shown = command("config", "leaf", cwd=folder).stdout.partition("[env]\n")[2]
    assert shown.splitlines()[:3] == [
        'A = "2"  # variants/_base.toml:4',
        'C = "3"  # variants/leaf.toml:5',
        'B = "$C$A"  # variants/leaf.toml:6',
    ]


def test_what_config_shows_is_the_same_template(
    tmp_path: Path, write: Callable[..., Path], command: Command
) -> None:
    """The output of `config`, without its parent, is a spec of the same template."""
    folder = write(**SPECS).parent
    text = command("config", "leaf", cwd=folder).stdout
    alone = load(tmp_path / "alone", leaf=text.replace('extends = "_base"', ""))["leaf"]
    chained = load(tmp_path / "chained", **SPECS)["leaf"]
    for key in ("image", "python", "command", "ready_url", "env", "cpu", "memory_mb", "level"):
        assert getattr(alone, key) == getattr(chained, key)
    assert (alone.requirements, alone.checks) == (chained.requirements, chained.checks)


def test_config_shows_tables_inside_of_checks(tmp_path: Path, command: Command) -> None:
    """A table inside of one in a list stays there, so that what `config` prints is the same spec."""
    check = '[[verify]]\nname = "page"\nhttp = { url = "http://localhost:1/", contains = "x" }\n'
    run = '[[run]]\ncommand = "true"\nenv = { A = "1" }\n'
    before = load(tmp_path, four=FOUR + check + run)["four"]
    text = command("config", "four", cwd=tmp_path).stdout
    assert (
        '[[verify]]  # variants/four.toml:5\nname = "page"\n'
        '[verify.http]\nurl = "http://localhost:1/"\ncontains = "x"\n'
    ) in text
    after = load(tmp_path / "again", four=text)["four"]
    assert (after.checks, after.stages[0].runs) == (before.checks, before.stages[0].runs)
