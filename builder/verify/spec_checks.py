"""Run a check that a spec writes: code, a command, or a request of a service."""

from __future__ import annotations

import shlex

from builder.errors import SandboxError, SandboxGoneError
from builder.sandbox.commands import CommandResult, last_line
from builder.sandbox.execution import seconds_in_words
from builder.sandbox.session import Sandbox
from builder.spec import Check
from builder.spec.variant import HttpRequest
from builder.verify.running import SHOWN_LINES, answer_in, cut, run

# Any `python3` of a sandbox runs it. It ignores proxies, which cannot reach the sandbox itself.
_ASK = """
import http.client, json, sys, urllib.parse
url, contains, seconds, most = sys.argv[1], sys.argv[2], float(sys.argv[3]), int(sys.argv[4])
parts = urllib.parse.urlsplit(url)
kinds = {"http": http.client.HTTPConnection, "https": http.client.HTTPSConnection}
connection = kinds[parts.scheme](parts.hostname, parts.port, timeout=seconds)
path = (parts.path or "/") + ("?" + parts.query if parts.query else "")
try:
    connection.request("GET", path)
    answer = connection.getresponse()
    text = answer.read().decode("utf-8", "replace")
    observed = {"status": answer.status, "text": text[:most], "contains": contains in text}
except (OSError, http.client.HTTPException) as error:
    observed = {"error": str(error) or type(error).__name__}
print(json.dumps(observed))
"""
_SHOWN_OF_ANSWER = 200


def succeed(sandbox: Sandbox, check: Check) -> float | str:
    """Return how many seconds a check took, or why it failed. Raise `SandboxGoneError`."""
    if check.http:
        return _asked(sandbox, check.http, check.timeout)
    if check.command is not None:
        return _commanded(sandbox, check.command, check)
    execution = run(sandbox, check.code or "", check.name, check.timeout)
    if isinstance(execution, str):
        return execution
    return _unexpected(execution.stdout, check.stdout) or round(execution.seconds, 6)


def _commanded(sandbox: Sandbox, command: str, check: Check) -> float | str:
    result = _ended(sandbox, command, check.timeout)
    if isinstance(result, str):
        return result
    if result.exit_code != check.exit_code:
        shown = (result.stderr.strip() or result.stdout.strip()).splitlines()
        lines = "".join(f"\n    {line}" for line in shown[-SHOWN_LINES:])
        return f"expected exit code {check.exit_code}, got {result.exit_code}{cut(lines)}"
    return _unexpected(result.stdout, check.stdout) or round(result.seconds, 6)


def _asked(sandbox: Sandbox, request: HttpRequest, timeout: float) -> float | str:
    url, contains = request.url, request.contains or ""
    words = ["python3", "-c", _ASK, url, contains, str(timeout), str(_SHOWN_OF_ANSWER)]
    result = _ended(sandbox, shlex.join(words), timeout)
    if isinstance(result, str):
        return result
    if result.exit_code:
        return f"the sandbox cannot ask {url}: {last_line(result)}"
    answer = answer_in(result.stdout, dict)
    if isinstance(answer, str):
        return answer
    if "error" in answer:
        return f"{url} does not answer: {answer['error']}"
    text = cut(answer["text"])
    if answer["status"] != request.status:
        return f"expected status {request.status} of {url}, got {answer['status']}: {text!r}"
    if not answer["contains"]:
        return f"expected {contains!r} in the answer of {url}, which begins with {text!r}"
    return round(result.seconds, 6)


def _ended(sandbox: Sandbox, command: str, timeout: float) -> CommandResult | str:
    """Return the result of a command, or why there is none. Raise `SandboxGoneError`."""
    try:
        result = sandbox.command(command, timeout=timeout)
    except SandboxGoneError:
        raise
    except SandboxError as error:
        return error.message
    return f"it did not finish within {seconds_in_words(timeout)}" if result.timed_out else result


def _unexpected(printed: str, expected: str | None) -> str | None:
    """Return how the output differs from what is expected, if it does."""
    if expected is None or printed.rstrip() == expected.rstrip():
        return None
    return f"expected {expected.rstrip()!r}, got {cut(printed.rstrip())!r}"
