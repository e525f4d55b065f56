"""Measure what a template saves on your machine: without one, with one, and with a pool.

Prints a table such as this, with your own numbers:

                                 sandbox up   first result   total
    venv, then pip install          …            …             …
    template, first sandbox         …            …             …
    template, each further one      …            …             …
    template, from the pool         …            …             …
"""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from builder.runtime import CodeExecutionPrimitive

NAME = os.environ.get("TEMPLATE", "tta-data-minimal")
PACKAGES = os.environ.get("PACKAGES", "pandas scikit-learn matplotlib").split()
CODE = os.environ.get("CODE", "import pandas, sklearn, matplotlib.pyplot; print('ready')")


def by_pip() -> tuple[float, float]:
    """Return the seconds until a fresh environment has the packages, and until they answer."""
    start = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run([sys.executable, "-m", "venv", folder], check=True)
        python = str(Path(folder, "bin", "python"))
        install = [python, "-m", "pip", "install", "--quiet", "--no-cache-dir", *PACKAGES]
        subprocess.run(install, check=True)
        up = time.perf_counter()
        subprocess.run([python, "-c", CODE], check=True, stdout=subprocess.DEVNULL)
        return up - start, time.perf_counter() - up


async def by_template(pool_size: int = 0) -> tuple[float, float]:
    """Return the seconds until a sandbox is up, and until its code answers."""
    start = time.perf_counter()
    async with CodeExecutionPrimitive(template_id=NAME, pool_size=pool_size) as executor:
        up = time.perf_counter()
        result = await executor.execute({"code": CODE, "timeout": 300})
        if not result["success"]:
            sys.exit(f"the code fails in {NAME}: {result['error']}")
        return up - start, time.perf_counter() - up


def show(way: str, up: float, first: float) -> None:
    """Print one row of the table."""
    print(f"{way:<28} {up:>9.3f} s {first:>12.4f} s {up + first:>7.3f} s", flush=True)


async def main() -> None:
    """Measure one way after the other; nothing else should keep the machine busy."""
    CodeExecutionPrimitive(template_id=NAME)  # fails early if the template is missing
    print(f"{'':<28} {'sandbox up':>11} {'first result':>14} {'total':>9}")
    if "--without-pip" not in sys.argv:
        show("venv, then pip install", *by_pip())
    show("template, first sandbox", *await by_template())
    show("template, each further one", *await by_template())
    await by_template(pool_size=1)  # starts the pool
    await asyncio.sleep(5)  # a real program does something else while it fills
    show("template, from the pool", *await by_template(pool_size=1))


asyncio.run(main())
