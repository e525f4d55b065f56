"""The input and the output of an execution."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypedDict, cast

from builder.errors import did_you_mean
from builder.runtime.terminal import shown_lines
from builder.sandbox.execution import Execution, Result, seconds_in_words
from builder.sandbox.files import FileEntry, normal_path


class CodeInput(TypedDict, total=False):
    """`code` is required; `timeout` is in seconds; `env_vars` are set for this execution.

    `files` are written to the sandbox before the code runs, by path: bytes, text, or the `Path` of
    a local file.
    """

    code: str
    language: str
    timeout: float
    env_vars: dict[str, str]
    files: dict[str, bytes | str | Path]


class CodeOutput(TypedDict):
    """The outcome of running code.

    `output` is its standard output, `logs` the lines of both streams as a terminal shows them,
    prefixed "[stdout] " or "[stderr] ", `execution_time` in seconds, `results` rich results (tables
    as HTML, charts as PNG). `error` is None on `success`; otherwise `traceback` locates it.
    `left_out` counts the characters beyond the limits. `session_lost` means that the session's
    state is gone: the interpreter died, was ended, or did not stop at a time-out. `files` are those
    of the working folder that the code created or changed. `notes` explain what is incomplete, and
    what to do. `isolation` is how the sandbox was isolated: "virtual machine" on E2B,
    "confined" or "none" on this machine.
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
    isolation: str


# A week: longer than a sandbox lives anywhere.
LONGEST_SECONDS = 604_800
_TYPES: dict[str, tuple[type, ...]] = {
    "code": (str,),
    "language": (str,),
    "timeout": (int, float),
    "env_vars": (dict,),
    "files": (dict,),
}


def checked(input_data: Mapping[str, Any]) -> CodeInput:
    """Return an input without its `None`s. Raise `ValueError` or `TypeError` for an invalid one."""
    if not isinstance(input_data, Mapping):
        raise TypeError(
            f"input_data is {type(input_data).__name__}, expected a mapping such as"
            ' {"code": "1 + 1"}'
        )
    for key, value in input_data.items():
        if key not in _TYPES:
            hint = did_you_mean(str(key), _TYPES) or f"expected one of: {', '.join(_TYPES)}"
            raise ValueError(f"input_data has an unknown key {key!r} ({hint})")
        if value is not None and (not isinstance(value, _TYPES[key]) or isinstance(value, bool)):
            wanted = " or ".join(kind.__name__ for kind in _TYPES[key])
            raise TypeError(f"input_data[{key!r}] is {type(value).__name__}, expected {wanted}")
    if input_data.get("code") is None:
        raise ValueError("input_data has no `code`: the code to execute")
    _check_text("code", input_data["code"])
    timeout = input_data.get("timeout")
    if timeout is not None and not 0 < timeout <= LONGEST_SECONDS:
        raise ValueError(
            f"input_data['timeout'] is {timeout}, expected seconds above 0, at most"
            f" {LONGEST_SECONDS}"
        )
    for name, value in (input_data.get("env_vars") or {}).items():
        if not isinstance(name, str) or not isinstance(value, str):
            raise TypeError("input_data['env_vars'] must map names to text")
        if not name or "=" in name or "\0" in name + value:
            raise ValueError(f"input_data['env_vars'] cannot hold {name!r}")
        _check_text(f"env_vars']['{name}", name + value)
    _check_files(input_data.get("files") or {})
    present = {key: value for key, value in input_data.items() if value is not None}
    return cast("CodeInput", present)


def _check_files(files: Mapping[Any, Any]) -> None:
    for name, content in files.items():
        if not isinstance(name, str):
            raise TypeError(f"input_data['files'] has the name {name!r}, expected a path as text")
        try:
            place = normal_path(name)
        except ValueError as error:
            raise ValueError(f"input_data['files'] has the name {name!r}: {error}") from None
        if place == ".":
            raise ValueError(
                f"input_data['files'] has the name {name!r}, which does not name a file"
            )
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
            f"input_data['{key}'] contains an unpaired surrogate, {value[error.start]!r}, which"
            " cannot be sent"
        ) from None


def output_of(
    execution: Execution,
    *,
    sandbox_id: str,
    timeout: float,
    files: Sequence[FileEntry] = (),
    isolation: str = "none",
) -> CodeOutput:
    """Return an execution as the caller sees it."""
    error = execution.error
    if execution.timed_out:
        state = "the session's state is kept"
        if execution.lost:
            state = "the interpreter did not stop and was replaced: the session's state is lost"
        error = (
            f"TimeoutError: the code did not finish within {seconds_in_words(timeout)} and was"
            f" interrupted; {state}"
        )
    logs = [
        f"[{name}] {line}"
        for name, text in (("stdout", execution.stdout), ("stderr", execution.stderr))
        for line in shown_lines(text)
    ]
    notes = []
    if execution.left_out:
        notes.append(
            f"{execution.left_out:,} characters of output exceed `max_output` and are left out:"
            " write large output to a file, and read it with `files.read` or `files.download`"
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
        notes=[*notes, *execution.notes],
        isolation=isolation,
    )
