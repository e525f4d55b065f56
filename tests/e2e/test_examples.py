from __future__ import annotations

import ast
import json
import os
import re
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from builder import registry
from tests.conftest import ROOT, Command
from tests.support.pages import blocks
from tests.support.program import run_program
from tests.support.webhooks import Account

pytestmark = [pytest.mark.network, pytest.mark.slow]
EXAMPLES = ROOT / "examples"


PRINTING = ("ml_validation.py", "agent_tool.py", "iterative_refinement.py", "csv_to_chart.py")
PAGES = ("README.md", "docs/running-code.md", "docs/files.md")
# Programs run one after another in one process, of which only the first waits for the imports.
ONE_AFTER_ANOTHER = """
import contextlib, io, json, sys, traceback

ended = []
for name, text in json.load(sys.stdin):
    error = ""
    with contextlib.redirect_stdout(io.StringIO()) as output:
        try:
            exec(compile(text, name, "exec", dont_inherit=True), {"__name__": "__main__"})
        except Exception:
            error = traceback.format_exc()
    ended.append([name, output.getvalue(), error])
print(json.dumps(ended))
"""


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory, byte_code: Path) -> dict[str, str]:
    """The variables of a project in which the template of the examples is built, from the spec that
    the README shows first."""
    (text,) = [text for kind, text in blocks(ROOT / "README.md") if kind == "toml"]
    project = tmp_path_factory.mktemp("examples")
    (project / "cache").mkdir()
    (project / "cache" / "byte-code").symlink_to(byte_code)
    (project / "variants").mkdir()
    (project / "variants" / "_base.toml").write_text((ROOT / "variants/_base.toml").read_text())
    (project / "variants" / "data.toml").write_text(text)
    variables = os.environ | {
        "TEMPLATE_BUILDER_CACHE_DIR": str(project / "cache"),
        "TEMPLATE_REGISTRY": str(project / "registry.json"),
        "TEMPLATE_TARGET": "local",
        "PYTHONPATH": str(ROOT),
    }
    built = run_program(["build", "--target", "local"], cwd=project, env=variables)
    assert "tta-data-minimal  built" in built.stdout, built.stderr
    return variables


@pytest.fixture(scope="module")
def outputs(data: dict[str, str]) -> dict[str, list[str]]:
    """What each example prints, and each block of the pages that runs code in a template."""
    programs = [(name, (EXAMPLES / name).read_text()) for name in PRINTING]
    for page in PAGES:
        code = [text for kind, text in blocks(ROOT / page) if kind == "python"]
        programs += [(page, text) for text in code if "CodeExecutionPrimitive" in text]
    done = subprocess.run(
        [sys.executable, "-c", ONE_AFTER_ANOTHER],
        input=json.dumps(programs),
        capture_output=True,
        text=True,
        check=False,
        env=data,
    )
    assert done.returncode == 0, done.stderr
    printed: dict[str, list[str]] = {}
    for name, output, error in json.loads(done.stdout):
        printed.setdefault(name, []).append(error or output)
    return printed


def test_spec_of_the_readme_builds(data: dict[str, str]) -> None:
    """The template that the README shows first builds and holds up."""
    assert registry.lookup("tta-data-minimal", path=data["TEMPLATE_REGISTRY"]).fields["verified"]


def promised(name: str) -> str:
    """What an example says that it prints: the indented lines at the end of its docstring."""
    said = ast.get_docstring(ast.parse((EXAMPLES / name).read_text()), clean=True) or ""
    return textwrap.dedent(said.partition("Prints:\n\n")[2]).strip()


@pytest.mark.parametrize("name", PRINTING)
def test_example_prints_what_it_says(name: str, outputs: dict[str, list[str]]) -> None:
    """An example prints exactly what its head promises."""
    assert promised(name)
    assert [output.strip() for output in outputs[name]] == [promised(name)]


def test_performance_prints_a_table(data: dict[str, str]) -> None:
    """The table of the performance example has a row of seconds for each way."""
    done = subprocess.run(
        [sys.executable, str(EXAMPLES / "performance.py"), "--without-pip"],
        capture_output=True,
        text=True,
        check=False,
        env=data,
    )
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    rows = [re.split(r"\s{2,}", line.strip())[0] for line in lines[1:]]
    assert rows == [
        "template, first sandbox", "template, each further one", "template, from the pool"
    ]  # fmt: skip
    totals = [float(line.split()[-2]) for line in lines[1:]]
    assert totals[2] < totals[0]


@pytest.mark.parametrize("page", PAGES)
def test_code_of_the_pages_runs(page: str, outputs: dict[str, list[str]]) -> None:
    """Every piece of Python that runs code in a template does what it says."""
    assert outputs[page]
    assert [text for text in outputs[page] if "Traceback" in text] == []


def test_page_about_webhooks(account: Account, tmp_path: Path, command: Command) -> None:
    """The receiver of the page takes a delivery, its registration is E2B's to keep, and its command
    shows the usage."""
    receiver, registration = [
        text for kind, text in blocks(ROOT / "docs" / "webhooks.md") if kind == "python"
    ]
    (tmp_path / "app.py").write_text(receiver)
    deliver = (
        "import json, app\n"
        "from tests.support.webhooks import PAYLOAD, delivered\n"
        "import tests.support.webhooks as t; t.SECRET = 'shh'\n"
        "print(delivered(app.receiver, PAYLOAD).json())"
    )
    variables = os.environ | {
        "E2B_WEBHOOK_SECRET": "shh", "PYTHONPATH": str(ROOT), "TEMPLATE_REGISTRY": str(ROOT / "registry.json")
    }  # fmt: skip
    for text, said in (
        (deliver, "tta-ml-minimal 600.0\n{'status': 'accepted'}\n"),
        (registration, "w0\n"),
    ):
        found = subprocess.run(
            [sys.executable, "-c", text],
            capture_output=True,
            text=True,
            check=False,
            cwd=tmp_path,
            env=variables,
        )
        assert found.stdout == said, found.stderr
    assert account.hooks["w0"]["signatureSecret"] == "shh"
    (tmp_path / "variants").mkdir()
    (shell,) = [text for kind, text in blocks(ROOT / "docs" / "webhooks.md") if kind == "sh"]
    for line in shell.splitlines():
        shown = command(*line.split()[1:])
        assert shown.returncode == 0, shown.stderr
    assert command("usage").stdout.count("tta-ml-minimal") == 1


def test_every_example_is_run() -> None:
    """No example is left out."""
    assert {path.name for path in Path(EXAMPLES).glob("*.py")} == {
        "agent_tool.py",
        "csv_to_chart.py",
        "iterative_refinement.py",
        "ml_validation.py",
        "performance.py",
    }
