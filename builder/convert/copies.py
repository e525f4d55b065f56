"""Take over the COPY and ADD instructions of a Dockerfile: files of its folder, and addresses."""

from __future__ import annotations

import itertools
import posixpath
import re
from collections.abc import Collection, Iterator
from fnmatch import fnmatchcase

from builder.convert.downloads import target_of
from builder.convert.draft import Draft
from builder.convert.values import FileCopy, Files, Line
from builder.flatten.copies import parents_of

_ARCHIVE = re.compile(r".*\.(tar|tar\.\w+|tgz|tbz2?|txz|tzst)", re.IGNORECASE)
_MODE = re.compile(r"0?[0-7]{3}")
_WILDCARD = re.compile(r"[*?\[]")
# As many as a spec takes of one folder.
_MAX_FILES = 500
_ACCOUNTS = {"0": "root", "1000": "user"}


class Copies:
    """What is copied into the image so far: path in the image → path in the source's folder."""

    def __init__(self, draft: Draft, files: Files) -> None:
        self.draft = draft
        self.files = files
        self.folders = {"/", "/home", "/home/user"}
        self._copied: dict[str, str] = {}

    def source_of(self, path: str) -> str | None:
        """Return the file that was copied to a path in the image."""
        for target in (path, *parents_of(path)):
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
            matches = list(self._matching(path)) if _WILDCARD.search(path) else [path]
            if not matches:
                self.draft.note(line, f"nothing here matches `{path}`")
            for match in matches:
                self._one(line, match, target, flags, into=into)

    def _matching(self, pattern: str) -> Iterator[str]:
        """Yield the files and folders that match a pattern, each once."""
        folder, _, name = pattern.rpartition("/")
        seen = set()
        for path in self.files.below(folder or "."):
            below = path.removeprefix(f"{folder}/") if folder else path
            first = below.partition("/")[0]
            if first not in seen and fnmatchcase(first, name):
                seen.add(first)
                yield posixpath.join(folder, first)

    def _one(
        self, line: Line, source: str, target: str, flags: dict[str, str], *, into: bool
    ) -> None:
        if self.files.content(source) is None:
            self._folder(line, source, target, flags)
            return
        if into:
            target = posixpath.join(target, posixpath.basename(source))
        self.remember(source, target)
        if file := self._file(line, source):
            self.write(line, target, file, flags)

    def _folder(self, line: Line, source: str, target: str, flags: dict[str, str]) -> None:
        """Take over a folder: Docker copies what is in it."""
        paths = list(itertools.islice(self.files.below(source), _MAX_FILES + 1))
        if not paths:
            self.draft.note(line, f"there is no `{source}` here")
            return
        self.remember(source, target)
        self.folders |= {target, *parents_of(target)}
        if len(paths) > _MAX_FILES:
            self.draft.note(
                line,
                f"`{source}` has more than {_MAX_FILES} files: make a package or archive of them",
            )
            return
        if target == "/":
            for path in paths:
                inside = posixpath.join("/", posixpath.relpath(path, source))
                self._one(line, path, inside, flags, into=False)
            return
        entry = {"source": f"{target[1:]}/", "target": target} | self._rights(line, target, flags)
        if "mode" in entry:
            entry["folder-mode"] = entry["mode"]
        copied = {}
        for path in paths:
            inside = posixpath.join(target, posixpath.relpath(path, source))
            if file := self._file(line, path):
                copied[inside] = file
        same = [e for e in self.draft.document.get("files", []) if e["target"] == target]
        if any(e != entry for e in same):
            self.draft.note(line, f"the owner and mode are those of the first COPY to `{target}`")
        if copied and (same or self.draft.add(line, "files", entry)):
            self.draft.files |= copied
            self._replace_downloads(line, copied)

    def _replace_downloads(self, line: Line, targets: Collection[str]) -> None:
        for table in list(self.draft.document.get("download", [])):
            target, url = table["target"], table["url"]
            if target in targets:
                self.draft.without_download(target)
                self.draft.note(line, f"its `{target}` replaces the download of {url}")

    def _file(self, line: Line, path: str) -> FileCopy | None:
        """Return a file of the source's folder, unless it holds a secret."""
        content = self.files.content(path)
        if content is None or self.draft.hides_a_secret(line, content, path):
            return None
        return FileCopy(content=content, executable=self.files.is_executable(path))

    def _rights(self, line: Line, target: str, flags: dict[str, str]) -> dict[str, str]:
        """Return the owner and mode that the flags of an instruction set."""
        rights = {}
        mode = flags.get("chmod", "")
        if mode and not _MODE.fullmatch(mode):
            self.draft.note(line, f"expected an octal mode such as 0755, not `{mode}`")
        elif mode:
            rights["mode"] = f"0{int(mode, 8):03o}"
        name = flags.get("chown", "").partition(":")[0]
        owner = _ACCOUNTS.get(name, name)
        if owner not in ("", "root", "user"):
            self.draft.note(
                line,
                f"the account `{owner}` may not exist yet when files are copied: it is `user`'s",
            )
            owner = "user"
        in_home = f"{target}/".startswith("/home/user/")
        if owner and owner != ("user" if in_home else "root"):
            rights["owner"] = owner
        return rights

    def write(self, line: Line, target: str, file: FileCopy, flags: dict[str, str]) -> None:
        """Add a file to the spec. In the variants folder, files lie as they do in the image."""
        entry = {"source": target[1:], "target": target} | self._rights(line, target, flags)
        if file.executable:
            entry.setdefault("mode", "0755")
        self.folders |= parents_of(target)
        self.draft.without_file(target)  # the last one wins
        if self.draft.add(line, "files", entry):
            self.draft.files[target] = file

    def add(self, line: Line, words: list[str], flags: dict[str, str], workdir: str) -> None:
        """Take over an ADD instruction without variables."""
        *sources, target = words
        for source in sources:
            if re.match(r"https?://", source) and not source.partition("#")[0].endswith(".git"):
                self._download(line, source, posixpath.join(workdir, target), flags)
            elif re.match(r"[a-z][a-z0-9+.-]*://|git@", source):
                self.draft.note(line, "expected an http or https address of a file")
            elif _ARCHIVE.fullmatch(source):
                self.draft.note(line, "Docker unpacks it; unpack it here, and copy what is in it")
            else:
                self.copy(line, [source, target], flags, workdir)

    def _download(self, line: Line, url: str, target: str, flags: dict[str, str]) -> None:
        target = target_of(url, target)
        table = {"url": url, "target": target} | self._rights(line, target, flags)
        if checksum := flags.get("checksum", ""):
            table["sha256"] = checksum.removeprefix("sha256:")
        self.draft.without_file(target)
        if self.draft.add(line, "download", table):
            self.draft.without_file_of_folder(target)
