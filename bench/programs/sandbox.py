"""Open a sandbox of a local build and import modules in it; say how long both took.

What an application imports to be able to open one is loaded before the clock runs: it pays that
once, not with every sandbox.
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
    """Print `up`, until the sandbox can be used, and `first`, until the imports have answered."""
    importlib.import_module("builder.targets.local.kernel")
    start = time.perf_counter()
    sandbox = LocalTarget().open(
        Opening(ref=task["ref"], name="", warm=task["warm"], env=task["env"])
    )
    up = time.perf_counter()
    try:
        found = sandbox.run(f"import {', '.join(task['imports'])}", timeout=600)
    finally:
        sandbox.close()
    if found.error or found.timed_out:
        sys.exit(f"the imports fail in the sandbox: {found.error or 'no end'}")
    print(json.dumps({"up": up - start, "first": found.seconds}))


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
