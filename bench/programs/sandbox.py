"""Open a sandbox of a local build and import modules in it; print how long both took.

The application's own modules are loaded before the clock starts, since it loads them once, not for
each sandbox.
"""

from __future__ import annotations

import importlib
import json
import sys
import time
from collections.abc import Mapping
from typing import Any

from builder.targets.local.target import LocalTarget
from builder.targets.protocol import Opening


def main(task: Mapping[str, Any]) -> None:
    """Print the seconds until the sandbox is ready (`up`) and of the imports (`first`)."""
    importlib.import_module("builder.targets.local.kernel")
    start = time.perf_counter()
    sandbox = LocalTarget().open(
        Opening(ref=task["ref"], name="", warm=task["warm"], env=task["env"])
    )
    up = time.perf_counter()
    try:
        execution = sandbox.run(f"import {', '.join(task['imports'])}", timeout=600)
    finally:
        sandbox.close()
    if execution.error or execution.timed_out:
        sys.exit(f"the imports fail in the sandbox: {execution.error or 'no end'}")
    print(json.dumps({"up": up - start, "first": execution.seconds}))


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
