"""Attempts to leave a sandbox, and the code that they share."""

from __future__ import annotations

import textwrap
from dataclasses import dataclass
from typing import Literal

# Printed by an attempt that has succeeded, and only then.
MARK = "escaped 7c1f"

Wall = Literal[
    "empty root",  # what is not mounted does not exist
    "read-only",  # what is mounted cannot be changed
    "process IDs",  # a namespace of its own
    "network",  # a namespace of its own
    "IPC",  # a namespace of its own
    "host name",  # a namespace of its own
    "capabilities",  # there are none
    "no new privileges",
    "seccomp",
    "descriptors",  # none is inherited
    "limits",
]


@dataclass(frozen=True, kw_only=True, slots=True)
class Attempt:
    """A program that prints `MARK` if it has reached `goal`, which `wall` must prevent. Without
    isolation, it must succeed; with `root`, only as root, and only if the machine has the features
    in `needs`."""

    goal: str
    wall: Wall
    code: str
    root: bool = False
    needs: str | None = None

    def program(self) -> str:
        """Return its code without indentation."""
        return textwrap.dedent(self.code)


def attempts(
    wall: Wall, *, root: bool = False, needs: str | None = None, **codes: str
) -> tuple[Attempt, ...]:
    """Return the attempts at one wall. Their names are the goals, with `_` for spaces."""
    return tuple(
        Attempt(goal=goal.replace("_", " "), wall=wall, code=code, root=root, needs=needs)
        for goal, code in codes.items()
    )


# Run in each sandbox first, with `facts` about what is outside of it.
PRELUDE = f"""
import contextlib, ctypes, errno, fcntl, glob, mmap, os, pathlib, resource, shutil, signal, socket
import stat, struct, subprocess, sys, tempfile, threading, time

# Which keeps the lock of the interpreter: a process that a system call makes has no other thread.
_libc = ctypes.PyDLL(None, use_errno=True)
_libc.syscall.restype = ctypes.c_long


def escaped(proof=True):
    if proof:
        print({MARK!r})


def call(name, *arguments):
    # Make a system call by its number; an error is an exception.
    numbers = [ctypes.c_long(each) if isinstance(each, int) else each for each in arguments]
    answer = _libc.syscall(ctypes.c_long(facts["calls"][name]), *numbers)
    if answer == -1:
        raise OSError(ctypes.get_errno(), name + ": " + os.strerror(ctypes.get_errno()))
    return answer


def in_child(function):
    # Return whether a process of its own can do it.
    process = os.fork()
    if process == 0:
        try:
            function()
        except BaseException:
            os._exit(1)
        os._exit(0)
    return os.waitpid(process, 0)[1] == 0


def in_clone(name, *arguments):
    # The same for a process made by `clone`. Unlike `os.fork`, this does not reset the interpreter's
    # lock: if another thread had asked for it, the process would wait for that thread, which it lacks.
    sys.setswitchinterval(1000)
    time.sleep(0.05)
    try:
        process = call(name, *arguments)
        if process == 0:
            os._exit(0)
    finally:
        sys.setswitchinterval(0.005)
    return os.waitpid(process, 0)[1] == 0


def read(path):
    with open(path, "rb") as file:
        return file.read()


def has_token(data):
    return facts["token"].encode() in data


def processes():
    return [int(name) for name in os.listdir("/proc") if name.isdigit()]


def command_line(process):
    with contextlib.suppress(OSError):
        return read("/proc/%d/cmdline" % process)
    return b""


def is_there(token):
    # Return the process with this in its command line.
    for process in processes():
        if token.encode() in command_line(process) and process != os.getpid():
            return process
    raise ProcessLookupError(errno.ESRCH, "no such process")


def environment():
    import idna
    return os.path.dirname(os.path.dirname(os.path.realpath(idna.__file__)))
"""
