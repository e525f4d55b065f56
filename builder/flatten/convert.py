"""Convert the instructions of a chain of stages to as few equivalent steps as possible.

Every RUN sets its own user, folder and variables, so that no step is needed for them. The settings
that a sandbox starts with are set once, at the end.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Collection, Iterator, Mapping

from e2b_dockerfile_utils import DockerfileInstruction, parse_heredoc

from builder.errors import FlattenError
from builder.flatten import shell
from builder.flatten.copies import ALWAYS_THERE, CopySteps, check_plain, content_of, parents_of
from builder.flatten.losses import METADATA, check_add, check_flags, check_from
from builder.flatten.program import BaseConfig, Metadata, Program, Step
from builder.flatten.runs import RunSteps
from builder.flatten.stages import Report, Scope, StageText, chain_of

# The default user and folder of a sandbox.
E2B_USER = "user"
E2B_WORKDIR = "/home/user"
_NAME = re.compile(r"[a-z_][a-z0-9_-]{0,31}")
_TIMES = {"interval", "timeout", "start-period", "start-interval", "retries"}
_STEP_KINDS = ("RUN", "COPY", "ENV", "WORKDIR", "USER")


class _Converter:
    """What Docker carries over from one instruction to the next, and the steps so far."""

    def __init__(self, scope: Scope, base: BaseConfig, files: Collection[str] | None) -> None:
        self.scope = scope
        self.report = scope.report
        self.base = base
        self.user, self.workdir = base.user, base.workdir
        self.shell = ["/bin/sh", "-c"]
        self.entrypoint: list[str] | None = None
        self.command: list[str] | None = None
        self.ready: list[str] | None = None
        self.metadata: list[Metadata] = []
        self.assumptions: dict[str, None] = {}
        self.steps_before = 0
        self.workdir_sent = False
        self.runs = RunSteps(self.report)
        self.copies = CopySteps(self.runs, self.report, files)
        self._shell_entrypoint = self._command_set = False
        self._user_set = self._workdir_set = False

    def run_stage(self, stage: StageText, outer: Mapping[str, str | None]) -> None:
        self.runs.stage = stage.name
        self._command_set = False
        # An ARG of a parent stage no longer hides an ENV.
        self.scope.keep(self.scope.env)
        for instruction in stage.instructions:
            self.steps_before += instruction.name in _STEP_KINDS
            if instruction.name == "ARG":
                self.scope.declare(instruction, outer)
                continue
            handler = getattr(self, f"_{instruction.name.lower()}", None)
            if handler:
                handler(instruction)
        self.runs.close()

    # ---- instructions that change files

    def _run(self, instruction: DockerfileInstruction) -> None:
        check_flags(instruction, {}, self.report)
        if not instruction.args:
            self.report.add(instruction, "there is no command")
            return
        if instruction.json:
            command = shell.command_line(instruction.args)
        else:
            command = shell.command_line([*self.shell, _script(instruction)])
        if not self._user_set:
            self._assume("its user is root")
        self._assume_workdir()
        self.copies.made = set(ALWAYS_THERE)  # a command may have removed others
        variables = {k: v for k, v in self.scope.visible.items() if v is not None}
        if not self.workdir_sent and self.user not in ("root", E2B_USER):
            # A step starts in the home of its user, who may not have one.
            self.runs.append("WORKDIR", ("/",), instruction)
            self.workdir_sent = True
        self.runs.add(
            instruction,
            command,
            user=self.user,
            variables=variables,
            workdir=self.workdir,
        )

    def _copy(self, instruction: DockerfileInstruction) -> None:
        if instruction.args and not instruction.args[-1].startswith(("/", "$")):
            self._assume_workdir()
        self.copies.add(instruction, self.scope, self.workdir)

    def _add(self, instruction: DockerfileInstruction) -> None:
        check_add(instruction, self.report)

    # ---- instructions that affect the next ones

    def _env(self, instruction: DockerfileInstruction) -> None:
        check_flags(instruction, {}, self.report)
        args, scope, values = instruction.args, self.scope, {}
        if not args:
            self.report.add(instruction, "there is no name and value")
        for word, value in zip(args[::3], args[1::3], strict=False):
            name = scope.expand(instruction, word)
            expanded = scope.expand(instruction, value, base_path=True)
            if name is not None:
                scope.check_name(instruction, name)
                values[name] = expanded or ""
        scope.keep(values)

    def _user(self, instruction: DockerfileInstruction) -> None:
        check_flags(instruction, {}, self.report)
        account = self.scope.expand(instruction, "".join(instruction.args))
        if not account:
            if account is not None:
                self.report.add(instruction, "there is no name")
            return
        name, _, group = account.partition(":")
        name = "root" if name == "0" else name
        if not _NAME.fullmatch(name) or group not in ("", "0" if name == "root" else "", name):
            self.report.add(
                instruction,
                f"E2B runs commands as a named user, in that user's groups, not as `{account}`",
                "write USER with a name only, and create the account and its groups in a RUN",
            )
            return
        self.user, self._user_set = name, True

    def _workdir(self, instruction: DockerfileInstruction) -> None:
        check_flags(instruction, {}, self.report)
        path = self.scope.expand(instruction, "".join(instruction.args))
        if not path:
            if path is not None:
                self.report.add(instruction, "there is no path")
            return
        if not path.startswith("/"):
            self._assume_workdir()
        path = posixpath.normpath(posixpath.join(self.workdir, path))
        path = "/" + path.lstrip("/")
        if not check_plain(instruction, path, self.report):
            return
        self.copies.check_volumes(instruction, path)
        self.workdir, self._workdir_set = path, True
        if path not in self.copies.made:
            # Docker creates it for the current user.
            self.runs.as_root(instruction, shell.make_folders(path, f"{self.user}:"))
            self.copies.made |= {path, *parents_of(path)}

    def _shell(self, instruction: DockerfileInstruction) -> None:
        if not instruction.json or not instruction.args:
            self.report.add(instruction, 'expected a list, as in SHELL ["/bin/bash", "-c"]')
            return
        self.shell = list(instruction.args)

    # ---- instructions about processes of a sandbox

    def _cmd(self, instruction: DockerfileInstruction) -> None:
        self.command, self._command_set = self._words(instruction, instruction.args), True

    def _entrypoint(self, instruction: DockerfileInstruction) -> None:
        words = self._words(instruction, instruction.args)
        self.entrypoint = words
        self._shell_entrypoint = not instruction.json
        if not self._command_set:
            self.command = []  # Docker drops the CMD of the parent stage

    def _healthcheck(self, instruction: DockerfileInstruction) -> None:
        times = check_flags(instruction, _TIMES, self.report)
        kind, *rest = instruction.args or [""]
        if kind.upper() == "NONE":
            self.ready = None
        elif kind.upper() == "CMD" and rest:
            self.ready = self._words(instruction, rest)
            if times:
                flags = ", ".join(sorted(f"--{name}={time}" for name, time in times.items()))
                why = f"{flags}: E2B checks every 2 seconds, for at most 10 minutes"
                self._note(instruction, why)
        else:
            self.report.add(instruction, "expected HEALTHCHECK CMD command, or HEALTHCHECK NONE")

    def _words(self, instruction: DockerfileInstruction, args: list[str]) -> list[str]:
        if instruction.json or not args:
            return list(args)
        return [*self.shell, args[0]]

    def _onbuild(self, instruction: DockerfileInstruction) -> None:
        self.report.add(
            instruction,
            "no other Dockerfile is built on a template, and E2B drops the instruction",
            "move the instruction into the stage that needs it",
        )

    def _volume(self, instruction: DockerfileInstruction) -> None:
        for path in instruction.args:
            if expanded := self.scope.expand(instruction, path):
                self.copies.volumes[posixpath.normpath(expanded)] = instruction.start_line
        self._note(instruction, "a sandbox has a single disk of its own")

    def _label(self, instruction: DockerfileInstruction) -> None:
        self._note(instruction, METADATA[instruction.name])

    _maintainer = _expose = _stopsignal = _label

    def start_words(self) -> list[str]:
        """Combine ENTRYPOINT and CMD as Docker does."""
        entrypoint, command = self.entrypoint, self.command
        if entrypoint is None:
            self._assume("it has no ENTRYPOINT (set ENTRYPOINT [] to be sure)")
            entrypoint = list(self.base.entrypoint)
            if command is None:
                command = list(self.base.command)
                self._assume("it starts nothing (set CMD to be sure)")
        return entrypoint if self._shell_entrypoint else [*entrypoint, *(command or [])]

    # ---- helpers

    def _note(self, instruction: DockerfileInstruction, why: str) -> None:
        metadata = Metadata(instruction=instruction.name, line=instruction.start_line, why=why)
        self.metadata.append(metadata)

    def _assume_workdir(self) -> None:
        if not self._workdir_set:
            self._assume("its working directory is /")

    def _assume(self, assumption: str) -> None:
        if not self.scope.base_known:
            self.assumptions[assumption] = None


def flatten(
    text: str,
    *,
    file: str = "Dockerfile",
    base: BaseConfig | None = None,
    files: Collection[str] | None = None,
    arguments: Mapping[str, str] | None = None,
    template: str | None = None,
) -> Program:
    """Convert the text of a Dockerfile to the steps that E2B runs for its last stage.

    `file` is named in errors. `base` is the configuration of the base image, if known; without it,
    a variable that only the base image could set is an error, and everything else that is assumed
    is in `Program.assumptions`. `files` are the paths of the build context without symbolic links,
    which Docker follows and E2B copies. `arguments` are build arguments. `template` is the ref of
    the template that the FROM of the first stage means, if it means no image. Raise `FlattenError`
    with every instruction that E2B cannot run as Docker does, and what to write instead.
    """
    report = Report(file)
    chain, outer = chain_of(text, report, arguments or {})
    config = base or BaseConfig()
    scope = Scope(outer.escape, report, outer.arguments, base_known=base is not None)
    scope.keep(config.env)
    converter = _Converter(scope, config, files)
    for stage in chain:
        check_from(stage.opening, stage.base, outer)
        converter.run_stage(stage, outer.visible)
    if report.problems:
        raise FlattenError(report.problems)
    words = converter.start_words()
    return Program(
        base_image=chain[0].base,
        base_template=template,
        steps=(*converter.runs.steps, *_settings(converter, chain[-1], on_template=bool(template))),
        start_command=_service(words, scope.env) if words else None,
        ready_command=_service(converter.ready, scope.env) if converter.ready else None,
        env={name: v.replace(shell.BASE_PATH, "$PATH") for name, v in scope.env.items()},
        user=converter.user,
        workdir=converter.workdir,
        metadata=tuple(converter.metadata),
        assumptions=(
            *(f"{chain[0].base}: {text}" for text in converter.assumptions),
            *converter.copies.assumptions,
        ),
        steps_before=converter.steps_before,
    )


def _settings(converter: _Converter, last: StageText, *, on_template: bool) -> Iterator[Step]:
    """Yield the steps that set the variables, folder and user of sandboxes; those of a template
    that they are on may differ from E2B's defaults."""
    lines = (last.opening.start_line, last.opening.end_line)
    user, workdir, inherited = converter.user, converter.workdir, converter.base.env
    env = {name: v for name, v in converter.scope.env.items() if inherited.get(name) != v}
    if env:
        pairs = [x for name, value in env.items() for x in (name, shell.env_literal(value))]
        yield Step(kind="ENV", args=tuple(pairs), stage=last.name, lines=lines)
    # By default, the folder is the home of the user.
    is_default = (user, workdir) == (E2B_USER, E2B_WORKDIR) and not on_template
    if converter.workdir_sent or not is_default:
        yield Step(kind="WORKDIR", args=(workdir,), stage=last.name, lines=lines)
    if user != E2B_USER or on_template:
        yield Step(kind="USER", args=(user,), stage=last.name, lines=lines)


def _service(words: list[str], env: Mapping[str, str]) -> str:
    command = f"exec {shell.command_line(words)}"
    return f"{shell.exports(env)} && {command}" if env else command


def _script(instruction: DockerfileInstruction) -> str:
    """Return what Docker passes to the shell: the line with its here-documents."""
    line, heredocs = instruction.args[0], instruction.heredocs
    if not heredocs:
        return line
    if len(heredocs) == 1 and parse_heredoc(line.strip()) is not None:
        content = content_of(heredocs[0])
        return shell.script_file(content) if content.startswith("#!") else content
    return "\n".join([line, *(f"{heredoc.content}{heredoc.name}" for heredoc in heredocs)])
