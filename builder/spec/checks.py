"""The checks of a spec: each runs code, a command, or asks a service of the sandbox."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from builder.errors import Problem
from builder.spec.python import python_code
from builder.spec.spec_file import SpecFile
from builder.spec.variant import Check, HttpRequest, is_local

if TYPE_CHECKING:
    from builder.spec.models import VerifyTable

# Magics, shell commands and help, such as `%time f()`, `files = !ls` and `f?`.
_IPYTHON = re.compile(r"^\s*[%!?,;/]|=\s*[%!]|\?\s*$", re.MULTILINE)
_KINDS = ("code", "command", "http")


def checks_of(file: SpecFile) -> Iterator[Check]:
    """Yield the checks of a file, and note mistakes in them."""
    for number, table in enumerate(file.tables.verify):
        _note_mistakes(file, number, table)
        yield _check(table)


def code_problems(chain: Sequence[SpecFile], floor: str) -> Iterator[Problem]:
    """Report code of checks that is not Python. A Python older than `floor`, the lowest of the
    sandbox, may not know the syntax, and IPython has lines of its own."""
    here = ".".join(map(str, sys.version_info[:2]))
    if sys.version_info[:2] < tuple(map(int, floor.split("."))):
        return
    hint = f"set `base.python` if it is the syntax of a Python later than {here}"
    for file in chain:
        for number, table in enumerate(file.tables.verify):
            if table.code and not _IPYTHON.search(table.code):
                try:
                    python_code(table.code)
                except ValueError as error:
                    yield file.problem(("verify", number, "code"), str(error), hint)


def _note_mistakes(file: SpecFile, number: int, table: VerifyTable) -> None:
    kinds = [kind for kind in _KINDS if getattr(table, kind) is not None]
    if not kinds:
        hint = "write the code, the command or the request that must succeed"
        file.add(("verify", number), "has neither `code` nor `command` nor `http`", hint)
    for kind in kinds[1:]:
        message = f"excludes `code`, `command` and `http`, of which `{kinds[0]}` is set"
        file.add(("verify", number, kind), message, "write two checks")
    if table.command is not None and not table.command.strip():
        file.add(("verify", number, "command"), "is empty")
    if "exit_code" in table.model_fields_set and table.command is None:
        file.add(("verify", number, "exit-code"), "has no effect without `command`")
    if table.stdout is not None and kinds == ["http"]:
        hint = "write `contains` in `http`"
        file.add(("verify", number, "stdout"), "has no effect with `http`", hint)
    if table.http and not is_local(table.http.url):
        message = f"{table.http.url!r} is not a service of the sandbox"
        hint = "write a URL on localhost; a `command` with curl, say, can reach other hosts"
        file.add(("verify", number, "http", "url"), message, hint)


def _check(table: VerifyTable) -> Check:
    http = table.http
    return Check(
        name=table.name,
        code=table.code,
        command=table.command,
        exit_code=None if table.command is None else table.exit_code,
        http=HttpRequest(url=http.url, status=http.status, contains=http.contains)
        if http
        else None,
        stdout=table.stdout,
        timeout=table.timeout,
    )
