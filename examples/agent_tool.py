r"""A tool for an agent: a JSON schema in, a structured result out.

`TOOL` is what any of the usual model APIs takes as the description of a function; `run_tool` is
called with the arguments that the model has chosen, and what it returns goes back to the model as
the tool's answer. Each conversation has a sandbox of its own. Prints:

    {"ok": true, "stdout": "rows: 3\n", "value": "20.0"}
    {"ok": false, "error": "KeyError: 'heigth'", "stdout": ""}
    {"ok": false, "error": "`code` is missing"}
"""

from __future__ import annotations

import asyncio
import json
from typing import Any

from builder.runtime import CodeExecutionPrimitive

TOOL: dict[str, Any] = {
    "name": "run_python",
    "description": "Run Python in a sandbox with pandas, scikit-learn and Matplotlib. Variables"
    " last from call to call. Print what you want to see, or end with an expression.",
    "parameters": {
        "type": "object",
        "properties": {
            "code": {"type": "string", "description": "The code to run."},
            "timeout": {"type": "number", "description": "Seconds, 30 by default."},
        },
        "required": ["code"],
        "additionalProperties": False,
    },
}


async def run_tool(executor: CodeExecutionPrimitive, arguments: dict[str, Any]) -> str:
    """The answer to one call of the tool, as JSON that a model reads; never an exception for a
    mistake of the model's."""
    try:
        found = await executor.execute(arguments)
    except (ValueError, TypeError) as error:
        missing = [key for key in TOOL["parameters"]["required"] if key not in arguments]
        told = f"`{missing[0]}` is missing" if missing else str(error)
        return json.dumps({"ok": False, "error": told})
    answer: dict[str, Any] = {"ok": found["success"]}
    if found["error"]:
        answer["error"] = found["error"]
    answer["stdout"] = found["output"]
    for result in found["results"]:
        if result.png:
            answer.setdefault("charts", []).append(result.png)  # base64, as vision models take it
        elif result.is_main:
            answer["value"] = result.text
    return json.dumps(answer)


async def main() -> None:
    """Three calls, as a model would make them."""
    calls: list[dict[str, Any]] = [
        {
            "code": "import pandas\n"
            "table = pandas.DataFrame({'height': [10, 20, 30]})\n"
            "print('rows:', len(table))\n"
            "float(table['height'].mean())"
        },
        {"code": "table['heigth'].max()", "timeout": 5},
        {},
    ]
    # An answer is awaited by a person: the pool has a warm sandbox for the next conversation.
    async with CodeExecutionPrimitive(template_id="tta-data-minimal", pool_size=1) as executor:
        for arguments in calls:
            print(await run_tool(executor, arguments))


asyncio.run(main())
