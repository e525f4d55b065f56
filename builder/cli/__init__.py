"""`template-builder`: arguments to words and exit codes. The only owner of typer.

This module is the frame: one way to end, one exit code a kind of failure. It loads the rest only
when a signal is already handled.
"""

from __future__ import annotations

import gc
import io
import json
import os
import signal
import sys
from typing import Any, NoReturn, cast

from builder import errors

__all__ = ["main"]

_STOPPING = (signal.SIGINT, signal.SIGTERM)


def main() -> NoReturn:
    """Run the command line; ends the process with the exit code of what happened."""
    for number in _STOPPING:
        signal.signal(number, _interrupted)
    # Start-up is what a person waits for: no collection of garbage while modules load, and no
    # search of every installed distribution for plugins of pydantic, which has none to run here.
    gc.set_threshold(100_000)
    os.environ.setdefault("PYDANTIC_DISABLE_PLUGINS", "__all__")
    for stream in (sys.stdout, sys.stderr):
        # A terminal that knows ASCII alone gets a `?`, not a traceback.
        cast(io.TextIOWrapper, stream).reconfigure(errors="replace")
    try:
        _check_working_directory()
        from builder.cli.app import app

        app()
    except errors.TemplateError as error:
        _fail(error)
    except KeyboardInterrupt:
        _fail(
            errors.InterruptedRunError(
                "interrupted; what was finished is recorded, the rest left nothing behind",
                hint="run the same command again: it goes on with what is there",
            )
        )
    except BrokenPipeError:
        # Whoever read our output has had enough, as `head` does.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(0)
    except OSError as error:
        _fail(errors.from_os_error(error, "the command"))
    finally:
        # What is done is done: a signal from here on would only spoil the exit code.
        _ignore_signals()
        gc.freeze()  # nothing of what was loaded needs to be taken apart piece by piece at the end
    sys.exit(0)


def _check_working_directory() -> None:
    try:
        os.getcwd()
    except OSError as error:
        raise errors.ProjectError(
            f"the working directory cannot be used: {error.strerror}",
            hint="change to a folder that exists",
        ) from error


def _interrupted(_signal: int, _frame: Any) -> None:
    # One way to stop: what Ctrl-C cleans up, `kill` does too. Once: a second one must not
    # break into the cleaning up.
    _ignore_signals()
    raise KeyboardInterrupt


def _ignore_signals() -> None:
    for number in _STOPPING:
        signal.signal(number, signal.SIG_IGN)


def _fail(error: errors.TemplateError) -> NoReturn:
    from builder import progress

    if "--json" in sys.argv and not progress.json_shown():
        sys.stdout.write(json.dumps({"error": error.to_json()}, indent=2) + "\n")
    sys.stderr.write(f"error: {error}\n")
    sys.exit(error.exit_code)
