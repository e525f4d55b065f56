from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest

from builder.errors import VerifyError
from builder.spec import Variant
from builder.system.events import discard
from builder.system.logs import Log
from builder.targets.local.target import LocalTarget
from builder.verify import verify
from tests.conftest import BASE
from tests.support.here import build_here
from tests.support.sandboxes import prepared


@pytest.mark.network
def test_checks_after_an_end_of_the_sandbox_are_named(
    write: Callable[..., Path], local_cache: Path, tmp_path: Path
) -> None:
    """Where a check ends the sandbox, those after it are said not to have run, not to have failed."""
    blocks = (("dies", "import os; os._exit(3)"), ("next", "print(1)"), ("last", "print(2)"))
    folder = write(
        _base=BASE,
        light="schema = 1\nname = 'light'\nextends = '_base'\n"
        + "".join(f"[[verify]]\nname = '{name}'\ncode = '{code}'\n" for name, code in blocks),
    )
    rendered = prepared(folder.parent)
    with (
        Log(tmp_path / "logs", target="local") as log,
        pytest.raises(VerifyError) as caught,
    ):
        built = build_here(rendered, log)
        verify(built, rendered, LocalTarget(), report=discard, log=log)
    assert (
        "  variants/light.toml:5: check `dies` failed: the code ended its interpreter with exit"
        " status 3\n  not checked, because the sandbox had ended: `next`, `last`\n"
        in f"{caught.value.message}\n"
    )


@dataclass(frozen=True, kw_only=True)
class Promised:
    """What a build is to be, made up."""

    variant: Variant
    locked: Mapping[str, str]
    reseeds: bool = False


@pytest.mark.network
def test_locked_package_in_another_version_is_named(
    write: Callable[..., Path], local_cache: Path, tmp_path: Path
) -> None:
    """A locked package that is there in another version than in any that was locked for it is
    named with both."""
    folder = write(
        _base=BASE,
        light="schema = 1\nname = 'light'\nextends = '_base'\n[python]\npackages = ['six==1.16.0']\n",
    )
    rendered = prepared(folder.parent)
    with Log(tmp_path / "logs", target="local") as log:
        built = build_here(rendered, log)

        def verified(locked: str) -> None:
            promised = Promised(variant=rendered.variant, locked={"six": locked})
            verify(built, promised, LocalTarget(), report=discard, log=log)

        verified("1.16 | 1.17.0")
        with pytest.raises(VerifyError) as caught:
            verified("1.15 | 1.17.0")
    assert "  `six` is installed in version 1.16.0 instead of 1.15 | 1.17.0" in caught.value.message
