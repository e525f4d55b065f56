"""Take over the RUN instructions of a Dockerfile: packages by name, everything else as commands."""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from builder.convert import downloads, installs
from builder.convert.draft import Draft
from builder.convert.shell import Command, commands_of
from builder.convert.values import Files, Line

# What adds a repository to apt.
_REPOSITORY = re.compile(
    r"/etc/apt/|/usr/share/keyrings/|\badd-apt-repository\b|\bapt-key\b|\bnodesource\b|packagecloud"
)
_REPOSITORY_NOTE = (
    "stays a command, as do the packages installed after it; [[system.repository]] says the same,"
    " with a key that is checked"
)
_VENV = (
    "packages are installed into the image's own Python; what would start that of the virtual"
    " environment is left out"
)
_ALWAYS_THERE = {"/", "/home/user"}


@dataclass(frozen=True, kw_only=True, slots=True)
class Place:
    """Where and as whom a command of a Dockerfile runs, and what it sees of the build.

    `arguments` are the variables that exist while it runs, but not in a sandbox. `shell` replaces
    the default one.
    """

    user: str
    workdir: str
    arguments: Mapping[str, str]
    shell: tuple[str, ...] = ()
    network: bool = True


@dataclass(frozen=True, kw_only=True, slots=True)
class _Group:
    """Commands of one RUN that belong together; `number` is their place among everything that the
    Dockerfile does."""

    line: Line
    command: str
    place: Place
    number: int


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
        self.environments: set[str] = set()  # virtual environments of Python
        self._number = self._last_packages = 0
        self._first_copy: int | None = None
        self._own_repositories = False
        self._groups: list[_Group] = []

    def copied(self) -> None:
        """Note that files were copied: commands after it may need them."""
        self._number += 1
        self._first_copy = self._first_copy or self._number

    def add(self, line: Line, script: str, place: Place) -> None:
        """Take over the commands of a RUN instruction."""
        commands = commands_of(script)
        if downloads.take_over(line, [self._words(c) for c in commands], place.workdir, self.draft):
            return
        state: list[str] = []  # commands such as `cd`, on which those after them depend
        group: list[str] = []
        for command in commands:
            before = self._number
            self._number += 1
            if self._is_done(line, command):
                self._leave(line, group, state, place, before)
                group = list(state)
                continue
            if command.changes_shell:
                state.append(command.text)
            group.append(command.text)
        self._leave(line, group, state, place, self._number)

    def _is_done(self, line: Line, command: Command) -> bool:
        """Take over a command that installs packages, or drop one that is not needed."""
        if _REPOSITORY.search(command.text) and not self._own_repositories:
            self._own_repositories = True
            self.draft.note(line, _REPOSITORY_NOTE)
        words = self._words(command)
        if words[:1] in (("apt-get",), ("apt",)) and self._own_repositories:
            # Only after the command that adds the repository is there what they install.
            return False
        if installs.is_not_needed(words):
            return True
        if environment := installs.virtual_environment(words):
            self.environments.add(environment)
            self.draft.note(line, _VENV)
            return True
        if (packages := installs.apt_packages(words)) is not None:
            for package in packages:
                self.draft.extend(line, "system", package)
            if "--no-install-recommends" not in words:
                self.draft.note(
                    line, "packages that these recommend are left out: name those that you need"
                )
            return True
        # Node.js of a repository that a command adds is there only after the command.
        npm = [] if self._own_repositories else installs.npm_packages(words, self.draft)
        for package in npm:
            self.draft.extend(line, "node", package)
        return bool(npm) or self._is_python_install(line, words)

    def _is_python_install(self, line: Line, words: Sequence[str]) -> bool:
        """Take over a command that installs Python packages."""
        if installs.is_pip_install(words, self.draft):
            installs.pip_install(line, words, self.draft, self.files, self.paths)
        elif not installs.is_project_install(words) or not installs.project_install(
            line, self.draft, self.files, self.paths
        ):
            return False
        self._last_packages = self._number
        return True

    def _words(self, command: Command) -> tuple[str, ...]:
        words = [self.expand(word) for word in command.words]
        if not words or any(word is None for word in words):
            return ()
        known = [word for word in words if word is not None]
        return installs.program_of(known, {f"{folder}/bin" for folder in self.environments})

    def _leave(
        self, line: Line, group: Sequence[str], state: Sequence[str], place: Place, number: int
    ) -> None:
        """Keep the commands that are no installation."""
        if any(text not in state for text in group):
            command = " && ".join(group)
            self._groups.append(_Group(line=line, command=command, place=place, number=number))

    def keep(self, line: Line, script: str, place: Place) -> None:
        """Take over a RUN instruction as a single command."""
        self._number += 1
        self._leave(line, [script], [], place, self._number)

    def take_over(self) -> None:
        """Write the commands into the spec."""
        for group in self._groups:
            line = Line(file=group.line.file, number=group.line.number, text=group.command)
            self.draft.add(line, "run", self._table(group))

    def _table(self, group: _Group) -> dict[str, Any]:
        place, command = group.place, group.command
        if place.shell:
            command = shlex.join([*place.shell, command])
        if place.workdir not in _ALWAYS_THERE:
            folder = shlex.quote(place.workdir)
            command = f"mkdir -p {folder} && cd {folder}\n{command}"
        elif place.workdir != "/":
            command = f"cd {place.workdir}\n{command}"
        table: dict[str, Any] = {"command": command}
        if place.user == "user":
            table["user"] = "user"
        copied_before = self._first_copy is not None and self._first_copy < group.number
        if group.number < self._last_packages and not copied_before:
            table["before"] = "packages"
        used = {
            name: value.replace("$", "$$")
            for name, value in place.arguments.items()
            if re.search(rf"\$\{{?{re.escape(name)}\b", group.command)
            or (name == "DEBIAN_FRONTEND" and "apt" in group.command)
        }
        if used:
            table["env"] = used
        if not place.network:
            table["network"] = False
        return table
