"""One kernel."""

from __future__ import annotations

import os
from typing import Any

from . import installs
from .output import connect_streams


def run_kernel(connection: str, *, parent: int | None = None) -> None:
    """Run one kernel until it is shut down. `parent` is the process that it must not outlive."""
    from .python import KernelApp, PythonKernel, hide_host, run_loop

    installs.watch()
    options = ["-f", connection, "--HistoryManager.enabled=False"]
    options.append("--InteractiveShell.enable_tip=False")  # it would draw from `random`
    if parent is not None:
        options.append(f"--IPKernelApp.parent_handle={parent}")
    app: Any = KernelApp.instance(kernel_class=PythonKernel, outstream_class=None)
    app.initialize(options)
    connect_streams(os.path.dirname(connection), app.log)
    hide_host()
    run_loop(app)
