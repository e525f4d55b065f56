"""What the target `local` installs beside the kernel, so that results are shown."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import BASE, Command
from tests.support.clouds import Opened
from tests.support.execution import ran

ONE = (
    "schema = 1\nname = 'one'\nextends = '_base'\n[python]\npackages = ['pandas', 'plotly']\n"
    "[service]\ncommand = ['run']\nready-url = 'http://localhost:1/'\n"
)


@pytest.mark.slow
@pytest.mark.network
def test_charts_and_tables_are_shown_as_on_the_code_service(
    write: Callable[..., Path],
    command: Command,
    local_cache: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """plotly's `show` and a pandas style are results, and what they need is no package of the
    template."""
    folder = write(_base=BASE, one=ONE).parent
    built = command("build", "one", "--target", "local", cwd=folder)
    assert built.returncode == 0, built.stderr
    monkeypatch.setenv("TEMPLATE_REGISTRY", str(folder / "registry.json"))
    shown, styled = ran(
        "import plotly.graph_objects as go; go.Figure(go.Bar(x=['a'], y=[1])).show()",
        "import pandas; pandas.DataFrame({'a': [1]}).style",
    )
    assert (shown["error"], styled["error"]) == (None, None)
    (chart,) = shown["results"]
    assert chart.data["application/vnd.plotly.v1+json"]["data"][0]["type"] == "bar"
    assert "<table" in (styled["results"][0].html or "")
    (record,) = json.loads((folder / "registry.json").read_text())["templates"]["one"]["local"][
        "builds"
    ].values()
    assert {"plotly", "pandas"} <= record["packages"].keys()
    assert not {"nbformat", "jinja2"} & record["packages"].keys()
    assert {"nbformat", "jinja2", "ipykernel"} <= record["other_packages"].keys()
    assert (
        "\n  of the kernel and its display packages: " in command("show", "one", cwd=folder).stdout
    )


@pytest.mark.slow
@pytest.mark.network
@pytest.mark.parametrize("target", ["e2b"])
def test_table_of_real_code_arrives(open_one: Opened) -> None:
    """A table that code displays comes out of a sandbox as E2B's type for tables."""
    code = "display({'e2b/data': {'a': [1, 2]}, 'e2b/chart': {'type': 'pie'}}, raw=True)"

    async def run() -> Any:
        async with open_one() as executor:
            return await executor.execute({"code": code})

    (result,) = asyncio.run(run())["results"]
    assert result.data == {"e2b/data": {"a": [1, 2]}, "e2b/chart": {"type": "pie"}}
