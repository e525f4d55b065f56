"""The whole output of the commands that draw tables, in 80 and 200 columns and in a pipe."""

from __future__ import annotations

import io
import re
import sys
from pathlib import Path

import pytest
from syrupy.assertion import SnapshotAssertion

from builder import __version__, workflow
from builder.cli import build_command
from builder.cli.app import run
from builder.registry import Digest, Ref
from builder.registry.model import Build, Seconds, Verified
from builder.render import write
from builder.spec import load_variants
from builder.workflow.values import BuildReport, Outcome
from tests.support.records import environment, made
from tests.support.samples import rendered_of

COMMANDS = {
    "plan": ["plan", "--frozen", "--target", "local"],
    "build": ["build", "--frozen", "--target", "local"],
    "list": ["list"],
    "show and history": ["show", "leaf"],
    "diff": ["diff", "leaf", "leaf@beta"],
}


class Terminal(io.StringIO):
    """Standard output that is a terminal."""

    def isatty(self) -> bool:
        return True


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project with two builds of one template, the older one in a second channel."""
    monkeypatch.setenv("TEMPLATE_ACTOR", "Ann Lee <ann.lee@example.org>")
    monkeypatch.setenv("TEMPLATE_BUILDER_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setenv("TEMPLATE_ISOLATION", "none")  # not every machine can confine
    monkeypatch.delenv("TEMPLATE_TARGET", raising=False)
    path, (older, _newer) = made(tmp_path, "1.0", "1.1")
    environment(tmp_path / "cache", older)
    (tmp_path / "pyproject.toml").write_text("[tool.template-builder]\n")
    (variant,) = load_variants(tmp_path / "variants")
    write([rendered_of(variant, version="1.1")], tmp_path / "generated", all_variants=True)
    monkeypatch.chdir(tmp_path)
    assert (
        run(["promote", "leaf", older, "--channel", "beta", "--reason", "a slow import", "-q"]) == 0
    )
    monkeypatch.setattr(build_command, "build_all", report)
    return path


def report(request: workflow.BuildRequest, context: workflow.Context) -> BuildReport:
    """The report of a run that built two templates, one of which failed."""
    planned = workflow.prepare(request, context, workflow.PLAN).plan
    assert planned
    build = Build(
        packages={f"p{number}": "1.0" for number in range(35)},
        size_bytes=421 << 20,
        verified=Verified(
            seconds=Seconds(first_use={"none": {"pandas": 5.5}, "disk": {"pandas": 0.23}})
        ),
    )
    ref = Ref("local:tta-data-minimal@sha256-" + "a" * 64)
    return BuildReport(
        plan=planned,
        outcomes=(
            Outcome(
                name="tta-data-minimal",
                action="built",
                ref=ref,
                digest=Digest("sha256:" + "a" * 64),
                seconds=35.2,
                build=build,
            ),
            Outcome(name="tta-vision-minimal", action="failed", seconds=1.0),
        ),
    )


def stable(text: str) -> str:
    """`text` without what differs from run to run: digests, times and places, of equal length."""
    text = re.sub(r"\d{4}-\d\d-\d\d(?=[T\s])", "2026-11-26", text)
    text = text.replace(f"template-builder {__version__}", "template-builder VERSION")
    text = re.sub(r"T\d\d:\d\d:\d\dZ", "T10:00:00Z", text)
    return re.sub(r"[0-9a-f]{64}|\b[0-9a-f]{12}\b", lambda digest: "d" * len(digest[0]), text)


@pytest.mark.parametrize("width", [80, 200, None])
@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.usefixtures("project")
def test_the_whole_output(
    command: str, width: int | None, monkeypatch: pytest.MonkeyPatch, snapshot: SnapshotAssertion
) -> None:
    """Tables fit the terminal without a broken word, and are whole in a pipe."""
    output = Terminal() if width else io.StringIO()
    monkeypatch.setattr(sys, "stdout", output)
    monkeypatch.setenv("COLUMNS", str(width or 80))
    assert run(COMMANDS[command]) == 0
    text = stable(output.getvalue())
    assert text == snapshot
    tables = [line for line in text.splitlines() if line.startswith("─")]
    assert all(len(line) <= (width or 0) for line in tables)
