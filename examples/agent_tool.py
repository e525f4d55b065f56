r"""A tool for an agent: a JSON schema in, a structured result out.

Pass `TOOL` to your model's API as the description of a function. Call `run_tool` with the arguments
that the model chose, and return its result to the model as the tool's answer. Each conversation has
a sandbox of its own. Prints:

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
    """Answer one call of the tool with JSON for the model; a mistake of the model's is part of the
    answer, not an exception."""
    try:
        result = await executor.execute(arguments)
    except (ValueError, TypeError) as error:
        missing = [key for key in TOOL["parameters"]["required"] if key not in arguments]
        message = f"`{missing[0]}` is missing" if missing else str(error)
        return json.dumps({"ok": False, "error": message})
    answer: dict[str, Any] = {"ok": result["success"]}
    if result["error"]:
        answer["error"] = result["error"]
    answer["stdout"] = result["output"]
    for shown in result["results"]:
        if shown.png:
            answer.setdefault("charts", []).append(shown.png)  # base64, as vision models take it
        elif shown.is_main:
            answer["value"] = shown.text
    return json.dumps(answer)


async def main() -> None:
    """Make three calls, as a model would."""
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
    # People wait for the answer: the pool keeps a warm sandbox for the next conversation.
    async with CodeExecutionPrimitive(template_id="tta-data-minimal", pool_size=1) as executor:
        for arguments in calls:
            print(await run_tool(executor, arguments))


asyncio.run(main())
