"""A spec while it is put together: what it says, and notes on what it cannot say."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Collection, Iterator
from typing import Any

import tomli_w
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name
from packaging.version import Version

from builder.convert.secrets import Secrets
from builder.convert.values import Conversion, FileCopy, Line, Note
from builder.errors.visible import one_line
from builder.spec.parse import mistakes_in
from builder.spec.python import python_floor

_WIDTH = 100
# Larger files are data, as for a spec.
_MAX_TEXT_BYTES = 1 << 20
_LONGEST_QUOTE = 100
_HIDDEN = "it holds a password, a token or a key, or looks as if it did"
WHEN_OPENED = "is a secret: pass it to a sandbox when you open it"
# The folder of a spec's own files in the variants folder, until the spec has a name.
_OWN_FOLDER = "NAME"
_QUOTED = re.compile(r"`[^`]*`|'[^']*'")
# What templates require unless their spec says otherwise.
_PYTHON = "3.11"
_HEADER = "#:schema ../schemas/variant.schema.json\n"
# The tables of a spec, in the order in which they are written.
_TABLES = (
    "schema", "name", "extends", "base", "service", "resources", "workdir", "env", "system", "node",
    "download", "python", "files", "run",
)  # fmt: skip


class Draft:
    """What a spec says so far.

    Every value is checked as in a spec: one that a spec refuses becomes a note with the reason.
    """

    def __init__(self, source: str) -> None:
        self.source = source
        self.name: str | None = None  # as the source calls what it describes
        self.document: dict[str, Any] = {}
        # By path in the image.
        self.files: dict[str, FileCopy] = {}
        # Even if it is the image that a spec has which names none.
        self.names_image = False
        # Names of packages that an index may not have.
        self.guessed: dict[str, Line] = {}
        self.secrets = Secrets()
        self._notes: list[Note] = []

    def note(self, line: Line, reason: str) -> None:
        """Note why a line is not taken over."""
        self._notes.append(Note(line=line, reason=reason))

    def set(self, line: Line, table: str, key: str, value: Any) -> bool:
        """Set a key of a table; return whether a spec may say so."""
        if not self._is_allowed(line, {table: {key: value}}):
            return False
        self.document.setdefault(table, {})[key] = value
        return True

    def add(self, line: Line, table: str, value: dict[str, Any]) -> bool:
        """Add a table to a list of tables; return whether a spec may say so."""
        if not self._is_allowed(line, {table: [value]}):
            return False
        self.document.setdefault(table, []).append(value)
        return True

    def extend(self, line: Line, table: str, value: str) -> bool:
        """Add an item to the packages of a table; return whether a spec may say so."""
        if not self._is_allowed(line, {table: {"packages": [value]}}):
            return False
        packages = self.document.setdefault(table, {}).setdefault("packages", [])
        if value not in packages:
            packages.append(value)
        return True

    def without_download(self, target: str) -> None:
        """Remove the download to a path in the image."""
        downloads = self.document.get("download", [])
        downloads[:] = [table for table in downloads if table["target"] != target]
        if not downloads:
            self.document.pop("download", None)

    def without_file(self, target: str) -> None:
        """Leave out the file that a path in the image has so far, copied or downloaded."""
        self.without_download(target)
        entries = self.document.get("files", [])
        kept = [entry for entry in entries if entry["target"] != target]
        if len(kept) < len(entries):
            self.document["files"] = kept
            self.files.pop(target, None)
        if not kept:
            self.document.pop("files", None)

    def without_file_of_folder(self, target: str) -> None:
        """Leave out a file of a folder, which a download replaces, and the folder if that was all
        that it had."""
        if self.files.pop(target, None) is None:
            return
        entries = self.document["files"]
        entries[:] = [
            entry
            for entry in entries
            if entry["target"] in self.files
            or any(path.startswith(f"{entry['target']}/") for path in self.files)
        ]
        if not entries:
            del self.document["files"]

    def require(self, line: Line, requirement: str) -> bool:
        """Add a Python package; return whether a spec may say so."""
        return self.extend(line, "python", requirement)

    def require_wheel(self, line: Line, name: str, path: str, content: bytes) -> bool:
        """Add a wheel that the spec brings with it; return whether a spec may do so."""
        requirement = f"{name} @ {_OWN_FOLDER}/{path}"
        if not self.accepts({"python": {"packages": [requirement]}}):
            return False
        self.require(line, requirement)
        self.files[f"/{path}"] = FileCopy(content=content)
        return True

    def guess(self, line: Line, requirement: str) -> None:
        """Add a package that an index may not have under this name."""
        if self.require(line, requirement):
            self.guessed[canonicalize_name(Requirement(requirement).name)] = line

    def drop(self, names: Collection[str]) -> None:
        """Leave out guessed packages that the index does not have."""
        python = self.document.get("python", {})
        python["packages"] = [
            text
            for text in python.get("packages", [])
            if canonicalize_name(Requirement(text).name) not in names
        ]
        if not python["packages"]:
            del python["packages"]
        if not python:
            self.document.pop("python", None)
        for name in names:
            self.note(self.guessed[name], "the package index has no package of this name")

    def require_python(self, line: Line, specifiers: str) -> None:
        """Take over the lowest Python that a source requires; the base image decides the rest."""
        try:
            floor = python_floor(specifiers)
        except ValueError as error:
            self.note(line, str(error))
            return
        if Version(floor) > Version(_PYTHON):
            self.set(line, "base", "python", f">={floor}")
        if not SpecifierSet(specifiers).contains("3.99"):
            self.note(line, "the base image has the Python; `[base] python` says what it must meet")

    def accepts(self, document: dict[str, Any]) -> bool:
        """Return whether a spec may say so, without a note."""
        held = any(self._is_hidden(key, text) for key, text in _texts(document))
        return not held and not mistakes_in(document)

    def _is_hidden(self, key: str, text: str) -> bool:
        """Return whether a value of a spec holds a secret, or may hold one."""
        if key == "command":
            return self.secrets.may_be_in(text)
        # `auth==1` is a package.
        return self.secrets.is_in(text) or (key != "packages" and self.secrets.is_set_in(text))

    def hides_a_secret(self, line: Line, content: bytes, path: str) -> bool:
        """Return whether a file holds a secret, with a note."""
        text = content.decode("latin-1") if len(content) <= _MAX_TEXT_BYTES else ""
        if not self.secrets.is_in(text):
            return False
        self.note(line, f"`{path}` holds a password, a token or a key")
        return True

    def _is_allowed(self, line: Line, document: dict[str, Any]) -> bool:
        for key, text in _texts(document):
            if self._is_hidden(key, text):
                self.note(line, _HIDDEN)
                return False
        if mistakes := mistakes_in(document):
            self.note(line, "; ".join(mistakes))
            return False
        return True

    def conversion(self, name: str, *, extends: str | None = None) -> Conversion:
        """Return the spec; it extends `extends` unless the source names an image."""
        document: dict[str, Any] = {"schema": 1, "name": name}
        if extends and not self.names_image:
            document["extends"] = extends
        document |= self.document
        if "packages" in document.get("python", {}):
            packages = document["python"]["packages"]
            named = [text.replace(f" @ {_OWN_FOLDER}/", f" @ {name}/") for text in packages]
            document["python"] = document["python"] | {"packages": named}
        if "files" in document:
            # In a folder of their own, whose name is that of the spec.
            document["files"] = [
                entry | {"source": f"{name}/{entry['source']}"} for entry in document["files"]
            ]
        ordered = {key: document[key] for key in _TABLES if key in document}
        notes = tuple(self._shown_notes())
        text = f"{_HEADER}{_comments(self.source, notes)}{spec_text(ordered)}"
        files = {f"{name}{path}": file for path, file in self.files.items()}
        return Conversion(name=name, text=text, files=files, notes=notes)

    def _shown_notes(self) -> Iterator[Note]:
        """Yield the notes in the order of the lines, without secrets."""
        seen = set()
        for note in sorted(self._notes, key=lambda note: (note.line.file, note.line.number)):
            line, text = note.line, one_line(" ".join(note.line.text.split()))
            if len(text) > _LONGEST_QUOTE:
                text = f"{text[: _LONGEST_QUOTE - 2]} …"
            reason = one_line(note.reason)
            if self.secrets.may_be_in(line.text):
                text = ""
                if not reason.endswith(WHEN_OPENED):  # that quotes the name alone
                    reason = _QUOTED.sub("`…`", reason)
            if self.secrets.is_in(reason) or self.secrets.is_set_in(reason):
                reason = _HIDDEN
            shown = Note(line=Line(file=line.file, number=line.number, text=text), reason=reason)
            if shown not in seen:
                seen.add(shown)
                yield shown


def _texts(value: Any, key: str = "") -> Iterator[tuple[str, str]]:
    """Yield every text of a document with the nearest key above it."""
    if isinstance(value, str):
        yield key, value
    elif isinstance(value, dict):
        for name, item in value.items():
            yield from _texts(item, name)
    elif isinstance(value, list):
        if key == "command":  # an option and its value are two items
            yield key, " ".join(map(str, value))
        for item in value:
            yield from _texts(item, key)


def spec_text(document: dict[str, Any]) -> str:
    """Return the TOML of a spec as people write it: a list in one line if it fits, and a table for
    each item of a list of tables."""
    lines: list[str] = []
    for key, value in document.items():
        if isinstance(value, dict):
            lines += ["", f"[{key}]", *_pairs(value)]
            for name, items in value.items():
                if _is_tables(items):
                    for item in items:
                        lines += ["", f"[[{key}.{name}]]", *_pairs(item)]
        elif _is_tables(value):
            for item in value:
                lines += ["", f"[[{key}]]", *_pairs(item)]
        else:
            lines += _pairs({key: value})
    return "".join(f"{line}\n" for line in lines)


def _is_tables(value: Any) -> bool:
    return isinstance(value, list) and any(isinstance(item, dict) for item in value)


def _pairs(table: dict[str, Any]) -> Iterator[str]:
    for key, value in table.items():
        if _is_tables(value):
            continue
        text = tomli_w.dumps({key: value}, multiline_strings=True).rstrip("\n")
        if isinstance(value, list):
            start, *items, end = text.splitlines()
            one_line = f"{start}{' '.join(item.strip() for item in items).rstrip(',')}{end}"
            text = one_line if len(one_line) <= _WIDTH else text
        elif isinstance(value, dict):  # such as the environment of a command
            pairs = ", ".join(_pairs(value))
            text = f"{tomli_w.dumps({key: 0}).removesuffix('0' + chr(10))}{{ {pairs} }}"
        yield text


def _comments(source: str, notes: tuple[Note, ...]) -> str:
    lines = [f"Converted from {source}."]
    if notes:
        lines[0] += " Not taken over, or not in the same way:"
    for note in notes:
        lines += textwrap.wrap(
            str(note),
            _WIDTH - 2,
            initial_indent="- ",
            subsequent_indent="  ",
            break_long_words=False,
            break_on_hyphens=False,
        )
    return "".join(f"# {line}\n" for line in lines)
