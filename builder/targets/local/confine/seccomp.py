"""The seccomp program of a sandbox: the system calls that its code may not make.

The file system, processes and capabilities of a sandbox have other walls. This program refuses the
remaining dangers: calls that reach far into the kernel and that data processing does not need,
namespaces, sockets that bypass a network namespace, and memory that no limit counts. It allows
every call that is not listed, up to the newest call at the time of writing.
"""

from __future__ import annotations

import errno
import platform
import socket
import struct
from collections.abc import Iterable, Mapping

from builder.errors import SandboxError

Numbers = tuple[int, int | None]  # of a call on x86_64, and on aarch64 if it has the call

DENIED: Mapping[str, Numbers] = {
    # Mounts.
    "mount": (165, 40),
    "umount2": (166, 39),
    "pivot_root": (155, 41),
    "chroot": (161, 51),
    "open_tree": (428, 428),
    "move_mount": (429, 429),
    "fsopen": (430, 430),
    "fsconfig": (431, 431),
    "fsmount": (432, 432),
    "fspick": (433, 433),
    "mount_setattr": (442, 442),
    "open_tree_attr": (467, 467),
    # Namespaces; `clone` is below.
    "unshare": (272, 97),
    "setns": (308, 268),
    # Other processes, and files without a path.
    "ptrace": (101, 117),
    "process_vm_readv": (310, 270),
    "process_vm_writev": (311, 271),
    "kcmp": (312, 272),
    "pidfd_getfd": (438, 438),
    "name_to_handle_at": (303, 264),
    "open_by_handle_at": (304, 265),
    "fanotify_init": (300, 262),
    "fanotify_mark": (301, 263),
    # Parts of the kernel that most known escapes have used.
    "bpf": (321, 280),
    "perf_event_open": (298, 241),
    "userfaultfd": (323, 282),
    "io_uring_setup": (425, 425),
    "io_uring_enter": (426, 426),
    "io_uring_register": (427, 427),
    "add_key": (248, 217),
    "request_key": (249, 218),
    "keyctl": (250, 219),
    "vmsplice": (278, 75),
    "personality": (135, 92),
    "modify_ldt": (154, None),
    # The processors of a sandbox are its limit.
    "sched_setaffinity": (203, 122),
    "lookup_dcookie": (212, 18),
    # The machine.
    "init_module": (175, 105),
    "finit_module": (313, 273),
    "delete_module": (176, 106),
    "kexec_load": (246, 104),
    "kexec_file_load": (320, 294),
    "reboot": (169, 142),
    "syslog": (103, 116),
    "acct": (163, 89),
    "swapon": (167, 224),
    "swapoff": (168, 225),
    "quotactl": (179, 60),
    "quotactl_fd": (443, 443),
    "sethostname": (170, 161),
    "setdomainname": (171, 162),
    "settimeofday": (164, 170),
    "clock_settime": (227, 112),
    "clock_adjtime": (305, 266),
    "adjtimex": (159, 171),
    "iopl": (172, None),
    "ioperm": (173, None),
    "vhangup": (153, 58),
    "uselib": (134, None),
    "ustat": (136, None),
    "sysfs": (139, None),
    "nfsservctl": (180, 42),
    # Memory in the kernel that belongs to no process.
    "msgget": (68, 186),
}
# Programs do without these calls if the kernel lacks them. A seccomp program can read the flags of
# `clone`, but not those of `clone3`, which are in memory. Unmapped memory of the other two is
# counted nowhere; /dev/shm has a limit.
MISSING: Mapping[str, Numbers] = {
    "clone3": (435, 435),
    "memfd_create": (319, 279),
    "memfd_secret": (447, 447),
}
# Calls whose arguments the program checks.
EXAMINED = {
    "clone": (56, 220),
    "ioctl": (16, 29),
    "socket": (41, 198),
    "socketpair": (53, 199),
    "shmget": (29, 194),
    "semget": (64, 190),
    "fcntl": (72, 25),
    "setsockopt": (54, 208),
    "close_range": (436, 436),
}
_LAST = 469  # file_setattr, of Linux 6.17; the numbers of later calls are the same everywhere
_MACHINES = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}  # linux/audit.h
_X32 = 0x40000000  # the bit of x86_64's other, disused, table of calls

_NAMESPACES = 0x7E020000  # mount, cgroup, UTS, IPC, user, PID and network: linux/sched.h
# Put characters into a terminal's input, paste into it, load its line discipline: asm/ioctls.h.
_TERMINALS = (0x5412, 0x541C, 0x5423)
# Databases lock with segments of a few bytes. Segments without a process are counted nowhere.
_SEGMENT_BYTES = 1 << 16
_SEMAPHORES = 64
# A thread whose files are its own, as if it were a process, has them where nobody looks.
_THREAD, _FILES, _OWN_FILES = 0x10000, 0x400, 2  # linux/sched.h, linux/close_range.h
_PIPE_SIZE = 1031  # F_SETPIPE_SZ: linux/fcntl.h
_SOCKET_LEVEL, _BUFFERS = 1, (7, 8)  # SO_SNDBUF, SO_RCVBUF: asm/socket.h
_ROUTE = 0  # what libraries ask for the addresses of this machine: linux/netlink.h

# linux/seccomp.h, and the offsets in its `seccomp_data`, whose arguments have 64 bits.
_KILL, _ERROR, _ALLOW = 0x80000000, 0x50000, 0x7FFF0000
_NUMBER, _ARCHITECTURE, _ARGUMENTS = 0, 4, 16
_UPPER = 4  # half of an argument, on machines that are little-endian
# linux/bpf_common.h
_LOAD, _AND, _RETURN = 0x20, 0x54, 0x06
_EQUAL, _GREATER, _AT_LEAST, _ANY_BIT = 0x15, 0x25, 0x35, 0x45

Instruction = tuple[int, int, int, int]
Instructions = list[Instruction]


def program(machine: str | None = None) -> bytes:
    """Return the program for a machine, this one by default, as an array of `struct sock_filter`.
    Raises `SandboxError` for a machine whose system calls are not listed."""
    machine = machine or platform.machine()
    if machine not in _MACHINES:
        raise SandboxError(
            f"sandboxes cannot be confined on {machine}: its system calls are not listed,"
            f" expected {' or '.join(_MACHINES)}"
        )
    return b"".join(struct.pack("=HBBI", *each) for each in _instructions(machine))


def _instructions(machine: str) -> Instructions:
    column = list(_MACHINES).index(machine)
    denied, missing = _refused(errno.EPERM), _refused(errno.ENOSYS)
    parts = [
        [_load(_ARCHITECTURE)],
        _unless(_EQUAL, _MACHINES[machine], [_return(_KILL)]),
        [_load(_NUMBER)],
        _if(_AT_LEAST, _X32, denied),
        _if(_GREATER, _LAST, missing),
        *(_if(_EQUAL, number, denied) for number in _numbers(DENIED, column)),
        *(_if(_EQUAL, number, missing) for number in _numbers(MISSING, column)),
        *(
            _if(_EQUAL, EXAMINED[name][column], instructions)
            for name, instructions in (
                ("clone", _clone()),
                ("ioctl", _ioctl()),
                ("socket", _socket()),
                ("socketpair", _socketpair()),
                ("shmget", _shmget()),
                ("semget", _refuse(1, _GREATER, _SEMAPHORES, errno.ENOSPC)),
                # Larger pipes, which the kernel refuses to users with many.
                ("fcntl", _refuse(1, _EQUAL, _PIPE_SIZE, errno.EPERM)),
                ("setsockopt", _setsockopt()),
                ("close_range", _refuse(2, _ANY_BIT, _OWN_FILES, errno.EINVAL)),
            )
        ),
        [_return(_ALLOW)],
    ]
    return _joined(parts)


def _clone() -> Instructions:
    return [
        _load_argument(0),
        *_if(_ANY_BIT, _NAMESPACES, _refused(errno.EPERM)),
        *_unless(_ANY_BIT, _THREAD, [_return(_ALLOW)]),
        *_unless(_ANY_BIT, _FILES, _refused(errno.EPERM)),
        _return(_ALLOW),
    ]


def _refuse(argument: int, test: int, value: int, error: int) -> Instructions:
    """Refuse calls in which an argument passes a test, and allow the others."""
    return [_load_argument(argument), *_if(test, value, _refused(error)), _return(_ALLOW)]


def _setsockopt() -> Instructions:
    """Ignore the sizes of buffers, which the kernel takes as wishes, too."""
    ignored = _joined(_if(_EQUAL, option, [_return(_ERROR)]) for option in _BUFFERS)
    return [
        _load_argument(1),
        *_if(_EQUAL, _SOCKET_LEVEL, [_load_argument(2), *ignored, _return(_ALLOW)]),
        _return(_ALLOW),
    ]


def _ioctl() -> Instructions:
    requests = (_if(_EQUAL, request, _refused(errno.EPERM)) for request in _TERMINALS)
    return [_load_argument(1), *_joined(requests), _return(_ALLOW)]


def _socket() -> Instructions:
    """Allow TCP, UDP and local sockets: vsock reaches the hypervisor from every namespace, and most
    other families and protocols are drivers that the first socket loads."""
    internet = [
        _load_argument(1),
        (_AND, 0, 0, 0xF),  # without SOCK_NONBLOCK and SOCK_CLOEXEC
        *_if(_EQUAL, socket.SOCK_STREAM, _protocols(0, socket.IPPROTO_TCP)),
        *_if(_EQUAL, socket.SOCK_DGRAM, _protocols(0, socket.IPPROTO_UDP)),
        *_refused(errno.ESOCKTNOSUPPORT),
    ]
    # By number: not every system has the names, and this compiles for others.
    unix, inet, inet6, netlink = 1, 2, 10, 16
    return [
        _load_argument(0),
        *_if(_EQUAL, unix, [_return(_ALLOW)]),
        *_if(_EQUAL, inet, internet),
        *_if(_EQUAL, inet6, internet),
        *_if(_EQUAL, netlink, _protocols(_ROUTE)),
        *_refused(errno.EAFNOSUPPORT),
    ]


def _socketpair() -> Instructions:
    unix = 1
    return [
        _load_argument(0),
        *_if(_EQUAL, unix, [_return(_ALLOW)]),
        *_refused(errno.EAFNOSUPPORT),
    ]


def _shmget() -> Instructions:
    too_large = _refused(errno.ENOMEM)
    return [
        _load_argument(1, half=_UPPER),
        *_unless(_EQUAL, 0, too_large),
        _load_argument(1),
        *_if(_GREATER, _SEGMENT_BYTES, too_large),
        _return(_ALLOW),
    ]


def _protocols(*allowed: int) -> Instructions:
    each = (_if(_EQUAL, protocol, [_return(_ALLOW)]) for protocol in allowed)
    return [_load_argument(2), *_joined(each), *_refused(errno.EPROTONOSUPPORT)]


def _numbers(calls: Mapping[str, Numbers], column: int) -> list[int]:
    return [number for each in calls.values() if (number := each[column]) is not None]


def _joined(parts: Iterable[Instructions]) -> Instructions:
    return [instruction for part in parts for instruction in part]


def _load(offset: int) -> Instruction:
    return (_LOAD, 0, 0, offset)


def _load_argument(index: int, half: int = 0) -> Instruction:
    """Load 32 bits: the kernel ignores the rest of an `int`."""
    return _load(_ARGUMENTS + 8 * index + half)


def _return(action: int) -> Instruction:
    return (_RETURN, 0, 0, action)


def _refused(error: int) -> Instructions:
    return [_return(_ERROR | error)]


def _if(comparison: int, value: int, instructions: Instructions) -> Instructions:
    """Run the instructions, which end the program, if the loaded value compares so."""
    return [(comparison, 0, len(instructions), value), *instructions]


def _unless(comparison: int, value: int, instructions: Instructions) -> Instructions:
    return [(comparison, len(instructions), 0, value), *instructions]
