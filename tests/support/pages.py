"""Pages of the documentation."""

from __future__ import annotations

import functools
import os
import re
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from tests.support.program import folder_of_program

DOCS = Path(__file__).parents[2] / "docs"
FILE = re.compile(r"# ([\w./-]+\.\w+)\n")


def blocks(page: Path) -> list[tuple[str, str]]:
    return re.findall(r"^```(\w*)\n(.*?)^```$", page.read_text(), re.MULTILINE | re.DOTALL)


@pytest.fixture
def walk(tmp_path: Path, cache: Path) -> Callable[..., str]:
    """Follow a page in this test's folder. A block whose first line names a file is written to that
    file; a block of Python or shell code is run. `replace` maps texts to their replacements. Return
    all output."""

    def follow(page: str, replace: Mapping[str, str] = {}, **variables: str) -> str:
        printed = []
        path = f"{folder_of_program()}:{Path(sys.executable).parent}:{os.environ['PATH']}"
        environment = os.environ | {"PATH": path, "TEMPLATE_BUILDER_CACHE_DIR": str(cache)}
        for kind, written in blocks(DOCS / page):
            text = functools.reduce(lambda t, pair: t.replace(*pair), replace.items(), written)
            if name := FILE.match(text):
                plain = text[name.end() :] if kind == "text" else text
                (tmp_path / name[1]).parent.mkdir(parents=True, exist_ok=True)
                (tmp_path / name[1]).write_text(plain)
            elif kind in {"sh", "python"}:
                run = ["bash", "-euc"] if kind == "sh" else [sys.executable, "-c"]
                done = subprocess.run(
                    [*run, text],
                    capture_output=True,
                    text=True,
                    check=False,
                    cwd=tmp_path,
                    env=environment | variables,
                )
                assert done.returncode == 0, f"{text}\n{done.stdout}{done.stderr}"
                printed.append(done.stdout)
        return "".join(printed)

    return follow
