from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from builder import errors
from tests.conftest import Command
from tests.support.prechecks import SERVICE, failed, write_project

pytestmark = [pytest.mark.docker, pytest.mark.network]
PACKAGES = "/usr/local/lib/python3.13/site-packages"


@pytest.fixture
def project(write: Callable[..., Path], shared: Path) -> Callable[..., Path]:
    """Write a project with one variant that has the code service of the base image."""

    def with_modules(leaf: str, *, name: str, service: str = SERVICE, **modules: str) -> Path:
        files = "".join(
            f'[[files]]\nsource = "{module}.py"\ntarget = "{PACKAGES}/{module}.py"\n'
            for module in modules
        )
        leaf += files
        known = shared / "known"
        folder = write_project(write, leaf, name=name, known=known, base=service, ready=600)
        for module, text in modules.items():
            (folder / "variants" / f"{module}.py").write_text(text)
        return folder

    return with_modules


@pytest.mark.soak
def test_import_of_65_seconds_comes_up_warm(project: Callable[..., Path], command: Command) -> None:
    """A module whose import takes longer than the service waits for an interpreter is warm in a
    sandbox, and the service is up."""
    # It is slow in the interpreter that is warmed alone: the other levels need not wait for it.
    slow = "import os, time\nif os.path.exists('/tmp/template-warmup/progress.json'):\n    time.sleep(65)\n"
    folder = project(
        '[warmup]\nlevel = "memory"\nimports = ["slow", "sqlite3"]\n', name="slow", slow=slow
    )
    done = command("precheck", "--json", cwd=folder)
    assert done.returncode == 0, done.stderr
    (checked,) = json.loads(done.stdout)
    assert checked["ready_seconds"]["memory"] > 65
    assert checked["first_use"]["memory"]["slow"] < 0.05


@pytest.mark.slow
def test_warm_up_that_fails_in_the_service(project: Callable[..., Path], command: Command) -> None:
    """A module that cannot be imported in the service's interpreter ends the pre-check at once."""
    broken = "import sys\nif 'IPython' in sys.modules:\n    raise ValueError('not in a kernel')\n"
    folder = project(
        '[warmup]\nlevel = "memory"\nimports = ["broken"]\n', name="unready", broken=broken
    )
    message = failed(command("precheck", cwd=folder), errors.PrecheckError)
    assert message == (
        "error: the warm-up of `unready` failed: `warmup.imports` of"
        " variants/unready.toml: importing broken failed: ValueError: not in a kernel\n"
        "\n"
        "hint: correct `warmup.imports`, or add the missing package\n"
    )


@pytest.mark.slow
def test_service_that_is_not_told_where_it_runs(
    project: Callable[..., Path], command: Command
) -> None:
    """A service that does not get E2B_LOCAL runs no code in a container; the error says so, and
    blames nothing of the warm-up."""
    service = SERVICE.replace('"--preserve-env=E2B_LOCAL", ', "")
    folder = project(
        '[warmup]\nlevel = "disk"\nimports = ["sqlite3"]\n', name="untold", service=service
    )
    message = failed(command("precheck", cwd=folder), errors.PrecheckError)
    assert message == (
        "error: the code service returned an empty stream: it did not run the code\n"
        "\n"
        "hint: outside E2B's cloud it needs `E2B_LOCAL=true`, which is set for"
        " `service.command`: pass it on, as `sudo --preserve-env=E2B_LOCAL` does\n"
    )
