"""Make the same environments with a script: uv, the lock files, one first import.

A JSON file lists what to make. The script does not use template-builder, but runs as many jobs in
parallel, so that the ratio does not depend on the number of jobs.
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
        list(pool.map(lambda environment: _make(task["uv"], environment), task["environments"]))


def _make(uv: str, environment: Mapping[str, Any]) -> None:
    folder = Path(environment["folder"])
    python = str(folder / "bin" / "python")
    install = [uv, "pip", "install", "--compile-bytecode", "--python", python]
    locks = environment["requirements"]
    _run([uv, "venv", "--no-project", "--python", environment["python"], str(folder)])
    backend = (
        [f"--torch-backend={environment['torch_backend']}"] if environment["torch_backend"] else []
    )
    _run([*install, "--no-deps", "--require-hashes", *backend, *(f"-r{lock}" for lock in locks)])
    _run([*install, *(f"-c{lock}" for lock in locks), "ipykernel"])
    # A separate home, as on the other side: some modules make caches there when first imported.
    home = folder / "home"
    home.mkdir()
    _run([python, "-c", f"import {', '.join(environment['imports'])}"], home=home)


def _run(command: list[str], home: Path | None = None) -> None:
    variables = dict(os.environ) | ({"HOME": str(home)} if home else {})
    subprocess.run(command, check=True, capture_output=True, env=variables)


if __name__ == "__main__":
    main(json.loads(Path(sys.argv[1]).read_text(encoding="utf-8")))
