"""The same environments as somebody would script them: uv, the lock files, one first import.

It is told by a JSON file what to make. It knows nothing of template-builder, and has its
parallelism, so that the ratio is not one of job counts.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any


def main(task: Mapping[str, Any]) -> None:
    """Make every environment of `task`, `jobs` at a time."""
    with ThreadPoolExecutor(max_workers=task["jobs"]) as pool:
        list(pool.map(lambda one: _make(task["uv"], one), task["environments"]))


def _make(uv: str, one: Mapping[str, Any]) -> None:
    folder = Path(one["folder"])
    python = str(folder / "bin" / "python")
    install = [uv, "pip", "install", "--compile-bytecode", "--python", python]
    locks = one["requirements"]
    _run([uv, "venv", "--no-project", "--python", one["python"], str(folder)])
    backend = [f"--torch-backend={one['torch_backend']}"] if one["torch_backend"] else []
    _run([*install, "--no-deps", "--require-hashes", *backend, *(f"-r{lock}" for lock in locks)])
    _run([*install, *(f"-c{lock}" for lock in locks), "ipykernel"])
    # A home of its own, as the other side has: some modules make caches there when first imported.
    home = folder / "home"
    home.mkdir()
    _run([python, "-c", f"import {', '.join(one['imports'])}"], home=home)


def _run(command: list[str], home: Path | None = None) -> None:
    variables = dict(os.environ) | ({"HOME": str(home)} if home else {})
    subprocess.run(command, check=True, capture_output=True, env=variables)


if __name__ == "__main__":
    main(json.loads(Path(sys.argv[1]).read_text(encoding="utf-8")))
