"""Writes builds into a registry, and prints how long each took: LOCATION NAME COUNT."""

from __future__ import annotations

import json
import sys
import time
from typing import Any

from builder.record import update


def main() -> None:
    """Record COUNT builds of template NAME, one change each."""
    location, name, count = sys.argv[1], sys.argv[2], int(sys.argv[3])
    times = []
    for number in range(count):
        ref = f"{name}:{number}"

        def change(data: dict[str, Any], ref: str = ref) -> None:
            entry = data["templates"].setdefault(name, {}).setdefault("e2b", {})
            entry.setdefault("builds", {})[ref] = {"template_id": name, "origin": "built"}
            entry.setdefault("channels", {})["stable"] = ref

        start = time.perf_counter()
        update(location, change)
        times.append(time.perf_counter() - start)
    print(json.dumps(times))


if __name__ == "__main__":
    main()
