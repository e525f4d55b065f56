from __future__ import annotations

import ast
import functools
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from tests.conftest import ROOT
from tests.support.files import files_of_the_project

SOURCES = sorted((ROOT / "builder").rglob("*.py"))
TESTS = sorted((ROOT / "tests").rglob("*.py"))
# Third party → the only places that may import it.
OWNERS = {
    "cyclonedx": {"operations/sbom.py"},
    "docker": {f"precheck/{name}.py" for name in ("connection", "engine", "machine")},
    "e2b": {
        f"targets/e2b/{name}.py"
        for name in (
            *("api", "cloud", "commands", "connection", "creation", "failures", "files"),
            *("program", "session"),
        )
    },
    "e2b_dockerfile_utils": {
        *(f"flatten/{name}.py" for name in ("convert", "copies", "losses", "runs", "stages")),
        *(f"convert/{name}.py" for name in ("dockerfile", "folder", "processes", "variables")),
    },
    "filelock": {"system/files.py"},
    "httpx": {
        "lock/base_image.py",
        "lock/http.py",
        "webhooks/client.py",
        *(f"targets/e2b/{name}.py" for name in ("api", "certificates")),
        *(f"targets/e2b/{name}.py" for name in ("connection", "failures", "service")),
    },
    "huggingface_hub": {"lock/hub.py"},
    "jinja2": {"render/dockerfile.py"},
    "jupyter_client": {"targets/local/client.py"},
    "obstore": {"registry/object_store.py"},
    "opentelemetry": {"system/telemetry.py"},
    "platformdirs": {"system/files.py"},
    "psutil": {"precheck/engine.py", "system/limits.py", "targets/local/leftovers.py"},
    "pydantic": {
        "targets/journal.py",
        *(f"spec/{n}.py" for n in ("models", "network", "parse", "settings", "types", "wording")),
    },
    "rich": {"cli/progress.py", "runtime/files.py"},
    "starlette": {"webhooks/receiver.py"},
    "tenacity": {
        "registry/object_store.py",
        "webhooks/client.py",
        "targets/e2b/retries.py",
    },
    "tomli_w": {
        "convert/draft.py",
        "render/template_toml.py",
        "spec/settings.py",
        "system/uv_settings.py",
    },
    "tree_sitter": {"convert/shell.py", "spec/positions.py"},
    "uv": {"system/uv.py"},
    "yaml": {"convert/yaml.py"},
}


@functools.cache
def imports(path: Path) -> set[str]:
    modules = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            modules |= {name.name.partition(".")[0] for name in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            modules.add(node.module.partition(".")[0])
    return modules


def test_contributors_are_told_what_each_room_holds() -> None:
    """CONTRIBUTING.md lists the rooms of `builder/`, in the order of the import contract."""
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]
    section = (ROOT / "CONTRIBUTING.md").read_text().partition("## Layout")[2]
    rows = re.findall(r"^\| `(\w+)` \|", section.partition("\n## ")[0], re.MULTILINE)
    assert rows == contracts["contracts"][0]["layers"]


def test_import_contracts_hold() -> None:
    """Imports go in one direction, exhaustively, and what must stay light stays light."""
    tool = Path(sys.executable).parent / "lint-imports"
    environment = {k: v for k, v in os.environ.items() if not k.startswith("COV")}
    ended = subprocess.run(
        [tool], capture_output=True, text=True, check=False, cwd=ROOT, env=environment
    )
    assert ended.returncode == 0, ended.stdout


def test_each_library_has_one_owner() -> None:
    """A third-party client is imported in its room and nowhere else."""
    users: dict[str, set[str]] = {library: set() for library in OWNERS}
    for path in SOURCES:
        for library in imports(path) & set(OWNERS):
            users[library].add(str(path.relative_to(ROOT / "builder")))
    assert users == OWNERS


def test_command_line_alone_knows_typer() -> None:
    """typer is imported by the modules of `builder.cli` alone."""
    users = {p.parent.name for p in SOURCES if "typer" in imports(p)}
    assert users == {"cli"}


def test_help_and_lookups_load_nothing_heavy() -> None:
    """`resolve` on the command line loads neither specs, the resolver, kernels nor a drawing
    library."""
    code = (
        "import sys; sys.argv = ['template-builder', 'resolve', 'tta-ml-minimal', '--target', 'e2b']\n"
        "from builder.cli import main\n"
        "try: main()\n"
        "except SystemExit: pass\n"
        "heavy = {'httpx', 'jupyter_client', 'zmq', 'tree_sitter', 'rich.live', 'e2b', 'docker',"
        " 'jinja2', 'builder.spec', 'builder.workflow'}\n"
        "print(sorted(heavy & set(sys.modules)), file=sys.stderr)\n"
    )
    ended = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT
    )
    assert ended.stderr == "[]\n"


def test_plan_loads_nothing_that_it_does_not_use() -> None:
    """A plan from committed locks loads no client, event loop, parser of requirements or builder."""
    code = (
        "import sys; sys.argv = ['template-builder', 'plan', '--frozen', '--target', 'local', '-q']\n"
        "from builder.cli import main\n"
        "try: main()\n"
        "except SystemExit: pass\n"
        "heavy = {'asyncio', 'multiprocessing', 'packaging', 'httpx', 'jupyter_client', 'e2b',"
        " 'docker', 'obstore', 'opentelemetry', 'starlette', 'cyclonedx',"
        " 'builder.lock.resolve', 'builder.targets.protocol', 'builder.workflow.carry_out'}\n"
        "print(sorted(heavy & set(sys.modules)), file=sys.stderr)\n"
    )
    environment = {k: v for k, v in os.environ.items() if not k.startswith("COV")}
    ended = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        cwd=ROOT,
        env=environment,
    )
    assert ended.stderr.splitlines()[-1] == "[]"


def test_files_stay_short() -> None:
    """No file of the program or of its tests is longer than 400 lines."""
    assert [p for p in (*SOURCES, *TESTS) if len(p.read_text().splitlines()) > 400] == []


def test_core_never_prints() -> None:
    """Nothing but the outermost rooms writes to the terminal."""
    outer = {"output.py", "progress.py", "__init__.py", "guard.py"}
    for path in SOURCES:
        if path.name not in outer and path.parent.name != "kernel_host":  # the code's own streams
            assert not re.search(r"\bprint\(|sys\.std(out|err)\.", path.read_text()) or (
                path.name
                in {
                    "assumptions.py",
                    "breakage.py",
                    "checks.py",
                    "commands.py",
                    "environment.py",
                    "machine_sandbox.py",
                    "running.py",
                    "spec_checks.py",
                }  # code that sandboxes run
            ), path


def test_no_test_module_imports_another() -> None:
    """What several test modules share is in `tests/support`, and no module imports a test."""
    imported = re.compile(r"^(?:from|import) tests\.\S*test_", re.MULTILINE)
    assert [path for path in TESTS if imported.search(path.read_text())] == []


def test_tests_say_what_they_prove() -> None:
    """Every test has a docstring of one sentence."""
    for path in TESTS:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef) and node.name.startswith("test_"):
                told = ast.get_docstring(node)
                assert told, f"{path.name}: {node.name}"
                assert told.endswith("."), f"{path.name}: {node.name}"


@pytest.mark.needs("git")
def test_no_index_is_named_and_no_machine() -> None:
    """No tracked file names the host of a package index or the folder it was written in."""
    hosts = ("py" + "pi.org", "python" + "hosted.org", "npm" + "js.org", "pytorch" + ".org")
    for path in files_of_the_project():
        text = path.read_bytes().decode("utf-8", "replace")
        assert not [host for host in hosts if host in text], path
        assert f"{ROOT}/" not in text, path


def test_limits_are_our_own() -> None:
    """No input is refused for what an interpreter's parsers cannot follow: `system/documents.py`
    has the limit, and parses what comes from outside."""
    texts = {str(p.relative_to(ROOT / "builder")): p.read_text() for p in SOURCES}
    assert [name for name, text in texts.items() if "RecursionError" in text] == []
    toml = {name for name, text in texts.items() if "tomllib.load" in text}
    # The second reads keys that were parsed, the third a file of this program.
    assert toml == {"system/documents.py", "spec/positions.py", "errors/explained.py"}


EXTRAS = ("docker", "hub", "sbom", "store", "telemetry", "webhooks")


def test_all_is_every_extra() -> None:
    """`template-builder[all]` brings what each of the extras does."""
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"][
        "optional-dependencies"
    ]
    assert extras["all"] == [f"template-builder[{','.join(EXTRAS)}]"]
    assert set(extras) == {"all", *EXTRAS}
