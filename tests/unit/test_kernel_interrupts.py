"""Where a signal meets asynchronous code in a kernel."""

from __future__ import annotations

import asyncio
import sys
from types import FrameType
from typing import Any

import pytest

from builder.targets.local.kernel_host import interrupts


@pytest.mark.parametrize("seconds", [0, 0.01])
def test_no_step_of_asyncio_is_taken_for_code(seconds: float) -> None:
    """A signal in a function of the event loop itself interrupts nothing there: what waits for that
    step would wait for ever."""
    interrupted = set()

    def entered(frame: FrameType, _event: str, _argument: Any) -> None:
        module = str(frame.f_globals.get("__name__"))
        if module.startswith("asyncio") and interrupts._belongs_to_code(frame):
            interrupted.add(f"{module}.{frame.f_code.co_qualname}")

    async def code() -> None:
        await asyncio.sleep(seconds)

    async def main() -> None:
        task = asyncio.ensure_future(code())
        sys.settrace(entered)
        try:
            await task
        finally:
            sys.settrace(None)

    asyncio.run(main())
    assert interrupted == set()
