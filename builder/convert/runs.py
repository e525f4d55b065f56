"""Take over the RUN instructions of a Dockerfile: packages by name, everything else as commands."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from builder.convert import installs
from builder.convert.draft import Draft
from builder.convert.shell import Command, commands_of
from builder.convert.values import Files, Line

# What adds a repository to apt.
_REPOSITORY = re.compile(
    r"/etc/apt/|/usr/share/keyrings/|\badd-apt-repository\b|\bapt-key\b|\bnodesource\b|packagecloud"
)
_UNREPEATABLE = re.compile(
    r"\|\s*(?:sudo\s+(?:-\w+\s+)*)?(?:ba|z|da)?sh\b|\|\s*(?:sudo\s+)?python3?\b"
)
_ROOT = {"root", ""}


@dataclass(frozen=True, kw_only=True, slots=True)
class Place:
    """Where and as whom a command of a Dockerfile runs, and what the variables are that it sees."""

    user: str
    workdir: str
    arguments: Mapping[str, str]


class Runs:
    """The commands of a Dockerfile.

    `expand` returns a word without quotes and with its variables, or None if one has no value.
    """

    def __init__(
        self, draft: Draft, files: Files, expand: Callable[[str], str | None], paths: installs.Paths
    ) -> None:
        self.draft = draft
        self.files = files
        self.expand = expand
        self.paths = paths
        self._own_repositories = False
        self._left: list[tuple[Line, str, Place]] = []

    def add(self, line: Line, script: str, place: Place) -> None:
        """Take over the commands of a RUN instruction."""
        state: list[str] = []  # commands such as `cd`, on which those after them depend
        group: list[str] = []
        for command in commands_of(script):
            if self._is_install(line, command):
                self._leave(line, group, state, place)
                group = []
            elif command.changes_shell:
                state.append(command.text)
                group.append(command.text)
            else:
                if not any(text not in state for text in group):
                    group = list(state)
                group.append(command.text)
        self._leave(line, group, state, place)

    def _is_install(self, line: Line, command: Command) -> bool:
        """Take over a command that installs packages, or drop one that only cleans up."""
        if _REPOSITORY.search(command.text):
            self._own_repositories = True
        words = self._words(command)
        if words[:1] in (("apt-get",), ("apt",)) and self._own_repositories:
            # Only after the command that adds the repository is there what they install.
            return False
        if installs.only_cleans(words):
            return not self._own_repositories or words[0] not in ("apt-get", "apt")
        if (packages := installs.apt_packages(words)) is not None:
            for package in packages:
                self.draft.extend(line, "system", package)
            if "--no-install-recommends" not in words:
                self.draft.note(
                    line, "packages that these recommend are left out: name those that you need"
                )
            return True
        if installs.is_pip_install(words):
            installs.pip_install(line, words, self.draft, self.files, self.paths)
            return True
        return False

    def _words(self, command: Command) -> tuple[str, ...]:
        words = [self.expand(word) for word in command.words]
        if not words or any(word is None for word in words):
            return ()
        return installs.program_of([word for word in words if word is not None])

    def _leave(self, line: Line, group: Sequence[str], state: Sequence[str], place: Place) -> None:
        """Keep the commands that are no installation."""
        if any(text not in state for text in group):
            self._left.append((line, " && ".join(group), place))

    def take_over(self) -> None:
        """Write the commands into the spec."""
        for line, command, _ in self._left:
            reason = "a spec has no key for a command"
            if _UNREPEATABLE.search(command):
                reason += ", and what it installs cannot be locked"
            self.draft.note(Line(file=line.file, number=line.number, text=command), reason)
