from __future__ import annotations

import json
import os
import shutil
import subprocess
import venv
from collections.abc import Iterator
from pathlib import Path

import pytest

from builder import registry
from tests.conftest import ROOT
from tests.support.files import files_of_the_project

NAMES = ["tta-data-minimal", "tta-ml-minimal", "tta-nlp-minimal", "tta-vision-minimal"]


@pytest.fixture
def clone(tmp_path: Path) -> Iterator[Path]:
    """The project as somebody who has just cloned it has it, with a Python that has pip alone."""
    for path in files_of_the_project():
        target = tmp_path / "clone" / path.relative_to(ROOT)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(path, target)
    venv.create(tmp_path / "python", with_pip=True)
    yield tmp_path / "clone"
    shutil.rmtree(tmp_path, ignore_errors=True)


@pytest.mark.needs("git")
@pytest.mark.network
@pytest.mark.soak
@pytest.mark.timeout(1500)
def test_first_command_of_the_readme(clone: Path, tmp_path: Path) -> None:
    """From a clone and a Python with pip alone, the README's first command builds, verifies and
    records the four templates; they resolve, they run code, and nothing is left to do."""
    readme = (clone / "README.md").read_text()
    line = next(x for x in readme.splitlines() if x.endswith("nox -s build_templates"))
    keep = ("HOME", "LANG", "LC_ALL", "TMPDIR", "UV_CACHE_DIR", "SSL_CERT_FILE", "PIP_CERT")
    environment = {name: os.environ[name] for name in keep if name in os.environ} | {
        "PATH": f"{tmp_path / 'python' / 'bin'}:/usr/bin:/bin",
        "TEMPLATE_BUILDER_CACHE_DIR": str(tmp_path / "cache"),
        "PIP_DISABLE_PIP_VERSION_CHECK": "1",
    }
    first = subprocess.run(
        ["bash", "-c", line],
        capture_output=True,
        text=True,
        check=False,
        cwd=clone,
        env=environment,
    )
    assert first.returncode == 0, first.stdout[-3000:] + first.stderr[-3000:]
    program = clone / ".nox" / "build_templates" / "bin" / "template-builder"
    again = subprocess.run(
        [program, "plan", "--frozen", "--exit-code", "--json"],
        capture_output=True,
        text=True,
        check=False,
        cwd=clone,
        env=environment,
    )
    assert again.returncode == 0, again.stdout + again.stderr
    assert [v["name"] for v in json.loads(again.stdout)["variants"]] == NAMES
    for name in NAMES:
        shown = subprocess.run(
            [program, "show", name, "--target", "local", "--json"],
            capture_output=True,
            text=True,
            check=True,
            cwd=clone,
            env=environment,
        )
        verified = json.loads(shown.stdout)["verified"]
        seconds = verified["seconds"]["first_use"]
        assert set(seconds) == {"cold", "disk", "memory"}, name
        assert sum(seconds["memory"].values()) < sum(seconds["disk"].values()), name
        assert verified["checks"], name
    adopted = registry.resolve("tta-ml-minimal", path=clone / "registry.json")
    assert adopted == "3xmp0rmfztawhlpysu4v"
