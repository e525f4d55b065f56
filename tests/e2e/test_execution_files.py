"""Files that an execution is given, and those that it has made."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from builder.errors import SandboxFileError
from builder.runtime import CodeExecutionPrimitive, CodeOutput
from tests.support.clouds import Opened
from tests.support.execution import within

pytestmark = pytest.mark.network


def made(result: CodeOutput) -> list[tuple[str, int, str]]:
    assert result["success"], result["error"]
    return [(entry.path, entry.size, entry.mime_type) for entry in result["files"]]


def test_files_are_there_before_the_code_runs(open_one: Opened, tmp_path: Path) -> None:
    """Bytes, text and local files are where the code looks for them, and none of them is told as
    made by the code."""
    (tmp_path / "local.csv").write_text("l")

    async def steps(executor: CodeExecutionPrimitive) -> CodeOutput:
        return await executor.execute(
            {
                "code": "for name in ('a', 'in/b', 'c'): print(open(name).read())",
                "files": {"a": b"bytes", "in/b": "text", "c": tmp_path / "local.csv"},
            }
        )

    result = within(open_one(), steps)
    assert result["output"] == "bytes\ntext\nl\n"
    assert made(result) == []


def test_result_names_what_the_code_has_made(open_one: Opened) -> None:
    """Files that code makes or changes are in its result with size and MIME type, those that it
    leaves alone are not, nor what is hidden, a cache, a link, or was written by the application."""
    code = """
import os
for name in ('chart.png', 'out/report.csv', 'out/deep/noname', '.hidden/x', '__pycache__/x'):
    os.makedirs(os.path.dirname(name) or '.', exist_ok=True)
    open(name, 'w').write(name)
os.symlink('chart.png', 'link.png')
"""

    async def steps(executor: CodeExecutionPrimitive) -> list[CodeOutput]:
        first = await executor.execute({"code": code})
        await executor.files.write("mine.txt", "mine")
        second = await executor.execute({"code": "print(1)"})
        changing = (
            "open('chart.png', 'w').write('more than before'); open('mine.txt', 'w').write('your')"
        )
        third = await executor.execute({"code": changing})
        failing = await executor.execute({"code": "open('last', 'w').close(); 1 / 0"})
        moved = await executor.execute({"code": "os.rename('last', 'first')"})
        return [first, second, third, failing, moved]

    first, second, third, failing, moved = within(open_one(), steps)
    assert made(first) == [
        ("chart.png", 9, "image/png"),
        ("out/deep/noname", 15, "application/octet-stream"),
        ("out/report.csv", 14, "text/csv"),
    ]
    assert made(second) == []
    assert made(third) == [("chart.png", 16, "image/png"), ("mine.txt", 4, "text/plain")]
    assert [entry.path for entry in failing["files"]] == ["last"]
    assert made(moved) == [("first", 0, "application/octet-stream")]


@pytest.mark.slow
def test_file_of_the_input_that_the_code_changes(open_one: Opened) -> None:
    """A file that is given and changed is told, also if it has as many bytes as before."""

    async def steps(executor: CodeExecutionPrimitive) -> CodeOutput:
        return await executor.execute(
            {"code": "open('a', 'w').write('2')", "files": {"a": "1", "b": "1"}}
        )

    assert made(within(open_one(), steps)) == [("a", 1, "application/octet-stream")]


def test_file_that_cannot_be_given(open_one: Opened, tmp_path: Path) -> None:
    """Where a file cannot be put, its error is raised, and the code does not run."""

    async def steps(executor: CodeExecutionPrimitive) -> None:
        await executor.execute({"code": "import os; os.mkdir('folder')"})
        with pytest.raises(SandboxFileError, match="is a folder, not a file"):
            await executor.execute({"code": "open('ran', 'w')", "files": {"folder": "x"}})
        with pytest.raises(FileNotFoundError, match="missing"):
            given = {"a": tmp_path / "missing"}
            await executor.execute({"code": "open('ran', 'w')", "files": given})
        assert [entry.name for entry in await executor.files.list()] == ["folder"]

    within(open_one(), steps)


@pytest.mark.parametrize(
    ("given", "kind", "told"),
    [
        ("a.csv", TypeError, "input_data['files'] is str, expected dict"),
        ({3: "x"}, TypeError, "input_data['files'] has the name 3, expected a path as text"),
        ({"a": 3}, TypeError, "input_data['files']['a'] is int, expected bytes, text or the Path of a local file"),
        ({"": "x"}, ValueError, "input_data['files'] has the name '': the path of a file in the sandbox is empty"),
        ({"a/..": "x"}, ValueError, "input_data['files'] has the name 'a/..', which does not name a file"),
        ({"a\0": "x"}, ValueError, "input_data['files'] has the name 'a\\x00': a path cannot contain a null character: 'a\\x00'"),
        ({"a": "\ud800"}, ValueError, "input_data['files']['a'] contains an unpaired surrogate, '\\ud800', which cannot be sent"),
    ],
)  # fmt: skip
def test_files_that_make_no_sense(given: Any, kind: type[Exception], told: str) -> None:
    """Files that cannot be put anywhere are told before a sandbox is opened."""
    from builder.runtime.values import checked

    with pytest.raises(kind) as failed:
        checked({"code": "1", "files": given})
    assert str(failed.value) == told


@pytest.mark.slow
def test_many_files_are_bounded(open_one: Opened, caplog: pytest.LogCaptureFixture) -> None:
    """With thousands of files below it, the top of the working folder is still looked at."""
    many = (
        "import os\nfor i in range(5100): os.makedirs('d/e', exist_ok=True); open(f'd/e/{i}', 'w')"
    )

    async def steps(executor: CodeExecutionPrimitive) -> list[CodeOutput]:
        codes = (many, "print(1)", "open('top.csv', 'w').write('x')", "open('d/x.csv', 'w')")
        return [await executor.execute({"code": code, "timeout": 60}) for code in codes]

    _, quiet, top, below = within(open_one(), steps)
    assert made(quiet) == []
    assert made(top) == [("top.csv", 1, "text/csv")]
    assert len(below["files"]) < 2
    assert len(caplog.records) == 1


def test_how_deep_changes_are_looked_for(open_one: Opened) -> None:
    """Files up to four folders below the working folder are told, and none below those."""
    code = (
        "import os; os.makedirs('1/2/3/4/5'); open('1/2/3/4/yes', 'w'); open('1/2/3/4/5/no', 'w')"
    )

    async def steps(executor: CodeExecutionPrimitive) -> CodeOutput:
        return await executor.execute({"code": code})

    assert [entry.path for entry in within(open_one(), steps)["files"]] == ["1/2/3/4/yes"]


def test_name_that_is_no_text(open_one: Opened, target: str) -> None:
    """A name that is not UTF-8 costs no result: on `local` it is left out, and on E2B the folder
    cannot be listed until it is gone."""

    async def steps(executor: CodeExecutionPrimitive) -> None:
        files = executor.files
        result = await executor.execute({"code": "open(b'\\xff', 'w'); open('a', 'w'); print(1)"})
        assert result["output"] == "1\n"
        assert [entry.path for entry in result["files"]] == (["a"] if target == "local" else [])
        if target == "local":
            assert [entry.name for entry in await files.list()] == ["a"]
        else:
            with pytest.raises(SandboxFileError, match="UTF-8"):
                await files.list()
        result = await executor.execute({"code": "import os; os.remove(b'\\xff'); open('b', 'w')"})
        assert [entry.path for entry in result["files"]][-1] == "b"

    within(open_one(), steps)


def test_dead_interpreter_has_no_files(open_one: Opened) -> None:
    """Code that ends its interpreter is told as before, and the next one has the next sandbox."""

    async def steps(executor: CodeExecutionPrimitive) -> CodeOutput:
        code = "import os, signal; open('a', 'w'); os.kill(os.getpid(), signal.SIGKILL)"
        dead = await executor.execute({"code": code})
        assert dead["session_lost"]
        assert dead["files"] == []
        return await executor.execute({"code": "open('b', 'w').close()"})

    assert [entry.path for entry in within(open_one(), steps)["files"]] == ["b"]
