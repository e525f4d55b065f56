"""Merge commands of the same user and stage into one RUN step, and thus one layer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from e2b_dockerfile_utils import DockerfileInstruction

from builder.flatten import shell
from builder.flatten.program import Step, StepKind
from builder.flatten.stages import Report

# An argument of a Linux process can hold 128 KiB.
_LONGEST_COMMAND = 100_000


@dataclass
class _Open:
    """A RUN step that may still grow; `env` and `workdir` are the current ones of its shell."""

    user: str
    stage: str
    first: int
    last: int
    parts: list[str] = field(default_factory=list)
    env: dict[str, str] = field(default_factory=dict)
    workdir: str | None = None
    length: int = 0


class RunSteps:
    """Collect `steps`, and merge RUN steps."""

    def __init__(self, report: Report) -> None:
        self.stage = ""
        self.steps: list[Step] = []
        self._report = report
        self._open: _Open | None = None

    def add(
        self,
        instruction: DockerfileInstruction,
        command: str,
        *,
        user: str,
        variables: Mapping[str, str],
        workdir: str | None,
    ) -> None:
        """Run `command` with at least `variables` set, in `workdir` (None: in any folder)."""
        size = len(command.encode())
        if size > _LONGEST_COMMAND:
            self._report.add(
                instruction,
                f"the command has {size:,} bytes, more than an argument of a process can hold",
                "put it into a file, and COPY that",
            )
            return
        grown = self._open
        if grown and (grown.user != user or grown.length + size > _LONGEST_COMMAND):
            self.close()
            grown = None
        if grown is None:
            first, last = instruction.start_line, instruction.end_line
            grown = self._open = _Open(user=user, stage=self.stage, first=first, last=last)
        changed = {k: v for k, v in variables.items() if grown.env.get(k) != v}
        if changed:
            grown.parts.append(shell.exports(changed))
            grown.env |= changed
        if workdir and workdir != grown.workdir:
            grown.parts.append(shell.command_line(["cd", workdir]))
            grown.workdir = workdir
        grown.parts.append(command)
        grown.last = instruction.end_line
        grown.length += size

    def as_root(self, instruction: DockerfileInstruction, command: str) -> None:
        """Run a command as root that replaces an action of Docker's builder."""
        self.add(instruction, command, user="root", variables={}, workdir=None)

    def append(
        self, kind: StepKind, args: tuple[str, ...], instruction: DockerfileInstruction
    ) -> None:
        """End the open RUN step, and append another step."""
        self.close()
        lines = (instruction.start_line, instruction.end_line)
        self.steps.append(Step(kind=kind, args=args, stage=self.stage, lines=lines))

    def close(self) -> None:
        """End the open RUN step, if there is one."""
        if self._open:
            lines = (self._open.first, self._open.last)
            args = (" && \\\n".join(self._open.parts), self._open.user)
            self.steps.append(Step(kind="RUN", args=args, stage=self._open.stage, lines=lines))
            self._open = None
