"""What the code of a local sandbox may have put in the way of its files."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from builder.errors import NoSandboxFileError, SandboxFileError
from builder.runtime.files import Files
from builder.sandbox.files import SandboxFiles
from builder.targets.local.files import LocalFiles
from tests.conftest import ROOT
from tests.support.files import grown


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """The home of a sandbox, beside something that is none of its business."""
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "secret").write_text("secret")
    (tmp_path / "home").mkdir()
    return tmp_path / "home"


def files_of(home: Path, fetched: Path | None = None) -> Files:
    files = LocalFiles(home, fetched)

    @contextlib.asynccontextmanager
    async def opened() -> AsyncIterator[SandboxFiles]:
        yield files

    return Files(opened)


OUTSIDE = "is outside the sandbox's folder\n\nhint: on this machine, only files in the sandbox's working folder can be used"


@pytest.mark.parametrize(
    "path", ["../outside/secret", "/etc/passwd", "/home", "/home/userx/a", "a/../../b"]
)
def test_path_that_leads_out(home: Path, path: str) -> None:
    """A path that leads out of the sandbox is refused for reading, writing, listing, removing."""
    files = files_of(home)
    for call in (files.read(path), files.write(path, "x"), files.list(path), files.remove(path)):
        with pytest.raises(SandboxFileError) as failed:
            asyncio.run(call)
        assert str(failed.value).endswith(OUTSIDE)


@pytest.mark.parametrize(
    "target", ["../outside", "{tmp}/outside", "x/../../outside", "/proc/self/root{tmp}/outside"]
)
def test_link_that_leads_out(home: Path, tmp_path: Path, target: str) -> None:
    """Through a folder that is a link to the outside nothing is read, written, listed or removed;
    the link itself can be."""
    files = files_of(home)
    (home / "x").mkdir()
    (home / "link").symlink_to(target.format(tmp=tmp_path))
    for call in (
        files.read("link/secret"),
        files.write("link/secret", "x"),
        files.write("link/new", "x"),
        files.list("link"),
        files.remove("link/secret"),
    ):
        with pytest.raises(SandboxFileError) as failed:
            asyncio.run(call)
        assert str(failed.value).endswith(OUTSIDE)
    asyncio.run(files.remove("link"))
    assert {path.name for path in (tmp_path / "outside").iterdir()} == {"secret"}
    assert (tmp_path / "outside" / "secret").read_text() == "secret"
    assert not os.path.lexists(home / "link")


def test_home_that_code_has_replaced(tmp_path: Path) -> None:
    """Where code has put a link in the place of the folder that its home is in, nothing is read,
    written, listed or removed in the folder of that name outside."""
    for folder in ("sandbox", "outside"):
        (tmp_path / folder / "home").mkdir(parents=True)
    (tmp_path / "outside" / "home" / "secret").write_text("secret")
    files = files_of(tmp_path / "sandbox" / "home")
    (tmp_path / "sandbox").rename(tmp_path / "moved")
    (tmp_path / "sandbox").symlink_to(tmp_path / "outside")
    for call in (
        files.read("secret"),
        files.write("new", "x"),
        files.list(),
        files.remove("secret"),
    ):
        with pytest.raises(SandboxFileError) as failed:
            asyncio.run(call)
        assert str(failed.value) == (
            "code has replaced the sandbox's folder\n\nhint: open another sandbox"
        )
    assert {path.name for path in (tmp_path / "outside" / "home").iterdir()} == {"secret"}


def test_folders_are_removed_at_any_depth(home: Path) -> None:
    """A folder is removed even if it is nested too deep for a path or for recursion."""
    os.mkdir(home / "deep")
    descriptor = os.open(home / "deep", os.O_RDONLY)
    for _ in range(3000):
        os.mkdir("folder", dir_fd=descriptor)
        child = os.open("folder", os.O_RDONLY, dir_fd=descriptor)
        os.close(descriptor)
        descriptor = child
    os.close(descriptor)
    asyncio.run(files_of(home).remove("deep"))
    assert list(home.iterdir()) == []


def test_link_to_a_file_outside_is_replaced(home: Path, tmp_path: Path) -> None:
    """A link to a file outside is not read; what is written replaces the link, not the file."""
    files = files_of(home)
    (home / "link").symlink_to(tmp_path / "outside" / "secret")
    with pytest.raises(SandboxFileError, match="is outside the sandbox's folder"):
        asyncio.run(files.read("link"))
    asyncio.run(files.write("link", "mine"))
    assert asyncio.run(files.read("link")) == b"mine"
    assert (tmp_path / "outside" / "secret").read_text() == "secret"


def test_links_inside_are_followed(home: Path) -> None:
    """Links that stay in the sandbox are followed, relative, absolute and of folders, as those of
    a cache of models are."""
    files = files_of(home)
    (home / "cache" / "blobs").mkdir(parents=True)
    (home / "cache" / "blobs" / "1").write_text("model")
    (home / "cache" / "snapshots").mkdir()
    (home / "cache" / "snapshots" / "model.bin").symlink_to("../blobs/1")
    (home / "now").symlink_to(home / "cache" / "snapshots")
    (home / "via").symlink_to("/home/user/now/")
    assert asyncio.run(files.read("now/model.bin")) == b"model"
    assert [entry.path for entry in asyncio.run(files.list("now"))] == ["now/model.bin"]
    asyncio.run(files.write("now/other.bin", "x"))
    assert (home / "cache" / "snapshots" / "other.bin").read_text() == "x"


@pytest.mark.slow
def test_swapped_folder_is_not_entered(home: Path, tmp_path: Path) -> None:
    """While code swaps a folder for a link to the outside and back, nothing of the outside is
    read, and nothing is written there."""
    files = files_of(home)
    (home / "real").mkdir()
    (home / "real" / "secret").write_text("own")
    (home / "link").symlink_to(tmp_path / "outside")
    stop = threading.Event()

    def swap() -> None:
        while not stop.is_set():
            for name in ("real", "link"):
                try:
                    os.rename(home / name, home / "folder")
                except OSError:  # the write has made one
                    shutil.rmtree(home / "folder", ignore_errors=True)
                else:
                    os.rename(home / "folder", home / name)

    thread = threading.Thread(target=swap)
    thread.start()
    try:
        for _ in range(500):
            with contextlib.suppress(SandboxFileError):
                assert asyncio.run(files.read("folder/secret")) == b"own"
            with contextlib.suppress(SandboxFileError):
                asyncio.run(files.write("folder/new", "x"))
    finally:
        stop.set()
        thread.join()
    assert {path.name for path in (tmp_path / "outside").iterdir()} == {"secret"}


def test_file_that_shrinks_while_it_is_read(home: Path) -> None:
    """A file that loses content while it is read is told; one that grows is what it was."""
    files = files_of(home)
    (home / "log").write_bytes(b"x" * 3_000_000)

    async def read(size: int) -> int:
        received = 0
        async with files.stream("log") as chunks:
            async for chunk in chunks:
                received += len(chunk)
                os.truncate(home / "log", size)
        return received

    assert asyncio.run(read(5_000_000)) == 3_000_000
    with pytest.raises(SandboxFileError) as failed:
        asyncio.run(read(2_000_000))
    assert str(failed.value) == (
        "`log` changed while it was read: it had 5,000,000 bytes, and then only 2,000,000"
    )


def test_file_that_vanishes_while_it_is_read(home: Path) -> None:
    """A file that is removed while it is read is read to its end."""
    files = files_of(home)
    (home / "a").write_bytes(b"x" * 3_000_000)

    async def read() -> int:
        async with files.stream("a") as chunks:
            os.unlink(home / "a")
            return sum([len(chunk) async for chunk in chunks])

    assert asyncio.run(read()) == 3_000_000
    with pytest.raises(NoSandboxFileError):
        asyncio.run(read())


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_permission_denied(home: Path) -> None:
    """What may not be read is told."""
    (home / "a").touch(mode=0)
    with pytest.raises(SandboxFileError) as failed:
        asyncio.run(files_of(home).read("a"))
    assert str(failed.value) == "`a` in the sandbox: Permission denied"


@pytest.fixture
def small_disk(home: Path) -> Iterator[None]:
    """The home on a file system of 2 MiB."""
    command = ["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(home)]
    if subprocess.run(command, capture_output=True, check=False).returncode:
        pytest.skip("a file system of its own needs root")
    yield
    subprocess.run(["umount", "--lazy", str(home)], check=True)


def test_full_disk(home: Path, small_disk: None) -> None:
    """Where there is no room the error says so, the old file stays, and no part of the new one."""
    files = files_of(home)
    asyncio.run(files.write("a", "old"))
    with pytest.raises(SandboxFileError) as failed:
        asyncio.run(files.write("a", b"x" * 4_000_000))
    assert failed.value.message == "the sandbox's disk is full: there is no room for `a`"
    assert [path.name for path in home.iterdir()] == ["a"]
    assert (home / "a").read_text() == "old"


def test_local_path_that_is_no_file(home: Path, tmp_path: Path) -> None:
    """`download` replaces no device and no pipe."""
    files = files_of(home)
    (home / "a").write_text("x")
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(OSError, match="it is not a regular file"):
        asyncio.run(files.download("a", tmp_path / "pipe"))


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_large_files_are_not_held_in_memory(home: Path, tmp_path: Path) -> None:
    """200 MB in and out take a few MiB of the application's memory."""

    def run(code: str, *arguments: str) -> str:
        command = [sys.executable, "-c", code, *arguments]
        return subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout

    assert grown(home, tmp_path, run=run) < 4_000
    assert (tmp_path / "back").stat().st_size == 200_000_000
    with open(tmp_path / "back", "rb") as back:
        back.seek(150_000_000)
        assert back.read(4) == b"mark"


SHOWN = """
import asyncio, contextlib, os, pathlib, pty, sys
from builder.runtime.files import Files
from builder.targets.local.files import LocalFiles
home, folder = map(pathlib.Path, sys.argv[1:])
inner = LocalFiles(home)

@contextlib.asynccontextmanager
async def opened():
    yield inner

pid, terminal = pty.fork()
if pid == 0:
    asyncio.run(Files(opened).upload(folder / "data.csv"))
    os._exit(0)
seen = b""
with contextlib.suppress(OSError):
    while part := os.read(terminal, 1024):
        seen += part
os.waitpid(pid, 0)
sys.stdout.buffer.write(seen)
"""


def test_progress_is_shown_on_a_terminal_only(
    home: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """A terminal shows what is copied and how much of it; elsewhere nothing is written."""
    (tmp_path / "data.csv").write_bytes(b"x" * 3_000_000)
    asyncio.run(files_of(home).upload(tmp_path / "data.csv"))
    assert capfd.readouterr() == ("", "")
    command = [sys.executable, "-c", SHOWN, str(home), str(tmp_path)]
    environment = os.environ | {"TERM": "xterm"}
    seen = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, env=environment)
    assert b"`data.csv`" in seen.stdout
    assert b"3.0/3.0 MB" in seen.stdout


def test_fetched_content_is_read_but_never_changed(home: Path, tmp_path: Path) -> None:
    """Links to content that the template has fetched are read and listed as what they lead to, also
    through links inside of it; writing replaces a link, and nothing changes or leaves the content."""
    fetched = tmp_path / "fetched"
    (fetched / "tool").mkdir(parents=True)
    (fetched / "tool" / "run.sh").write_text("echo")
    (fetched / "tool" / "run").symlink_to("run.sh")
    (fetched / "out").symlink_to("../outside/secret")
    (fetched / "table.csv").write_text("a,b")
    for name in ("tool", "table.csv", "out"):
        (home / name).symlink_to(fetched / name)
    (home / "up").symlink_to(f"{fetched}/../outside/secret")
    files = files_of(home, fetched)
    assert asyncio.run(files.read_text("table.csv")) == "a,b"
    assert asyncio.run(files.read_text("tool/run")) == "echo"
    listed = {entry.name: (entry.type, entry.size) for entry in asyncio.run(files.list("."))}
    assert listed["table.csv"] == ("file", 3)
    assert listed["tool"][0] == "folder"
    assert listed["up"][0] == "link"
    for path in ("out", "up"):
        with pytest.raises(SandboxFileError):
            asyncio.run(files.read(path))
    for call in (files.write("tool/new", "x"), files.remove("tool/run.sh")):
        with pytest.raises(SandboxFileError):
            asyncio.run(call)
    asyncio.run(files.write("table.csv", "c,d"))
    assert asyncio.run(files.read_text("table.csv")) == "c,d"
    assert (fetched / "table.csv").read_text() == "a,b"
    assert sorted(path.name for path in (fetched / "tool").iterdir()) == ["run", "run.sh"]
