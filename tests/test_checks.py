from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from builder.errors import VerifyError
from builder.events import silent
from builder.logs import Log
from builder.targets.local.target import LocalTarget
from builder.verify import verify
from tests.conftest import BASE
from tests.here import build_here
from tests.test_local import prepared


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
        verify(built, rendered, LocalTarget(), report=silent, log=log)
    assert (
        "  variants/light.toml:5: check `dies` failed: the code ended its interpreter with exit"
        " status 3\n  not checked, since the sandbox had ended: `next`, `last`\n"
        in f"{caught.value.message}\n"
    )
