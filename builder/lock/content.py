"""What a lock says about files that a stage fetches: values only."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from builder.spec.variant import Download


@dataclass(frozen=True, kw_only=True, slots=True)
class ContentFile:
    """A file with a known hash, and where it can be fetched; `path` is below a target, "" if it is
    the target itself."""

    path: str
    sha256: str
    size: int
    url: str


@dataclass(frozen=True, kw_only=True, slots=True)
class LockedDownload:
    """The file at a URL: its SHA-256 and size; `unpacked_size` is that of what is extracted."""

    url: str
    sha256: str
    size: int
    unpacked_size: int | None = None

    @property
    def files(self) -> tuple[ContentFile, ...]:
        """Return the file."""
        return (ContentFile(path="", sha256=self.sha256, size=self.size, url=self.url),)

    def to_toml(self) -> dict[str, Any]:
        """Return the download as a table of template.toml."""
        table: dict[str, Any] = {"url": self.url, "sha256": self.sha256, "bytes": self.size}
        if self.unpacked_size is not None:
            table["extracted-bytes"] = self.unpacked_size
        return table

    @classmethod
    def of_toml(cls, table: Mapping[str, Any]) -> LockedDownload:
        """Return the download of such a table. Raise `ValueError`, `KeyError`."""
        unpacked = table.get("extracted-bytes")
        for key, value in (("bytes", table["bytes"]), ("extracted-bytes", unpacked or 0)):
            if type(value) is not int or value < 0:
                raise ValueError(f"`{key}` of the download {table['url']!r} is {value!r}")
        if not is_sha256(table["sha256"]):
            raise ValueError(f"`sha256` of the download {table['url']!r} is {table['sha256']!r}")
        return cls(
            url=table["url"],
            sha256=table["sha256"],
            size=table["bytes"],
            unpacked_size=unpacked,
        )

    def difference(self, download: Download) -> str | None:
        """Return how the download of a spec differs from this one, or None."""
        if download.sha256 not in (None, self.sha256):
            return f"`sha256` of {download.url}: {self.sha256} → {download.sha256}"
        if download.extract != (self.unpacked_size is not None):
            return f"`extract` of {download.url} is now {str(download.extract).lower()}"
        return None


def is_sha256(value: object) -> bool:
    """Return whether a value of a file is a SHA-256 hash."""
    return isinstance(value, str) and len(value) == 64 and not set(value) - set("0123456789abcdef")
