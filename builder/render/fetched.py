"""What a template contains that was fetched: how it gets into a layer, and into a build context.

Small content is copied from the build context. What is too large for a COPY on E2B is fetched by a
step, which fails if the hash is not that of the lock.
"""

from __future__ import annotations

import hashlib
import json
import os
import posixpath
import shutil
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from builder.errors import from_os_error
from builder.lock import Lock
from builder.lock.content import ContentFile
from builder.spec import Variant
from builder.system.events import Reporter, discard
from builder.system.files import remove_tree

FOLDER = "fetched"
# E2B unpacks what it copies in memory: the archive and the files lie in half of it at once.
_MEMORY_PARTS = 8
_UNITS = ((1e9, "GB"), (1e6, "MB"), (1e3, "kB"))


@dataclass(frozen=True, kw_only=True, slots=True)
class Fetched:
    """Content of one stage, for `target` and its `owner`; `kind` and `number` are its key.

    `files` are below the target, or the target itself. An archive to `extract` has the total `size`
    of what is in it. `mode` is octal text; None keeps the modes in the archive. With `copied`, it
    is in the build context; otherwise a step fetches it, which it cannot if that takes a `token`.
    """

    stage: str
    kind: str
    number: int
    title: str
    target: str
    owner: str
    mode: str | None
    extract: bool
    files: tuple[ContentFile, ...]
    size: int
    copied: bool
    token: bool = False

    @property
    def key(self) -> str:
        """Return a name of the content that changes with it, and not with its place."""
        hashes = [(file.path, file.sha256) for file in self.files]
        return hashlib.sha256(repr((hashes, self.mode, self.extract)).encode()).hexdigest()[:12]

    @property
    def is_folder(self) -> bool:
        """Whether the target is a folder."""
        return self.extract or any(file.path for file in self.files)

    @property
    def is_at_home(self) -> bool:
        """Whether the target is at or below the home of `user`."""
        return f"{self.target}/".startswith("/home/user/")

    @property
    def context(self) -> str:
        """Return its path in the build context."""
        return f"{FOLDER}/{self.key}/{posixpath.basename(self.target)}"

    @property
    def context_paths(self) -> tuple[str, ...]:
        """Return paths that say to `flatten` whether it is a file or a folder. What is in an
        archive is unknown until it is fetched."""
        if self.extract:
            return (f"{self.context}/folder/file",)
        return tuple(posixpath.join(self.context, file.path).rstrip("/") for file in self.files)

    @property
    def order_path(self) -> str:
        """Return the path of the list that the step reads which fetches it."""
        name = hashlib.sha256(repr((self.key, self.target, self.owner)).encode()).hexdigest()[:12]
        return f"fetch/{name}.json"

    @property
    def order(self) -> bytes:
        """Return that list."""
        order: dict[str, Any] = {
            "target": self.target,
            "owner": self.owner,
            "mode": self.mode,
            "extract": self.extract,
            "files": [
                {"path": file.path, "url": file.url, "sha256": file.sha256} for file in self.files
            ],
        }
        return (json.dumps(order, indent=2) + "\n").encode()

    def described(self, memory_mb: int | None) -> str:
        """Return in a line what it is and how it gets into a layer, for a target with layers and
        `memory_mb`."""
        how = ""
        if memory_mb is not None and self.copied:
            how = ", copied"
        elif memory_mb is not None:
            limit = (memory_mb << 20) // _MEMORY_PARTS
            how = (
                ", fetched by a step that checks the hash: with"
                f" {memory_mb:,} MiB of memory, a COPY may have {in_words(limit)} on E2B"
            )
        return f"{self.title} → {self.target}: {in_words(self.size)}{how}"


def in_words(size: int) -> str:
    """Format a number of bytes: `12 bytes`, `3.4 MB`."""
    for unit, name in _UNITS:
        if size >= unit:
            return f"{size / unit:.1f} {name}"
    return f"{size} bytes"


def fetched_of(variant: Variant, lock: Lock) -> tuple[Fetched, ...]:
    """Return what the stages of a variant fetch, in the order of its layers."""
    return tuple(_fetched(variant, lock))


def _fetched(variant: Variant, lock: Lock) -> Iterator[Fetched]:
    limit = (variant.memory_mb << 20) // _MEMORY_PARTS
    for stage, locked in zip(variant.stages, lock.stages, strict=True):
        for download, content in zip(stage.downloads, locked.downloads, strict=True):
            size = content.size if content.unpacked_size is None else content.unpacked_size
            yield Fetched(
                stage=stage.stem,
                kind="download",
                number=download.number,
                title=content.url,
                target=download.target,
                owner=download.owner,
                mode=download.mode,
                extract=download.extract,
                files=content.files,
                size=size,
                copied=max(size, content.size) <= limit,
            )
        for model, model_lock in zip(stage.models, locked.models, strict=True):
            files = model_lock.files(model.project)
            size = sum(file.size for file in files)
            on_the_web = all(file.url.startswith("http") for file in files)
            commit = f" at {model_lock.commit[:12]}" if model_lock.commit else ""
            yield Fetched(
                stage=stage.stem,
                kind=model.kind,
                number=model.number,
                title=f"{model.kind} {model.location}{commit}",
                target=model.target,
                owner=model.owner,
                mode="0644",
                extract=False,
                files=files,
                size=size,
                copied=size <= limit or not on_the_web or model_lock.token,
                token=model_lock.token,
            )


def undeliverable(contents: Iterable[Fetched], memory_mb: int) -> str | None:
    """Return why E2B cannot get some content into a layer: it is too large to be copied, and a step
    of the build cannot fetch it."""
    limit = (memory_mb << 20) // _MEMORY_PARTS
    reasons = []
    for content in contents:
        if content.copied and content.size > limit:
            needed = -(-content.size * _MEMORY_PARTS // (1 << 20))
            why = "it needs a token" if content.token else "it is not on the web"
            reasons.append(
                f"the {content.title} ({in_words(content.size)}) is too large for a COPY on E2B,"
                f" which may have {in_words(limit)} with {memory_mb:,} MiB of memory, and a step"
                f" cannot fetch it, since {why}; set `resources.memory-mb` to"
                f" {needed + needed % 2}, or take fewer `files`"
            )
    return "; ".join(reasons) or None


def write_fetched(contents: Sequence[Fetched], folder: Path, *, report: Reporter = discard) -> None:
    """Put what is copied into a build context. Raise `FetchError`, `NetworkError`,
    `StorageError`."""
    try:
        remove_tree(folder / FOLDER)
        for content in contents:
            if content.copied:
                put(content, folder / content.context, report=report)
    except OSError as error:
        raise from_os_error(error, f"writing `{folder / FOLDER}`") from error


def obtained(file: ContentFile, *, report: Reporter = discard) -> Path:
    """Return a file in the store, fetched if it is not there. Raise `FetchError`, `NetworkError`,
    `StorageError`."""
    from builder.lock.fetching import obtain  # only where something is built

    return obtain(file, report=report)


def put(content: Fetched, place: Path, *, report: Reporter = discard) -> None:
    """Write content to `place`, which must be new, with the modes that it has in a sandbox. Raise
    `OSError`, and what `obtained` raises."""
    from builder.system.fetch import unpack

    mode = None if content.mode is None else int(content.mode, 8)
    for file in content.files:
        source = obtained(file, report=report)
        if content.extract:
            place.parent.mkdir(parents=True, exist_ok=True)
            unpack(str(source), str(place), mode)
            continue
        path = place / file.path if file.path else place
        _make_folders(path.parent)
        shutil.copyfile(source, path)
        path.chmod(0o644 if mode is None else mode)


def _make_folders(folder: Path) -> None:
    if not folder.is_dir():
        _make_folders(folder.parent)
        folder.mkdir()
        os.chmod(folder, 0o755)  # noqa: S103 - the mode is part of E2B's cache key
