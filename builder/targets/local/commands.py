"""Commands in a sandbox of `local`: code for its kernel, which starts the shell."""

from __future__ import annotations

import json

from builder.errors import SandboxError
from builder.sandbox.commands import CommandResult
from builder.sandbox.execution import Execution

# How much longer than the command the code may take.
MARGIN_SECONDS = 10.0
# Files, since a process that goes on in the background would keep a pipe open.
_COMMAND = """
def _template_command(text, seconds):
    import json, os, signal, subprocess, tempfile
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        process = subprocess.Popen(
            ["bash", "-c", text], cwd={folder!r},
            stdin=subprocess.DEVNULL, stdout=out, stderr=err, start_new_session=True,
        )
        try:
            status, timed_out = process.wait(seconds), False
        except subprocess.TimeoutExpired:
            status, timed_out = -signal.SIGKILL, True
        finally:
            try:
                os.killpg(process.pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
            process.wait()
        texts = []
        for file in (out, err):
            file.seek(0)
            texts.append(file.read().decode("utf-8", "replace"))
    print(json.dumps({{
        "exit_code": status if status >= 0 else 128 - status,
        "stdout": texts[0], "stderr": texts[1], "timed_out": timed_out,
    }}))

try:
    _template_command({text!r}, {seconds!r})
finally:
    del _template_command
"""


def command_code(text: str, seconds: float, *, folder: str | None) -> str:
    """Return code that runs a command for at most `seconds`, and ends what it leaves running. It
    runs in `folder`, or where the code does."""
    return _COMMAND.format(text=text, seconds=seconds, folder=folder)


def command_result(execution: Execution) -> CommandResult:
    """Return the result of a command from that of its code. Raises `SandboxError`."""
    try:
        answer = json.loads(execution.stdout.splitlines()[-1])
        return CommandResult(**answer, seconds=execution.seconds)
    except (ValueError, IndexError, TypeError) as error:
        reason = execution.error or f"its answer cannot be read: {execution.stdout[-200:]!r}"
        raise SandboxError(f"the kernel cannot run the command: {reason}") from error
