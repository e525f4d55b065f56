"""Ask the package index which packages it has, without resolving anything."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence

from builder.errors import NetworkError
from builder.lock.conflict import not_found
from builder.system import uv


def absent_from_index(names: Iterable[str]) -> set[str]:
    """Return the names that the index lacks, all in their canonical form; none of them if it does
    not answer."""
    absent: set[str] = set()
    sorted_names = sorted(set(names))
    while present := [name for name in sorted_names if name not in absent]:
        # uv names the first that is missing.
        new = _first_absent(present) - absent
        if not new:
            break
        absent |= new
    return absent


def _first_absent(names: Sequence[str]) -> set[str]:
    """Return some of the names that the index lacks, if there are any."""
    command = ["pip", "compile", "--no-deps", "--universal", "--no-header", "--no-progress"]
    with uv.private_folder() as folder:
        path = folder / "requirements.in"
        path.write_text("".join(f"{name}\n" for name in names), encoding="utf-8")
        try:
            uv.run(
                [*command, "--python", sys.executable, str(path)],
                doing="asking the package index",
                folder=folder,
                environment={"UV_HTTP_RETRIES": "1"},  # an answer is not worth waiting for
            )
        except uv.UvError as error:
            return {name for name in not_found(error.output) if name in names}
        except NetworkError:
            pass
    return set()
