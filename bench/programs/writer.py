"""Write builds to a registry, and print how long each took: LOCATION NAME COUNT."""

from __future__ import annotations

import json
import sys
import time

from builder.record import update
from builder.registry import Ref
from builder.registry.model import Build, Contents


def main() -> None:
    """Record COUNT builds of template NAME, one per change."""
    location, name, count = sys.argv[1], sys.argv[2], int(sys.argv[3])
    times = []
    for number in range(count):
        ref = f"{name}:{number}"

        def change(recorded: Contents, ref: str = ref) -> None:
            entry = recorded.new_entry(name, "e2b")
            entry.builds[ref] = Build(template_id=name)
            entry.channels["stable"] = Ref(ref)

        start = time.perf_counter()
        update(location, change)
        times.append(time.perf_counter() - start)
    print(json.dumps(times))


if __name__ == "__main__":
    main()
