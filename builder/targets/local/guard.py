"""Keeps one kernel: ends it, all that it started, and its folder, when its owner is gone.

Run as a program of its own, by a Python without site packages: `guard.py FOLDER COMMAND…`. The
owner holds its standard input: a line "interrupt" is passed on as SIGINT, the end of the input (the
owner closed it, or died in whatever way) is the end of the sandbox.
"""

import contextlib
import ctypes
import os
import shutil
import signal
import subprocess
import sys
import threading
import time

PR_SET_CHILD_SUBREAPER = 36  # linux/prctl.h


def adopt_orphans() -> None:
    """Become the parent of whatever the kernel's children leave behind, where Linux offers it."""
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def children() -> list[int]:
    """The processes whose parent this one is; empty where there is no /proc."""
    found: list[int] = []
    try:
        names = os.listdir("/proc")
    except OSError:
        return found
    for name in names:
        if name.isdigit():
            with contextlib.suppress(OSError), open(f"/proc/{name}/stat") as file:
                # pid (name) state parent …; only the name may hold spaces and brackets
                if int(file.read().rpartition(")")[2].split()[1]) == os.getpid():
                    found.append(int(name))
    return found


def end(kernel: "subprocess.Popen[bytes] | None", folder: str) -> None:
    """Kill the kernel's group, then every descendant that comes to us, then remove the folder."""
    if kernel:
        with contextlib.suppress(OSError):
            os.killpg(kernel.pid, signal.SIGKILL)
    for _ in range(200):
        left = children()
        if not left:
            break
        for pid in left:
            with contextlib.suppress(OSError):
                os.kill(pid, signal.SIGKILL)
        with contextlib.suppress(OSError):
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        time.sleep(0.01)
    shutil.rmtree(folder, ignore_errors=True)
    os._exit(0)


def main() -> None:
    """Start the kernel and wait for its end or the owner's."""
    folder, *command = sys.argv[1:]
    kernel = None
    # Before there is a kernel, so that at no moment this process ends without ending it.
    signal.signal(signal.SIGTERM, lambda *_: end(kernel, folder))
    adopt_orphans()
    signal.signal(signal.SIGINT, lambda *_: None)  # a handler; "ignore" would be inherited
    with open(os.path.join(folder, "kernel.log"), "wb") as log:
        kernel = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
            # A kernel that is told its parent ends when that is gone, even if killed outright.
            env=os.environ | {"JPY_PARENT_PID": str(os.getpid())},
        )
    # Poll, not wait: a wait here would race with the one that reaps orphans.
    threading.Thread(target=watch, args=(kernel,), daemon=True).start()
    for line in sys.stdin:
        if line == "interrupt\n":
            with contextlib.suppress(OSError):
                os.killpg(kernel.pid, signal.SIGINT)
    end(kernel, folder)


def watch(kernel: "subprocess.Popen[bytes]") -> None:
    """Tell the owner, by a closed pipe, that the kernel is gone."""
    kernel.wait()
    with contextlib.suppress(OSError):
        os.close(1)


if __name__ == "__main__":
    main()
