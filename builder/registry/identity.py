"""Digests, refs and times, as text that knows its form. Light, since every look-up loads it."""

from __future__ import annotations

import time


class Digest(str):
    """`sha256:…` of what a build consists of."""

    __slots__ = ()

    @classmethod
    def from_tag(cls, tag: str) -> Digest:
        """Return the digest that a tag, a folder or a build ID spells `sha256-…`."""
        return cls(tag.replace("-", ":", 1))

    @property
    def tag(self) -> str:
        """`sha256-…`, for tags and file names, which cannot hold a colon."""
        return self.replace(":", "-", 1)

    @property
    def short(self) -> str:
        """The first 12 digits, which tell it from others."""
        return self.partition(":")[2][:12]


class Ref(str):
    """What a sandbox is created from: `template_id:build_id`, or `local:name@sha256-…`."""

    __slots__ = ()

    @property
    def template_id(self) -> str:
        """The template's ID."""
        return self.partition(":")[0]

    @property
    def build_id(self) -> str:
        """The build's ID; empty for a bare template ID."""
        return self.partition(":")[2]

    @property
    def is_local(self) -> bool:
        """Whether its target has the kind `local`: each machine makes such a build for itself."""
        return self.startswith("local:") and "@sha256-" in self

    @property
    def digest(self) -> Digest:
        """The digest of a local build."""
        return Digest.from_tag(self.rpartition("@")[2])

    @property
    def short(self) -> str:
        """The ref, with a shortened digest."""
        return f"{self.partition('@')[0]}@sha256-{self.digest.short}" if self.is_local else self


class Stage(str):
    """A stage of a build with its digest, or the beginning of it: `_torch@sha256:…`."""

    __slots__ = ()

    @property
    def stem(self) -> str:
        """The stage's name, which is that of its file."""
        return self.partition("@")[0]

    @property
    def digest(self) -> str:
        """The digest of all that the stage and its parents declare, possibly shortened."""
        return self.partition("@")[2]


def utc(seconds: float) -> str:
    """Return a time (seconds since the epoch) as it is recorded: `2026-11-23T07:49:55Z`."""
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(seconds))


def is_time(text: object) -> bool:
    """Return whether `text` is a time as `utc` writes it."""
    return isinstance(text, str) and len(text) == 20 and text[10] == "T" and text[-1] == "Z"
