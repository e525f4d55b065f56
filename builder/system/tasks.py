"""Work that runs to completion even if the task that awaits it is cancelled."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable
from typing import TypeVar

_T = TypeVar("_T")


async def run_to_completion(work: Awaitable[_T]) -> _T:
    """Await `work` to completion, then re-raise any cancellation."""
    task = asyncio.ensure_future(work)
    cancelled: asyncio.CancelledError | None = None
    while not task.done():
        try:
            await asyncio.shield(task)
        except asyncio.CancelledError as error:
            cancelled = error
        except Exception:  # noqa: BLE001, S110 - raised below
            pass
    if cancelled is not None:
        with contextlib.suppress(asyncio.CancelledError):
            task.exception()  # mark it as retrieved
        raise cancelled
    return task.result()
