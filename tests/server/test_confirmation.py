"""Questions, as a person at a terminal answers them."""

from __future__ import annotations

import contextlib
import os
import pty
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.clouds import Place
from tests.support.e2b_server import Server
from tests.support.runs import two_builds


def answered(folder: Path, answer: bytes, *arguments: str) -> tuple[int, str]:
    """Run `template-builder` on a terminal of its own; the exit code, and what was shown."""
    terminal, inner = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "builder", *arguments],
        stdin=inner, stdout=inner, stderr=inner, cwd=folder, start_new_session=True,
    )  # fmt: skip
    os.close(inner)
    shown, replied = b"", False
    with contextlib.suppress(OSError):  # the end of the terminal
        while part := os.read(terminal, 4096):
            shown += part
            if not replied and shown.endswith(b"[y/N]: "):
                os.write(terminal, answer)
                replied = True
    os.close(terminal)
    assert replied, shown
    return process.wait(), shown.decode().replace("\r\n", "\n")


@pytest.mark.parametrize("answer", [b"n\n", b"\n", b"\x04"], ids=["n", "Enter", "Ctrl-D"])
def test_no_changes_nothing(place: Place, cloud: Server, answer: bytes) -> None:
    """Whoever does not say yes ends the command with one line and exit code 1, and nothing is
    changed."""
    old, _new = two_builds(place)
    path = place.folder / "registry.json"
    before, tags = path.read_bytes(), cloud.tags("four")
    for arguments in (
        ("remove", f"four@{old}", "--target", "e2b"),
        ("gc", "--target", "e2b", "--keep", "1", "--history", "0", "--protect-days", "0"),
        ("doctor", "--live", "--target", "e2b"),
    ):
        code, shown = answered(place.folder, answer, *arguments)
        lines = shown.splitlines()
        assert (code, lines[-1]) == (1, "not confirmed: nothing was changed"), shown
        assert lines[-2].removesuffix("n").endswith("[y/N]: ")
        assert "Traceback" not in shown
    assert (path.read_bytes(), cloud.tags("four")) == (before, tags)


def test_yes_goes_on(place: Place, cloud: Server) -> None:
    """A yes at the terminal has the command do what it asked for."""
    old, _new = two_builds(place)
    code, shown = answered(place.folder, b"y\n", "remove", f"four@{old}", "--target", "e2b")
    assert code == 0, shown
    assert f"removed: build {old} of four on e2b\n" in shown
    assert len(cloud.builds("four")) == 2
