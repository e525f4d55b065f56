from __future__ import annotations

from pathlib import Path

import pytest

from builder.errors import TargetUnavailableError
from builder.project import Project
from builder.targets.adapters import choose

KEY = {"E2B_API_KEY": "e2b_x"}


@pytest.mark.parametrize(
    ("asked", "environment", "name", "why"),
    [
        ("local", {"TEMPLATE_TARGET": "e2b", **KEY}, "local", "target local: requested"),
        (
            None,
            {"TEMPLATE_TARGET": "local", **KEY},
            "local",
            "target local: set by TEMPLATE_TARGET",
        ),
        (None, {"TEMPLATE_TARGET": " e2b "}, "e2b", "target e2b: set by TEMPLATE_TARGET"),
        (None, {"TEMPLATE_TARGET": "", **KEY}, "e2b", "target e2b: E2B_API_KEY is set"),
        (None, {}, "local", "target local: the default without E2B_API_KEY"),
    ],
)
def test_target_is_chosen_by_one_rule(
    project: Path, asked: str | None, environment: dict[str, str], name: str, why: str
) -> None:
    """--target goes first, then TEMPLATE_TARGET, then the key; the reason is told."""
    settings, told = choose(Project.find(project), asked, environment)
    assert (settings.name, told) == (name, why)


def test_unknown_target_in_the_environment(project: Path) -> None:
    """A target that only TEMPLATE_TARGET names is told with the variable's name."""
    with pytest.raises(TargetUnavailableError) as caught:
        choose(Project.find(project), None, {"TEMPLATE_TARGET": "loca"})
    assert caught.value.message == (
        "TEMPLATE_TARGET is 'loca': there is no target `loca`; there are: e2b, local"
    )
