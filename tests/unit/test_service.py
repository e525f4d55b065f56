from __future__ import annotations

import ast
import json
import socket
import subprocess
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from e2b_dockerfile_utils import parse_dockerfile_ast
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from syrupy.assertion import SnapshotAssertion

from builder.errors import SpecError
from builder.plan import inputs_of
from builder.render import Rendered
from builder.spec import Variant
from builder.spec.settings import settings_of
from tests.conftest import BASE, Command
from tests.support.samples import load, problems, rendered_of

LEAF = "schema = 1\nname = 'leaf'\nextends = '_base'\n"
COMMAND = "[service]\ncommand = ['run']\n"


def with_service(folder: Path, service: str, base: str = "") -> Variant:
    return load(folder, _base=BASE + base, leaf=LEAF + service)["leaf"]


def rendered(folder: Path, ready: str) -> Rendered:
    return rendered_of(with_service(folder, COMMAND + ready))


@pytest.mark.parametrize(
    ("ready", "key"),
    [
        ("ready-url = 'http://localhost:1/'", "ready-url"),
        ("ready-command = ['true']", "ready-command"),
        ("ready-port = 8501", "ready-port"),
    ],
)
def test_child_replaces_how_its_parents_service_is_ready(
    tmp_path: Path, ready: str, key: str
) -> None:
    """A service is ready in one way: that of the last spec of the chain that says one."""
    base = "[service]\ncommand = ['parent']\nready-url = 'http://localhost:2/'\n"
    variant = with_service(tmp_path, COMMAND + ready, base)
    assert variant.ready_key == key
    values = (variant.ready_url, variant.ready_command, variant.ready_port)
    assert sum(map(bool, values)) == 1
    assert variant.command == ("run",)
    shown = {
        setting.key[1]: setting.place
        for setting in settings_of(variant)
        if setting.key[0] == "service"
    }
    assert shown == {"command": "variants/leaf.toml:5", key: "variants/leaf.toml:6"}


def test_default_service_with_another_command(tmp_path: Path) -> None:
    """On the default image, a command of its own and a port replace the default service whole."""
    text = "schema = 1\nname = 'leaf'\n[service]\ncommand = ['run']\nready-port = 8501\n"
    variant = load(tmp_path, leaf=text)["leaf"]
    assert (variant.command, variant.ready_port, variant.ready_url) == (("run",), 8501, None)


def test_mistakes_in_readiness(tmp_path: Path) -> None:
    """Two ways to be ready, or one without a service, are errors with line and key."""
    folder = tmp_path / "variants"
    folder.mkdir()
    (folder / "two.toml").write_text(
        "schema = 1\nname = 'two'\n[base]\nimage = 'x'\npython = '>=3.11'\n"
        "[service]\ncommand = ['run']\nready-port = 1\nready-url = 'http://localhost:1/'\n"
        "ready-command = []\n"
    )
    (folder / "none.toml").write_text(
        "schema = 1\nname = 'none'\n[base]\nimage = 'x'\npython = '>=3.11'\n"
        "[service]\nready-port = 70000\n"
    )
    assert problems(folder) == [
        "variants/none.toml:7:1: `service.ready-port`: 70000 must be at most 65535",
        "variants/two.toml:10:1: `service.ready-command`: must name a program",
    ]
    for stem, old, new in (("two", "[]", "['true', 'x']"), ("none", "70000", "8501")):
        path = folder / f"{stem}.toml"
        path.write_text(path.read_text().replace(old, new))
    assert problems(folder) == [
        "variants/none.toml:7:1: `service.ready-port`: has no effect without `service.command` (set"
        " the command that starts the service, or remove this key)",
        "variants/two.toml:8:1: `service.ready-port`: excludes `service.ready-url`: a service is"
        " ready in one way (keep one of the two)",
        "variants/two.toml:10:1: `service.ready-command`: excludes `service.ready-url`: a service is"
        " ready in one way (keep one of the two)",
    ]


def test_service_of_another_host(tmp_path: Path) -> None:
    """A service cannot be ready once another host answers."""
    with pytest.raises(SpecError):
        rendered(tmp_path, "ready-url = 'http://example.com/x'")
    (line,) = problems(tmp_path / "variants")
    assert line.partition(": ")[2] == (
        "`service.ready-url`: 'http://example.com/x' is not a service of the sandbox (write a URL on"
        " localhost; a `ready-command` with curl, say, can reach other hosts)"
    )


@pytest.mark.parametrize("key", ["ready-port = 8501", "ready-command = ['app', '--is-up']"])
def test_warmup_script(tmp_path: Path, key: str, snapshot: SnapshotAssertion) -> None:
    """warmup.py knows how the service is ready, and nothing of the other ways."""
    assert rendered(tmp_path, key).content("warmup.py").decode() == snapshot


def ready(folder: Path, result: Rendered) -> tuple[int, str]:
    """Run the health check of a rendered variant here; return its exit code and its reason."""
    (folder / "warmup.py").write_bytes(result.content("warmup.py"))
    words = [sys.executable, str(folder / "warmup.py"), "ready"]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    return done.returncode, done.stderr.strip()


def test_health_check_connects_to_the_port(tmp_path: Path) -> None:
    """With `ready-port`, the health check passes exactly while the port accepts connections."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        result = rendered(tmp_path, f"ready-port = {port}")
        assert ready(tmp_path, result) == (0, "")
    code, reason = ready(tmp_path, result)
    assert (code, reason) == (1, f"ready: port {port}: [Errno 111] Connection refused")


def test_health_check_runs_the_command(tmp_path: Path) -> None:
    """With `ready-command`, the health check passes if the program exits with 0; it is no shell."""
    result = rendered(tmp_path, f"ready-command = ['test', '-f', '{tmp_path}/a b;$(x)']")
    code, reason = ready(tmp_path, result)
    words = ["test", "-f", f"{tmp_path}/a b;$(x)"]
    assert (code, reason) == (1, f"ready: {words} exited with 1")
    (tmp_path / "a b;$(x)").touch()
    assert ready(tmp_path, result) == (0, "")
    result = rendered(tmp_path, "ready-command = ['no-such-program']")
    assert ready(tmp_path, result) == (
        1,
        "ready: [Errno 2] No such file or directory: 'no-such-program'",
    )


def test_readiness_is_part_of_the_build(tmp_path: Path) -> None:
    """A new way to be ready is in template.toml and among the inputs that `plan` compares, and
    changes the digest."""
    url = rendered(tmp_path, "ready-url = 'http://localhost:1/'")
    port = rendered(tmp_path, "ready-port = 1")
    command = rendered(tmp_path, "ready-command = ['a', 'b']")
    assert len({url.digest, port.digest, command.digest}) == 3

    def service(result: Rendered) -> Any:
        document = tomllib.loads(result.content("template.toml").decode())
        inputs = inputs_of(result)["spec"]
        keys = {key: text for key, text in inputs.items() if key.startswith("service.ready")}
        return document["service"] | keys

    assert service(port) == {"command": ["run"], "ready-port": 1, "service.ready-port": "1"}
    assert service(command) == {
        "command": ["run"],
        "ready-command": ["a", "b"],
        "service.ready-command": "a b",
    }


@pytest.mark.parametrize(
    ("ready", "runs_code"),
    [
        ("ready-url = 'http://localhost:49999/health'", True),
        ("ready-url = 'http://localhost:8501/'", False),
        ("ready-url = 'https://localhost:49999/health'", False),
        ("ready-port = 49999", True),
        ("ready-port = 4999", False),
        ("ready-command = ['sh', '-c', 'curl -f localhost:49999/health && test -f /x']", True),
        ("ready-command = ['nc', '-z', 'localhost', '49999']", True),
        ("ready-command = ['echo', '149999']", False),
    ],
)
def test_code_service_is_known_by_its_port(tmp_path: Path, ready: str, runs_code: bool) -> None:
    """A template runs code if its service is ready at the port of E2B's code service."""
    assert with_service(tmp_path, COMMAND + ready).runs_code is runs_code


def test_validate_names_a_service_that_runs_no_code(
    write: Callable[..., Path], command: Command
) -> None:
    """A template whose service is no code service is valid, and `validate` says what it is not."""
    folder = write(_base=BASE, leaf=LEAF + COMMAND + "ready-port = 8501\n").parent
    done = command("validate", cwd=folder)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == (
        "variants/leaf.toml: leaf (_base → leaf): valid\n"
        "variants/leaf.toml: leaf: nothing runs code in its sandboxes on E2B, since"
        " `service.ready-port` is not about http://localhost:49999, where E2B's code service answers;"
        " verify another service by checks with `command` or `http`\n"
    )


words = st.text(
    st.characters(blacklist_categories=["Cs"]) | st.sampled_from("\"'\\$`#<\n{}% "), max_size=30
)


@pytest.mark.slow
@settings(max_examples=100, suppress_health_check=[HealthCheck.too_slow])
@given(argument=words)
def test_no_ready_command_alters_an_instruction(
    argument: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Whatever a word of `ready-command` holds, it is refused, or it is that word of the health
    check and nothing else."""
    quoted = json.dumps(argument).replace("\x7f", "\\u007f")
    try:
        result = rendered(tmp_path_factory.mktemp("any"), f"ready-command = ['try', {quoted}]")
    except SpecError:
        return
    script = ast.parse(result.content("warmup.py").decode())
    (value,) = [
        ast.literal_eval(statement.value)
        for statement in script.body
        if isinstance(statement, ast.Assign)
        and ast.unparse(statement.targets[0]) == "READY_COMMAND"
    ]
    assert value == ["try", argument]
    parsed = parse_dockerfile_ast(result.content("Dockerfile").decode())
    assert [each.args for each in parsed.instructions if each.name == "HEALTHCHECK"] == [
        ["CMD", "python3", "/opt/template/warmup.py", "ready"]
    ]


def test_packages_that_are_not_imported(tmp_path: Path) -> None:
    """`python.not-imported` collects names down the chain, and each must be a package of it."""
    base = BASE + "[python]\npackages = ['Pillow']\nnot-imported = ['pillow']\n"
    leaf = LEAF + "[python]\npackages = ['pyglet[x]>=2']\nnot-imported = ['pyglet']\n"
    variant = load(tmp_path, _base=base, leaf=leaf)["leaf"]
    assert variant.not_imported == ("pillow", "pyglet")
    result = rendered_of(variant)
    assert inputs_of(result)["spec"]["python.not-imported"] == "pillow, pyglet"
    document = tomllib.loads(result.content("template.toml").decode())
    assert document["python"] == {"not-imported": ["pillow", "pyglet"]}
    wrong = leaf.replace("['pyglet']", "['piglet', 'numpy']")
    (tmp_path / "variants" / "leaf.toml").write_text(wrong)
    assert problems(tmp_path / "variants") == [
        "variants/leaf.toml:6:17: `python.not-imported[0]`: 'piglet' is not a package of this spec"
        " (did you mean `pyglet`?)",
        "variants/leaf.toml:6:27: `python.not-imported[1]`: 'numpy' is not a package of this spec"
        " (name one of `python.packages`)",
    ]
    warm = leaf + "[warmup]\nlevel = 'disk'\nimports = ['pyglet.window']\n"
    (tmp_path / "variants" / "leaf.toml").write_text(warm)
    assert problems(tmp_path / "variants") == [
        "variants/leaf.toml:6:17: `python.not-imported[0]`: 'pyglet' is imported by the warm-up:"
        " 'pyglet.window' is in `warmup.imports` (remove it from one of the two)"
    ]
