"""What a lock says about files that a stage fetches: values only."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

from builder.spec.variant import Download, Model

_COMMIT = re.compile(r"[0-9a-f]{7,64}")
_ENDPOINT = re.compile(r"https?://[A-Za-z0-9._:\[\]-]+(/[A-Za-z0-9._~/-]*)?")


@dataclass(frozen=True, kw_only=True, slots=True)
class HubRevision:
    """A commit of a repository; `kind` is model or dataset, `endpoint` the URL of the hub."""

    kind: str
    endpoint: str
    repo: str
    commit: str

    def url_of(self, path: str) -> str:
        """Return the URL of a file."""
        folder = "datasets/" if self.kind == "dataset" else ""
        return f"{self.endpoint}/{folder}{self.repo}/resolve/{self.commit}/{quote(path)}"


@dataclass(frozen=True, kw_only=True, slots=True)
class ContentFile:
    """A file with a known hash, and where it can be fetched.

    `path` is below a target, "" if it is the target itself. `url` is an address on the web or in an
    object store, "" for a file of the project at `local`. `hub` says how to ask a hub for it.
    """

    path: str
    sha256: str
    size: int
    url: str = ""
    local: Path | None = None
    hub: HubRevision | None = None


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


@dataclass(frozen=True, kw_only=True, slots=True)
class LockedModel:
    """The files of a model or dataset, each with its hash.

    `kind`, `location`, `revision` and `patterns` are as in the spec. Of a hub's repository there
    are `commit` and `endpoint`; `token` says that it is only for those who have one.
    """

    kind: str
    location: str
    revision: str | None = None
    patterns: tuple[str, ...] = ()
    commit: str | None = None
    endpoint: str | None = None
    token: bool = False
    hashes: tuple[tuple[str, str, int], ...] = ()

    def files(self, project: Path) -> tuple[ContentFile, ...]:
        """Return the files; those of a project are in `project`."""
        hub = None
        if self.endpoint and self.commit:
            hub = HubRevision(
                kind=self.kind, endpoint=self.endpoint, repo=self.location, commit=self.commit
            )
        files = []
        for path, sha256, size in self.hashes:
            url, local = "", None
            if hub:
                url = hub.url_of(path)
            elif "://" in self.location:
                url = f"{self.location}{path}"
            else:
                local = project / self.location / path
            files.append(
                ContentFile(path=path, sha256=sha256, size=size, url=url, local=local, hub=hub)
            )
        return tuple(files)

    def to_toml(self) -> dict[str, Any]:
        """Return the model as a table of template.toml."""
        table: dict[str, Any] = {"kind": self.kind, "location": self.location}
        for key in ("revision", "commit", "endpoint"):
            if (value := getattr(self, key)) is not None:
                table[key] = value
        if self.patterns:
            table["patterns"] = list(self.patterns)
        if self.token:
            table["needs-token"] = True
        files = [{"path": p, "sha256": sha256, "bytes": size} for p, sha256, size in self.hashes]
        return table | {"files": files}

    @classmethod
    def of_toml(cls, table: Mapping[str, Any]) -> LockedModel:
        """Return the model of such a table. Raise `ValueError`, `KeyError`."""
        hashes = []
        for file in table["files"]:
            path, sha256, size = file["path"], file["sha256"], file["bytes"]
            if not is_below(path) or not is_sha256(sha256) or type(size) is not int or size < 0:
                raise ValueError(f"{path!r} of the model {table['location']!r} is {file!r}")
            hashes.append((path, sha256, size))
        commit, endpoint = table.get("commit"), table.get("endpoint")
        if commit is not None and not _COMMIT.fullmatch(commit):
            raise ValueError(f"`commit` of the model {table['location']!r} is {commit!r}")
        if endpoint is not None and not _ENDPOINT.fullmatch(endpoint):
            raise ValueError(f"`endpoint` of the model {table['location']!r} is {endpoint!r}")
        return cls(
            kind=table["kind"],
            location=table["location"],
            revision=table.get("revision"),
            patterns=tuple(table.get("patterns", ())),
            commit=commit,
            endpoint=endpoint,
            token=table.get("needs-token") is True,
            hashes=tuple(hashes),
        )

    def difference(self, model: Model) -> str | None:
        """Return how the model of a spec differs from this one, or None."""
        if self.revision != model.revision:
            return f"`revision` of {model.location}: {self.revision} → {model.revision}"
        if self.patterns != model.files:
            return f"`files` of {model.location} have changed"
        return None


def is_below(path: object) -> bool:
    """Return whether a path of a hub or store is one below a folder, or the empty one."""
    if not isinstance(path, str) or not (path.isprintable() and "\\" not in path):
        return False
    return path == "" or not {"", ".", ".."} & set(path.split("/"))


def is_sha256(value: object) -> bool:
    """Return whether a value of a file is a SHA-256 hash."""
    return isinstance(value, str) and len(value) == 64 and not set(value) - set("0123456789abcdef")
