"""What a container of a Dockerfile starts: CMD, ENTRYPOINT and HEALTHCHECK."""

from __future__ import annotations

import shlex
from collections.abc import Sequence

from e2b_dockerfile_utils import DockerfileInstruction as Instruction

from builder.convert.service import Service
from builder.convert.values import Line


class Processes:
    """Combines ENTRYPOINT and CMD as Docker does."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._entrypoint: tuple[Line, list[str], bool] | None = None
        self._command: tuple[Line, list[str]] | None = None

    def cmd(self, line: Line, instruction: Instruction, shell: Sequence[str]) -> None:
        """Set the command, or the arguments of the entrypoint."""
        self._command = (line, _words(instruction, shell))

    def entrypoint(self, line: Line, instruction: Instruction, shell: Sequence[str]) -> None:
        """Set the entrypoint, which drops the command of the stage below."""
        self._entrypoint = (line, _words(instruction, shell), not instruction.json)
        self._command = None

    def healthcheck(self, line: Line, instruction: Instruction, _shell: Sequence[str]) -> None:
        """Set the command that tells whether the service is ready."""
        kind, *rest = instruction.args or [""]
        if kind.upper() == "CMD" and rest:
            self._service.ready(line, shlex.join(rest) if instruction.json else rest[0])

    def start(self) -> None:
        """Tell the service what is started."""
        line, words, is_shell = self._entrypoint or (None, [], False)
        if self._command and not is_shell:
            line, words = self._command[0], [*words, *self._command[1]]
        if line:
            self._service.start(line, words)


def _words(instruction: Instruction, shell: Sequence[str]) -> list[str]:
    if instruction.json or not instruction.args:
        return list(instruction.args)
    return [*(shell or ["/bin/sh", "-c"]), instruction.args[0]]
