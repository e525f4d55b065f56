"""What a target cannot provide, and what was not checked, where builds are shown and recorded."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.conftest import Command
from tests.support.clouds import START_UP, Place
from tests.support.e2b_server import Server

pytestmark = pytest.mark.network
TO = ("--target", "local")
WANTS = (
    'schema = 1\nname = "wants"\nextends = "_base"\n'
    '[system]\npackages = ["graphviz"]\n'
    '[[files]]\nsource = "wants.toml"\ntarget = "/opt/wants.toml"\n'
)
CHECK = '[[verify]]\nname = "dot"\ncode = "import os; assert os.path.exists(\'/opt/wants.toml\')"\n'
LACKING = [
    "not provided by local: Debian packages of variants/wants.toml: graphviz",
    "not provided by local: files outside of /home/user of variants/wants.toml: /opt/wants.toml",
    "not provided by local: the base image localhost:1/python:3.13 and its service: Python comes"
    " from this machine",
    "not provided by local: limits: 2 CPUs and 1024 MiB are not enforced, and it is no security"
    " boundary",
]
UNCHECKED = "nothing was checked: the spec has no Python packages and no [[verify]]"


@pytest.fixture
def folder(place: Place) -> Path:
    (place.folder / "variants" / "wants.toml").write_text(WANTS)
    return place.folder


@pytest.mark.slow
def test_what_is_not_provided_is_in_the_output_the_record_and_show(
    folder: Path, command: Command
) -> None:
    """A local build tells what it does not provide, and that nothing was checked, as it is built, in
    its record, and in `show`."""
    done = command("build", "wants", *TO, "--json", cwd=folder, TEMPLATE_ISOLATION="none")
    assert done.returncode == 0, done.stderr
    events = [json.loads(line) for line in done.stderr.splitlines() if line.startswith("{")]
    warned = [event["text"] for event in events if event["kind"] == "warning"]
    assert {*LACKING[:2], UNCHECKED} <= set(warned)
    assert set(LACKING[2:]) <= {event["text"] for event in events if event["kind"] == "note"}
    (outcome,) = json.loads(done.stdout)["outcomes"]
    assert outcome["record"]["warnings"][-5:] == [*LACKING, UNCHECKED]
    shown = command("show", "wants", *TO, cwd=folder).stdout
    for line in (*LACKING, UNCHECKED):
        assert line in shown


@pytest.mark.slow
def test_check_that_fails_for_want_of_it_says_so(folder: Path, command: Command) -> None:
    """When a check fails, the error names what the spec asks for and the target does not provide."""
    (folder / "variants" / "wants.toml").write_text(WANTS + CHECK)
    done = command("build", "wants", *TO, cwd=folder, TEMPLATE_ISOLATION="none")
    assert done.returncode == 21
    assert (
        "  local does not provide Debian packages of variants/wants.toml: graphviz\n"
        "  local does not provide files outside of /home/user of variants/wants.toml: /opt/wants.toml\n"
    ) in done.stderr


@pytest.mark.slow
def test_variables_that_the_code_service_spoils_are_named(
    place: Place, cloud: Server, command: Command
) -> None:
    """For E2B, `plan`, `build` and the record name each variable whose value its code service
    cannot make code of, with the line that sets it; others are not named."""
    values = 'PLAIN = "$$HOME `id` %s"\nQUOTE = "it\'s"\nSLASH = "C:\\\\new"\n'
    place.edit("four", lambda text: f"{text}[env]\n{values}")
    place.edit("_base", lambda text: text.replace("[service]", '[env]\nQUOTE = "\'"\n[service]'))
    rest = (
        " to programs that run code with E2B's SDK alone: the code service turns the value into code,"
        " and a quote or backslash in it breaks the first execution in a sandbox"
    )
    wanted = [
        f"not provided by e2b: `env.{name}` (variants/four.toml:{line}){rest}"
        for name, line in (("QUOTE", 8), ("SLASH", 9))
    ]
    shown = command("plan", "four", "--target", "e2b", "--frozen", cwd=place.folder)
    lines = [line for line in shown.stdout.splitlines() if line.startswith("not provided")]
    assert [line for line in lines if "service.command" not in line] == wanted, shown.stderr
    assert place.build("four")["four"].error is None
    assert [text for text in place.warnings() if "env." in text] == wanted
    texts = [event.text for event in place.events]
    (begun,) = [number for number, text in enumerate(texts) if text.endswith(" started")]
    assert texts.index(wanted[1]) < begun
    assert place.recorded("four")["warnings"][-2:] == wanted


@pytest.mark.slow
def test_modes_that_e2b_changes_are_named(place: Place, cloud: Server, command: Command) -> None:
    """For E2B, `plan` and the record name each file whose mode E2B changes when a build ends, with
    its line; what it gives to `user` belongs to `user` everywhere."""
    (place.folder / "variants" / "tool").write_text("")
    targets = ("/usr/local/bin/tool", "/code/tool", "/home/user/tool", "/opt/tool")
    files = "".join(f'[[files]]\nsource = "tool"\ntarget = "{target}"\n' for target in targets)
    open_to_all = '[[files]]\nsource = "tool"\ntarget = "/code/open"\nmode = "0777"\n'
    place.edit("four", lambda text: text + files + open_to_all)
    wanted = [
        f"not provided by e2b: mode 0644 of {target} (variants/four.toml:{line}): E2B gives"
        f" everything below {folder} mode 0777 at the end of a build"
        for target, line, folder in (
            ("/usr/local/bin/tool", 8, "/usr/local"),
            ("/code/tool", 11, "/code"),
        )
    ]
    shown = command("plan", "four", "--target", "e2b", "--frozen", cwd=place.folder)
    lines = [line for line in shown.stdout.splitlines() if line.startswith("not provided")]
    assert [line for line in lines if "service.command" not in line] == wanted, shown.stderr
    assert place.build("four")["four"].error is None
    assert place.recorded("four")["warnings"][-2:] == wanted
    owners = {
        step["args"][1]: step["args"][2]
        for step in cloud.builds("four")[0].request["steps"]
        if step["type"] == "COPY" and step["args"][0].startswith("files/")
    }
    assert owners == {
        target: "user:user" if "/home" in target else "root:root"
        for target in (*targets, "/code/open")
    }


@pytest.mark.parametrize(
    ("command_line", "known"),
    [
        ('["sleep", "infinity"]', False),
        ('["streamlit", "run", "app.py", "--server.port", "49999"]', False),
        (START_UP, True),
    ],
)
def test_service_that_nobody_knows_is_named(
    place: Place, cloud: Server, command: Command, command_line: str, known: bool
) -> None:
    """For E2B, `validate`, `plan`, the build and its record say that they cannot know whether a
    command other than that of E2B's image starts a code interpreter, with its line."""
    place.edit("_base", lambda text: text.replace(START_UP, command_line))
    why = (
        "it is not that of E2B's image, /root/.jupyter/start-up.sh, and verification fails unless a"
        " code service listens on port 49999"
    )
    shown = command("plan", "four", "--target", "e2b", "--frozen", cwd=place.folder)
    lines = [line for line in shown.stdout.splitlines() if line.startswith("not provided")]
    expected = (
        "not provided by e2b: a check before the build of `service.command`"
        f" (variants/_base.toml:6): {why}"
    )
    assert lines == ([] if known else [expected])
    valid = command("validate", "four", cwd=place.folder).stdout
    warning = f"variants/_base.toml:6: warning: `service.command`: {why}\n"
    assert (warning in valid) is not known
    assert place.build("four")["four"].error is None
    assert (expected in place.warnings()) is not known
    assert (expected in place.recorded("four").get("warnings", [])) is not known


@pytest.mark.parametrize(
    ("command_line", "ready", "named"),
    [
        ('["streamlit", "run", "/a.py", "--server.port", "8501"]', "ready-port = 9999", "8501"),
        ('["uvicorn", "a:app", "--port=8000"]', 'ready-url = "http://localhost/up"', "8000"),
        ('["gunicorn", "--bind", "0.0.0.0:8000", "a"]', "ready-port = 8001", "8000"),
        ('["streamlit", "run", "/a.py", "--server.port", "8501"]', "ready-port = 8501", None),
        ('["report", "--title", "8000", "--port", "{PORT}"]', "ready-port = 8001", None),
        ('["serve", "--port", "8000"]', 'ready-command = ["curl", "localhost:9"]', None),
    ],
)
def test_port_that_the_command_does_not_name(
    project: Path, command: Command, command_line: str, ready: str, named: str | None
) -> None:
    """`validate` warns, with both lines, of a ready address whose port is not among those that the
    command names."""
    service = f"[service]\ncommand = {command_line}\n{ready}\n"
    base = project / "variants" / "_base.toml"
    base.write_text(base.read_text() + service)
    done = command("validate", "light", cwd=project)
    assert done.returncode == 0, done.stderr
    key, line = ready.partition(" ")[0], len(base.read_text().splitlines())
    port = {"ready-url": "80"}.get(key, ready.rpartition(" ")[2])
    warning = (
        f"variants/_base.toml:{line - 1}: warning: `service.command`: it names port {named}, but"
        f" `service.{key}` (variants/_base.toml:{line}) waits for port {port}\n"
    )
    assert (warning in done.stdout) is (named is not None), done.stdout
    assert ("warning" in done.stdout) is (named is not None)


@pytest.mark.slow
def test_imports_that_are_left_out_are_recorded(
    place: Place, cloud: Server, command: Command
) -> None:
    """A package of `python.not-imported` is not imported by the checks, and the record, `show` and a
    later `verify` say so."""
    place.edit("four", lambda text: f'{text}not-imported = ["Iniconfig"]\n')
    assert place.build("four")["four"].error is None
    line = "not checked, as `python.not-imported` says: the import of `Iniconfig`"
    recorded = place.recorded("four")
    assert recorded["verified"]["checks"] == []
    assert recorded["warnings"][-1] == line
    assert line in command("show", "four", "--target", "e2b", cwd=place.folder).stdout
    again = command("verify", "four", "--target", "e2b", "--json", cwd=place.folder)
    result = json.loads(again.stdout)["four"]
    assert (result["checks"], result["warnings"]) == ([], [line])


ASKING = """[service]
command = ["streamlit", "run", "/home/user/app.py"]
ready-port = 8501
[[verify]]
name = "its own Python"
command = "python3 -c 'import idna, sys; print(sys.prefix == sys.base_prefix)'; test $PWD = $HOME"
stdout = "False"
[[verify]]
name = "what it leaves is ended"
command = "sleep 300 & echo started"
stdout = "started"
[[verify]]
name = "page"
http = {url = "http://localhost:8501/"}
"""


@pytest.mark.slow
def test_commands_are_run_and_requests_left_out_on_local(folder: Path, command: Command) -> None:
    """On `local`, commands run in the environment, and requests of a service that does not run there
    are listed as not provided, in the plan, the output, the record and a later `verify`."""
    spec = 'schema = 1\nname = "app"\nextends = "_base"\n[python]\npackages = ["idna"]\n'
    (folder / "variants" / "app.toml").write_text(spec + ASKING)
    line = "the service that checks of variants/app.toml ask: `page`"
    shown = command("plan", "app", *TO, cwd=folder)
    assert f"not provided by local: {line}" in shown.stdout.splitlines(), shown.stderr
    done = command("build", "app", *TO, "--json", cwd=folder)
    assert done.returncode == 0, done.stderr
    (outcome,) = json.loads(done.stdout)["outcomes"]
    checks = ["import idna", "its own Python", "what it leaves is ended"]
    assert outcome["record"]["verified"]["checks"] == checks
    warnings = outcome["record"]["warnings"]
    assert [text for text in warnings if "page" in text] == [f"not provided by local: {line}"]
    again = json.loads(command("verify", "app", *TO, "--json", cwd=folder).stdout)["app"]
    assert (again["checks"], again["warnings"]) == (
        checks,
        ["not checked, since local does not start the service that they ask: `page`"],
    )
    wrong = ASKING.replace("test $PWD = $HOME", "pwd >&2; exit 3")
    (folder / "variants" / "app.toml").write_text(spec + wrong)
    done = command("build", "app", *TO, cwd=folder)
    assert done.returncode == 21
    assert "check `its own Python` failed: expected exit code 0, got 3\n    /" in done.stderr
