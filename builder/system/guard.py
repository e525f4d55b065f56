"""Keeps one child: ends it and all that it has started when its owner is gone, or when it ends.

Run as a program of its own, by a Python without site packages: `guard.py FOLDER SCRATCH COMMAND…`.
The owner holds its standard input; the end of that input (the owner closed it, or died in whatever
way) is the end of the child. With `-` as FOLDER the command writes where the guard would, and its
end and exit code are the guard's. With a folder the command writes to `child.log` in it, its exit
status (negative for a signal) is written to standard output, which is then closed, the owner may
send lines "interrupt", which become SIGINT, and the folder is removed at the end. SCRATCH is `-` or
a folder of the owner's, which is removed when the owner is gone.
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

# The first to end it all does so alone: a thread that saw the child killed would end this process
# in the middle of it. The same thread may come twice, by a signal.
ending = threading.RLock()
PR_SET_PDEATHSIG = 1
PR_SET_CHILD_SUBREAPER = 36  # linux/prctl.h


def open_standard_descriptors() -> None:
    """Have descriptors 0 to 2 open: those that whoever started this process had closed lead to
    /dev/null. Otherwise the next file that is opened would be taken for standard output."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)  # noqa: FBT003


def adopt_orphans() -> None:
    """Become the parent of whatever the child's children leave behind, where Linux offers it."""
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def end_with_parent() -> None:
    """Have the kernel kill this process when its parent is gone, even if that was killed outright;
    where Linux offers it."""
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)


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


def end(child: "subprocess.Popen[bytes] | None", *folders: str, code: int = 0) -> None:
    """Kill the child's group, then every descendant that comes to us, then remove the folders."""
    ending.acquire()
    # The number of a child whose end was taken may be another process's by now; what that child has
    # left behind comes to us where orphans are adopted.
    if child and (child.returncode is None or sys.platform != "linux"):
        with contextlib.suppress(OSError):
            os.killpg(child.pid, signal.SIGKILL)
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
    for folder in folders:
        if folder != "-":
            shutil.rmtree(folder, ignore_errors=True)
    os._exit(code)


def watch(child: "subprocess.Popen[bytes]", folder: str, scratch: str) -> None:
    """Wait for the end of the child, and pass it on."""
    code = child.wait()
    if folder == "-":
        end(child, scratch, code=code if code >= 0 else 128 - code)
    with contextlib.suppress(OSError):
        os.write(1, b"%d\n" % code)
        os.close(1)


def main() -> None:
    """Start the child and wait for its end or the owner's."""
    open_standard_descriptors()
    folder, scratch, *command = sys.argv[1:]
    child = None
    # Before there is a child, so that at no moment this process ends without ending it.
    signal.signal(signal.SIGTERM, lambda *_: end(child, folder, scratch))
    signal.signal(signal.SIGINT, lambda *_: None)  # a handler; "ignore" would be inherited
    adopt_orphans()
    output = None if folder == "-" else open(os.path.join(folder, "child.log"), "wb")  # noqa: SIM115
    child = subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=output,
        stderr=output,
        start_new_session=True,
        close_fds=False,  # what the owner passed on by number is for the child
        # A kernel that is told its parent ends when that is gone, even if killed outright.
        env=os.environ | {"JPY_PARENT_PID": str(os.getpid())},
    )
    threading.Thread(target=watch, args=(child, folder, scratch), daemon=True).start()
    for line in sys.stdin or ():
        if line == "interrupt\n" and child.returncode is None:
            with contextlib.suppress(OSError):
                os.killpg(child.pid, signal.SIGINT)
    end(child, folder, scratch)


if __name__ == "__main__":
    main()
