"""Whether sandboxes can be confined is tried once, not in every plan."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Protocol

import pytest

from builder.targets.local.confine import bubblewrap, remembered
from builder.targets.local.confine.bubblewrap import ConfinementError


class Trial(Protocol):
    """Returns how often it was tried."""

    def __call__(self, *, works: bool) -> int: ...


@pytest.fixture
def tried(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Trial:
    """How often it is tried when it is asked whether it works, given whether it does."""
    monkeypatch.setattr(remembered, "cache_folder", lambda: tmp_path)
    if remembered._here() is None:
        pytest.skip("this machine has no /proc")

    def ask(*, works: bool) -> int:
        trials = []

        def refusal() -> ConfinementError | None:
            trials.append(works)
            return None if works else ConfinementError("it cannot")

        monkeypatch.setattr(bubblewrap, "refusal", refusal)
        assert remembered.can_confine() is (works or not trials)
        return len(trials)

    return ask


def test_success_is_remembered(tried: Trial) -> None:
    """What works is not tried again; what fails is."""
    assert [tried(works=False), tried(works=False), tried(works=True), tried(works=True)] == [
        1,
        1,
        1,
        0,
    ]


def test_success_is_forgotten_elsewhere(
    tried: Trial, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """It is tried again by another user, in another container, and when the file is damaged."""
    tried(works=True)
    monkeypatch.setattr(os, "getuid", lambda: 12345)
    assert tried(works=True) == 1
    (tmp_path / "confinement.json").write_text("{")
    assert tried(works=True) == 1
    assert tried(works=True) == 0
