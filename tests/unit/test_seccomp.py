from __future__ import annotations

import errno
import json
import platform
import re
import socket
import struct
import subprocess
import sys
import textwrap
from collections.abc import Mapping
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from builder.errors import SandboxError
from builder.targets.local.confine.seccomp import DENIED, EXAMINED, MISSING, Numbers, program

ARCHITECTURES = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
I386 = 0x40000003
HEADERS = {
    "x86_64": ("/usr/include/x86_64-linux-gnu/asm/unistd_64.h", "/usr/include/asm/unistd_64.h"),
    "aarch64": ("/usr/include/asm-generic/unistd.h",),
}
# Of calls that have other names in the table of the architectures without a history.
OTHER_NAMES = {"umount2": ("umount2", "umount")}
X32 = 0x40000000
KILL, IGNORE, ALLOW = "kill", "ignore", 0
LISTED = {**DENIED, **MISSING, **EXAMINED}
MACHINES = pytest.mark.parametrize("machine", ARCHITECTURES)
RUNS_HERE = pytest.mark.skipif(
    (sys.platform, platform.machine()) != ("linux", "x86_64"), reason="runs on Linux x86-64 only"
)


def outcome(code: bytes, number: int, *arguments: int, architecture: int) -> int | str:
    """Interpret a program for a call; return 0, the error number, "ignore" or "kill"."""
    padded = [*arguments, *[0] * (6 - len(arguments))]
    data = struct.pack("<IIQ6Q", number, architecture, 0, *(each & 2**64 - 1 for each in padded))
    instructions = list(struct.iter_unpack("<HBBI", code))
    position = accumulator = 0
    while True:
        operation, if_true, if_false, value = instructions[position]
        position += 1
        if operation == 0x20:  # load a word
            (accumulator,) = struct.unpack_from("<I", data, value)
        elif operation == 0x54:
            accumulator &= value
        elif operation == 0x06:
            assert value >> 16 in (0x8000, 0x0005, 0x7FFF)
            if value >> 16 == 0x8000:
                return KILL
            return IGNORE if value == 0x50000 else value & 0xFFFF
        else:
            holds = {
                0x15: accumulator == value,
                0x25: accumulator > value,
                0x35: accumulator >= value,
                0x45: accumulator & value != 0,
            }[operation]
            position += if_true if holds else if_false


class Machine:
    """The interpreted program of a machine."""

    def __init__(self, name: str) -> None:
        self.column = list(ARCHITECTURES).index(name)
        self.architecture, self.code = ARCHITECTURES[name], program(name)

    def number(self, name: str) -> int:
        return EXAMINED[name][self.column]

    def numbers(self, calls: Mapping[str, Numbers]) -> set[int]:
        return {number for each in calls.values() if (number := each[self.column]) is not None}

    def __call__(self, call: int | str, *arguments: int, architecture: int = 0) -> int | str:
        number = self.number(call) if isinstance(call, str) else call
        chosen = architecture or self.architecture
        return outcome(self.code, number, *arguments, architecture=chosen)


def numbers_of_headers(machine: str) -> Mapping[str, int]:
    for name in HEADERS[machine]:
        if Path(name).exists():
            pattern = re.compile(r"^#define __NR(?:3264)?_(\w+)\s+(\d+)$", re.MULTILINE)
            return {name: int(number) for name, number in pattern.findall(Path(name).read_text())}
    pytest.skip(f"no kernel headers of {machine}")


@MACHINES
def test_numbers_are_those_of_the_kernel(machine: str) -> None:
    """Each call has its number from the kernel's headers for that machine, or none if the machine
    lacks the call."""
    numbers = numbers_of_headers(machine)
    column = list(ARCHITECTURES).index(machine)
    newest = max(numbers.values())
    wrong = {}
    for name, of_machines in LISTED.items():
        listed = of_machines[column]
        of_header = next(
            (numbers[each] for each in OTHER_NAMES.get(name, (name,)) if each in numbers), None
        )
        if listed != of_header and not (listed and listed > newest):
            wrong[name] = (listed, of_header)
    assert wrong == {}


@MACHINES
def test_listed_calls_are_refused(machine: str) -> None:
    """Whatever its arguments are, a denied call fails with EPERM, and a call that programs can do
    without fails with ENOSYS."""
    run = Machine(machine)
    assert {run(number) for number in run.numbers(DENIED)} == {errno.EPERM}
    assert {run(number, 2**64 - 1) for number in run.numbers(MISSING)} == {errno.ENOSYS}


@MACHINES
@given(st.integers(0, 469))
def test_other_calls_are_allowed(machine: str, number: int) -> None:
    """A call in no table is allowed."""
    run = Machine(machine)
    assert number in run.numbers(LISTED) or run(number) == ALLOW


@MACHINES
@given(st.integers(470, X32 - 1))
def test_calls_of_later_kernels_are_missing(machine: str, number: int) -> None:
    """A call that is newer than the tables fails with ENOSYS in a sandbox."""
    assert Machine(machine)(number) == errno.ENOSYS


@MACHINES
@given(st.integers(X32, 2**32 - 1))
def test_second_table_of_calls_is_refused(machine: str, number: int) -> None:
    """A call through the x32 interface is refused."""
    assert Machine(machine)(number) == errno.EPERM


@MACHINES
@given(st.integers(0, 2**32 - 1))
def test_other_architectures_are_killed(machine: str, number: int) -> None:
    """A call through the interface of another architecture ends the process."""
    run = Machine(machine)
    assert run(number, architecture=I386) == KILL
    other = next(each for each in ARCHITECTURES.values() if each != run.architecture)
    assert run(number, architecture=other) == KILL


@MACHINES
def test_processes_start_and_namespaces_do_not(machine: str) -> None:
    """`clone` starts threads and processes, but refuses every flag that creates a namespace, and
    threads with files of their own."""
    run = Machine(machine)
    thread, fork, vfork = 0x3D0F00, 0x1200011, 0x4111
    assert [run("clone", flags) for flags in (thread, fork, vfork)] == [ALLOW] * 3
    own_files = thread & ~0x400
    assert run("clone", own_files) == errno.EPERM
    namespaces = (0x20000, 0x2000000, 0x4000000, 0x8000000, 0x10000000, 0x20000000, 0x40000000)
    assert {run("clone", each | fork) for each in namespaces} == {errno.EPERM}


@MACHINES
def test_terminals_take_no_input_from_programs(machine: str) -> None:
    """Requests that type into a terminal are refused, even with bits that the kernel ignores; its
    size can be read."""
    run = Machine(machine)
    size, type_into, paste, discipline = 0x5413, 0x5412, 0x541C, 0x5423
    assert run("ioctl", 0, size) == ALLOW
    refused = [run("ioctl", 0, each) for each in (type_into, paste, discipline)]
    assert [*refused, run("ioctl", 0, 1 << 32 | type_into)] == [errno.EPERM] * 4


@MACHINES
@given(
    st.integers(0, 60),
    st.integers(0, 12),
    st.integers(0, 300),
    st.sampled_from([0, 0o4000, 0o2000000]),
)
def test_sockets_are_tcp_udp_local_or_ask_for_addresses(
    machine: str, family: int, kind: int, protocol: int, flags: int
) -> None:
    """Only sockets for TCP, UDP, local connections and the addresses of the machine can be
    opened."""
    unix, inet, inet6, netlink = 1, 2, 10, 16
    expected: int | str = errno.EAFNOSUPPORT
    if family == unix:
        expected = ALLOW
    elif family == netlink:
        expected = errno.EPROTONOSUPPORT if protocol else ALLOW
    elif family in (inet, inet6):
        allowed = {1: (0, socket.IPPROTO_TCP), 2: (0, socket.IPPROTO_UDP)}
        expected = errno.ESOCKTNOSUPPORT
        if kind in allowed:
            expected = ALLOW if protocol in allowed[kind] else errno.EPROTONOSUPPORT
    run = Machine(machine)
    assert run("socket", family, kind | flags, protocol) == expected
    pairs = ALLOW if family == unix else errno.EAFNOSUPPORT
    assert run("socketpair", family, kind | flags, protocol) == pairs


@MACHINES
def test_segments_of_shared_memory_are_small(machine: str) -> None:
    """A System V segment, which no limit counts, has at most 64 KiB."""
    run = Machine(machine)
    assert [run("shmget", 0, size) for size in (0, 56, 1 << 16)] == [ALLOW] * 3
    assert [run("shmget", 0, size) for size in ((1 << 16) + 1, 1 << 32, 1 << 63)] == [
        errno.ENOMEM
    ] * 3


@MACHINES
def test_memory_of_the_kernel_stays_small(machine: str) -> None:
    """Pipes cannot be enlarged, sizes of buffers have no effect, sets of semaphores are small, and
    a thread cannot get files of its own."""
    run = Machine(machine)
    get_flags, pipe_size, send, receive, reuse = 3, 1031, 7, 8, 2
    assert [run("fcntl", 3, each) for each in (get_flags, pipe_size)] == [ALLOW, errno.EPERM]
    assert [run("setsockopt", 3, 1, each) for each in (send, receive, reuse)] == [
        IGNORE,
        IGNORE,
        ALLOW,
    ]
    assert [run("setsockopt", 3, level, send) for level in (0, 6, 41)] == [ALLOW] * 3
    assert [run("semget", 0, each) for each in (1, 64, 65)] == [ALLOW, ALLOW, errno.ENOSPC]
    assert [run("close_range", 3, 9, each) for each in (0, 4, 2)] == [ALLOW, ALLOW, errno.EINVAL]


def test_machine_without_a_table_is_an_error() -> None:
    """A machine whose calls are not listed is refused, and never runs without a program."""
    with pytest.raises(SandboxError) as caught:
        program("riscv64")
    assert str(caught.value) == (
        "sandboxes cannot be confined on riscv64: its system calls are not listed,"
        " expected x86_64 or aarch64"
    )


# Ends with the program loaded.
CONFINED = textwrap.dedent("""
    import ctypes, json, mmap, os, resource, struct, sys

    code, calls = sys.stdin.readline(), json.loads(sys.stdin.readline())
    code = bytes.fromhex(code)
    libc = ctypes.CDLL(None, use_errno=True)
    libc.syscall.restype = ctypes.c_long
    if os.getuid() == 0:  # whom some of these calls would obey
        os.setgroups([])
        os.setgid(65534)
        os.setuid(65534)
    os.setsid()
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    place = ctypes.create_string_buffer(code, len(code))
    program = struct.pack("HxxxxxxP", len(code) // 8, ctypes.addressof(place))
    if code:
        assert libc.prctl(38, 1, 0, 0, 0) == 0  # no new privileges
        assert libc.prctl(22, 2, program, 0, 0) == 0
""")
CALLER = textwrap.dedent("""
    for number, *arguments in calls:
        process = os.fork()
        if process == 0:
            ctypes.set_errno(0)
            answer = libc.syscall(*(ctypes.c_long(each) for each in (number, *arguments)))
            os._exit(ctypes.get_errno() if answer == -1 else 0)
        print(os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]))
""")


def called(code: bytes, *calls: tuple[int, ...]) -> list[int]:
    """Make the calls with the program loaded, and return their error numbers, negative for a
    signal."""
    ended = subprocess.run(
        [sys.executable, "-c", CONFINED + CALLER],
        input=f"{code.hex()}\n{json.dumps(calls)}\n",
        capture_output=True,
        text=True,
        check=True,
    )
    return [int(line) for line in ended.stdout.split()]


@RUNS_HERE
def test_kernel_refuses_each_call() -> None:
    """The running kernel answers each listed call as the interpreter does."""
    refused = {**DENIED, **MISSING}
    calls = [(number, *[0] * 6) for number, _ in refused.values()]
    answers = dict(zip(refused, called(program("x86_64"), *calls), strict=True))
    assert answers == dict.fromkeys(DENIED, errno.EPERM) | dict.fromkeys(MISSING, errno.ENOSYS)


@RUNS_HERE
def test_kernel_answers_other_calls_as_before() -> None:
    """With the program, sockets, processes, terminals and segments behave on the running kernel as
    in the interpreter. Without it, the kernel allows the refused calls."""
    fork, socket_, ioctl, shmget, getpid = 56, 41, 16, 29, 39
    sigchld, user_namespace = 17, 0x10000000
    cases: dict[tuple[int, ...], int] = {
        (getpid,): 0,
        (fork, sigchld, 0, 0, 0, 0): 0,
        (fork, sigchld | user_namespace, 0, 0, 0, 0): errno.EPERM,
        (ioctl, 0, 0x5412, 0): errno.EPERM,
        (ioctl, 0, 0x541C, 0): errno.EPERM,
        (socket_, 1, 1, 0): 0,
        (socket_, 2, 1, 0): 0,
        (socket_, 10, 2, 0): 0,
        (socket_, 16, 3, 0): 0,
        (socket_, 16, 3, 12): errno.EPROTONOSUPPORT,  # netfilter
        (socket_, 2, 3, 1): errno.ESOCKTNOSUPPORT,  # raw
        (socket_, 2, 1, 132): errno.EPROTONOSUPPORT,  # SCTP
        **{(socket_, family, 1, 0): errno.EAFNOSUPPORT for family in (17, 31, 38, 40, 44)},
        (shmget, 0, 4096, 0o600): 0,
        (shmget, 0, 1 << 20, 0o600): errno.ENOMEM,
        (X32 | getpid,): errno.EPERM,
        (470,): errno.ENOSYS,
        (-1,): errno.EPERM,
    }
    assert dict(zip(cases, called(program("x86_64"), *cases), strict=True)) == cases
    netfilter, large = (socket_, 16, 3, 12), (shmget, 0, 1 << 20, 0o600)
    assert called(b"", netfilter, large) == [0, 0]


@RUNS_HERE
def test_kernel_kills_calls_of_another_architecture() -> None:
    """A system call through the 32-bit interface ends the process."""
    sigsys = 31
    code = textwrap.dedent("""
        page = mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
        page.write(bytes.fromhex("b814000000cd80c3"))  # mov eax, getpid; int 0x80; ret
        ctypes.CFUNCTYPE(ctypes.c_int)(ctypes.addressof(ctypes.c_char.from_buffer(page)))()
    """)
    ended = subprocess.run(
        [sys.executable, "-c", CONFINED + code],
        input=f"{program('x86_64').hex()}\n[]\n",
        text=True,
        check=False,
    )
    assert ended.returncode == -sigsys
