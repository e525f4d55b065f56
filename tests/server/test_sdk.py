"""What of E2B's SDK this program stands on: a new version that breaks it fails here, by name."""

from __future__ import annotations

import ast
import inspect
import io
import json
import operator
import re
import subprocess
import sys
import tarfile
import tomllib
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import Any, get_type_hints

import e2b
import pytest
from packaging.requirements import Requirement

from builder.targets.e2b.account import Account
from builder.targets.e2b.cloud import Cloud
from tests.conftest import ROOT
from tests.support.e2b_server import Server

PLACES = {"api_url", "sandbox_url"}  # announced to go with version 3
OPTIONS = {"api_key", "debug", "domain", "retries", *PLACES}
# Classes that the package does not export under these names.
INSTANCES = {
    "TemplateBuilder": type(e2b.Template().from_image("a")),
    "Commands": get_type_hints(e2b.AsyncSandbox.commands.fget)["return"],  # type: ignore[attr-defined]
}
# Function → the arguments that it is called with; without a star, by position.
CALLS = {
    "AsyncCommandHandle.kill": "self",
    "AsyncCommandHandle.wait": "self",
    "AsyncSandbox.create": "template *timeout *metadata *idempotency_key *network"
    " *allow_internet_access",
    "AsyncSandbox.is_running": "self",
    "AsyncSandbox.kill": "self",  # or an ID, in the place of a sandbox
    "AsyncSandbox.list": "*query",
    "Commands.run": "self cmd *background *timeout",
    "Sandbox.kill": "self",  # or an ID, as above
    "Sandbox.list": "*query",
    "Sandbox.set_timeout": "self timeout",
    "SandboxQuery": "*metadata",
    "Template": "*file_context_path",
    "Template.assign_tags": "target_name tags",
    "Template.from_image": "self image",
    "Template.get_build_status": "build_info *logs_offset",
    "Template.to_json": "template",
    "TemplateBuilder.copy": "self src dest *user *mode",
    "TemplateBuilder.run_cmd": "self command *user",
    "TemplateBuilder.set_envs": "self envs",
    "TemplateBuilder.set_start_cmd": "self start_cmd ready_cmd",
    "TemplateBuilder.set_user": "self user",
    "TemplateBuilder.set_workdir": "self workdir",
    "TemplateBuilder.skip_cache": "self",
    "BuildInfo": "*template_id *build_id *name *alias",
    "ConnectionConfig.get_sandbox_url": "self sandbox_id sandbox_domain *port",
}


def used() -> Iterator[tuple[str, str]]:
    """Each name of the SDK that the program uses, and where."""
    for path in sorted((ROOT / "builder").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            place = f"{path.relative_to(ROOT)}:{getattr(node, 'lineno', 0)}"
            if isinstance(node, ast.ImportFrom) and (node.module or "").partition(".")[0] == "e2b":
                yield f"from {node.module}", place
            if isinstance(node, ast.Import):
                yield from ((f"import {n.name}", place) for n in node.names if n.name[:4] == "e2b.")
            if isinstance(node, ast.Attribute) and ast.unparse(node.value) == "e2b":
                yield node.attr, place


def requirement() -> Requirement:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    (found,) = (r for r in map(Requirement, project["dependencies"]) if r.name == "e2b")
    return found


def test_the_installed_version_is_one_that_is_admitted() -> None:
    """The versions that are admitted have a lower and an upper bound, and this one is among them."""
    assert {each.operator for each in requirement().specifier} == {">=", "<"}
    assert requirement().specifier.contains(metadata.version("e2b"))


@pytest.mark.slow
def test_only_public_names_are_used() -> None:
    """Of the SDK the program uses what its package exports, and no module or client within."""
    private = [f"{place}: {name}" for name, place in used() if name not in e2b.__all__]
    assert private == []


@pytest.mark.slow
def test_every_function_that_is_called_is_checked() -> None:
    """Each function and class of the SDK that is called by its name has its parameters checked."""
    called = {
        ast.unparse(node.func if isinstance(node, ast.Call) else node)
        for path in sorted((ROOT / "builder").rglob("*.py"))
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call | ast.Attribute)
    }
    names = {name.removeprefix("e2b.") for name in called if name.startswith("e2b.")}
    functions = {name for name in names if inspect.isroutine(operator.attrgetter(name)(e2b))}
    assert functions - CALLS.keys() == set()


def unsupported(signature: inspect.Signature, arguments: str) -> list[str]:
    try:
        words = arguments.split()
        named = {word[1:]: None for word in words if word[0] == "*"}
        signature.bind(*(word for word in words if word[0] != "*"), **named)
    except TypeError as error:
        return [str(error)]
    names = [word.lstrip("*") for word in words if word != "self"]
    return [name for name in names if name not in signature.parameters]


@pytest.mark.parametrize("call", CALLS)
def test_function_takes_what_it_is_given(call: str) -> None:
    """Each function of the SDK that is called has the parameters that it is called with."""
    first, *rest = call.split(".")
    found: Any = INSTANCES.get(first) or getattr(e2b, first)
    for name in rest:
        found = getattr(found, name)
    assert unsupported(inspect.signature(found), CALLS[call]) == []


def test_options_are_known() -> None:
    """What is given to each call is an option that the SDK knows, and obeys."""
    assert set(e2b.ApiParams.__annotations__) >= OPTIONS
    given = Account(api_key="k", domain="d", api_url="https://a", sandbox_url="https://b").options
    assert set(given) == OPTIONS
    config = e2b.ConnectionConfig(**given)
    assert (config.api_url, config.domain, config.retries) == ("https://a", "d", 0)
    assert config.get_sandbox_url("i", "d", port=49999) == "https://b"


@pytest.mark.parametrize(
    "variables",
    [
        {},
        {"E2B_DEBUG": "true"},
        {"E2B_DEBUG": "TRUE", "E2B_DOMAIN": "d.test"},
        {"E2B_DOMAIN": "d.test"},
        {"E2B_DOMAIN": "d.test", "E2B_API_URL": "https://a.test"},
    ],
)
@pytest.mark.parametrize("places", [{}, {"domain": "own.test"}, {"api_url": "https://own.test"}])
def test_api_is_where_the_sdk_looks_for_it(
    monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], places: dict[str, str]
) -> None:
    """Calls of this program's own go where those of the SDK go, whatever says where that is."""
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    account = Account(api_key="k", **places)
    assert account.origin == e2b.ConnectionConfig(**account.options).api_url


def test_nothing_but_the_addresses_is_announced_to_go() -> None:
    """Of the options that are used, those alone are deprecated that a domain takes the place of."""
    source = inspect.getsource(inspect.getmodule(e2b.ConnectionConfig) or e2b)
    deprecated = set(re.findall(r":deprecated: `(\w+)`", source))
    assert deprecated & OPTIONS <= PLACES


@pytest.mark.parametrize("source", ["app", "*.txt", "app/**", "run.sh", "app/link"])
def test_files_are_sent_as_the_sdk_sends_them(tmp_path: Path, source: str) -> None:
    """The archive of a COPY has the same entries, modes, links and contents as the SDK's, under the
    hash that the SDK has for them."""
    (tmp_path / "app" / "empty").mkdir(parents=True)
    (tmp_path / "app" / "deep").mkdir()
    for name in ("a.txt", "b.txt", "app/.hidden", "app/deep/c.py"):
        (tmp_path / name).write_text(name)
    (tmp_path / "run.sh").write_text("true\n")
    (tmp_path / "run.sh").chmod(0o755)
    (tmp_path / "app" / "link").symlink_to("deep/c.py")
    template = e2b.Template(file_context_path=str(tmp_path)).from_image("a").copy(source, "/opt/")
    sent = []
    with Server() as server:
        account = Account(api_key=server.key, api_url=server.url)
        e2b.Template.build_in_background(template, "a", **account.options)
        sent.append(dict(server.state.files))
        server.state.files.clear()
        own = Cloud(account)
        template_id, _ = own.request_build("b", tag="b", cpu=2, memory_mb=1024)
        (step,) = json.loads(e2b.Template.to_json(template))["steps"]
        own.upload(template_id, tmp_path, source, step["filesHash"])
        sent.append(dict(server.state.files))
    theirs, ours = ({key: entries(data) for key, data in files.items()} for files in sent)
    assert ours == theirs != {}


def entries(archive: bytes) -> dict[str, tuple[bytes, int, str, bytes]]:
    with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
        contents = {each.name: tar.extractfile(each) for each in tar if each.isreg()}
        return {
            each.name: (
                each.type, each.mode, each.linkname,
                file.read() if (file := contents.get(each.name)) else b"",
            )
            for each in tar
        }  # fmt: skip


LATE_THREAD = """
import threading, time
from builder.targets.e2b.account import Account

def late():
    time.sleep(0.01)
    print("ended", flush=True)

Account(api_key="e2b_0").options
threading.Thread(target=late, daemon=True).start()
"""


def test_threads_of_the_sdk_end_before_the_program() -> None:
    """A thread that runs Python just when the program ends, as the SDK's do after a last call,
    comes to its end first: before Python 3.14 one that does not aborts the whole process."""
    done = subprocess.run(
        [sys.executable, "-c", LATE_THREAD], capture_output=True, text=True, check=True
    )
    assert done.stdout == "ended\n"
