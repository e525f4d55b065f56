from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import Command
from tests.support.shell import PROGRAM, bash


@pytest.mark.slow
@pytest.mark.network
@pytest.mark.parametrize(
    "reader",
    [
        "2>&1 | head -2",
        "2>/dev/full",
        "2>&1 | true",
        "--json 2> >(head -1) | cat",
    ],
)
def test_a_reader_that_goes_away_does_not_stop_the_work(
    project: Path, local_cache: Path, reader: str
) -> None:
    """Whoever stops reading the progress of a build, it is built, recorded, and ends with 0."""
    ended = bash(f"{PROGRAM} build light --target local {reader}", project)
    assert ended.returncode == 0, ended.stderr
    recorded = json.loads((project / "registry.json").read_text())
    assert list(recorded["templates"]["light"]["local"]["channels"]) == ["stable"]
    assert "Traceback" not in ended.stderr


CLOSED = {
    "stdin": "0<&-",
    "stdout": "1>&-",
    "stderr": "2>&-",
    "stdin and stdout": "0<&- 1>&-",
    "all": "0<&- 1>&- 2>&-",
}


def run(
    project: Path, cache: Path, *arguments: str, closed: str
) -> subprocess.CompletedProcess[str]:
    """Run `template-builder` from a shell that has closed some of its streams."""
    return subprocess.run(
        ["bash", "-c", f'exec "$@" {closed}', "bash", sys.executable, "-m", "builder", *arguments],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
        cwd=project,
        env=os.environ | {"TEMPLATE_BUILDER_CACHE_DIR": str(cache)},
        timeout=120,
    )


def written(project: Path) -> dict[str, bytes]:
    files = (path for path in (project / "generated").rglob("*") if path.is_file())
    return {str(path.relative_to(project)): path.read_bytes() for path in files}


@pytest.mark.slow
@pytest.mark.network
def test_lock_is_the_same_with_closed_streams(project: Path, cache: Path, command: Command) -> None:
    """A lock that was made with closed streams is that of open ones."""
    assert command("lock", cwd=project).returncode == 0
    expected = written(project)
    for name, closed in CLOSED.items():
        (project / "generated" / "light" / "requirements" / "light.txt").unlink()
        done = run(project, cache, "lock", closed=closed)
        assert (name, done.returncode, written(project)) == (name, 0, expected)


@pytest.mark.slow
@pytest.mark.network
def test_build_and_looks_are_the_same_with_closed_streams(
    project: Path, cache: Path, command: Command
) -> None:
    """A build that ran with closed streams is made and recorded, and the commands that look at it
    say what they say with open ones."""
    build = ("build", "light", "--target", "local", "--force")
    done = run(project, cache, *build, closed=CLOSED["all"])
    assert (done.returncode, done.stderr) == (0, "")
    looks = (["plan", "light", "--target", "local"], ["outdated", "light", "--target", "local"])
    expected = [command(*look, cwd=project) for look in looks]
    assert [look.returncode for look in expected] == [0, 0]
    assert "nothing changed" in expected[0].stdout
    for closed, shown in (
        (CLOSED["stdin"], [look.stdout for look in expected]),
        (CLOSED["all"], ["", ""]),
    ):
        finished = [run(project, cache, *look, closed=closed) for look in looks]
        assert [(look.returncode, look.stdout) for look in finished] == [
            (0, text) for text in shown
        ]
