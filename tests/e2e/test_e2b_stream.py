from __future__ import annotations

import asyncio
from typing import Any

import pytest

from tests.support.clouds import Opened


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
