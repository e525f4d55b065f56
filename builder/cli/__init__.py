"""`template-builder`: from arguments to output and exit codes. The only owner of typer.

This module is the frame: every run ends here, with the exit code of its kind of failure. The rest
is loaded once signals are handled.
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
    """Run the command line, and exit the process with the exit code of the outcome."""
    guard.open_standard_descriptors()
    for number in _STOPPING:
        if number != signal.SIGHUP or signal.getsignal(number) != signal.SIG_IGN:  # as under nohup
            signal.signal(number, _interrupted)
    # Start fast: do not collect garbage while modules load, and do not search every installed
    # distribution for plugins of pydantic.
    gc.set_threshold(100_000)
    os.environ.setdefault("PYDANTIC_DISABLE_PLUGINS", "__all__")
    tolerate_lost_readers()
    warnings.showwarning = _warned
    sys.unraisablehook = _unraisable
    code = 0
    try:
        _check_working_directory()
        with needs():
            from builder.cli.app import run

        code = run(sys.argv[1:])
    except errors.TemplateError as error:
        code = _report(error)
    except (_Stopped, KeyboardInterrupt):
        _end_interrupted()
    except OSError as error:
        code = _report(errors.from_os_error(error, "the command"))
    except Exception:
        # pydantic wraps what is raised while it builds a schema.
        if not _Stopped.raised:
            raise
        _end_interrupted()
    finally:
        # The work is done: a signal from here on would only change the exit code.
        _ignore_signals()
        gc.freeze()  # skip the destruction of everything at exit
    sys.exit(code)


def _warned(message: Warning | str, category: type[Warning], *_: Any, **__: Any) -> None:
    # The warnings of libraries are of no use to the user.
    if category.__module__.startswith("builder."):
        from builder.cli import progress

        progress.show_message(f"warning: {message}")


class _Stopped(BaseException):
    """Ctrl-C, `kill`, or a closed terminal.

    Not KeyboardInterrupt, which typer would swallow.
    """

    raised = False


def _check_working_directory() -> None:
    try:
        os.getcwd()
    except OSError as error:
        raise errors.ProjectError(
            f"the working directory cannot be used: {error.strerror}",
            hint="change to a folder that exists",
        ) from error


def _interrupted(_signal: int, _frame: Any) -> None:
    # `kill` cleans up as Ctrl-C does. A second signal must not interrupt that.
    _ignore_signals()
    _Stopped.raised = True
    raise _Stopped


def _unraisable(lost: Any) -> None:
    # Nothing can be raised from a destructor or a callback of C code. Interrupt again in a moment.
    if lost.exc_type is _Stopped:
        signal.signal(signal.SIGALRM, _interrupted)
        signal.setitimer(signal.ITIMER_REAL, 0.01)
    else:
        sys.__unraisablehook__(lost)


def _end_interrupted() -> NoReturn:
    code = _report(
        errors.InterruptedRunError(
            "interrupted; finished builds are recorded, and unfinished ones were removed here",
            hint="run the same command again to continue, also with builds running on E2B",
        )
    )
    _end_at_once(code)


def _end_at_once(code: int) -> NoReturn:
    """Exit without waiting for threads that wait for the network."""
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError, AttributeError):
            stream.flush()
    os._exit(code)


def _ignore_signals() -> None:
    signal.setitimer(signal.ITIMER_REAL, 0)
    for number in _STOPPING:
        signal.signal(number, signal.SIG_IGN)


def _report(error: errors.TemplateError) -> int:
    """Show a failure, as JSON too with `--json`, and return its exit code."""
    from builder.cli import output, progress

    output.Output(as_json="--json" in sys.argv).show_failure(error.to_json())
    progress.show_message(f"error: {error}")
    return error.exit_code
