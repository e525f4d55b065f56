"""Recognize the commands of a Dockerfile that only fetch a file, and ADD of an address."""

from __future__ import annotations

import posixpath
import re
from collections.abc import Sequence
from typing import Any
from urllib.parse import urlsplit

from builder.convert.draft import Draft
from builder.convert.values import Line

_URL = re.compile(r"https?://\S+")
_SILENT = re.compile(
    r"-[fsSLqk]*(?P<output>[oO])?|--(?:fail|silent|show-error|location|quiet|no-verbose|progress=\S+)|-nv"
)
_MODE = re.compile(r"0?[0-7]{3}")
_EXECUTABLE = {"+x": "0755", "a+x": "0755", "u+x": "0744", "ugo+x": "0755"}


def take_over(line: Line, commands: Sequence[Sequence[str]], workdir: str, draft: Draft) -> bool:
    """Take over a RUN that fetches one file, and sets its mode; return whether it is one."""
    meant = [words for words in commands if words[:1] not in (("set",), ("mkdir",))]
    if not meant or not all(meant) or len(meant) > 2:
        return False
    fetched = _fetched(meant[0], workdir)
    if fetched is None:
        return False
    url, target = fetched
    table: dict[str, Any] = {"url": url, "target": target}
    if len(meant) == 2:
        mode = _mode(meant[1], target, workdir)
        if mode is None:
            return False
        table["mode"] = mode
    draft.without_file(target)
    if not draft.add(line, "download", table):
        return False
    draft.without_file_of_folder(target)
    return True


def _fetched(words: Sequence[str], workdir: str) -> tuple[str, str] | None:
    """Return the address and the target of `curl` or `wget` for one file."""
    if words[0] not in ("curl", "wget"):
        return None
    url, target, arguments = "", "", iter(words[1:])
    for word in arguments:
        match = _SILENT.fullmatch(word)
        if word == "--output" or (match and match["output"]):
            if words[0] == "curl" and word.endswith("O"):  # called as in the address
                target = "."
                continue
            target = next(arguments, "")
        elif word in ("-P", "--directory-prefix") and words[0] == "wget":
            target = f"{next(arguments, '')}/"
        elif _URL.fullmatch(word) and not url:
            url = word
        elif not match:
            return None
    if not url or target == "-" or (words[0] == "curl" and not target):
        return None
    return url, target_of(url, posixpath.join(workdir, target or "."))


def target_of(url: str, target: str) -> str:
    """Return the path of a file that is fetched to a file or folder."""
    if target.endswith(("/", "/.")):
        target = posixpath.join(target, posixpath.basename(urlsplit(url).path))
    return posixpath.normpath(target)


def _mode(words: Sequence[str], target: str, workdir: str) -> str | None:
    """Return the mode that `chmod` sets for one file."""
    if words[0] != "chmod" or len(words) != 3:
        return None
    if posixpath.normpath(posixpath.join(workdir, words[2])) != target:
        return None
    if _MODE.fullmatch(words[1]):
        return f"0{int(words[1], 8):03o}"
    return _EXECUTABLE.get(words[1])
