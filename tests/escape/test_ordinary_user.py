from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import ROOT

pytestmark = [
    pytest.mark.network,
    pytest.mark.soak,
    pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user"),
    pytest.mark.needs("setpriv"),
]

USER = "54321"
# `setpriv` itself may still execute what the user may not; `env` may not.
AS_USER = ("setpriv", f"--reuid={USER}", f"--regid={USER}", "--clear-groups", "env")
# Of how packages are found and installed, not of root.
PASSED_ON = ("UV_", "PIP_", "SSL_", "HTTP_", "HTTPS_", "NO_PROXY")


@pytest.fixture
def folder() -> Iterator[Path]:
    """Create a folder of the user, since those of pytest belong to root."""
    folder = Path(tempfile.mkdtemp(dir="/tmp"))
    os.chown(folder, int(USER), int(USER))
    yield folder
    shutil.rmtree(folder)


def test_everything_here_holds_for_an_ordinary_user(folder: Path) -> None:
    """The tests of this folder also pass as an ordinary user, in user namespaces, without the
    attempts that need root."""
    packages = sysconfig.get_path("purelib")
    environment = {
        "HOME": str(folder),
        "PATH": f"{Path(sys.executable).parent}:/usr/bin:/bin",
        "PYTHONPATH": f"{ROOT}:{packages}",
        "PYTHONDONTWRITEBYTECODE": "1",
        "HYPOTHESIS_STORAGE_DIRECTORY": str(folder / "hypothesis"),
        **{name: value for name, value in os.environ.items() if name.upper().startswith(PASSED_ON)},
    }

    def python(program: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*AS_USER, program, *arguments],
            env=environment,
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=False,
        )

    # Root's own interpreter may be where others cannot read it.
    same = "python{}.{}".format(*sys.version_info)
    for program in (sys.executable, f"/usr/bin/{same}", f"/usr/local/bin/{same}"):
        if os.path.exists(program) and python(program, "-c", "import pytest, zmq").returncode == 0:
            break
    else:
        pytest.skip("an ordinary user cannot run this Python, or read the project")
    base = f"--basetemp={folder / 'tests'}"
    options = ("-p", "no:cacheprovider", base, "-q", "-m", "soak or not soak", "--timeout=0")
    ended = python(program, "-m", "pytest", *options, "tests/escape")
    assert ended.returncode == 0, ended.stdout
