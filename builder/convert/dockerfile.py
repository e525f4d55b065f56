"""Take over the instructions of a Dockerfile: those of its last stage and of the stages below."""

from __future__ import annotations

import posixpath
import re
import shlex

from e2b_dockerfile_utils import DockerfileInstruction as Instruction
from e2b_dockerfile_utils import parse_heredoc

from builder.convert.copies import Copies
from builder.convert.draft import Draft
from builder.convert.processes import Processes
from builder.convert.runs import Place, Runs
from builder.convert.service import Service
from builder.convert.values import FileCopy, Files, Line
from builder.convert.variables import Variables
from builder.errors import SourceError
from builder.flatten.copies import content_of
from builder.flatten.losses import METADATA, check_from
from builder.flatten.stages import Report, Scope, chain_of, flags_of
from builder.spec.defaults import IMAGE

DEFAULT_DOCKERFILES = ["e2b.Dockerfile", "Dockerfile"]
_CODE_INTERPRETER = re.compile(r"(?:.*/)?e2bdev/code-interpreter(?:[:@].*)?")
_PYTHON = re.compile(r"(?:.*/)?python:(3\.\d+).*")
_ALPINE = re.compile(r"(.*:.*?)-?alpine[\d.]*")
# Images of systems and languages whose Python, if there is any, has no pip.
_WITHOUT_PIP = re.compile(
    r"(?:(?:docker\.io/)?(?:library/)?)?(?:alpine|busybox|debian|golang|node|rust|ubuntu)(?:[:@].*)?"
)
_RUN_FLAGS = {"network", "security"}
# Those that change nothing here, and those that are taken over.
_COPY_FLAGS = {"link", "keep-git-dir"} | {"chown", "chmod", "from", "checksum"}
_HOME = "/home/user"


def convert_dockerfile(text: str, file: str, draft: Draft, files: Files) -> Service:
    """Take over a Dockerfile; return the service, which another file may still change."""
    report = Report(file)
    chain, outer = chain_of(text.removeprefix("\ufeff"), report, {})
    if not chain:
        raise SourceError(report.problems)
    reader = _Reader(
        file, draft, files, Scope(outer.escape, report, {}, base_known=True), chain[0].opening
    )
    reader.base(chain[0].opening, chain[0].base)
    check_from(chain[0].opening, "any", outer)
    for stage in chain:
        reader.stage(stage.instructions, outer)
    texts = {
        instruction.start_line: instruction.original
        for stage in chain
        for instruction in (stage.opening, *stage.instructions)
    }
    for problem in report.problems:
        if problem.key != "FROM":
            text = texts.get(problem.line, "")
            draft.note(Line(file=file, number=problem.line, text=text), problem.message)
    reader.finish()
    return reader.service


class _Reader:
    """What Docker carries over from one instruction to the next."""

    def __init__(
        self, file: str, draft: Draft, files: Files, scope: Scope, opening: Instruction
    ) -> None:
        self.file = file
        self.draft = draft
        self.variables = Variables(draft, scope, opening)
        self.user = "root"
        self.workdir = "/"
        self.workdir_line: Line | None = None
        self.shell: list[str] = []
        self.copies = Copies(draft, files)
        self.runs = Runs(draft, files, self.variables.expand, self._path)
        self.service = Service()
        self.processes = Processes(self.service)

    def base(self, opening: Instruction, image: str) -> None:
        """Take over the image of the first FROM."""
        line = self._line(opening)
        self.draft.names_image = True
        if _CODE_INTERPRETER.fullmatch(image):
            self.service.is_code_interpreter = True
        elif _WITHOUT_PIP.fullmatch(image) or image in ("", "scratch"):
            self.draft.note(
                line, "a base image needs python3 and pip: this spec begins with E2B's instead"
            )
            return
        elif match := _ALPINE.fullmatch(image):
            image = match[1].rstrip(":")
            self.draft.note(line, f"Alpine has no apt-get: this spec begins with `{image}`")
        match = _PYTHON.fullmatch(image)
        if image.removeprefix("docker.io/") == IMAGE:
            return  # what a spec has that says nothing
        if self.draft.set(line, "base", "image", image) and match:
            self.draft.set(line, "base", "python", f">={match[1]}")

    def stage(self, instructions: list[Instruction], outer: Scope) -> None:
        """Take over the instructions of a stage."""
        self.variables.begin(outer)
        for instruction in instructions:
            line, name = self._line(instruction), instruction.name.lower()
            self.variables.at = instruction
            if name in ("arg", "env"):
                getattr(self.variables, name)(line, instruction)
            elif name in ("cmd", "entrypoint", "healthcheck"):
                getattr(self.processes, name)(line, instruction, self.shell)
            elif instruction.name in METADATA and name != "expose":
                self.draft.note(line, METADATA[instruction.name])
            else:
                getattr(self, f"_{name}")(line, instruction)
        self.processes.start()

    def finish(self) -> None:
        """Write what only the whole file shows."""
        self.runs.take_over()
        if self.workdir_line and self.workdir not in ("/", _HOME):
            self.draft.set(self.workdir_line, "workdir", "path", self.workdir)
        env = self.draft.document.get("env", {})
        folders = {f"{folder}/bin" for folder in self.runs.environments}
        if folders and "PATH" in env:
            env["PATH"] = ":".join(p for p in env["PATH"].split(":") if p not in folders)
            if env["PATH"] == "${PATH}":
                del env["PATH"]
        if self.runs.environments:
            env.pop("VIRTUAL_ENV", None)
        if not env:
            self.draft.document.pop("env", None)

    # ---- files and commands

    def _run(self, line: Line, instruction: Instruction) -> None:
        for flag in instruction.flags:
            if not self._is_harmless(line, flag):
                return
        script = _script(instruction)
        if script.startswith("#!"):
            self.draft.note(line, "expected commands of a shell: COPY the script, and run it")
            return
        arguments = {
            name: value
            for name, value in self.variables.scope.visible.items()
            if value is not None and name not in self.variables.scope.env
        }
        place = Place(
            user=self.user,
            workdir=self.workdir,
            arguments=arguments,
            shell=() if instruction.json else tuple(self.shell),
            network="--network=none" not in instruction.flags,
        )
        if instruction.heredocs and not _is_heredoc_alone(instruction):
            self.runs.keep(line, script, place)
        else:
            self.runs.add(line, script, place)

    def _is_harmless(self, line: Line, flag: str) -> bool:
        """Return whether a command does without a flag of RUN; a bind mount is remembered."""
        name, _, value = flag.removeprefix("--").partition("=")
        if name != "mount":
            if name not in _RUN_FLAGS:
                self.draft.note(line, f"expected no flag `--{name}`")
            return name in _RUN_FLAGS
        options = dict(part.partition("=")[::2] for part in value.split(","))
        kind = options.get("type", "bind")
        target = options.get("target") or options.get("dst") or options.get("destination") or ""
        if kind == "bind" and "from" not in options:
            source = options.get("source") or options.get("src") or "."
            self.copies.remember(
                posixpath.normpath(source), posixpath.normpath(posixpath.join(self.workdir, target))
            )
        elif kind in ("secret", "ssh"):
            self.draft.note(line, "a build has no secrets: what it needs must be public")
            return False
        elif kind == "bind":
            self.draft.note(line, "there is no other stage or image to mount")
            return False
        return True

    def _path(self, path: str) -> tuple[str, str | None]:
        target = posixpath.normpath(posixpath.join(self.workdir, path))
        return target, self.copies.source_of(target)

    def _copy(self, line: Line, instruction: Instruction) -> None:
        words = self._words(line, instruction)
        if words is None:
            return
        self.runs.copied()
        flags = dict(flags_of(instruction))
        if other := flags.keys() - _COPY_FLAGS:
            self.draft.note(line, f"`--{min(other)}` has no counterpart in a spec")
        elif stage := flags.get("from"):
            self.draft.note(line, f"there is no other stage or image `{stage}` to copy from")
        elif instruction.heredocs:
            self._heredoc(line, instruction, flags, words[-1])
        elif instruction.name == "ADD":
            self.copies.add(line, words, flags, self.workdir)
        else:
            self.copies.copy(line, words, flags, self.workdir)

    _add = _copy

    def _words(self, line: Line, instruction: Instruction) -> list[str] | None:
        words = [self.variables.expand(word) for word in instruction.args]
        known = [word for word in words if word is not None]
        if len(known) < len(words):
            self.draft.note(line, "it needs a variable that has no value here")
            return None
        if len(known) < 2:
            self.draft.note(line, "expected a source and a target")
            return None
        return known

    def _heredoc(
        self, line: Line, instruction: Instruction, flags: dict[str, str], target: str
    ) -> None:
        heredoc = instruction.heredocs[0]
        content = content_of(heredoc)
        if heredoc.expand:
            content = self.variables.scope.expand(instruction, content, heredoc=True) or ""
        if len(instruction.heredocs) > 1 or target.endswith("/"):
            self.draft.note(line, "expected one here-document and the path of a file")
            return
        target = posixpath.normpath(posixpath.join(self.workdir, target))
        file = FileCopy(content=content.encode("utf-8", "surrogateescape"))
        if not self.draft.hides_a_secret(line, file.content, target):
            self.copies.write(line, target, file, flags)

    def _user(self, line: Line, instruction: Instruction) -> None:
        account = self.variables.expand("".join(instruction.args)) or ""
        name = account.partition(":")[0]
        self.user = {"0": "root", "1000": "user"}.get(name, name)
        if self.user not in ("root", "user"):
            self.draft.note(
                line, "a sandbox has the users `root` and `user`; commands run as `root`"
            )
            self.user = "root"

    def _workdir(self, line: Line, instruction: Instruction) -> None:
        path = self.variables.expand("".join(instruction.args))
        if path is None:
            self.draft.note(line, "it needs a variable that has no value here")
            return
        self.workdir = posixpath.normpath(posixpath.join(self.workdir, path))
        self.copies.folders.add(self.workdir)
        self.workdir_line = line

    def _shell(self, _line: Line, instruction: Instruction) -> None:
        self.shell = list(instruction.args)

    def _expose(self, line: Line, instruction: Instruction) -> None:
        for word in instruction.args:
            port = (self.variables.expand(word) or "").partition("/")[0]
            if port.isdecimal():
                self.service.port(int(port))
        self.draft.note(line, METADATA["EXPOSE"])

    def _volume(self, line: Line, _instruction: Instruction) -> None:
        self.draft.note(line, "a sandbox has a single disk of its own")

    def _onbuild(self, line: Line, _instruction: Instruction) -> None:
        self.draft.note(line, "no Dockerfile begins with a template")

    def _line(self, instruction: Instruction) -> Line:
        return Line(file=self.file, number=instruction.start_line, text=instruction.original)


def _script(instruction: Instruction) -> str:
    """Return what the shell runs."""
    if instruction.json:
        return shlex.join(instruction.args)
    line = instruction.args[0] if instruction.args else ""
    if _is_heredoc_alone(instruction):
        return content_of(instruction.heredocs[0])
    return "\n".join([line, *(f"{text.content}{text.name}" for text in instruction.heredocs)])


def _is_heredoc_alone(instruction: Instruction) -> bool:
    """Return whether RUN has no command beside a here-document, which then is the script."""
    heredocs = instruction.heredocs
    return len(heredocs) == 1 and parse_heredoc(instruction.args[0].strip()) is not None
