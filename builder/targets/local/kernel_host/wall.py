"""The walls around one sandbox: the namespaces of a bubblewrap, which this process joins.

Also a program, without site packages: `wall.py USER COMMAND…` tests whether this works here.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import resource
import signal
import struct
import sys
from typing import Any

_LIBC: Any = ctypes.CDLL(None, use_errno=True)
# linux/sched.h: user, mount, process ID, network, IPC, UTS and cgroup namespaces
_NAMESPACES = 0x7E020000
_SYS_CLOSE_RANGE = 436  # on every architecture
_CLOSE_RANGE_CLOEXEC = 4
_LAST_DESCRIPTOR = 0xFFFFFFFF
# linux/prctl.h
_PR_SET_DUMPABLE, _PR_SET_SECCOMP, _PR_CAPBSET_DROP, _PR_SET_NO_NEW_PRIVS = 4, 22, 24, 38
_PR_SET_PDEATHSIG = 1
_SECCOMP_MODE_FILTER = 2
_CAPABILITY_VERSION = 0x20080522
_CAPABILITIES = 64
# CAP_DAC_READ_SEARCH and CAP_SYS_PTRACE: with these, a keeper sees all that its sandbox uses, even
# if the code hides it.
_TO_LOOK = 1 << 2 | 1 << 19
_INFO, _PROGRAM = 3, 4  # descriptors of bubblewrap


class Wall:
    """The namespaces of one bubblewrap. Every process in them ends when this process ends or closes
    the wall."""

    def __init__(self, command: list[str], program: bytes) -> None:
        """Start bubblewrap and wait until everything is mounted. `program` is the seccomp program.
        Raises `OSError` with bubblewrap's message if that fails."""
        pipes = [os.pipe() for _ in range(5)]
        (self._input, (output, stdout), (errors, stderr), (info, report), (filters, rules)) = pipes
        descriptors = (self._input[0], stdout, stderr, report, filters)
        self.process = os.posix_spawn(
            command[0],
            [
                *command,
                *("--info-fd", str(_INFO), "--seccomp", str(_PROGRAM), "--", "/usr/bin/cat"),
            ],
            {},
            file_actions=_in_order(descriptors),
            setsigmask=[],
            setsigdef=[signal.SIGCHLD, signal.SIGINT],
        )
        for descriptor in descriptors:
            os.close(descriptor)
        os.write(rules, program)
        os.close(rules)
        os.write(self._input[1], b"\n")
        mounted = os.read(output, 1)  # `cat` echoes once everything is mounted
        if not mounted:
            words = os.read(errors, 1 << 14).decode(errors="replace").strip()
            raise OSError(f"bubblewrap did not start: {words}")
        # One read: it is written before `cat` starts.
        self.pid: int = json.loads(os.read(info, 1 << 14))["child-pid"]
        for descriptor in (output, errors, info):
            os.close(descriptor)

    def enter(self) -> None:
        """Join all namespaces. Only children of this process get process IDs of the sandbox; they
        must give up the remaining capabilities."""
        descriptor = os.pidfd_open(self.pid)
        _call("setns", descriptor, _NAMESPACES)
        os.close(descriptor)
        give_up_capabilities(_TO_LOOK)

    def close(self) -> None:
        """End every process in it."""
        with contextlib.suppress(OSError):
            os.kill(self.pid, signal.SIGKILL)


def _in_order(descriptors: tuple[int, ...]) -> list[tuple[int, int, int]]:
    """Return the actions that make these descriptors 0, 1, 2 … of a program."""
    # First to higher numbers, since a descriptor may have a number that another is to get.
    away = 64
    actions = [(os.POSIX_SPAWN_DUP2, each, away + n) for n, each in enumerate(descriptors)]
    return actions + [(os.POSIX_SPAWN_DUP2, away + n, n) for n in range(len(descriptors))]


def become(user: int) -> None:
    """Become an ordinary user for good, if this process is root's."""
    if os.getuid() != 0:
        return
    os.setgroups([])
    os.setresgid(user, user, user)
    os.setresuid(user, user, user)
    # A change of user has cleared this.
    _call("prctl", _PR_SET_DUMPABLE, 1, 0, 0, 0)


def give_up_capabilities(kept: int = 0) -> None:
    """Give up every capability except those in `kept`, and gain none later."""
    for capability in range(_CAPABILITIES):
        if _LIBC.prctl(_PR_CAPBSET_DROP, capability, 0, 0, 0) < 0:
            break
    header = struct.pack("=II", _CAPABILITY_VERSION, 0)
    _call("capset", header, struct.pack("=6I", kept, kept, 0, 0, 0, 0))
    _call("prctl", _PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)


def refuse(program: bytes) -> None:
    """Load a seccomp program into this process, for it and its children."""
    _call("prctl", _PR_SET_DUMPABLE, 1, 0, 0, 0)
    place = ctypes.create_string_buffer(program, len(program))
    filters = struct.pack("HxxxxxxP", len(program) // 8, ctypes.addressof(place))
    _call("prctl", _PR_SET_SECCOMP, _SECCOMP_MODE_FILTER, filters, 0, 0)


def limit(limits: dict[str, Any]) -> None:
    """Limit this process and its children: `resources` by their names after `RLIMIT_`, and the
    number of `cpus`, which the `number` of the sandbox chooses."""
    cpus = sorted(os.sched_getaffinity(0))
    count = limits["cpus"]
    if count < len(cpus):
        start = limits["number"] * count % len(cpus)
        os.sched_setaffinity(0, [cpus[(start + n) % len(cpus)] for n in range(count)])
    for name, value in limits["resources"].items():
        number = getattr(resource, f"RLIMIT_{name.upper()}")
        allowed = value + (_data() if name == "data" else 0)
        most = resource.getrlimit(number)[1]
        allowed = allowed if most == resource.RLIM_INFINITY else min(allowed, most)
        resource.setrlimit(number, (allowed, allowed))


def _data() -> int:
    """Return the size of the data that this process has inherited, which counts as its own."""
    with open("/proc/self/statm", encoding="ascii") as file:
        return int(file.read().split()[5]) * resource.getpagesize()


def close_on_exec() -> None:
    """Close every descriptor except the standard ones when a program is executed."""
    _LIBC.syscall(_SYS_CLOSE_RANGE, 3, _LAST_DESCRIPTOR, _CLOSE_RANGE_CLOEXEC)


def close_descriptors() -> None:
    """Close every descriptor except the standard ones."""
    if _LIBC.syscall(_SYS_CLOSE_RANGE, 3, _LAST_DESCRIPTOR, 0) < 0:
        os.closerange(3, resource.getrlimit(resource.RLIMIT_NOFILE)[0])


def _call(name: str, *arguments: Any) -> None:
    if getattr(_LIBC, name)(*arguments) < 0:
        code = ctypes.get_errno()
        raise OSError(code, f"{name}: {os.strerror(code)}")


def _try(user: str, *command: str) -> None:
    _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    become(int(user))
    wall = Wall(list(command), struct.pack("HBBI", 0x06, 0, 0, 0x7FFF0000))  # which allows all
    wall.enter()
    wall.close()


if __name__ == "__main__":
    try:
        _try(*sys.argv[1:])
    except OSError as error:
        sys.exit(str(error))
