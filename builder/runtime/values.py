"""What goes into an execution and what comes out of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypedDict

from builder.errors import did_you_mean
from builder.runtime.terminal import shown_lines
from builder.sandbox.execution import Execution, Result, seconds_in_words
from builder.sandbox.files import FileEntry, normal_path


class CodeInput(TypedDict, total=False):
    """`code` is required; `timeout` is in seconds; `env_vars` are there for this execution.

    `files` are put into the sandbox before the code runs, by path: bytes, text, or the `Path` of a
    local file.
    """

    code: str
    language: str
    timeout: float
    env_vars: dict[str, str]
    files: dict[str, bytes | str | Path]


class CodeOutput(TypedDict):
    """What running code gave.

    `output` is what it wrote to standard output, `logs` the lines of both streams as a terminal
    shows them, with "[stdout] " or "[stderr] " before them, `execution_time` in seconds, `results`
    the rich ones (tables as HTML, charts as PNG). `error` is None when `success`; else `traceback`
    says where. `left_out` is how many characters were beyond the limits, `session_lost` whether
    what was defined in the session is gone: the interpreter died, was ended, or did not obey a
    time-out. `files` are those of the working folder that the code has created or changed. `notes`
    say in words what of it is not whole, and what to do.
    """

    output: str
    error: str | None
    execution_time: float
    success: bool
    logs: list[str]
    sandbox_id: str
    traceback: str
    results: list[Result]
    timed_out: bool
    left_out: int
    session_lost: bool
    files: list[FileEntry]
    notes: list[str]


# A week: longer than a sandbox lives anywhere.
LONGEST_SECONDS = 604_800
_TYPES: dict[str, tuple[type, ...]] = {
    "code": (str,),
    "language": (str,),
    "timeout": (int, float),
    "env_vars": (dict,),
    "files": (dict,),
}


def checked(given: Mapping[str, Any]) -> CodeInput:
    """`given`, if it can be executed. Raises `ValueError` and `TypeError`, in words."""
    if not isinstance(given, Mapping):
        raise TypeError(
            f'input_data is {type(given).__name__}, expected a table such as {{"code": "1 + 1"}}'
        )
    for key, value in given.items():
        if key not in _TYPES:
            hint = did_you_mean(str(key), _TYPES) or f"there are: {', '.join(_TYPES)}"
            raise ValueError(f"input_data has an unknown key {key!r} ({hint})")
        if value is not None and (not isinstance(value, _TYPES[key]) or isinstance(value, bool)):
            wanted = " or ".join(kind.__name__ for kind in _TYPES[key])
            raise TypeError(f"input_data[{key!r}] is {type(value).__name__}, expected {wanted}")
    if given.get("code") is None:
        raise ValueError("input_data has no `code`: the code to execute")
    _check_text("code", given["code"])
    timeout = given.get("timeout")
    if timeout is not None and not 0 < timeout <= LONGEST_SECONDS:
        raise ValueError(
            f"input_data['timeout'] is {timeout}, expected seconds above 0, at most"
            f" {LONGEST_SECONDS}"
        )
    for name, value in (given.get("env_vars") or {}).items():
        if not isinstance(name, str) or not isinstance(value, str):
            raise TypeError("input_data['env_vars'] is not a table of text by name")
        if not name or "=" in name or "\0" in name + value:
            raise ValueError(f"input_data['env_vars'] cannot hold {name!r}")
        _check_text(f"env_vars']['{name}", name + value)
    _check_files(given.get("files") or {})
    found: CodeInput = {key: value for key, value in given.items() if value is not None}  # type: ignore[assignment]
    return found


def _check_files(files: Mapping[Any, Any]) -> None:
    for name, content in files.items():
        if not isinstance(name, str):
            raise TypeError(f"input_data['files'] has the name {name!r}, expected a path as text")
        try:
            place = normal_path(name)
        except ValueError as error:
            raise ValueError(f"input_data['files'] has the name {name!r}: {error}") from None
        if place == ".":
            raise ValueError(f"input_data['files'] has the name {name!r}, which is no file's")
        if not isinstance(content, bytes | str | Path):
            raise TypeError(
                f"input_data['files'][{name!r}] is {type(content).__name__}, expected bytes, text"
                " or the Path of a local file"
            )
        if isinstance(content, str):
            _check_text(f"files']['{name}", content)


def _check_text(key: str, value: str) -> None:
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise ValueError(
            f"input_data['{key}'] holds half of a character, {value[error.start]!r}, which cannot"
            " be sent"
        ) from None


def output_of(
    execution: Execution, *, sandbox_id: str, timeout: float, files: Sequence[FileEntry] = ()
) -> CodeOutput:
    """An execution as it is told to the caller."""
    error = execution.error
    if execution.timed_out:
        kept = "what was defined in the session is kept"
        if execution.lost:
            kept = "the interpreter did not obey and was replaced: what was defined is lost"
        error = (
            f"TimeoutError: the code did not finish within {seconds_in_words(timeout)} and was"
            f" interrupted; {kept}"
        )
    logs = [
        f"[{name}] {line}"
        for name, text in (("stdout", execution.stdout), ("stderr", execution.stderr))
        for line in shown_lines(text)
    ]
    notes = []
    if execution.left_out:
        notes.append(
            f"{execution.left_out} characters of what the code gave are left out, which were beyond"
            " `max_output`: have the code write what is large to a file, and read that with"
            " `files.read` or `files.download`"
        )
    return CodeOutput(
        output=execution.stdout,
        error=error,
        execution_time=execution.seconds,
        success=error is None,
        logs=logs,
        sandbox_id=sandbox_id,
        traceback=execution.traceback,
        results=list(execution.results),
        timed_out=execution.timed_out,
        left_out=execution.left_out,
        session_lost=execution.lost,
        files=list(files),
        notes=notes,
    )
