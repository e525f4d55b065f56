"""Run code in sandboxes, and fill pools."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

from builder.runtime import CodeExecutionPrimitive, CodeOutput
from builder.runtime.pool import Pool


def one(**options: Any) -> CodeExecutionPrimitive:
    return CodeExecutionPrimitive(template_id="one", **options)


def executed(primitive: CodeExecutionPrimitive, *codes: str, **options: Any) -> list[CodeOutput]:
    async def run() -> list[CodeOutput]:
        async with primitive as executor:
            return [await executor.execute({"code": code, **options}) for code in codes]

    return asyncio.run(run())


def ran(*codes: str, timeout: float = 60, **options: Any) -> list[CodeOutput]:
    """Run pieces of code in one sandbox of the template `one`."""

    async def run() -> list[CodeOutput]:
        async with CodeExecutionPrimitive(template_id="one", target="local", **options) as executor:
            return [await executor.execute({"code": code, "timeout": timeout}) for code in codes]

    return asyncio.run(run())


_T = TypeVar("_T")


def within(
    primitive: CodeExecutionPrimitive, steps: Callable[[CodeExecutionPrimitive], Awaitable[_T]]
) -> _T:
    async def run() -> _T:
        async with primitive as executor:
            return await steps(executor)

    return asyncio.run(run())


async def full(pool: Pool) -> None:
    async with asyncio.timeout(60):
        while pool.ready() < pool.size:
            await asyncio.sleep(0.02)
