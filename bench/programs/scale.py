"""Validate, render and plan every variant of a folder; print the times and the peak memory.

The locks are made up before the clock starts: resolving depends on uv and the network.
"""

from __future__ import annotations

import json
import resource
import sys
import time
from pathlib import Path

from bench.synthetic import lock_of
from builder.plan import Situation, make_plan
from builder.render import render
from builder.spec import load_variants


def main(folder: Path) -> None:
    """Print the seconds by step, and `rss` in bytes."""
    start = time.perf_counter()
    variants = load_variants(folder)
    validated = time.perf_counter()
    locks = {variant.name: lock_of(variant) for variant in variants}
    # The first render of a process compiles the templates, regardless of the number of variants.
    render(variants[0], locks[variants[0].name])
    locked = time.perf_counter()
    rendered = {variant.name: render(variant, locks[variant.name]) for variant in variants}
    done = time.perf_counter()
    planned = make_plan(rendered, {}, Situation(target="local"))
    planned.to_json()
    end = time.perf_counter()
    if {variant.action for variant in planned.variants} != {"build"}:
        sys.exit("a plan against an empty registry must build everything")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    steps = {"validate": validated - start, "render": done - locked, "plan": end - done}
    # Linux counts in KiB, macOS in bytes.
    print(json.dumps(steps | {"rss": peak if sys.platform == "darwin" else peak << 10}))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
