"""What a keeper counts of its sandbox's memory and files."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from builder.targets.local.kernel_host import budget, sockets
from builder.targets.local.kernel_host.budget import Budget

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
MUCH = 1 << 50


def breach(folder: Path, **limits: int) -> str:
    most = {"memory": MUCH, "disk": MUCH, "files": MUCH} | limits
    return Budget({**most, "folders": [str(folder)], "memory_folders": []}).breach()


def test_files_are_counted_at_any_depth(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file counts even if its path is longer than a system call accepts."""
    monkeypatch.setattr(budget, "_deleted", lambda _folders: [])  # of all processes here
    descriptor = os.open(tmp_path, os.O_RDONLY)
    for _ in range(60):
        os.mkdir("d" * 100, dir_fd=descriptor)
        child = os.open("d" * 100, os.O_RDONLY, dir_fd=descriptor)
        os.close(descriptor)
        descriptor = child
    file = os.open("large", os.O_WRONLY | os.O_CREAT, dir_fd=descriptor)
    os.write(file, bytes(1 << 20))
    os.close(file)
    os.close(descriptor)
    assert breach(tmp_path, disk=1 << 20) == "disk"
    assert breach(tmp_path, files=60) == "files"
    assert breach(tmp_path, disk=1 << 22, files=61) == ""


def test_deleted_files_count_while_they_are_open(tmp_path: Path) -> None:
    """A deleted file counts as long as a process has it open."""
    with (tmp_path / "large").open("wb") as file:
        file.write(bytes(1 << 23))
        file.flush()
        (tmp_path / "large").unlink()
        before = Budget(
            {"memory": MUCH, "disk": 1 << 22, "files": MUCH, "folders": [str(tmp_path)]}
        )
        assert before.breach() == "disk"


def test_data_in_sockets_counts_until_it_is_read() -> None:
    """Data in local, TCP and UDP sockets counts as memory, also if its sender has closed."""
    with contextlib.ExitStack() as stack:
        local, most = [], 0
        for _ in range(100):
            local.append([stack.enter_context(each) for each in socket.socketpair()])
            local[-1][0].settimeout(0)
            with contextlib.suppress(BlockingIOError):
                while True:
                    most += local[-1][0].send(bytes(1 << 14))
        assert sockets.memory() > most > 10 << 20
        for sender, _ in local:
            sender.close()
        assert sockets.memory() >= most
        listener = stack.enter_context(socket.create_server(("127.0.0.1", 0), backlog=20))
        sent = 0
        for _ in range(20):
            client = stack.enter_context(socket.create_connection(listener.getsockname()))
            client.settimeout(0)
            with contextlib.suppress(BlockingIOError):
                while True:
                    sent += client.send(bytes(1 << 16))
        assert sockets._internet(socket.IPPROTO_TCP) > sent > 1 << 20
        receiver = stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
        receiver.bind(("127.0.0.1", 0))
        receiver.sendto(bytes(60_000), receiver.getsockname())
        assert sockets._internet(socket.IPPROTO_UDP) >= 60_000


def test_a_look_is_given_up_when_there_is_something_to_do() -> None:
    """A keeper that is busy gives up a look, which finds nothing then."""
    limited = Budget({"memory": 1 << 20, "disk": MUCH, "files": MUCH})
    assert limited.breach(lambda: True) == ""
    assert limited.breach() == "memory"


def test_descriptors_and_empty_files_count(monkeypatch: pytest.MonkeyPatch) -> None:
    """Memory that the kernel keeps for descriptors and for names of files in memory counts."""
    code = "import fcntl, sys; fcntl.fcntl(1, fcntl.F_DUPFD, int(sys.argv[1])); print(flush=True); input()"
    kept = []
    for number in (10, 1000):
        command = [sys.executable, "-c", code, str(number)]
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as program:
            assert program.stdout is not None
            program.stdout.readline()
            kept.append(dict(budget._processes())[f"/proc/{program.pid}"].kernel)
            program.communicate(b"\n")
    few, many = kept
    assert few < 500 * 4096 < many
    values = [4096, 4096, 100, 100, 100, 50_000, 20_000, 20_000, 0, 255]
    monkeypatch.setattr(os, "statvfs", lambda _: os.statvfs_result(values))
    assert budget._size_of_file_system("/tmp") == 30_000 << 10


def test_memory_of_all_processes_counts(tmp_path: Path) -> None:
    """The memory of all processes is added up; without limits, nothing is exceeded."""
    assert breach(tmp_path, memory=1 << 20) == "memory"
    assert Budget({}).breach() == ""
    assert Budget({}).pause() is None


def of_program(monkeypatch: pytest.MonkeyPatch, code: str, **limits: int) -> str:
    """Return the limit that a program exceeds, which runs `code` and then writes a line."""
    program = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE)
    with program:
        assert program.stdout is not None
        program.stdout.readline()
        names = os.listdir
        monkeypatch.setattr(
            os, "listdir", lambda path: [str(program.pid)] if path == "/proc" else names(path)
        )
        try:
            return Budget({"memory": MUCH, "disk": MUCH, "files": MUCH} | limits).breach()
        finally:
            program.kill()


def test_memory_counts_when_the_first_thread_has_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    """A process counts although its own folder in /proc shows a zombie without memory."""
    code = """
import ctypes, platform, threading, time

def use():
    memory = b"x" * (64 << 20)
    time.sleep(0.5)
    print(len(memory), flush=True)
    time.sleep(60)

threading.Thread(target=use).start()
ctypes.CDLL(None).syscall(93 if platform.machine() == "aarch64" else 60, 0)
"""
    assert of_program(monkeypatch, code, memory=64 << 20) == "memory"


@pytest.mark.parametrize("ended", [True, False])
def test_memory_of_a_process_that_ends_meanwhile_is_free(
    monkeypatch: pytest.MonkeyPatch, ended: bool
) -> None:
    """A process that ends while its share of memory is looked up has none; one that does not show
    its share counts whole."""
    fields = budget._fields

    def read(folder: str, name: str) -> dict[str, str]:
        if name != "smaps_rollup":
            return fields(folder, name)
        if ended:
            process = int(Path(folder).name)
            os.kill(process, signal.SIGKILL)
            os.waitid(os.P_PID, process, os.WEXITED | os.WNOWAIT)
        return {}

    monkeypatch.setattr(budget, "_fields", read)
    code = "import time; memory = b'x' * (64 << 20); print(flush=True); time.sleep(60)"
    assert of_program(monkeypatch, code, memory=64 << 20) == ("" if ended else "memory")


def test_page_tables_count(monkeypatch: pytest.MonkeyPatch) -> None:
    """Memory that is only read takes page tables, which count."""
    code = """
import mmap, time

flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | 0x4000  # MAP_NORESERVE
memory = mmap.mmap(-1, 64 << 30, flags=flags, prot=mmap.PROT_READ)
memory.madvise(mmap.MADV_NOHUGEPAGE)
for place in range(0, len(memory), 2 << 20):
    memory[place]
print(flush=True)
time.sleep(60)
"""
    assert of_program(monkeypatch, code, memory=64 << 20) == "memory"


def test_memory_is_watched_while_files_are_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Memory that is used after counting has begun ends the sandbox before that has ended."""
    monkeypatch.setattr(budget, "_SHORTEST", 0)
    for number in range(300):
        (tmp_path / str(number)).touch()
    used = iter([0, MUCH])
    monkeypatch.setattr(Budget, "_memory_used", lambda _self: next(used))
    assert breach(tmp_path, memory=1 << 20) == "memory"
