"""Fetch files into a layer of an image, and unpack archives safely.

This module is copied into images as `fetch.py` and run by their Python, so it uses only the
standard library. The program unpacks with it, too: an archive becomes the same files either way.

An archive is refused as a whole if anything in it is outside of its folder: an absolute path, `..`,
a link that leads out, or a device.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import posixpath
import shutil
import stat
import sys
import tarfile
import time
import urllib.request
import zipfile

# Not known to the oldest Pythons of images at run time.
if False:
    from collections.abc import Callable, Iterator
    from typing import IO, Any

_CHUNK_BYTES = 1 << 20
_ATTEMPTS = 4
_TIMEOUT_SECONDS = 60
_OPEN_TO_READ = 0o755


class UnsafeArchiveError(Exception):
    """An archive cannot be unpacked; the text says why."""


class Entry:
    """An entry of an archive: `kind` is file, folder, link (symbolic) or same (hard link)."""

    def __init__(
        self, path: str, kind: str, mode: int, size: int, link: str, opened: Callable[[], Any]
    ) -> None:
        self.path, self.kind, self.mode = path, kind, mode
        self.size, self.link, self.opened = size, link, opened


def entries(archive: str) -> Iterator[Entry]:
    """Yield the entries of a tar or zip file, each checked. Raises `UnsafeArchiveError`."""
    kinds: dict[str, str] = {}
    sizes: dict[str, int] = {}
    read = _zip_entries if zipfile.is_zipfile(archive) else _tar_entries
    try:
        for entry in read(archive):
            entry.path = _inside(entry.path)
            if entry.kind == "folder" and not entry.path:
                continue
            _check(entry, kinds)
            kinds[entry.path] = entry.kind
            if entry.kind == "same":
                entry.size = sizes[entry.link]
            sizes[entry.path] = entry.size
            yield entry
    except (tarfile.TarError, zipfile.BadZipFile, EOFError, NotImplementedError) as error:
        raise UnsafeArchiveError("is neither a tar nor a zip archive: " + str(error)) from error
    except (OSError, RuntimeError, ValueError) as error:
        if isinstance(error, OSError) and error.errno:
            raise
        raise UnsafeArchiveError("is damaged: " + str(error)) from error  # bad data, a password


def unpacked_size(archive: str) -> int:
    """Return the total size of the files in an archive. Raises `UnsafeArchiveError`."""
    return sum(entry.size for entry in entries(archive))


def unpack(archive: str, folder: str, mode: int | None = None) -> None:
    """Unpack into `folder`, which must be new. Files get `mode`, or that in the archive without
    the rights of others to write. Raises `UnsafeArchiveError`, `OSError`."""
    os.makedirs(folder)
    os.chmod(folder, _OPEN_TO_READ)
    folders = {}
    for entry in entries(archive):
        path = os.path.join(folder, entry.path)
        _make_folders(folder, os.path.dirname(entry.path))
        if entry.kind == "folder":
            os.makedirs(path, exist_ok=True)
            folders[path] = _folder_mode(mode) if mode is not None else entry.mode & 0o755 | 0o700
            continue
        with contextlib.suppress(FileNotFoundError):
            os.unlink(path)
        if entry.kind == "link":
            os.symlink(entry.link, path)
        elif entry.kind == "same":
            shutil.copy(os.path.join(folder, entry.link), path)
        else:
            with entry.opened() as source:
                _saved(source, path)
            os.chmod(path, entry.mode & 0o755 | 0o400 if mode is None else mode)
    for path, rights in folders.items():
        os.chmod(path, rights)


def _make_folders(folder: str, path: str) -> None:
    """Make the folders above an entry that the archive does not list."""
    for part in path.split("/") if path else ():
        folder = os.path.join(folder, part)
        if not os.path.isdir(folder):
            os.mkdir(folder)
            os.chmod(folder, _OPEN_TO_READ)


def _folder_mode(mode: int) -> int:
    return mode | (mode & 0o444) >> 2 | 0o700


def _inside(path: str) -> str:
    """Return a path of an archive in its shortest form, "" for its folder itself."""
    if path.startswith("/") or "\\" in path or "\0" in path or ".." in path.split("/"):
        raise UnsafeArchiveError("contains " + repr(path) + ", which is outside of its folder")
    path = posixpath.normpath(path)
    return "" if path == "." else path


def _check(entry: Entry, kinds: dict[str, str]) -> None:
    if not entry.path:
        raise UnsafeArchiveError("contains its own folder as a file")
    parts = entry.path.split("/")
    for count in range(1, len(parts)):
        if kinds.setdefault("/".join(parts[:count]), "folder") != "folder":
            raise UnsafeArchiveError("contains " + repr(entry.path) + ", which is below a file")
    if (entry.kind == "folder") != (kinds.get(entry.path, entry.kind) == "folder"):
        raise UnsafeArchiveError("contains " + repr(entry.path) + " as a file and as a folder")
    if entry.kind == "link":
        # `..` may only come first: behind a name, it would lead on from where another link leads.
        words = [word for word in entry.link.split("/") if word not in ("", ".")]
        up = words.count("..")
        if entry.link.startswith("/") or ".." in words[up:] or up >= len(parts):
            raise UnsafeArchiveError(
                "contains the link " + repr(entry.path) + ", which leads out to " + repr(entry.link)
            )
    elif entry.kind == "same":
        entry.link = _inside(entry.link)
        if kinds.get(entry.link) not in ("file", "same"):
            raise UnsafeArchiveError(
                "contains " + repr(entry.path) + ", a link to what is no earlier file of it"
            )
    elif entry.kind not in ("file", "folder"):
        raise UnsafeArchiveError("contains " + repr(entry.path) + ", which is a device or a pipe")


def _tar_entries(archive: str) -> Iterator[Entry]:
    with tarfile.open(archive) as tar:
        for member in tar:
            kind = "device"
            for name, matches in (
                *(("file", member.isreg()), ("folder", member.isdir())),
                *(("link", member.issym()), ("same", member.islnk())),
            ):
                kind = name if matches else kind

            def opened(member: tarfile.TarInfo = member) -> Any:
                return tar.extractfile(member)

            size = member.size if kind == "file" else 0
            yield Entry(member.name, kind, member.mode, size, member.linkname, opened)


def _zip_entries(archive: str) -> Iterator[Entry]:
    with zipfile.ZipFile(archive) as bundle:
        for member in bundle.infolist():
            mode, link = member.external_attr >> 16, ""
            kind = "folder" if member.is_dir() else "file"
            if stat.S_ISLNK(mode):
                kind, link = "link", bundle.read(member).decode("utf-8", "replace")
            elif stat.S_IFMT(mode) not in (0, stat.S_IFREG, stat.S_IFDIR):
                kind = "device"

            def opened(member: zipfile.ZipInfo = member) -> Any:
                return bundle.open(member)

            rights = stat.S_IMODE(mode) or (0o755 if kind == "folder" else 0o644)
            yield Entry(member.filename, kind, rights, member.file_size, link, opened)


def fetch(url: str, sha256: str, path: str) -> None:
    """Fetch a file whose hash is known. Exits with the reason if that fails."""
    for attempt in range(1, _ATTEMPTS + 1):
        try:
            with urllib.request.urlopen(url, timeout=_TIMEOUT_SECONDS) as answer:  # noqa: S310
                digest = _saved(answer, path)
            break
        except (OSError, ValueError, EOFError) as error:
            if attempt == _ATTEMPTS or 400 <= getattr(error, "code", 0) < 500:
                sys.exit("fetch: " + url + ": " + str(error))
            time.sleep(2**attempt)
    if digest != sha256:
        sys.exit(
            "fetch: " + url + " is not the file that was locked: its SHA-256 is " + digest
            + ", expected " + sha256
            + "; `template-builder lock` takes the new file"
        )  # fmt: skip


def _saved(source: IO[bytes], path: str) -> str:
    """Write to a file, and return the SHA-256."""
    digest = hashlib.sha256()
    with open(path, "wb") as file:
        while chunk := source.read(_CHUNK_BYTES):
            digest.update(chunk)
            file.write(chunk)
    return digest.hexdigest()


def place(source: str, target: str, uid: int, gid: int) -> None:
    """Move a file, or what is in a folder, to `target` for its owner, merging with what is there.

    Missing folders above are made for the same owner.
    """
    above = os.path.dirname(target)
    missing = []
    while not os.path.isdir(above):
        missing.append(above)
        above = os.path.dirname(above)
    for folder in reversed(missing):
        os.mkdir(folder)
        os.chmod(folder, _OPEN_TO_READ)
        os.chown(folder, uid, gid)
    os.chown(source, uid, gid, follow_symlinks=False)
    if os.path.islink(source) or not os.path.isdir(source):
        if os.path.isdir(target) and not os.path.islink(target):
            sys.exit("fetch: " + target + " is a folder, where a file is to be")
        os.replace(source, target)
        return
    if not os.path.isdir(target):
        os.mkdir(target)
        os.chown(target, uid, gid)
        shutil.copymode(source, target)
    for name in sorted(os.listdir(source)):
        place(os.path.join(source, name), os.path.join(target, name), uid, gid)


def main() -> None:
    """Fetch what the list in a file says: its target, owner, and the files with their hashes."""
    import pwd

    with open(sys.argv[1], encoding="utf-8") as file:
        order = json.load(file)
    account = pwd.getpwnam(order["owner"])
    mode = int(order["mode"], 8) if order["mode"] else None
    # On the disk, since /tmp may be in memory, as on E2B.
    work = os.path.dirname(os.path.abspath(sys.argv[0])) + "/fetching"
    os.mkdir(work)
    for item in order["files"]:
        target = posixpath.join(order["target"], item["path"]) if item["path"] else order["target"]
        fetch(item["url"], item["sha256"], work + "/file")
        source = work + "/file"
        if order["extract"]:
            source = work + "/folder"
            unpack(work + "/file", source, mode)
        elif mode is not None:
            os.chmod(source, mode)
        place(source, target, account.pw_uid, account.pw_gid)
    shutil.rmtree(work)


if __name__ == "__main__":
    main()
