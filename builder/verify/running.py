"""Run code in a sandbox for a check, and word how it failed."""

from __future__ import annotations

import contextlib
from typing import TypeVar

from builder.errors import NetworkError, SandboxError, SandboxGoneError, VerifyError
from builder.sandbox.execution import Execution, seconds_in_words
from builder.sandbox.session import ConnectionLostError, Sandbox
from builder.system.documents import parse_json

_SHOWN_CHARACTERS = 2000
SHOWN_LINES = 12
_T = TypeVar("_T")


def answer_of(execution: Execution | str, kind: type[_T]) -> _T | str:
    """Return the JSON value in the last line of output, or a text that says why there is none."""
    if isinstance(execution, str):
        return execution
    return answer_in(execution.stdout, kind)


def answer_in(stdout: str, kind: type[_T]) -> _T | str:
    """Return the JSON value in the last line of output, or a text that says why there is none."""
    with contextlib.suppress(ValueError, IndexError):
        answer = parse_json(stdout.strip().splitlines()[-1])
        if isinstance(answer, kind):
            return answer
    return f"its answer cannot be read: {cut(stdout)!r}"


def required(
    execution: Execution | str, kind: type[_T], *, failed: str, hint: str | None = None
) -> _T:
    """Return the same, or raise a `VerifyError` that begins with `failed`."""
    answer = answer_of(execution, kind)
    if isinstance(answer, str):
        raise VerifyError(f"{failed}: {answer}", hint=hint)
    return answer


def cut(text: str) -> str:
    """Shorten a text for an error message to its end, which says most."""
    if len(text) <= _SHOWN_CHARACTERS:
        return text
    return f"… {len(text) - _SHOWN_CHARACTERS} characters left out …{text[-_SHOWN_CHARACTERS:]}"


# In a namespace of its own, so that no check depends on an earlier one. The traceback omits the
# frames of the interpreter and of this code.
_FRAMES = "frames of the check: "
_GUARDED = """
_code, _name = {code!r}, {name!r}
try:
    exec(compile(_code, _name, "exec"), {{"__name__": "__main__"}})
except BaseException as _error:
    import json as _json, linecache as _lines, sys as _sys, traceback as _traceback
    _lines.cache[_name] = (len(_code), None, _code.splitlines(True), _name)
    _frames = _traceback.format_tb(_error.__traceback__.tb_next)
    _frames += _traceback.format_exception_only(_error)[:-1]
    print({mark!r} + _json.dumps("".join(_frames)), file=_sys.stderr, flush=True)
    raise
"""


def run(sandbox: Sandbox, code: str, name: str, timeout: float) -> Execution | str:
    """Run code, or return a text that says how it failed.

    Raise `SandboxGoneError`, and `NetworkError` if the connection is lost.
    """
    guarded = _GUARDED.format(code=code, name=name, mark=_FRAMES)
    try:
        execution = sandbox.run(guarded, timeout=timeout)
    except SandboxGoneError:
        raise
    except ConnectionLostError as error:
        hint = "run the same command again: it continues where this one stopped"
        raise NetworkError(error.message, hint=hint) from error
    except SandboxError as error:
        return error.message
    if execution.timed_out:
        return f"it did not finish within {seconds_in_words(timeout)}"
    if execution.error:
        frames = _frames(execution.stderr)[-SHOWN_LINES:]
        return cut("\n    ".join([execution.error, *frames]))
    return execution


def _frames(stderr: str) -> list[str]:
    """Return the lines of the traceback from the code of the check on."""
    with contextlib.suppress(ValueError, IndexError):
        return str(parse_json(stderr.rpartition(_FRAMES)[2].splitlines()[0])).splitlines()
    return []
