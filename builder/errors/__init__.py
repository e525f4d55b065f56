"""Everything that can go wrong, in one tree; each leaf owns its exit code.

This module words failures; it does not catch, log or print them. Two codes are not errors: 2 is
`plan --exit-code` with something to do, 64 is an invalid command line.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from builder.errors.visible import one_line, visible

# Light on purpose: `builder.registry` loads this module in every application.
SOMETHING_TO_DO = 2
USAGE = 64


class TemplateError(Exception):
    """A failure that the user can act on: what happened, and what to do next (`hint`)."""

    exit_code = 1

    def __init_subclass__(cls, *, exit_code: int | None = None) -> None:
        if exit_code is not None:
            cls.exit_code = exit_code

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        # Applications print this, and parts of it come from the files of others.
        self.message = visible(message)
        self.hint = hint and visible(hint)
        super().__init__(self.message)

    @property
    def headline(self) -> str:
        """The first line of the message, for a row of a table or of the progress."""
        return self.message.partition("\n")[0].removesuffix(":")

    def __str__(self) -> str:
        return f"{self.message}\n\nhint: {self.hint}" if self.hint else self.message

    def to_json(self) -> dict[str, object]:
        """Return the failure as plain values: `kind`, `message`, `hint`, `exit_code`."""
        parts = {name: getattr(self, name) for name in ("message", "hint", "exit_code")}
        return {"kind": type(self).__name__, **parts}


class ProjectError(TemplateError, exit_code=3):
    """There is no project, or its settings in pyproject.toml are not valid."""


class Problem:
    """One mistake in one file; `line` and `column` count from 1, and 0 is unknown."""

    __slots__ = ("column", "file", "hint", "key", "line", "message")

    def __init__(
        self,
        file: str,
        message: str,
        *,
        line: int = 0,
        column: int = 0,
        key: str = "",
        hint: str | None = None,
    ) -> None:
        self.file = file
        self.line = line
        self.column = column
        self.key = key
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        place = f"{self.file}:{self.line}:{self.column}" if self.line else self.file
        key = f" `{self.key}`:" if self.key else ""
        hint = f" ({self.hint})" if self.hint else ""
        return one_line(f"{place}:{key} {self.message}{hint}")

    def to_json(self) -> dict[str, object]:
        """Return the mistake as plain values."""
        return {slot: getattr(self, slot) for slot in sorted(self.__slots__)}


class _ProblemsError(TemplateError):
    """All mistakes in all files, in the order of files and lines."""

    where = ""

    def __init__(self, problems: Iterable[Problem]) -> None:
        distinct = {str(problem): problem for problem in problems}
        self.problems = sorted(distinct.values(), key=lambda p: (p.file, p.line, p.column, p.key))
        count = len(self.problems)
        title = "1 problem" if count == 1 else f"{count} problems"
        super().__init__("\n".join([f"{title} {self.where}:", *map(str, self.problems)]))

    def to_json(self) -> dict[str, object]:
        """Return the failure with its list of problems."""
        return super().to_json() | {"problems": [p.to_json() for p in self.problems]}


class SpecError(_ProblemsError, exit_code=4):
    """A spec is not valid."""

    where = "in the specs"


class SelectionError(TemplateError, exit_code=5):
    """A name, file or option does not match anything."""


class UnconfirmedError(TemplateError, exit_code=6):
    """Confirmation is required, and there is no terminal to ask at."""


class MissingExtraError(TemplateError, ImportError, exit_code=7):
    """A required extra is not installed."""


class SourceError(_ProblemsError, exit_code=8):
    """A file given to `init --from` cannot be converted."""

    where = "in the file to convert"


class LockConflictError(TemplateError, exit_code=10):
    """The requirements cannot all be met; `absent` are packages that the index does not have."""

    def __init__(
        self, message: str, *, hint: str | None = None, absent: Iterable[str] = ()
    ) -> None:
        super().__init__(message, hint=hint)
        self.absent = tuple(absent)


class StaleLockError(TemplateError, exit_code=11):
    """With --frozen, the committed lock does not match its spec."""


class NetworkError(TemplateError, exit_code=12):
    """An index, registry or service could not be reached."""


class RenderDriftError(TemplateError, exit_code=13):
    """generated/ does not match the specs."""


class FlattenError(_ProblemsError, exit_code=14):
    """A Dockerfile has instructions that E2B cannot follow."""

    where = "that E2B would not build as Docker does"


class PrecheckError(TemplateError, exit_code=15):
    """Docker cannot build or start the rendered Dockerfile."""


class EngineUnavailableError(TemplateError, exit_code=16):
    """No Docker engine answers, or its client is not installed."""


class FetchError(TemplateError, exit_code=17):
    """A file that a spec names by its address does not exist, or is not the expected one."""


class BuildError(TemplateError, exit_code=20):
    """A target could not build the template."""


class StepError(BuildError, exit_code=23):
    """A step failed; `step` counts from 1, 0 is the base image, None is after the steps."""

    def __init__(self, message: str, *, step: int | None, hint: str | None = None) -> None:
        super().__init__(message, hint=hint)
        self.step = step


class LimitError(BuildError, exit_code=24):
    """A limit of the account was reached for too long."""


class CacheMissError(BuildError, exit_code=25):
    """With --require-cache, a step ran that should have been cached."""


class VerifyError(TemplateError, exit_code=21):
    """A build does not pass its checks."""


class StorageError(TemplateError, exit_code=22):
    """The disk is full, or a place cannot be written."""


class TargetUnavailableError(TemplateError, exit_code=30):
    """The target is unknown or cannot be used here."""


class BlockedError(TemplateError, exit_code=31):
    """A template cannot be built, for a reason in the plan; or a channel is on hold."""


class NotOnThisMachineError(TemplateError, exit_code=32):
    """A local build is on another machine."""


class SandboxError(TemplateError, exit_code=33):
    """A sandbox did not start or has stopped."""


class SandboxGoneError(SandboxError, exit_code=34):
    """A sandbox stopped before it ran the code."""


class InterpreterDiedError(SandboxError, exit_code=35):
    """The interpreter stopped while it ran the code: killed, out of memory, or ended by the code.

    If known, `seen` is the `Execution` up to then, and `status` the interpreter's exit status
    (negative for a signal).
    """

    seen: object = None
    status: int | None = None


class SandboxFileError(TemplateError, exit_code=36):
    """A file in a sandbox cannot be read or written."""


class NoSandboxFileError(SandboxFileError, FileNotFoundError, exit_code=37):
    """There is no such file in the sandbox (FileNotFoundError)."""


class RegistryError(TemplateError, exit_code=40):
    """registry.json cannot be read."""


class RegistryVersionError(RegistryError, exit_code=41):
    """A newer version of template-builder wrote registry.json."""


class TemplateLookupError(TemplateError, LookupError):
    """The registry does not have a name, target, channel or build.

    Message and hint are one line each, so a reason in them cannot forge a line.
    """

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(one_line(message), hint=hint and one_line(hint))


class UnknownTemplateError(TemplateLookupError, exit_code=42):
    """The registry has no template of that name."""


class NotBuiltError(TemplateLookupError, exit_code=43):
    """The template is not built for that target."""


class UnknownChannelError(TemplateLookupError, exit_code=44):
    """The template has no such channel."""


class RevokedError(TemplateLookupError, exit_code=45):
    """The build was revoked, and no other is used instead."""


class UnknownBuildError(TemplateLookupError, exit_code=46):
    """The template has no such build, or none to go back to."""


class AssumptionError(TemplateError, exit_code=51):
    """E2B behaves differently than this program assumes."""


class SeveralFailuresError(TemplateError, exit_code=50):
    """Several templates failed for different reasons."""

    def __init__(self, failures: Mapping[str, TemplateError]) -> None:
        self.failures = dict(failures)
        count = len(self.failures)
        super().__init__(
            f"{count} templates failed:\n"
            + "\n".join(_paragraph(name, error) for name, error in self.failures.items())
        )

    def to_json(self) -> dict[str, object]:
        """Return the failure with that of each template."""
        return super().to_json() | {
            "failures": {name: error.to_json() for name, error in self.failures.items()}
        }


def _paragraph(name: str, error: TemplateError) -> str:
    hint = f"\n  hint: {error.hint}" if error.hint else ""
    return f"{about(name, error.message)}{hint}"


class InterruptedRunError(TemplateError, exit_code=130):
    """Ctrl-C, `kill`, or a closed terminal."""


def from_os_error(error: OSError, doing: str) -> StorageError:
    """Return the error to show for an `OSError` while `doing` something."""
    import errno

    place = f" (`{error.filename}`)" if error.filename else ""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return StorageError(
            f"the disk is full: {doing} needed more space{place}",
            hint="free some space and run the same command again; finished work is kept",
        )
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return StorageError(
            f"{doing} is not permitted: {error.strerror}{place}",
            hint="make the folder writable, or use another one",
        )
    return StorageError(f"{doing} failed: {error.strerror or error}{place}")


def about(name: str, message: str) -> str:
    """Return `message`, with the name before it unless its first line has it."""
    return message if f"`{name}`" in message.partition("\n")[0] else f"`{name}`: {message}"


def counted(count: float, noun: str) -> str:
    """Return `1 check`, `2 checks`."""
    return f"{count:,.0f} {noun}" if round(count) == 1 else f"{count:,.0f} {noun}s"


def near(word: str, known: Iterable[str], count: int = 3) -> list[str]:
    """Return the words of `known` that are near to `word`, best first."""
    import difflib

    return difflib.get_close_matches(word, list(known), n=count, cutoff=0.6)


def did_you_mean(word: str, known: Iterable[str]) -> str | None:
    """Return a hint with the near matches, or None."""
    matches = near(word, known)
    return f"did you mean {' or '.join(f'`{match}`' for match in matches)}?" if matches else None
