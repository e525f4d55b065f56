"""The variables of a Dockerfile: ARG and ENV."""

from __future__ import annotations

import dataclasses

from e2b_dockerfile_utils import DockerfileInstruction as Instruction

from builder.convert.draft import WHEN_OPENED, Draft
from builder.convert.values import Line
from builder.flatten.shell import BASE_PATH
from builder.flatten.stages import Report, Scope


class Variables:
    """What the instruction `at` sees; ENV goes into the spec, ARG does not."""

    def __init__(self, draft: Draft, scope: Scope, at: Instruction) -> None:
        self.draft = draft
        self.scope = scope
        self.at = at
        self._outer = scope

    def begin(self, outer: Scope) -> None:
        """Begin a stage; `outer` is what is set before the first FROM."""
        self.scope.keep(self.scope.env)  # an ARG of the stage below no longer hides an ENV
        self._outer = outer

    def arg(self, line: Line, instruction: Instruction) -> None:
        """Take over an ARG: its default is its value."""
        self.scope.declare(instruction, self._outer.visible)
        for word in instruction.args:
            name = word.partition("=")[0]
            value = self.scope.visible.get(name) or ""
            if self.draft.secrets.is_secret(name, value):
                self.draft.note(line, f"`{name}` {WHEN_OPENED}")

    def env(self, line: Line, instruction: Instruction) -> None:
        """Take over an ENV."""
        args = instruction.args
        values = [  # all as before this instruction
            (word, self.expand(word), self.expand(text, base_path=True))
            for word, text in zip(args[::3], args[1::3], strict=False)
        ]
        for word, name, value in values:
            if name is None or value is None:
                self.draft.note(
                    line,
                    f"`{word}` uses a variable that this file does not set; if the base image sets"
                    " it, write the same in [env]",
                )
                continue
            if self.draft.secrets.is_secret(name, value):
                self.draft.note(line, f"`{name}` {WHEN_OPENED}")
            else:
                shown = value.replace("$", "$$").replace(BASE_PATH, "${PATH}")
                self.draft.set(line, "env", name, shown)
                if BASE_PATH in value:
                    self._put_path_last()
            self.scope.keep({name: value})

    def _put_path_last(self) -> None:
        """Put PATH after the values that use the base image's, which `${PATH}` is until then."""
        env = self.draft.document.get("env", {})
        if "PATH" in env:
            env["PATH"] = env.pop("PATH")

    def expand(self, word: str, *, base_path: bool = False) -> str | None:
        """Return a word with its variables, without quotes; None if one has no value here. With
        `base_path`, the PATH of the base image is `BASE_PATH`."""
        scope = dataclasses.replace(self.scope, base_known=False, report=Report(""))
        return scope.expand(self.at, word, base_path=base_path)
