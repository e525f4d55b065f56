"""Whether sandboxes can be confined is tested once, not in every plan and program."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from builder.targets.local.confine import bubblewrap, remembered
from builder.targets.local.confine.bubblewrap import Bubblewrap, ConfinementError


class Machine:
    """A machine on which `works`, or nothing does; it counts the tests."""

    def __init__(self, folder: Path) -> None:
        self.first, self.second = (self._program(folder / name) for name in ("first", "second"))
        self.works: Bubblewrap | None = self.first
        self.tests = 0

    def _program(self, path: Path) -> Bubblewrap:
        path.write_text("")
        return Bubblewrap(path=str(path), version="0.12.0", bundled=False)

    def search(self) -> Bubblewrap | ConfinementError:
        self.tests += 1
        return self.works or ConfinementError("it cannot")

    def places(self) -> list[tuple[str, bool]]:
        return [(self.first.path, False), (self.second.path, False)]


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Machine:
    machine = Machine(tmp_path)
    monkeypatch.setattr(remembered, "cache_folder", lambda: tmp_path)
    monkeypatch.setattr(bubblewrap, "_search", machine.search)
    monkeypatch.setattr(bubblewrap, "places", machine.places)
    in_new_program(monkeypatch)
    if remembered._here() is None:
        pytest.skip("this machine has no /proc")
    return machine


def in_new_program(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bubblewrap, "_working", {})
    monkeypatch.setattr(remembered, "_assumed", None)


def test_success_is_remembered(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    """What works is not tested again by the next program; what fails is."""
    machine.works = None
    assert not remembered.can_confine()
    assert not remembered.can_confine()
    assert machine.tests == 2
    machine.works = machine.first
    for _ in range(3):
        in_new_program(monkeypatch)
        assert remembered.can_confine()
    assert machine.tests == 3


@pytest.mark.parametrize(
    "change", ["another user", "damaged", "other fields", "replaced", "removed", "elsewhere"]
)
def test_success_is_forgotten_elsewhere(
    machine: Machine, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, change: str
) -> None:
    """It is tested again by another user, when the program is another one or in a place where none
    is searched for, and when the file is damaged or of another version."""
    remembered.can_confine()
    in_new_program(monkeypatch)
    file = tmp_path / "confinement.json"
    match change:
        case "another user":
            monkeypatch.setattr(os, "getuid", lambda: 12345)
        case "damaged":
            file.write_text("{")
        case "other fields":
            file.write_text(file.read_text().replace('"bundled"', '"origin"'))
        case "replaced":
            Path(machine.first.path).write_text("another")
        case "removed":
            Path(machine.first.path).unlink()
        case _:
            monkeypatch.setattr(bubblewrap, "places", list)
    machine.works = machine.second
    assert remembered.assumed() is None
    assert remembered.refusal() is None
    assert (bubblewrap.working(), machine.tests) == (machine.second, 2)


def test_known_bubblewrap_is_used_without_a_test(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A new program uses what is known to work; one that has tested it itself has assumed
    nothing."""
    assert remembered.refusal() is None
    assert remembered.assumed() is None
    in_new_program(monkeypatch)
    assert remembered.assumed() == machine.first
    assert remembered.refusal() is None
    assert remembered.assumed() == machine.first  # until it is tested
    assert (bubblewrap.working(), machine.tests) == (machine.first, 1)


@pytest.mark.parametrize("works", ["first", "second", None])
def test_assumption_can_be_tested(
    machine: Machine, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, works: str | None
) -> None:
    """A test confirms what was assumed, or finds what works now, or why nothing does. Whoever asks
    after that gets the same answer without a test."""
    remembered.can_confine()
    in_new_program(monkeypatch)
    assert remembered.assumed() == machine.first
    machine.works = getattr(machine, works) if works else None
    for _ in range(2):
        assert remembered.confirmed(machine.first) is (works == "first")
    assert machine.tests == (2 if works else 3)
    assert remembered.assumed() is None
    assert (tmp_path / "confinement.json").exists() is bool(works)
    if works:
        assert bubblewrap.working() == machine.works
