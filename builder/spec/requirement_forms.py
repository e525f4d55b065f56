"""Suggest a PEP 508 requirement for a package in a form of pip or conda."""

from __future__ import annotations

import re

_NAME = r"(?P<name>[A-Za-z0-9][A-Za-z0-9._-]*(?:\[[\w\s,.-]*\])?)"
_VERSION = r"(?P<version>[0-9][\w.!+*]*)"
_ADDRESS = re.compile(r"(?:git\+)?(?:https?|ssh|git|file)://\S+|git\+\S+")
_WHEEL = re.compile(r"(?:\S*/)?(?P<name>[A-Za-z0-9][A-Za-z0-9._]*)-[^/\s]+\.whl")
_CHANNEL = re.compile(rf"[\w./-]+::{_NAME}.*")
_ONE_EQUALS = re.compile(rf"{_NAME}\s*=\s*{_VERSION}(?:\s*=.*)?")
_NO_COMMA = re.compile(r"[<>=!~]=?\s*[0-9][\w.!+*]*\s+[<>=!~]")
_NO_OPERATOR = re.compile(rf"{_NAME}\s+{_VERSION}")


def what_to_write(value: str) -> str | None:
    """Return a suggestion for a text that is no requirement, if its form is known."""
    if value.startswith("-"):
        return "it is an option of pip; list the packages themselves"
    if _ADDRESS.fullmatch(value):
        return _named_address(value)
    if wheel := _WHEEL.fullmatch(value):
        return f"write `{wheel['name']} @ {value.removeprefix('./')}`"
    if " #" in value:
        return "write the comment outside of the quotes"
    if channel := _CHANNEL.fullmatch(value):
        return f"it names a channel of conda; write `{channel['name']}`"
    if text := _ONE_EQUALS.fullmatch(value) or _NO_OPERATOR.fullmatch(value):
        exact = f"{text['name']}=={text['version']}"
        return f"write `{exact}`" if exact.endswith("*") else f"write `{exact}` or `{exact}.*`"
    if _NO_COMMA.search(value):
        return "write a comma between two bounds"
    return None


def _named_address(address: str) -> str:
    """Return how to write an address that lacks the name of its package."""
    url, _, fragment = address.partition("#")
    if url.startswith(("git+", "ssh://", "git://")):
        return "write the package's name before it, and a commit: `NAME @ git+https://…@COMMIT`"
    if url.startswith("file:"):
        return "write the package's name, and a path in the variants folder: `NAME @ files/….whl`"
    wheel = _WHEEL.fullmatch(url)
    name = wheel["name"] if wheel else "NAME"
    if fragment.startswith("sha256="):
        return f"write the package's name before it: `{name} @ …`"
    return f"write the package's name before it, and its hash: `{name} @ {url}#sha256=…`"
