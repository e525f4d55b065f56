"""Real Jupyter kernels in a tenth of their time: forked from a process that has loaded them.

Run as a program, it is that process: a line of standard input is the connection file and the
folder of a kernel to fork; the answer is the kernel's process ID.
"""

from __future__ import annotations

import gc
import os
import signal
import subprocess
import sys
import tempfile
import threading
from pathlib import Path
from typing import Any

from builder.targets.local.kernel_host import preload


class ForkedKernel:
    """What the code service asks of a kernel's manager."""

    def __init__(self, pid: int, folder: tempfile.TemporaryDirectory[str]) -> None:
        self._pid, self._folder = pid, folder

    def is_alive(self) -> bool:
        try:
            stat = Path(f"/proc/{self._pid}/stat").read_text(encoding="ascii")
        except OSError:
            return False
        return stat.rpartition(")")[2].split()[0] != "Z"

    def interrupt_kernel(self) -> None:
        os.kill(self._pid, signal.SIGINT)

    def shutdown_kernel(self, *, now: bool) -> None:
        if self.is_alive():
            os.kill(self._pid, signal.SIGKILL)
        self._folder.cleanup()


class Zygote:
    """The process that kernels are forked from, started when the first one is asked for."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[str] | None = None
        self._lock = threading.Lock()

    def start(self, *, cwd: str) -> tuple[ForkedKernel, Any]:
        """A kernel and its client, ready."""
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
        """End it; the kernels that are left end with it."""
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
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    gc.freeze()
    children = []
    for line in sys.stdin:
        connection, folder = line.rstrip("\n").split("\t")
        pid = os.fork()
        if pid == 0:
            signal.signal(signal.SIGINT, signal.default_int_handler)
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            quiet = os.open(os.devnull, os.O_RDWR)
            for descriptor in (0, 1, 2):
                os.dup2(quiet, descriptor)
            os.chdir(folder)
            IPKernelApp.launch_instance(argv=["-f", connection, "--HistoryManager.enabled=False"])
            os._exit(0)
        children.append(pid)
        print(pid, flush=True)
    for pid in children:
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            continue


if __name__ == "__main__":
    main()
