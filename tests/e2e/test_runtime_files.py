"""Files in and out of a sandbox, on either target."""

from __future__ import annotations

import asyncio
import io
import os
import zlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from builder.errors import NoSandboxFileError, SandboxFileError
from builder.runtime import CodeExecutionPrimitive, FileEntry
from tests.support.clouds import Opened
from tests.support.execution import within

pytestmark = pytest.mark.network


async def output(executor: CodeExecutionPrimitive, code: str) -> str:
    result = await executor.execute({"code": code})
    assert result["success"], result["error"]
    return result["output"]


def named(entries: list[FileEntry]) -> list[tuple[str, str, int]]:
    return [(entry.path, entry.type, entry.size) for entry in entries]


async def pieces() -> AsyncIterator[bytes]:
    yield b"a\xff"
    yield b"\0b"


@pytest.mark.parametrize(
    ("data", "content"),
    [
        (b"a\xff\0b", b"a\xff\0b"),
        (bytearray(b"ab"), b"ab"),
        (memoryview(b"ab"), b"ab"),
        ("ä\r\n", b"\xc3\xa4\r\n"),
        ("", b""),
        (lambda: io.BytesIO(b"from a file"), b"from a file"),
        (lambda: [b"a", b"b"], b"ab"),
        (pieces, b"a\xff\0b"),
        (b"x" * 3_000_000, b"x" * 3_000_000),
    ],
)
def test_what_is_written_is_what_code_and_application_read(
    open_one: Opened, data: Any, content: bytes
) -> None:
    """Every form of data arrives byte for byte, for the code and for `read`."""

    async def steps(executor: CodeExecutionPrimitive) -> None:
        entry = await executor.files.write("in/a b.bin", data() if callable(data) else data)
        assert (entry.name, entry.path, entry.type) == ("a b.bin", "in/a b.bin", "file")
        assert entry.size == len(content)
        code = "import zlib; d = open('in/a b.bin', 'rb').read(); print(len(d), zlib.crc32(d))"
        assert await output(executor, code) == f"{len(content)} {zlib.crc32(content)}\n"
        assert await executor.files.read("in/a b.bin") == content
        async with executor.files.stream("in/a b.bin") as chunks:
            assert b"".join([chunk async for chunk in chunks]) == content

    within(open_one(), steps)


def test_files_of_the_code_are_listed_read_and_removed(open_one: Opened) -> None:
    """What code has written is listed by name, and read as bytes or text, until it is removed."""

    async def steps(executor: CodeExecutionPrimitive) -> None:
        files = executor.files
        await output(
            executor,
            "import os; os.makedirs('out/deep'); open('out/b.txt', 'w').write('ä'); open('out/a', 'w')\n"
            "os.symlink('b.txt', 'out/link')",
        )
        listed = await files.list("out")
        assert named(listed)[:2] == [("out/a", "file", 0), ("out/b.txt", "file", 2)]
        assert [(entry.path, entry.type) for entry in listed[2:]] == [
            ("out/deep", "folder"), ("out/link", "link"),
        ]  # fmt: skip
        assert listed[1].modified.tzinfo is not None
        assert listed[1].mime_type == "text/plain"
        assert "out" in [entry.name for entry in await files.list()]
        assert await files.read_text("out/b.txt") == "ä"
        assert await files.read("./out//deep/../link") == "ä".encode()
        await files.remove("out/link")
        await files.remove("out/a")
        assert [entry.name for entry in await files.list("out")] == ["b.txt", "deep"]
        await files.remove("out")
        with pytest.raises(FileNotFoundError, match="the sandbox has no `out`"):
            await files.list("out")

    within(open_one(), steps)


def test_paths_are_those_of_the_first_working_folder(open_one: Opened) -> None:
    """A relative path starts where the code started, also after it has changed its folder;
    `/home/user` is that folder, and so is the path that the code itself sees."""

    async def steps(executor: CodeExecutionPrimitive) -> None:
        await executor.files.write("/home/user/a.txt", "a")
        seen = await output(
            executor,
            "import os; p = os.path.abspath('a.txt'); os.mkdir('sub'); os.chdir('sub'); print(p)",
        )
        assert await executor.files.read_text("a.txt") == "a"
        assert await executor.files.read_text(Path("~/../a.txt")) == "a"
        if seen.startswith(("/home/user/", "/tmp")) and os.path.exists(seen.strip()):
            assert (await executor.files.write("b.txt", "b")).path == "b.txt"

    within(open_one(), steps)


@pytest.mark.parametrize("name", ["two\nlines", "ä 日本", "-rf", "~", "a\\b", "%2e%2e", "x;y?z#"])
def test_odd_names_are_names(open_one: Opened, name: str) -> None:
    """A name that shells, URLs and terminals read in their own ways is a name like any other."""

    async def steps(executor: CodeExecutionPrimitive) -> None:
        await executor.files.write(name, "x")
        assert await output(executor, f"print(open({name!r}).read())") == "x\n"
        assert name in [entry.path for entry in await executor.files.list()]
        assert await executor.files.read(name) == b"x"
        await executor.files.remove(name)
        with pytest.raises(NoSandboxFileError):
            await executor.files.read(name)

    within(open_one(), steps)


def test_local_files_are_copied(open_one: Opened, tmp_path: Path) -> None:
    """`upload` and `download` copy whole files, and keep what is there when they fail."""

    async def steps(executor: CodeExecutionPrimitive) -> None:
        files = executor.files
        source, copy = tmp_path / "data.csv", tmp_path / "copy.csv"
        source.write_bytes(b"a,b\n1,2\n")
        assert (await files.upload(source)).path == "data.csv"
        assert (await files.upload(str(source), "in/other.csv")).size == 8
        copy.write_text("before")
        with pytest.raises(NoSandboxFileError):
            await files.download("no.csv", copy)
        assert copy.read_text() == "before"
        await files.download("in/other.csv", str(copy))
        assert copy.read_bytes() == source.read_bytes()
        with pytest.raises(FileNotFoundError, match=r"missing\.csv"):
            await files.upload(tmp_path / "missing.csv")
        with pytest.raises(IsADirectoryError):
            await files.download("data.csv", tmp_path)
        with pytest.raises(FileNotFoundError):
            await files.download("data.csv", tmp_path / "no" / "copy.csv")
        elsewhere = tmp_path / "elsewhere"
        elsewhere.write_text("kept")
        (tmp_path / "link").symlink_to(elsewhere)
        await files.download("data.csv", tmp_path / "link")
        assert not (tmp_path / "link").is_symlink()
        assert elsewhere.read_text() == "kept"
        assert sorted(path.name for path in tmp_path.iterdir() if path.name.startswith(".")) == []

    within(open_one(), steps)


def test_what_is_not_a_file_there_is_told(open_one: Opened) -> None:
    """A missing file is told with its near matches; a folder, a pipe and a file that is used as a
    folder are told as what they are."""

    async def steps(executor: CodeExecutionPrimitive) -> list[str]:
        files = executor.files
        await output(
            executor,
            "import os; os.makedirs('folder'); open('report.csv', 'w'); os.mkfifo('pipe')\n"
            "os.symlink('nowhere', 'dangling'); os.symlink('round', 'round')",
        )
        messages = []
        for call in (
            lambda: files.read("reprot.csv"),
            lambda: files.read("nothing/like it"),
            lambda: files.read("folder"),
            lambda: files.write("folder", "x"),
            lambda: files.read("pipe"),
            lambda: files.list("report.csv"),
            lambda: files.remove("gone"),
        ):
            with pytest.raises(SandboxFileError) as failed:
                await call()
            assert isinstance(failed.value, FileNotFoundError) == ("has no" in str(failed.value))
            messages.append(str(failed.value).replace("\n\nhint:", " →"))
        for name in ("dangling", "round", "report.csv/x"):
            with pytest.raises(SandboxFileError):
                await files.read(name)
        assert [entry.name for entry in await files.list() if entry.name.startswith(".")] == []
        return messages

    messages = within(open_one(), steps)
    assert messages[:5] == [
        "the sandbox has no `reprot.csv` → did you mean `report.csv`?",
        "the sandbox has no `nothing/like it`",
        "`folder` in the sandbox is a folder, not a file",
        "`folder` in the sandbox is a folder, not a file",
        "`pipe` in the sandbox is not a regular file",
    ]
    assert messages[5].startswith("`report.csv` in the sandbox: ")
    assert messages[6] == "the sandbox has no `gone`"


@pytest.mark.parametrize(
    ("call", "kind", "told"),
    [
        (lambda files: files.read("a\0b"), ValueError, "a path cannot contain a null character: 'a\\x00b'"),
        (lambda files: files.read(""), ValueError, "the path of a file in the sandbox is empty"),
        (lambda files: files.read("\ud800"), ValueError, "a path cannot contain an unpaired surrogate: '\\ud800'"),
        (lambda files: files.remove("."), ValueError, "the path is the working folder, expected a file"),
        (lambda files: files.read(b"x"), TypeError, "a path in a sandbox is text, not bytes"),
        (lambda files: files.write("x", 3), TypeError,
         "a file cannot be written from int, expected bytes, text, a file open in binary mode, or an iterable of bytes"),
        (lambda files: files.write("x", io.StringIO("x")), TypeError,
         "the file is open in text mode, expected binary: open(…, 'rb')"),
        (lambda files: files.write("x", ["x"]), TypeError, "a chunk of the file is str, expected bytes"),
    ],
)  # fmt: skip
def test_arguments_that_make_no_sense(
    open_one: Opened, call: Any, kind: type[Exception], told: str
) -> None:
    """What cannot be a path or data is told before or while it is written, and leaves no file."""

    async def steps(executor: CodeExecutionPrimitive) -> None:
        with pytest.raises(kind) as failed:
            await call(executor.files)
        assert str(failed.value) == told
        assert await executor.files.list() == []

    within(open_one(), steps)


def test_writing_that_fails_changes_nothing(open_one: Opened) -> None:
    """When the source of data fails, its own error is raised, the old content stays, and nothing
    else is left."""

    async def failing() -> AsyncIterator[bytes]:
        yield b"new"
        raise RuntimeError("the source is gone")

    async def steps(executor: CodeExecutionPrimitive) -> None:
        await executor.files.write("a.txt", "old")
        with pytest.raises(RuntimeError, match="the source is gone"):
            await executor.files.write("a.txt", failing())
        assert await executor.files.read("a.txt") == b"old"
        assert named(await executor.files.list()) == [("a.txt", "file", 3)]

    within(open_one(), steps)


def test_calls_wait_for_code_that_runs(open_one: Opened) -> None:
    """A call on files that is made while code runs sees what the code has left behind."""

    async def steps(executor: CodeExecutionPrimitive) -> None:
        code = "import time; open('a', 'w').write('1'); time.sleep(1); open('a', 'w').write('22')"
        running = asyncio.ensure_future(executor.execute({"code": code}))
        await asyncio.sleep(0.3)
        assert await executor.files.read("a") == b"22"
        await running

    within(open_one(), steps)
