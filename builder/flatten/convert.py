"""The instructions of a chain of stages, one after the other, to as few steps as keep the meaning.

Every RUN names its user, folder and variables itself, so that no step is needed to set them; what a
sandbox starts with is set once, at the end.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field

from e2b_dockerfile_utils import DockerfileInstruction, parse_heredoc

from builder.errors import FlattenError
from builder.flatten import shell
from builder.flatten.copies import ALWAYS_THERE, CopySteps, check_plain, content_of, parents_of
from builder.flatten.losses import METADATA, check_add, check_flags
from builder.flatten.program import BaseConfig, Metadata, Program, Step
from builder.flatten.runs import RunSteps
from builder.flatten.stages import Report, Scope, StageText, chain_of, flags_of

# The account and folder that a sandbox has where no step says otherwise.
E2B_USER = "user"
E2B_WORKDIR = "/home/user"
_NAME = re.compile(r"[a-z_][a-z0-9_-]{0,31}")
_STEP_KINDS = ("RUN", "COPY", "ENV", "WORKDIR", "USER")


@dataclass
class _State:
    """What Docker remembers from one instruction to the next."""

    scope: Scope
    user: str
    workdir: str
    shell: list[str] = field(default_factory=lambda: ["/bin/sh", "-c"])
    entrypoint: list[str] | None = None
    command: list[str] | None = None
    ready: list[str] | None = None


class _Converter:
    def __init__(self, report: Report, state: _State, files: Collection[str] | None) -> None:
        self.report = report
        self.state = state
        self.metadata: list[Metadata] = []
        self.assumptions: dict[str, None] = {}
        self.steps_before = 0
        self.workdir_sent = False
        self.runs = RunSteps(report)
        self.copies = CopySteps(self.runs, report, files)
        self._command_set = False
        self._user_said = self._workdir_said = False

    def run_stage(self, stage: StageText, outer: Mapping[str, str | None]) -> None:
        self.runs.stage = stage.name
        self._command_set = False
        # What ENV set in the stages below is seen again where an ARG hid it there.
        self.state.scope.keep(self.state.scope.env)
        for instruction in stage.instructions:
            self.steps_before += instruction.name in _STEP_KINDS
            if instruction.name == "ARG":
                self.state.scope.declare(instruction, outer)
                continue
            handler = getattr(self, f"_{instruction.name.lower()}", None)
            if handler:
                handler(instruction)
        self.runs.close()

    # ---- instructions that change the machine

    def _run(self, instruction: DockerfileInstruction) -> None:
        check_flags(instruction, {}, self.report)
        if not instruction.args:
            self.report.add(instruction, "there is no command")
            return
        if instruction.json:
            command = shell.command_line(instruction.args)
        else:
            command = shell.command_line([*self.state.shell, _script(instruction)])
        if not self._user_said:
            self._assume("its user is root")
        self._assume_workdir()
        self.copies.made = set(ALWAYS_THERE)  # a command may have removed the others
        variables = {k: v for k, v in self.state.scope.visible.items() if v is not None}
        if not self.workdir_sent and self.state.user not in ("root", E2B_USER):
            # A step begins in the home of its account, which this one may not have.
            self.runs.append("WORKDIR", ("/",), instruction)
            self.workdir_sent = True
        self.runs.add(
            instruction,
            command,
            user=self.state.user,
            variables=variables,
            workdir=self.state.workdir,
        )

    def _copy(self, instruction: DockerfileInstruction) -> None:
        if instruction.args and not instruction.args[-1].startswith(("/", "$")):
            self._assume_workdir()
        self.copies.add(instruction, self.state.scope, self.state.workdir)

    def _add(self, instruction: DockerfileInstruction) -> None:
        check_add(instruction, self.report)

    # ---- instructions that change what the next ones mean

    def _env(self, instruction: DockerfileInstruction) -> None:
        check_flags(instruction, {}, self.report)
        args, scope, values = instruction.args, self.state.scope, {}
        if not args:
            self.report.add(instruction, "there is no name and value")
        for word, value in zip(args[::3], args[1::3], strict=False):
            name = scope.expand(instruction, word)
            scope.check_name(instruction, name)
            values[name] = scope.expand(instruction, value)
        scope.keep(values)

    def _user(self, instruction: DockerfileInstruction) -> None:
        check_flags(instruction, {}, self.report)
        account = self.state.scope.expand(instruction, "".join(instruction.args))
        name, _, group = account.partition(":")
        name = "root" if name == "0" else name
        if not _NAME.fullmatch(name) or group not in ("", "0" if name == "root" else "", name):
            self.report.add(
                instruction,
                "E2B runs commands as a user with a name, in that user's groups, not as"
                f" `{account}`",
                "write USER and the name alone; a RUN can make the account and its groups",
            )
            return
        self.state.user, self._user_said = name, True

    def _workdir(self, instruction: DockerfileInstruction) -> None:
        check_flags(instruction, {}, self.report)
        path = self.state.scope.expand(instruction, "".join(instruction.args))
        if not path:
            self.report.add(instruction, "there is no path")
            return
        if not path.startswith("/"):
            self._assume_workdir()
        path = posixpath.normpath(posixpath.join(self.state.workdir, path))
        path = "/" + path.lstrip("/")
        if not check_plain(instruction, path, self.report):
            return
        self.copies.check_volumes(instruction, path)
        self.state.workdir, self._workdir_said = path, True
        if path not in self.copies.made:
            # Docker's builder makes it for the user of the moment.
            self.runs.as_root(instruction, shell.make_folders(path, f"{self.state.user}:"))
            self.copies.made |= {path, *parents_of(path)}

    def _shell(self, instruction: DockerfileInstruction) -> None:
        if not instruction.json or not instruction.args:
            self.report.add(instruction, 'expected a list, as in SHELL ["/bin/bash", "-c"]')
            return
        self.state.shell = list(instruction.args)

    # ---- instructions about what runs in a sandbox

    def _cmd(self, instruction: DockerfileInstruction) -> None:
        self.state.command, self._command_set = self._words(instruction, instruction.args), True

    def _entrypoint(self, instruction: DockerfileInstruction) -> None:
        words = self._words(instruction, instruction.args)
        self.state.entrypoint = words
        self._shell_entrypoint = not instruction.json
        if not self._command_set:
            self.state.command = []  # Docker forgets the CMD of the stage below

    _shell_entrypoint = False

    def _healthcheck(self, instruction: DockerfileInstruction) -> None:
        kind, *rest = instruction.args or [""]
        if kind.upper() == "NONE":
            self.state.ready = None
        elif kind.upper() == "CMD" and rest:
            self.state.ready = self._words(instruction, rest)
            times = ", ".join(sorted(f"--{name}={v}" for name, v in flags_of(instruction).items()))
            if times:
                why = f"{times}: E2B asks every 2 seconds, for 10 minutes at most"
                self._note(instruction, why)
        else:
            self.report.add(instruction, "expected HEALTHCHECK CMD command, or HEALTHCHECK NONE")

    def _words(self, instruction: DockerfileInstruction, args: list[str]) -> list[str]:
        if instruction.json or not args:
            return list(args)
        return [*self.state.shell, args[0]]

    def _onbuild(self, instruction: DockerfileInstruction) -> None:
        self.report.add(
            instruction,
            "no other Dockerfile is built on a template, and E2B drops the instruction",
            "write what shall happen into the stage that needs it",
        )

    def _volume(self, instruction: DockerfileInstruction) -> None:
        for path in instruction.args:
            expanded = posixpath.normpath(self.state.scope.expand(instruction, path))
            self.copies.volumes[expanded] = instruction.start_line
        self._note(instruction, "a sandbox has one disk, and all of it is its own")

    def _label(self, instruction: DockerfileInstruction) -> None:
        self._note(instruction, METADATA[instruction.name])

    _maintainer = _expose = _stopsignal = _label

    def start_words(self, base: BaseConfig) -> list[str]:
        """ENTRYPOINT and CMD together, as Docker puts them together."""
        entrypoint, command = self.state.entrypoint, self.state.command
        if entrypoint is None:
            self._assume("it has no ENTRYPOINT (ENTRYPOINT [] makes sure)")
            entrypoint = list(base.entrypoint)
            if command is None:
                command = list(base.command)
                self._assume("nothing of it has to be started (CMD says what)")
        return entrypoint if self._shell_entrypoint else [*entrypoint, *(command or [])]

    # ---- common ground

    def _note(self, instruction: DockerfileInstruction, why: str) -> None:
        metadata = Metadata(instruction=instruction.name, line=instruction.start_line, why=why)
        self.metadata.append(metadata)

    def _assume_workdir(self) -> None:
        if not self._workdir_said:
            self._assume("its working directory is /")

    def _assume(self, assumption: str) -> None:
        if not self.state.scope.base_known:
            self.assumptions[assumption] = None


def flatten(
    text: str,
    *,
    file: str = "Dockerfile",
    base: BaseConfig | None = None,
    files: Collection[str] | None = None,
    arguments: Mapping[str, str] | None = None,
) -> Program:
    """Turn the text of a Dockerfile into the steps that E2B runs for its last stage.

    `file` is named in errors. `base` is what the base image brings, where somebody has looked;
    without it, a variable that only the base image could set is an error, and the rest of what is
    taken for granted is in `Program.assumptions`. `files` are the paths of the build context
    without its links: Docker follows a link that COPY names, and E2B copies it. `arguments` are
    build arguments. Raises `FlattenError` with every instruction that E2B cannot
    carry out as Docker does, and what to write instead.
    """
    report = Report(file)
    chain, outer = chain_of(text, report, arguments or {})
    config = base or BaseConfig()
    scope = Scope(outer.escape, report, outer.arguments, base_known=base is not None)
    scope.keep(config.env)
    state = _State(scope=scope, user=config.user, workdir=config.workdir)
    converter = _Converter(report, state, files)
    for stage in chain:
        converter.run_stage(stage, outer.visible)
    if report.problems:
        raise FlattenError(report.problems)
    words = converter.start_words(config)
    return Program(
        base_image=chain[0].base,
        steps=(*converter.runs.steps, *_settings(converter, chain[-1], config)),
        start_command=_service(words, scope.env) if words else None,
        ready_command=_service(state.ready, scope.env) if state.ready else None,
        env=dict(scope.env),
        user=state.user,
        workdir=state.workdir,
        metadata=tuple(converter.metadata),
        assumptions=(
            *(f"of {chain[0].base}: {text}" for text in converter.assumptions),
            *converter.copies.assumptions,
        ),
        steps_before=converter.steps_before,
    )


def _settings(converter: _Converter, last: StageText, base: BaseConfig) -> Iterator[Step]:
    """The steps that set at last what sandboxes are to have: variables, folder, user."""
    state = converter.state
    lines = (last.opening.start_line, last.opening.end_line)
    env = {name: v for name, v in state.scope.env.items() if base.env.get(name) != v}
    if env:
        pairs = [x for name, value in env.items() for x in (name, shell.env_literal(value))]
        yield Step(kind="ENV", args=tuple(pairs), stage=last.name, lines=lines)
    # Where no step says otherwise, the folder is the home of whoever the user is.
    if converter.workdir_sent or (state.user, state.workdir) != (E2B_USER, E2B_WORKDIR):
        yield Step(kind="WORKDIR", args=(state.workdir,), stage=last.name, lines=lines)
    if state.user != E2B_USER:
        yield Step(kind="USER", args=(state.user,), stage=last.name, lines=lines)


def _service(words: list[str], env: Mapping[str, str]) -> str:
    command = f"exec {shell.command_line(words)}"
    return f"{shell.exports(env)} && {command}" if env else command


def _script(instruction: DockerfileInstruction) -> str:
    """What Docker gives to the shell: the line, with the here-documents that it opens."""
    line, heredocs = instruction.args[0], instruction.heredocs
    if not heredocs:
        return line
    if len(heredocs) == 1 and parse_heredoc(line.strip()) is not None:
        content = content_of(heredocs[0])
        return shell.script_file(content) if content.startswith("#!") else content
    return "\n".join([line, *(f"{heredoc.content}{heredoc.name}" for heredoc in heredocs)])
