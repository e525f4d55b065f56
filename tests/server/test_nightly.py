"""The nightly job of the page about the registry, played in fresh clones of a project."""

from __future__ import annotations

import json
import os
import re
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from builder import registry
from builder.errors import VerifyError
from tests.conftest import ROOT, Command
from tests.support.clouds import FILES
from tests.support.e2b_server import Server
from tests.support.program import folder_of_program

pytestmark = [pytest.mark.network, pytest.mark.needs("git")]
LEAF = 'schema = 1\nname = "light"\nextends = "_base"\n[python]\npackages = ["packaging"]\n'


class Nights:
    """A bare repository as origin, a developer's clone of it, and the job's fresh clones."""

    def __init__(self, folder: Path, cache: Path) -> None:
        self.folder = folder
        self.origin = folder / "origin.git"
        self.cache = cache
        text = (ROOT / "docs" / "registry.md").read_text()
        (workflow,) = re.findall(r"^```yaml\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
        self.job: dict[str, Any] = yaml.safe_load(workflow)["jobs"]["rebuild"]
        self.git(folder, "init", "-q", "--bare", "-b", "main", str(self.origin))
        self.git(folder, "clone", "-q", str(self.origin), "developer")
        self.developer = folder / "developer"
        (self.developer / "variants").mkdir()
        (self.developer / "variants" / "_base.toml").write_text(FILES["_base"])
        (self.developer / "variants" / "light.toml").write_text(LEAF)
        self.push("specs")

    def git(self, folder: Path, *arguments: str) -> str:
        who = ["-c", "user.name=A", "-c", "user.email=a@b"]
        done = subprocess.run(
            ["git", *who, *arguments], cwd=folder, check=False, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    def push(self, message: str) -> None:
        """Commit and push what the developer has changed."""
        self.git(self.developer, "add", "-A")
        self.git(self.developer, "commit", "-qm", message)
        self.git(self.developer, "push", "-q", "origin", "HEAD:main")

    def pull(self) -> None:
        self.git(self.developer, "pull", "-q", "--rebase", "origin", "main")

    def night(self, *, rebuild: bool | None = None, fails: int = 0) -> list[str]:
        """Run the job in a fresh clone; `rebuild` does so whatever the look says. The subjects of
        the commits that it made."""
        before = self.git(self.origin, "rev-parse", "main").strip()
        clone = self.folder / f"night-{before[:12]}-{len(os.listdir(self.folder))}"
        self.git(self.folder, "clone", "-q", "--depth", "1", f"file://{self.origin}", clone.name)
        look, build = self.job["steps"][-2:]
        output = clone.with_suffix(".output")
        self._step(clone, look["run"], output)
        assert build["if"] == "steps.look.outputs.code == 2"
        if rebuild or "code=2\n" in output.read_text():
            self._step(clone, build["run"], output, code=fails)
        return self.git(self.origin, "log", "--format=%s", f"{before}..main").splitlines()

    def _step(self, clone: Path, script: str, output: Path, code: int = 0) -> None:
        environment = os.environ | {
            "PATH": f"{folder_of_program()}:{os.environ['PATH']}",
            "TEMPLATE_BUILDER_CACHE_DIR": str(self.cache),
            "GITHUB_OUTPUT": str(output),
        }
        done = subprocess.run(
            ["bash", "-e", "-c", script],  # as a runner calls it
            cwd=clone,
            env=environment,
            check=False,
            capture_output=True,
            text=True,
        )
        assert done.returncode == code, done.stdout + done.stderr

    def recorded(self, target: str, channel: str) -> registry.Record:
        """What a channel leads to in the origin."""
        text = self.git(self.origin, "show", "main:registry.json")
        return registry.parse(text, "origin").lookup("light", target=target, channel=channel)


@pytest.fixture
def nights(tmp_path: Path, cache: Path) -> Nights:
    folder = tmp_path / "nights"
    folder.mkdir()
    return Nights(folder, cache)


@pytest.fixture(params=["local", "e2b"])
def target(request: pytest.FixtureRequest, lead: Callable[[Server], Server]) -> Any:
    """Either target: no key, or one of a server of ours, which is in every step as the job says."""
    if request.param == "local":
        yield request.param
        return
    with Server() as server:
        lead(server)
        yield request.param
        assert server.problems == []


@pytest.mark.slow
def test_three_nights(nights: Nights, new_cache: Path, target: str) -> None:
    """The job builds once, leaves a night without news alone, also when nobody has promoted, and
    takes in a change of the spec."""
    assert nights.job["env"] == {"E2B_API_KEY": "${{ secrets.E2B_API_KEY }}"}
    assert nights.night() == ["Rebuild templates"]
    first = nights.recorded(target, "candidate")
    assert nights.night() == []
    assert nights.night(rebuild=True) == []
    nights.cache = new_cache  # of a machine on which nothing of the first night is there
    assert nights.night() == []
    nights.pull()
    spec = nights.developer / "variants" / "light.toml"
    spec.write_text(spec.read_text().replace('["packaging"]', '["packaging", "idna"]'))
    nights.push("idna")
    assert nights.night() == ["Rebuild templates"]
    second = nights.recorded(target, "candidate")
    assert (first.ref != second.ref, "idna" in second.packages) == (True, True)
    assert nights.night() == []


@pytest.mark.slow
def test_night_after_a_rollback(nights: Nights, target: str, command: Command) -> None:
    """What was promoted and rolled back does not come back in the night."""

    def run(*arguments: str) -> None:
        done = command(
            *arguments,
            *("--target", target),
            cwd=nights.developer,
            TEMPLATE_BUILDER_CACHE_DIR=str(nights.cache),
        )
        assert done.returncode == 0, done.stderr

    stable = []
    for packages in ('["packaging"]', '["packaging", "idna"]'):
        (nights.developer / "variants" / "light.toml").write_text(
            LEAF.replace('["packaging"]', packages)
        )
        if nights.git(nights.developer, "status", "--porcelain"):
            nights.push("specs")
        assert nights.night() == ["Rebuild templates"]
        nights.pull()
        run("promote", "light", "candidate")
        nights.push("promote")
        stable.append(nights.recorded(target, "stable").ref)
    run("rollback", "light", "--reason", "slow")
    nights.push("rollback")
    assert nights.night() == []
    assert nights.night(rebuild=True) == []
    assert nights.recorded(target, "stable").ref == stable[0]
    assert nights.recorded(target, "candidate").ref == stable[1]


@pytest.mark.slow
def test_night_in_which_one_template_fails(nights: Nights) -> None:
    """What was built is committed although another template fails, whose code the job ends with."""
    bad = LEAF.replace("light", "bad") + '[[verify]]\nname = "no"\ncode = "raise SystemExit(3)"\n'
    (nights.developer / "variants" / "bad.toml").write_text(bad)
    nights.push("bad")
    assert nights.night(fails=VerifyError.exit_code) == ["Rebuild templates"]
    assert nights.recorded("local", "candidate").packages["packaging"]


@pytest.mark.slow
def test_look_without_the_key_says_where_the_builds_are(
    nights: Nights, command: Command, lead: Callable[[Server], Server]
) -> None:
    """Where only E2B has builds, `outdated` on `local` says so, and with --target needs no key."""
    with Server() as server:
        keys = server.environment
        built = command("build", "--precheck", "never", cwd=nights.developer, **keys)
        assert built.returncode == 0, built.stderr
    found = command("outdated", "--json", cwd=nights.developer)
    assert found.returncode == 2
    (light,) = json.loads(found.stdout)["templates"]
    (reason,) = light["reasons"]
    assert reason["what"] == "never built on local, but on e2b: --target looks there"
    assert command("outdated", "--target", "e2b", cwd=nights.developer).returncode == 0
