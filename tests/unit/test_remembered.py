"""Whether sandboxes can be confined is tested once, not in every plan and program."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from builder.targets.local.confine import bubblewrap, remembered
from builder.targets.local.confine.bubblewrap import Bubblewrap, ConfinementError

ONE = Bubblewrap(path="/one/bwrap", version="0.12.0", bundled=False)
OTHER = Bubblewrap(path="/other/bwrap", version="0.13.0", bundled=False)


class Machine:
    """A machine on which `works`, or nothing does; it counts the tests."""

    works: Bubblewrap | None = ONE
    tests = 0

    def search(self) -> Bubblewrap | ConfinementError:
        self.tests += 1
        return self.works or ConfinementError("it cannot")


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Machine:
    machine = Machine()
    monkeypatch.setattr(remembered, "cache_folder", lambda: tmp_path)
    monkeypatch.setattr(bubblewrap, "_search", machine.search)
    monkeypatch.setattr(bubblewrap, "_working", {})
    if remembered._here() is None:
        pytest.skip("this machine has no /proc")
    return machine


def in_new_program(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bubblewrap, "_working", {})


def test_success_is_remembered(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    """What works is not tested again by the next program; what fails is."""
    machine.works = None
    assert not remembered.can_confine()
    assert not remembered.can_confine()
    assert machine.tests == 2
    machine.works = ONE
    for _ in range(3):
        in_new_program(monkeypatch)
        assert remembered.can_confine()
    assert machine.tests == 3


@pytest.mark.parametrize("change", ["user", "PATH", "damaged", "other fields"])
def test_success_is_forgotten_elsewhere(
    machine: Machine, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, change: str
) -> None:
    """It is tested again by another user, with other programs on the search path, and when the file
    is damaged or of another version."""
    remembered.can_confine()
    in_new_program(monkeypatch)
    file = tmp_path / "confinement.json"
    match change:
        case "user":
            monkeypatch.setattr(os, "getuid", lambda: 12345)
        case "PATH":
            monkeypatch.setenv("PATH", "/elsewhere")
        case "damaged":
            file.write_text("{")
        case _:
            file.write_text(file.read_text().replace('"bundled"', '"origin"'))
    assert not remembered.assume()
    assert machine.tests == 2
    assert bubblewrap.working() == ONE
    in_new_program(monkeypatch)
    assert remembered.assume()
    assert machine.tests == 2


def test_known_bubblewrap_is_used_without_a_test(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A new program uses what is known to work; one that has tested it itself goes on with that."""
    assert not remembered.assume()
    assert not remembered.assume()
    in_new_program(monkeypatch)
    assert remembered.assume()
    assert (bubblewrap.working(), machine.tests) == (ONE, 1)


@pytest.mark.parametrize("works", [ONE, OTHER, None])
def test_assumption_can_be_tested(
    machine: Machine, monkeypatch: pytest.MonkeyPatch, works: Bubblewrap | None
) -> None:
    """A test confirms what was assumed, or finds what works now, or why nothing does."""
    remembered.can_confine()
    in_new_program(monkeypatch)
    assert remembered.assume()
    machine.works = works
    assert remembered.confirmed() is (works is ONE)
    assert (bubblewrap.refusal() is None) is (works is not None)
    if works:
        assert bubblewrap.working() == works
