"""What must come to its end although the task that waits for it is cancelled."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable
from typing import TypeVar

_T = TypeVar("_T")


async def run_to_completion(work: Awaitable[_T]) -> _T:
    """What `work` gives. A cancellation, and any further one, is put off until there is that."""
    task = asyncio.ensure_future(work)
    cancelled: asyncio.CancelledError | None = None
    while not task.done():
        try:
            await asyncio.shield(task)
        except asyncio.CancelledError as error:
            cancelled = error
        except Exception:  # noqa: BLE001, S110 - told below
            pass
    if cancelled is not None:
        with contextlib.suppress(asyncio.CancelledError):
            task.exception()  # seen, if not told
        raise cancelled
    return task.result()
