"""Generate, execute, fix, repeat: until the code does what it should.

`generate` stands for a model: replace it with yours. It gets the task and what went wrong last, and
returns code; here it plays three answers, each of which fixes the previous error. Prints:

    attempt 1: NameError: name 'pd' is not defined
    attempt 2: AssertionError: the mean of group a is 2.0, not 3.0
    attempt 3: it works
"""

from __future__ import annotations

import asyncio

from builder.runtime import CodeExecutionPrimitive

TASK = "group_means(table): the mean of `value` by `group`, without missing values"
CHECK = """
table = pandas.DataFrame({"group": ["a", "a", "b"], "value": [2.0, None, 5.0]})
table.loc[len(table)] = ["a", 4.0]
found = group_means(table)["a"]
assert found == 3.0, f"the mean of group a is {found}, not 3.0"
"""
_FIRST = "def group_means(table):\n    return pd.DataFrame(table).groupby('group')['value'].mean()"
_LATER = """
import pandas

def group_means(table):
    return table.{}.groupby('group')['value'].mean().to_dict()
"""
ANSWERS = [_FIRST, _LATER.format("fillna(0)"), _LATER.format("dropna()")]


async def generate(task: str, problem: str | None, attempt: int) -> str:
    """Return the code of an attempt; `problem` is the previous error, with its traceback."""
    del task, problem
    return ANSWERS[attempt - 1]


async def refine(executor: CodeExecutionPrimitive, attempts: int = 5) -> str | None:
    """Return code that passes the check, or None after too many attempts."""
    problem = None
    for attempt in range(1, attempts + 1):
        code = await generate(TASK, problem, attempt)
        # Each attempt has a sandbox of its own: nothing left from the previous one helps it pass.
        async with executor.session() as fresh:
            result = await fresh.execute({"code": f"{code}\nimport pandas\n{CHECK}", "timeout": 20})
        if result["success"]:
            print(f"attempt {attempt}: it works")
            return code
        print(f"attempt {attempt}: {result['error']}")
        problem = f"{result['error']}\n{result['traceback']}"
    return None


async def main() -> None:
    """Refine the answers with sandboxes from a pool, so that an attempt starts in milliseconds."""
    executor = CodeExecutionPrimitive(template_id="tta-data-minimal", pool_size=2)
    await refine(executor)


asyncio.run(main())
