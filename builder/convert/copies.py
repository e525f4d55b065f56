"""Take over the COPY and ADD instructions of a Dockerfile: files of its folder, and addresses."""

from __future__ import annotations

import posixpath
import re
from collections.abc import Iterator
from fnmatch import fnmatchcase

from builder.convert.draft import Draft
from builder.convert.values import FileCopy, Files, Line

_ARCHIVE = re.compile(r".*\.(tar|tar\.\w+|tgz|tbz2?|txz|tzst)", re.IGNORECASE)
_MODE = re.compile(r"0?[0-7]{3}")
_WILDCARD = re.compile(r"[*?\[]")
_FOLDER = "a folder: a spec adds single files"


class Copies:
    """What is copied into the image so far: path in the image → path in the source's folder."""

    def __init__(self, draft: Draft, files: Files) -> None:
        self.draft = draft
        self.files = files
        self.folders = {"/", "/home", "/home/user"}
        self._copied: dict[str, str] = {}

    def source_of(self, path: str) -> str | None:
        """Return the file that was copied to a path in the image."""
        for target in (path, *_parents(path)):
            if target in self._copied:
                below = posixpath.relpath(path, target)
                return posixpath.normpath(posixpath.join(self._copied[target], below))
        return None

    def remember(self, source: str, target: str) -> None:
        """Note that a file or folder is at a path in the image."""
        self._copied[target] = source

    def copy(self, line: Line, words: list[str], flags: dict[str, str], workdir: str) -> None:
        """Take over a COPY instruction without variables."""
        *sources, target = words
        into = len(sources) > 1 or target.endswith(("/", "/.")) or target in (".", "..")
        target = posixpath.normpath(posixpath.join(workdir, target))
        into = into or target in self.folders
        for source in sources:
            path = posixpath.normpath(source.lstrip("/") or ".")
            for match in self._matching(path) if _WILDCARD.search(path) else [path]:
                self._one(line, match, target, flags, into=into)

    def _matching(self, pattern: str) -> Iterator[str]:
        folder, _, name = pattern.rpartition("/")
        for path in self.files.below(folder or "."):
            if posixpath.dirname(path) == folder and fnmatchcase(posixpath.basename(path), name):
                yield path

    def _one(
        self, line: Line, source: str, target: str, flags: dict[str, str], *, into: bool
    ) -> None:
        content = self.files.content(source)
        if content is None:
            self._folder(line, source, target)
            return
        if into:
            target = posixpath.join(target, posixpath.basename(source))
        self.remember(source, target)
        executable = self.files.is_executable(source)
        self.write(line, source, target, FileCopy(content=content, executable=executable), flags)

    def _folder(self, line: Line, source: str, target: str) -> None:
        if next(self.files.below(source), None) is None:
            self.draft.note(line, f"there is no `{source}` here")
            return
        self.remember(source, target)
        self.folders |= {target, *_parents(target)}
        self.draft.note(line, f"`{source}` is {_FOLDER}")

    def write(
        self, line: Line, source: str, target: str, file: FileCopy, flags: dict[str, str]
    ) -> None:
        """Add a file to the spec."""
        entry = {"source": source, "target": target}
        mode = flags.get("chmod", "0755" if file.executable else "")
        if mode and not _MODE.fullmatch(mode):
            self.draft.note(line, f"expected an octal mode such as 0755, not `{mode}`")
        elif mode:
            entry["mode"] = f"0{int(mode, 8):03o}"
        self.folders |= _parents(target)
        entries = self.draft.document.get("files", [])
        entries[:] = [entry for entry in entries if entry["target"] != target]  # the last one wins
        if self.draft.hides_a_secret(line, file.content) or not self.draft.add(
            line, "files", entry
        ):
            return
        self.draft.files[source] = file

    def add(self, line: Line, words: list[str], flags: dict[str, str], workdir: str) -> None:
        """Take over an ADD instruction without variables."""
        *sources, target = words
        for source in sources:
            if re.match(r"[a-z][a-z0-9+.-]*://|git@", source):
                self.draft.note(line, "a spec has no key for a download")
            elif _ARCHIVE.fullmatch(source):
                self.draft.note(line, "Docker unpacks it; unpack it here, and copy what is in it")
            else:
                self.copy(line, [source, target], flags, workdir)


def _parents(path: str) -> set[str]:
    parents = set()
    while path != "/":
        path = posixpath.dirname(path)
        parents.add(path)
    return parents
