"""Guard a child: stop it and all its descendants when its owner is gone or the child ends.

Run by a Python without site packages: `guard.py FOLDER SCRATCH COMMAND…`. The owner holds standard
input; when that ends (the owner closed it or died), the child is stopped. With `-` as FOLDER the
command shares the guard's output, and its exit code becomes the guard's. With a folder, the command
writes to `child.log` in it; its exit status (negative for a signal) is written to standard output,
which is then closed; lines "interrupt" from the owner become SIGINT; and the folder is removed at
the end. SCRATCH is `-` or a folder of the owner, removed when the owner is gone.
"""

import contextlib
import itertools
import os
import signal
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Iterator

# Only one thread may end everything: another that saw the child killed would exit this process
# halfway. The same thread may come twice, by a signal.
ending = threading.RLock()
PR_SET_PDEATHSIG = 1
PR_SET_CHILD_SUBREAPER = 36  # linux/prctl.h
_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


def open_standard_descriptors() -> None:
    """Open descriptors 0 to 2 on /dev/null if they are closed: otherwise the next file that is
    opened would become standard output."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)  # noqa: FBT003


def adopt_orphans() -> None:
    """On Linux, become the parent of processes that the child leaves behind."""
    _prctl(PR_SET_CHILD_SUBREAPER, 1)


def end_with_parent() -> None:
    """On Linux, have the kernel kill this process when its parent is gone, however it ended."""
    _prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def _prctl(option: int, value: int) -> None:
    import ctypes  # not for every run of the program, which loads this module

    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(option, value, 0, 0, 0)


def children() -> list[int]:
    """Return the child processes of this one; none without /proc."""
    pids: list[int] = []
    try:
        names = os.listdir("/proc")
    except OSError:
        return pids
    for name in names:
        if name.isdigit():
            with contextlib.suppress(OSError), open(f"/proc/{name}/stat") as file:
                # pid (name) state parent …; only the name may hold spaces and brackets
                if int(file.read().rpartition(")")[2].split()[1]) == os.getpid():
                    pids.append(int(name))
    return pids


def remove_folder(path: str, parent: "int | None" = None) -> None:
    """Remove a folder and everything in it as far as possible, at any depth. Make folders writable,
    and do not follow links. The path may be relative to an open folder, `parent`."""
    _unlock(path, parent)
    try:
        top = os.open(path, _FOLDER, dir_fd=parent)
    except OSError:
        return
    # Folders inside are moved up to this folder, so that their depth and paths do not matter.
    new_names = (f".{os.urandom(8).hex()}-{number}" for number in itertools.count())
    try:
        names = os.listdir(top)
        while names:
            names += _remove_entry(names.pop(), top, new_names)
    finally:
        os.close(top)
    with contextlib.suppress(OSError):
        os.rmdir(path, dir_fd=parent)


def _remove_entry(name: str, top: int, new_names: "Iterator[str]") -> "list[str]":
    """Remove an entry of a folder, and move the folders in it up; return their new names."""
    moved = []
    try:
        os.unlink(name, dir_fd=top)
    except OSError:
        _unlock(name, top)
        with contextlib.suppress(OSError):
            folder = os.open(name, _FOLDER, dir_fd=top)
            try:
                for entry in os.listdir(folder):
                    try:
                        os.unlink(entry, dir_fd=folder)
                    except OSError:
                        _unlock(entry, folder)
                        new_name = next(new_names)
                        with contextlib.suppress(OSError):
                            os.rename(entry, new_name, src_dir_fd=folder, dst_dir_fd=top)
                            moved.append(new_name)
            finally:
                os.close(folder)
            os.rmdir(name, dir_fd=top)
    return moved


def _unlock(name: str, folder: "int | None" = None) -> None:
    """Make a folder writable, but not what a link leads to."""
    with contextlib.suppress(OSError):
        status = os.stat(name, dir_fd=folder, follow_symlinks=False)
        if stat.S_ISDIR(status.st_mode) and status.st_mode & 0o700 != 0o700:
            os.chmod(name, 0o700, dir_fd=folder)


def end(child: "subprocess.Popen[bytes] | None", *folders: str, code: int = 0) -> None:
    """Kill the child's group, then every adopted descendant, then remove the folders."""
    ending.acquire()
    # The ID of a child that was waited for may be another process's by now; on Linux its orphans
    # are adopted anyway.
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
            remove_folder(folder)
    os._exit(code)


def watch(child: "subprocess.Popen[bytes]", folder: str, scratch: str) -> None:
    """Wait for the child to end, and report it."""
    code = child.wait()
    if folder == "-":
        end(child, scratch, code=code if code >= 0 else 128 - code)
    with contextlib.suppress(OSError):
        os.write(1, b"%d\n" % code)
        os.close(1)
    # Namespaces of a process that the child has left behind end when it is reaped.
    with contextlib.suppress(ChildProcessError):
        while True:
            os.waitpid(-1, 0)


def main() -> None:
    """Start the child, and wait until it or the owner ends."""
    open_standard_descriptors()
    folder, scratch, *command = sys.argv[1:]
    child = None
    # Before the child is started, so that this process never exits without stopping it.
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
        close_fds=False,  # the owner passes descriptors to the child by number
        # A kernel that knows its parent stops when that is gone, however it ended.
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
