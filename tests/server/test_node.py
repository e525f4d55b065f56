"""npm packages, locked by npm from its registry."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from builder import errors
from tests.conftest import Command

SPEC = 'schema = 1\nname = "leaf"\n[node]\npackages = ["is-odd@3"]\n'


@pytest.mark.slow
@pytest.mark.needs("npm")
@pytest.mark.network
def test_npm_locks_packages(write: Callable[..., Path], command: Command) -> None:
    """`lock` writes npm's own lock, with hashes and without addresses, the same each time, and
    `plan --frozen` takes it."""
    folder = write(leaf=SPEC).parent
    assert command("lock", cwd=folder).returncode == 0
    path = folder / "generated" / "leaf" / "node" / "leaf" / "package-lock.json"
    text = path.read_text()
    packages = json.loads(text)["packages"]
    assert sorted(packages) == ["", "node_modules/is-number", "node_modules/is-odd"]
    assert packages["node_modules/is-odd"]["integrity"].startswith("sha512-")
    assert "http" not in text
    assert command("lock", cwd=folder).returncode == 0
    assert path.read_text() == text
    assert command("plan", "--frozen", "--target", "local", cwd=folder).returncode == 0


@pytest.mark.needs("npm")
@pytest.mark.network
def test_package_that_does_not_exist(write: Callable[..., Path], command: Command) -> None:
    """A package that the registry lacks is a conflict of the lock, with its place."""
    folder = write(leaf=SPEC.replace("is-odd@3", "is-odd-no-such-package@3")).parent
    done = command("lock", cwd=folder)
    assert done.returncode == errors.LockConflictError.exit_code
    assert "variants/leaf.toml:4: npm cannot lock `node.packages`:\n  code E404\n" in done.stderr
    assert "is-odd-no-such-package@3" in done.stderr


def test_lock_needs_npm(write: Callable[..., Path], command: Command, tmp_path: Path) -> None:
    """Without npm, `lock` says what to install."""
    folder = write(leaf=SPEC).parent
    (tmp_path / "empty").mkdir()
    done = command("lock", cwd=folder, PATH=str(tmp_path / "empty"))
    assert done.returncode == errors.LockConflictError.exit_code
    assert done.stderr.endswith(
        "error: variants/leaf.toml:4: `node.packages` are locked by npm, which is not on this"
        " machine\n\nhint: install Node.js, or take the committed lock with --frozen\n"
    )
