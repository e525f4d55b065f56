"""Convert a source whose folder is in memory, and read what it became."""

from __future__ import annotations

import posixpath
import tomllib
from collections.abc import Iterator
from typing import Any

from builder.convert import convert


class Files:
    """The files of a folder, by path."""

    def __init__(self, files: dict[str, str], executable: tuple[str, ...] = ()) -> None:
        self._files = files
        self._executable = executable

    def content(self, path: str) -> bytes | None:
        text = self._files.get(path)
        return None if text is None else text.encode()

    def is_executable(self, path: str) -> bool:
        return path in self._executable

    def below(self, folder: str) -> Iterator[str]:
        for path in sorted(self._files):
            if folder == "." or posixpath.normpath(path).startswith(f"{folder}/"):
                yield path


def converted(
    text: str, file: str, files: dict[str, str] | None = None, executable: tuple[str, ...] = ()
) -> tuple[dict[str, Any], list[str]]:
    """What the spec `tools` says that a source becomes, without schema and name; and its notes."""
    draft = convert(text.encode(), file, Files(files or {}, executable))
    conversion = draft.conversion("tools")
    document = tomllib.loads(conversion.text)
    assert (document.pop("schema"), document.pop("name")) == (1, "tools")
    return document, [str(note) for note in conversion.notes]
