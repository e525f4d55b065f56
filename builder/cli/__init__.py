"""`template-builder`: arguments to words and exit codes. The only owner of typer.

This module is the frame: one way to end, one exit code a kind of failure. It loads the rest only
when a signal is already handled.
"""

from __future__ import annotations

import contextlib
import gc
import os
import signal
import sys
import warnings
from typing import Any, NoReturn

from builder import errors
from builder.cli.streams import tolerate_lost_readers
from builder.system import guard
from builder.system.extras import needs

__all__ = ["main"]

_STOPPING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def main() -> NoReturn:
    """Run the command line; ends the process with the exit code of what happened."""
    guard.open_standard_descriptors()
    for number in _STOPPING:
        if number != signal.SIGHUP or signal.getsignal(number) != signal.SIG_IGN:  # as by nohup
            signal.signal(number, _interrupted)
    # Start-up is what a person waits for: no collection of garbage while modules load, and no
    # search of every installed distribution for plugins of pydantic, which has none to run here.
    gc.set_threshold(100_000)
    os.environ.setdefault("PYDANTIC_DISABLE_PLUGINS", "__all__")
    tolerate_lost_readers()
    warnings.showwarning = _warned
    code = 0
    try:
        _check_working_directory()
        with needs():
            from builder.cli.app import run

        code = run(sys.argv[1:])
    except errors.TemplateError as error:
        code = _report(error)
    except (_Stopped, KeyboardInterrupt):
        code = _report(
            errors.InterruptedRunError(
                "interrupted; what was finished is recorded, and nothing half-made is left here",
                hint="run the same command again: it goes on with what is there, on E2B, too",
            )
        )
        _end_at_once(code)
    except OSError as error:
        code = _report(errors.from_os_error(error, "the command"))
    finally:
        # What is done is done: a signal from here on would only spoil the exit code.
        _ignore_signals()
        gc.freeze()  # nothing of what was loaded needs to be taken apart piece by piece at the end
    sys.exit(code)


def _warned(message: Warning | str, category: type[Warning], *_: Any, **__: Any) -> None:
    # Of a library's own warnings a person here can make nothing.
    if category.__module__.startswith("builder."):
        from builder.cli import progress

        progress.show_message(f"warning: {message}")


class _Stopped(BaseException):
    """Ctrl-C, `kill`, or a closed terminal.

    Not KeyboardInterrupt, which typer would end without a word.
    """


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
    raise _Stopped


def _end_at_once(code: int) -> NoReturn:
    """A thread that waits for an answer over the network would keep the process for as long."""
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError, AttributeError):
            stream.flush()
    os._exit(code)


def _ignore_signals() -> None:
    for number in _STOPPING:
        signal.signal(number, signal.SIG_IGN)


def _report(error: errors.TemplateError) -> int:
    """Tell a failure to people, and to machines if they listen; the exit code for it."""
    from builder.cli import output, progress

    output.Output(as_json="--json" in sys.argv).show_failure(error.to_json())
    progress.show_message(f"error: {error}")
    return error.exit_code
