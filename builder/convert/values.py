"""What goes into a conversion, and what comes out of it: values only."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Protocol


class Files(Protocol):
    """The files beside the file that is converted, such as the build context of a Dockerfile.

    Paths are relative, with `/`, and never lead out of the folder.
    """

    def content(self, path: str) -> bytes | None:
        """Return the content of a file, or None if there is no such file."""

    def is_executable(self, path: str) -> bool:
        """Return whether everybody may execute a file."""

    def below(self, folder: str) -> Iterator[str]:
        """Yield the path of every file below a folder, sorted; "." is the folder itself."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Line:
    """A line of a source; `text` may be empty."""

    file: str
    number: int
    text: str = ""

    def __str__(self) -> str:
        return f"{self.file}:{self.number}" if self.number else self.file


@dataclass(frozen=True, kw_only=True, slots=True)
class Note:
    """Something that the spec does not say as its source does, and why."""

    line: Line
    reason: str

    def __str__(self) -> str:
        quoted = f"`{self.line.text}`: " if self.line.text else ""
        return f"{self.line}: {quoted}{self.reason}"

    def to_json(self) -> dict[str, object]:
        """Return the note as plain values."""
        line = self.line
        return {
            "file": line.file,
            "line": line.number,
            "text": line.text,
            "reason": self.reason,
        }


@dataclass(frozen=True, kw_only=True, slots=True)
class FileCopy:
    """A file that the spec adds to the template, for the variants folder."""

    content: bytes
    executable: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class Conversion:
    """A spec, the files that it needs in the variants folder by path, and what it leaves out."""

    name: str
    text: str
    files: Mapping[str, FileCopy] = field(default_factory=dict)
    notes: tuple[Note, ...] = ()
