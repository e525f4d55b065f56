"""Look up a template, construct a primitive, check for a revocation; print the CPU time of each.

Nothing here waits, so CPU time is the whole cost. The process writes to the registry that
TEMPLATE_REGISTRY names.
"""

from __future__ import annotations

import json
import mmap
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path

from builder import registry
from builder.record.store import leave_mark
from builder.runtime import CodeExecutionPrimitive
from builder.runtime.template import check_not_revoked


def _seconds(action: Callable[[], object], times: int, before: Callable[[], None]) -> list[float]:
    taken = []
    for _ in range(times):
        before()
        start = time.process_time()
        action()
        taken.append(time.process_time() - start)
    return taken


def _written(path: Path) -> None:
    """Change the file as a write to another template does."""
    os.utime(path)
    leave_mark(path, path.stat())


def _entry_written(path: Path, name: str) -> None:
    """Change the file as a write to the template itself does."""
    with path.open("r+b") as file, mmap.mmap(file.fileno(), 0) as text:
        at = text.find(b'"origin": "', text.find(f'"{name}": {{'.encode())) + len(b'"origin": "')
        text[at : at + 5] = f"{time.monotonic_ns() % 100_000:05}".encode()  # over `built`
    _written(path)


def main() -> None:
    """Do `lookup` or `construct` once, as a new process does, or time repetitions with `again`."""
    task, name, times = sys.argv[1], sys.argv[2], int(sys.argv[3])
    path = Path(os.environ["TEMPLATE_REGISTRY"])

    def look_up() -> None:
        registry.resolve(name, target="e2b", path=path)

    def construct() -> CodeExecutionPrimitive:
        return CodeExecutionPrimitive(template_id=name, target="e2b")

    def nothing() -> None:
        pass

    if task != "again":
        action = look_up if task == "lookup" else construct
        print(json.dumps(_seconds(action, 1, nothing)))
        return
    template = construct()._current.policy.template  # noqa: SLF001 - the primitive checks with no other words

    def check() -> None:
        check_not_revoked(template)

    print(
        json.dumps(
            {
                "lookup": _seconds(look_up, times, nothing),
                "construct": _seconds(construct, times, nothing),
                "check": _seconds(check, times, nothing),
                "check, another template written": _seconds(check, times, lambda: _written(path)),
                "check, the template written": _seconds(
                    check, min(times, 5), lambda: _entry_written(path, name)
                ),
            }
        )
    )


if __name__ == "__main__":
    main()
