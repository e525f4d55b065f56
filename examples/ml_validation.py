"""Is generated machine-learning code right? Run it against the real libraries, with tests.

The code that a model wrote goes into a sandbox, together with tests of what it should do. Each test
is one execution, so that a failing one does not hide the others. Prints:

    ok    probabilities add up to one
    ok    constant input does not divide by zero
    FAIL  scaling keeps missing values: AssertionError: 1 missing before, 0 after
"""

from __future__ import annotations

import asyncio

from builder.runtime import CodeExecutionPrimitive

# Stands for what a model answers; the last function has a mistake.
GENERATED = """
import numpy, pandas

def softmax(x):
    x = numpy.asarray(x, dtype=float)
    e = numpy.exp(x - x.max(axis=-1, keepdims=True))
    return e / e.sum(axis=-1, keepdims=True)

def standardize(column):
    spread = column.std() or 1.0
    return ((column - column.mean()) / spread).fillna(0.0)
"""
TESTS = {
    "probabilities add up to one": """
assert numpy.allclose(softmax([[1, 2, 3], [1000, 1000, 1000]]).sum(axis=1), 1)
""",
    "constant input does not divide by zero": """
assert standardize(pandas.Series([5.0, 5.0, 5.0])).tolist() == [0.0, 0.0, 0.0]
""",
    "scaling keeps missing values": """
column = pandas.Series([1.0, None, 3.0])
before, after = column.isna().sum(), standardize(column).isna().sum()
assert before == after, f"{before} missing before, {after} after"
""",
}


async def main() -> None:
    """Validate the generated code and print one line for each test."""
    async with CodeExecutionPrimitive(template_id="tta-data-minimal") as executor:
        loaded = await executor.execute({"code": GENERATED})
        if not loaded["success"]:
            print(f"it does not even load: {loaded['error']}")
            return
        for name, test in TESTS.items():
            result = await executor.execute({"code": test, "timeout": 10})
            print(f"ok    {name}" if result["success"] else f"FAIL  {name}: {result['error']}")


asyncio.run(main())
