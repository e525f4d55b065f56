from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.conftest import BASE, Command

Write = Callable[..., Path]


@pytest.mark.network
def test_commands_accept_what_build_wrote(write: Write, command: Command) -> None:
    """After a `build`, every frozen command takes the lock of a chain with a marker that never holds
    and a stage that adds no package."""
    folder = write(
        _base=f"{BASE}[python]\npackages = ['requests']\n",
        light="schema = 1\nname = 'light'\nextends = '_base'\n[python]\n"
        "packages = ['idna', \"tomli; python_version < '3.11'\"]\n",
    ).parent
    for line in (
        "build --target local",
        "render --check",
        "plan --frozen --target local",
        "build --frozen --target local",
        "verify light --target local",
        "diff light spec",
    ):
        done = command(*line.split(), cwd=folder)
        assert (done.returncode, "error" in done.stderr) == (0, False), f"{line}: {done.stderr}"
