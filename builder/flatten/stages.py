"""Find the chain of stages behind the last one, and apply Docker's rules for variables."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from e2b_dockerfile_utils import (
    DockerfileInstruction,
    DockerfileSyntaxError,
    ShellLex,
    parse_dockerfile_ast,
)

from builder.errors import Problem
from builder.flatten.shell import BASE_PATH
from builder.system.documents import MAX_DEPTH, has_deep_brackets

# Special to the lexer; most words have none and need no lexer.
_LEXED = re.compile(r"[\"'$<`\\]")
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
# Read-only in bash, which runs every step.
_READ_ONLY = {"BASHOPTS", "BASH_VERSINFO", "EUID", "PPID", "SHELLOPTS", "UID"}
# Declared without ARG, and empty by default (docs.docker.com/reference/dockerfile, "Predefined
# ARGs").
PREDEFINED = frozenset(
    name
    for upper in ("HTTP_PROXY", "HTTPS_PROXY", "FTP_PROXY", "NO_PROXY", "ALL_PROXY")
    for name in (upper, upper.lower())
)
# Set by BuildKit for an ARG of that name; E2B has a single platform.
_PLATFORM = {"PLATFORM": "linux/amd64", "OS": "linux", "ARCH": "amd64", "VARIANT": ""}
PLATFORM = {side + key: value for side in ("TARGET", "BUILD") for key, value in _PLATFORM.items()}


@dataclass
class Report:
    """The mistakes found so far in a file."""

    file: str
    problems: list[Problem] = field(default_factory=list)

    def add(
        self, at: DockerfileInstruction | int, message: str, hint: str | None = None, key: str = ""
    ) -> None:
        """Add a mistake at an instruction or line."""
        line = at if isinstance(at, int) else at.start_line
        name = key or ("" if isinstance(at, int) else at.name)
        message = message.replace(BASE_PATH, "$PATH")
        self.problems.append(Problem(self.file, message, line=line, column=1, key=name, hint=hint))


@dataclass
class StageText:
    """A stage: its name, its FROM instruction, and the instructions that follow."""

    name: str
    opening: DockerfileInstruction
    base: str = ""
    parent: StageText | None = None
    instructions: list[DockerfileInstruction] = field(default_factory=list)


class _Variables(Mapping[str, str]):
    """Variables for expansion; names that are not declared are kept in `missing`.

    With `base_path`, PATH may be that of the base image.
    """

    def __init__(self, values: Mapping[str, str | None], *, base_path: bool) -> None:
        self._values = values
        self._base_path = base_path
        self.missing: list[str] = []

    def __getitem__(self, name: str) -> str:
        if name == "PATH" and self._base_path and name not in self._values:
            return BASE_PATH
        if name not in self._values and name not in PREDEFINED:
            self.missing.append(name)
        value = self._values.get(name)
        if value is None:
            raise KeyError(name)
        return value

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)


@dataclass
class Scope:
    """The variables of a stage.

    `visible` are those set so far by ENV and ARG, where the later one wins, as in BuildKit (None:
    declared but not set). `env` are those of ENV, which persist. With `base_known`, `env` includes
    those of the base image, and other variables are empty, as in Docker; without it, they are an
    error, since the base image may set them.
    """

    escape: str
    report: Report
    arguments: Mapping[str, str]
    base_known: bool
    visible: dict[str, str | None] = field(default_factory=dict)
    env: dict[str, str] = field(default_factory=dict)

    def expand(
        self,
        at: DockerfileInstruction,
        word: str,
        *,
        heredoc: bool = False,
        base_path: bool = False,
    ) -> str | None:
        """Return `word` without quotes and with its variables expanded.

        If that is impossible, report the reason and return None. With `base_path`, a PATH that only
        the base image sets expands to `BASE_PATH`.
        """
        if not _LEXED.search(word):
            return word
        variables = _Variables(self.visible, base_path=base_path and not self.base_known)
        lexer = ShellLex(
            self.escape, env=variables, skip_unset_env=False, skip_process_quotes=heredoc
        )
        try:
            expanded: str = lexer.process_word(word)
        except ValueError as error:
            self.report.add(at, str(error))
            return None
        if self.base_known or not variables.missing:
            return expanded
        for name in variables.missing:
            self.report.add(
                at,
                f"`${name}` is not set in this file, and a step of E2B cannot see the variables"
                " of the base image",
                f"write the value itself, or declare it: ARG {name}=…",
            )
        return None

    def declare(self, instruction: DockerfileInstruction, outer: Mapping[str, str | None]) -> None:
        """Process an ARG: its value is that in `arguments`, its default, or that in `outer`."""
        if not instruction.args:
            self.report.add(instruction, "there is no name")
        for word in instruction.args:
            target, has_default, default = word.partition("=")
            if (name := self.expand(instruction, target)) is None:
                continue
            # Where the default is unknown, its variable has been reported.
            value = self.expand(instruction, default) or "" if has_default else None
            if name in self.arguments:
                value = self.arguments[name]
            elif value is None:
                value = outer.get(name, PLATFORM.get(name))
            self.check_name(instruction, name)
            if value is not None or name not in self.visible:
                self.visible[name] = value

    def keep(self, variables: Mapping[str, str]) -> None:
        """Process an ENV."""
        self.env |= variables
        self.visible |= variables

    def check_name(self, instruction: DockerfileInstruction, name: str) -> None:
        """Report a name that Docker accepts but a shell does not."""
        if not _VARIABLE.fullmatch(name) or name in _READ_ONLY:
            self.report.add(
                instruction,
                f"the shells of E2B's steps cannot set a variable called `{name}`",
                "use a name of letters, digits and _",
            )


def flags_of(instruction: DockerfileInstruction) -> Iterator[tuple[str, str]]:
    """Yield the name and value of each flag; the value is empty if there is none."""
    for flag in instruction.flags:
        name, _, value = flag.removeprefix("--").partition("=")
        yield name, value


def instruction_lines(text: str) -> list[tuple[int, int]]:
    """Return the first and last line of every instruction, in Docker's order of steps."""
    instructions = parse_dockerfile_ast(text).instructions
    return [(instruction.start_line, instruction.end_line) for instruction in instructions]


def _deep_line(text: str) -> int | None:
    """Return the line of the first instruction with lists that are nested beyond `MAX_DEPTH`."""
    first, parts = 0, list[str]()
    for number, line in enumerate(text.split("\n"), 1):
        content = line.strip()
        if not content or content.startswith("#"):
            continue  # these do not end a continued instruction
        first = first if parts else number
        parts.append(content.rstrip("\\`"))
        if content[-1] not in "\\`":
            if has_deep_brackets("".join(parts)):
                return first
            parts.clear()
    return first if has_deep_brackets("".join(parts)) else None


def chain_of(
    text: str, report: Report, arguments: Mapping[str, str]
) -> tuple[list[StageText], Scope]:
    """Return the chain of the last stage, root first, and what is set before the first FROM.

    The chain is empty if the text has no stage.
    """
    outer = Scope("\\", report, arguments, base_known=True, visible=dict(PLATFORM))
    if line := _deep_line(text):
        report.add(line, f"lists are nested deeper than {MAX_DEPTH} levels")
        return [], outer
    try:
        parsed = parse_dockerfile_ast(text)
    except DockerfileSyntaxError as error:
        line = error.line or 1
        message = str(error).removeprefix("Dockerfile parse error")
        message = message.removeprefix(f" on line {line}").removeprefix(": ")
        report.add(line, message)
        return [], outer
    outer.escape = parsed.escape_token
    stages: list[StageText] = []
    by_name: dict[str, StageText] = {}
    for instruction in parsed.instructions:
        if instruction.name == "FROM":
            stages.append(_opened(instruction, outer, by_name, len(stages)))
            by_name[stages[-1].name.lower()] = stages[-1]
        elif stages:
            stages[-1].instructions.append(instruction)
        elif instruction.name == "ARG":
            outer.declare(instruction, {})
        else:
            report.add(instruction, "is before the first FROM")
    if not stages:
        report.add(1, "there is no FROM instruction")
        return [], outer
    chain = [stages[-1]]
    while chain[0].parent:
        chain.insert(0, chain[0].parent)
    return chain, outer


def _opened(
    instruction: DockerfileInstruction, outer: Scope, stages: Mapping[str, StageText], number: int
) -> StageText:
    args = instruction.args
    if len(args) not in (1, 3) or (len(args) == 3 and args[1].lower() != "as"):
        outer.report.add(instruction, "expected FROM image, or FROM image AS name")
        return StageText(name=str(number), opening=instruction, base="?")
    name = args[2] if len(args) == 3 else str(number)
    base = outer.expand(instruction, args[0])
    if base is None:
        return StageText(name=name, opening=instruction, base="?")
    return StageText(name=name, opening=instruction, base=base, parent=stages.get(base.lower()))
