"""Start real Jupyter kernels in a tenth of the time, by forking a process that has loaded them.

Run as a program, this module is that process. A line of its standard input is the connection file
and the folder of a kernel to fork; it answers with the kernel's process ID.
"""

from __future__ import annotations

import contextlib
import gc
import os
import select
import signal
import subprocess
import sys
import tempfile
import threading
from typing import Any

from builder.targets.local.kernel_host.zygote import preload


class ForkedKernel:
    """The methods of a kernel manager that the code service uses."""

    def __init__(self, pid: int, folder: tempfile.TemporaryDirectory[str]) -> None:
        # Not its number, which another process may have once this one has ended.
        self._process, self._folder = os.pidfd_open(pid), folder

    def is_alive(self) -> bool:
        ended = select.poll()
        ended.register(self._process, select.POLLIN)
        return not ended.poll(0)

    def interrupt_kernel(self) -> None:
        signal.pidfd_send_signal(self._process, signal.SIGINT)

    def shutdown_kernel(self, *, now: bool) -> None:
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(self._process, signal.SIGKILL)
        self._folder.cleanup()

    def __del__(self) -> None:
        os.close(self._process)


class Zygote:
    """The process that kernels are forked from, started for the first of them."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[str] | None = None
        self._lock = threading.Lock()

    def start(self, *, cwd: str) -> tuple[ForkedKernel, Any]:
        """Start a kernel; return it with its client once it is ready."""
        from jupyter_client.blocking.client import BlockingKernelClient
        from jupyter_client.connect import write_connection_file

        folder = tempfile.TemporaryDirectory(prefix="kernel-")
        connection = f"{folder.name}/connection.json"
        write_connection_file(
            connection,
            transport="ipc",
            ip=f"{folder.name}/socket",
            key=os.urandom(8).hex().encode(),
        )
        with self._lock:
            if self._process is None or self._process.poll() is not None:
                self._process = subprocess.Popen(
                    [sys.executable, __file__],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    text=True,
                )
            assert self._process.stdin
            assert self._process.stdout
            self._process.stdin.write(f"{connection}\t{cwd}\n")
            self._process.stdin.flush()
            pid = int(self._process.stdout.readline())
        client = BlockingKernelClient()
        client.load_connection_file(connection)
        # With a heartbeat, a kernel that gets no processor for a second counts as dead.
        client.start_channels(hb=False)
        kernel = ForkedKernel(pid, folder)
        try:
            client.wait_for_ready(timeout=60)
        except BaseException:
            client.stop_channels()
            kernel.shutdown_kernel(now=True)
            raise
        return kernel, client

    def close(self) -> None:
        """End it, and with it its kernels."""
        with self._lock:
            if self._process and self._process.stdin and self._process.stdout:
                self._process.stdin.close()
                self._process.wait()
                self._process.stdout.close()
            self._process = None


def main() -> None:
    from ipykernel.kernelapp import IPKernelApp

    with tempfile.TemporaryDirectory(prefix="kernel-") as folder:
        preload(folder)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    gc.freeze()
    children: set[int] = set()
    for line in sys.stdin:
        reap(children)
        connection, folder = line.rstrip("\n").split("\t")
        pid = os.fork()
        if pid == 0:
            signal.signal(signal.SIGINT, signal.default_int_handler)
            quiet = os.open(os.devnull, os.O_RDWR)
            for descriptor in (0, 1, 2):
                os.dup2(quiet, descriptor)
            os.chdir(folder)
            IPKernelApp.launch_instance(
                argv=["-f", connection, "--HistoryManager.hist_file=:memory:"]
            )
            os._exit(0)
        children.add(pid)
        print(pid, flush=True)
    reap(children)
    for pid in children:
        os.kill(pid, signal.SIGKILL)


def reap(children: set[int]) -> None:
    """Reap children; until then their process IDs are not reused."""
    while children:
        pid, _ = os.waitpid(-1, os.WNOHANG)
        if not pid:
            break
        children.discard(pid)


if __name__ == "__main__":
    main()
