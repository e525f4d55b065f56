"""Convert COPY to a step for each source, with the target and owner that Docker would set."""

from __future__ import annotations

import posixpath
import re
from collections.abc import Collection
from dataclasses import dataclass
from fnmatch import fnmatchcase

from e2b_dockerfile_utils import (
    DockerfileHeredoc,
    DockerfileInstruction,
    chomp_heredoc_content,
    parse_heredoc,
)

from builder.flatten import shell
from builder.flatten.losses import check_flags
from builder.flatten.runs import RunSteps
from builder.flatten.stages import Report, Scope

# E2B creates its user, with a home, on every machine.
ALWAYS_THERE = frozenset({"/", "/home", "/home/user"})
_OWNER = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*(:[A-Za-z0-9_][A-Za-z0-9_.-]*)?")
_MODE = re.compile(r"0?[0-7]{3}|[0-7]{4}")
_WILDCARD = re.compile(r"[*?\[\]]")
_PLAIN_PATH = re.compile(r"[A-Za-z0-9._+@%~=,:/ -]+")


@dataclass(frozen=True, kw_only=True, slots=True)
class _Copy:
    """What a COPY instruction sets for all of its sources."""

    instruction: DockerfileInstruction
    target: str
    owner: str
    mode: str


class CopySteps:
    """Convert COPY instructions to steps, given the files of the build context."""

    def __init__(self, runs: RunSteps, report: Report, files: Collection[str] | None) -> None:
        self.volumes: dict[str, int] = {}
        self.made = set(ALWAYS_THERE)
        self.assumptions: dict[str, None] = {}
        self._runs = runs
        self._report = report
        self._files = files

    def add(self, instruction: DockerfileInstruction, scope: Scope, workdir: str) -> None:
        """Add the steps of a COPY instruction."""
        flags = check_flags(instruction, {"chown", "chmod"}, self._report)
        words = instruction.args
        if len(words) < 2:
            self._report.add(instruction, "expected at least one source, and a target")
            return
        owner = scope.expand(instruction, flags.get("chown", "")) or "root:root"
        if not _OWNER.fullmatch(owner):
            self._report.add(instruction, f"`--chown={owner}` is not user:group")
        owner = owner if ":" in owner else f"{owner}:{owner}"
        mode = scope.expand(instruction, flags.get("chmod", "")) or ""
        if mode and not _MODE.fullmatch(mode):
            self._report.add(
                instruction,
                f"E2B only supports octal modes, not `--chmod={mode}`",
                "write an octal mode such as --chmod=0755",
            )
        target = scope.expand(instruction, words[-1])
        if target is None:  # this has been reported; any target would do for the other checks
            target = "/"
        if not target.startswith("/"):
            target = posixpath.join(workdir, target)
        if len(words) > 2 and not target.endswith(("/", "/.")):
            self._report.add(instruction, "several sources need a target that ends in /")
        heredocs = {heredoc.name: heredoc for heredoc in instruction.heredocs}
        copy = _Copy(instruction=instruction, target=target, owner=owner, mode=mode)
        for word in words[:-1]:
            marker = parse_heredoc(word) if heredocs and not instruction.json else None
            if marker and marker.name in heredocs:
                self._write(copy, heredocs[marker.name], scope)
            else:
                source = scope.expand(instruction, word)
                if source is not None:
                    path = posixpath.normpath(source).lstrip("/") or "."
                    self._copy(copy, path, is_folder=source.endswith("/"))

    def _copy(self, copy: _Copy, source: str, *, is_folder: bool) -> None:
        instruction, target, owner, mode = copy.instruction, copy.target, copy.owner, copy.mode
        is_pattern = bool(_WILDCARD.search(source))
        into_folder = target.endswith(("/", "/."))
        if is_pattern:
            problem = self._pattern_problem(source, into_folder=into_folder)
        else:
            problem = self._problem(source)
        if problem:
            self._report.add(instruction, *problem)
            return
        is_file = not (is_pattern or is_folder) and self._is_file(source)
        if is_file and into_folder:
            target = posixpath.join(target, posixpath.basename(source))
        target = posixpath.normpath(target)
        for path in (_WILDCARD.sub("", source) or ".", target):
            check_plain(instruction, path, self._report)
        self.check_volumes(instruction, target)
        folder = posixpath.dirname(target) if is_file else target
        if not (is_file or is_pattern) and self._has_folders(source):
            text = f"{target}: folders of `{source}` that exist there have the same owner and mode"
            self.assumptions[text] = None
        if owner != "root:root" and folder not in self.made:
            # Docker creates missing folders for the owner of the files, E2B for root.
            self._runs.as_root(instruction, shell.make_folders(folder, owner))
        self.made |= {folder, *parents_of(folder)}
        mode = f"{int(mode, 8):04o}" if _MODE.fullmatch(mode) else ""
        self._runs.append("COPY", (source, target, owner, mode), instruction)

    def _problem(self, source: str) -> tuple[str, str | None] | None:
        """Return why E2B cannot copy a file or folder."""
        if source == ".." or source.startswith("../"):
            return f"`{source}` is outside of the build context", None
        if self._files is None or source == "." or source in self._files or self._below(source):
            return None
        return f"`{source}` is not in the build context", None

    def _pattern_problem(self, source: str, *, into_folder: bool) -> tuple[str, str | None] | None:
        """Return why E2B cannot copy the files that match a pattern as Docker does."""
        folder, _, pattern = source.rpartition("/")
        if _WILDCARD.search(folder) or "[" in pattern:
            return f"E2B expands `{source}` differently from Docker", "name the files"
        if not into_folder:
            return f"several files may match `{source}`", "end the target in /"
        if self._files is None:
            self.assumptions[f"build context: no folder matches `{source}`"] = None
            return None
        matching = [name for name in self._below(folder) if fnmatchcase(name, pattern)]
        if not matching:
            return f"nothing in the build context matches `{source}`", None
        for name in matching:
            path = posixpath.join(folder, name)
            if path not in self._files:
                message = f"`{source}` matches the folder `{path}`: Docker copies its contents"
                return f"{message}, E2B the folder itself", "name the files and the folder"
        return None

    def _is_file(self, source: str) -> bool:
        if source == ".":
            return False
        if self._files is None:
            self.assumptions[f"build context: `{source}` is a file"] = None
            return True
        return source in self._files

    def _has_folders(self, folder: str) -> bool:
        if self._files is None:
            return True
        paths = [posixpath.normpath(f"{folder}/{name}") for name in self._below(folder)]
        return any(path not in self._files for path in paths)

    def _below(self, folder: str) -> set[str]:
        """Return the names of the entries of a folder of the build context."""
        start = f"{folder}/" if folder not in ("", ".") else ""
        names = [name for name in self._files or () if name.startswith(start)]
        return {name.removeprefix(start).partition("/")[0] for name in names}

    def _write(self, copy: _Copy, heredoc: DockerfileHeredoc, scope: Scope) -> None:
        instruction = copy.instruction
        self.check_volumes(instruction, copy.target)
        content = content_of(heredoc)
        if heredoc.expand:
            content = scope.expand(instruction, content, heredoc=True) or ""
        command = shell.write_file(
            content, copy.target, heredoc.name, owner=copy.owner, mode=copy.mode or "0644"
        )
        self._runs.as_root(instruction, f"(\n{command}\n)")

    def check_volumes(self, instruction: DockerfileInstruction, path: str) -> None:
        """Report a `path` inside a VOLUME."""
        for volume, line in self.volumes.items():
            if path == volume or path.startswith(f"{volume.rstrip('/')}/"):
                self._report.add(
                    instruction,
                    f"`{path}` is in the VOLUME of line {line}: some Docker builders discard"
                    " changes to it, E2B keeps them",
                    "remove the VOLUME: a sandbox has a single disk",
                )


def parents_of(path: str) -> set[str]:
    """Return every folder above an absolute path."""
    parents = set()
    while path != "/":
        path = posixpath.dirname(path)
        parents.add(path)
    return parents


def check_plain(instruction: DockerfileInstruction, path: str, report: Report) -> bool:
    """Report a `path` that E2B's scripts cannot handle; return whether it is plain."""
    if _PLAIN_PATH.fullmatch(path):
        return True
    report.add(
        instruction,
        f"`{path}` contains characters that E2B's scripts would interpret",
        "use letters, digits and ._+@%~=,:-",
    )
    return False


def content_of(heredoc: DockerfileHeredoc) -> str:
    """Return the text of a here-document without expanding its variables."""
    return chomp_heredoc_content(heredoc.content) if heredoc.chomp else heredoc.content
