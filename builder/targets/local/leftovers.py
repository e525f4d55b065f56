"""Find environments and fetched files that nothing needs any more, and remove those not in use."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import re
import secrets
import time
from collections.abc import Iterator
from pathlib import Path

from builder.errors import counted, from_os_error
from builder.registry import Digest
from builder.system import store
from builder.system.documents import parse_toml
from builder.system.files import atomic_write, cache_folder, exclusive, is_locked, remove_tree
from builder.targets.local import byte_code
from builder.targets.local.place import (
    MADE,
    MANIFEST,
    USED,
    byte_code_folder,
    find,
    folder_of,
    lock_of,
    place_of,
    read,
)
from builder.targets.protocol import Need, Needs, Unused

_PREFIX = "sha256-"
_CONTENT = "download"
_GOING = ".making-"
_DIGEST = re.compile(r"sha256-[^-]+")


def note_need(digest: str, registry: str) -> None:
    """Record that a registry has a build with the environment of `digest`, for later clean-ups."""
    if registry:
        content = os.fsencode(registry if "://" in registry else os.path.realpath(registry))
        name = hashlib.sha256(content).hexdigest()[:16]
        atomic_write(_needs_folder(place_of(digest).name) / f"{name}.txt", content)


def unused(own: str, needs: Needs) -> list[Unused]:
    """List environments that no registry needs and that were not used for long enough, and folders
    that belong to no build."""
    waste = []
    for path in sorted((cache_folder() / "environments").glob(f"{_PREFIX}*")):
        digest = Digest.from_tag(path.name)
        folder = folder_of(digest)
        last = max((_mtime(folder / name) for name in (MANIFEST, USED)), default=0.0)
        whole = find(digest)
        if whole and time.time() - last < needs.protect_seconds:
            continue
        elsewhere = list(_needs_elsewhere(path.name, digest, own, needs)) if whole else []
        if whole and (needs.of("", digest) or any(need.known for need in elsewhere)):
            continue
        if _in_use(folder):
            continue
        why = f"no channel needs it, {_used(time.time() - last)}" if whole else "not complete"
        kept = "; ".join(need.why for need in elsewhere) or None
        waste.append(_waste(digest, path, folder, why, kept))
    for folder, stray in _strays():
        with contextlib.suppress(BlockingIOError), exclusive(lock_of(stray), wait=False):
            if not _in_use(folder):
                waste.append(_waste(folder.name, folder, folder, "it belongs to no build"))
    waste += _unused_content(needs.protect_seconds)
    return sorted(waste, key=lambda entry: -(entry.size or 0))


def _unused_content(protect_seconds: float) -> Iterator[Unused]:
    """Yield fetched files that no environment has and that were not used for long enough."""
    for path, size, age in store.unused(protect_seconds):
        yield Unused(
            kind=_CONTENT,
            identity=path.name[:12],
            subject=str(path),
            size=size,
            why=f"no environment has it, {_used(age)}",
        )


def remove(waste: Unused) -> str | None:
    """Remove an environment or a fetched file; return why not, if it is being made or in use."""
    path = Path(waste.subject)
    if waste.kind == _CONTENT:
        try:
            remove_tree(path) if path.is_dir() else path.unlink(missing_ok=True)
        except OSError as error:
            raise from_os_error(error, "removing a fetched file") from error
        return None
    digest = _digest_in(path.name)
    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(exclusive(lock_of(digest), wait=False))
        except BlockingIOError:
            return "it is being made"
        folder = folder_of(digest) if path == place_of(digest) else path
        try:
            if not remove_unused(folder):
                return "something runs in it"
            if path == place_of(digest):
                path.unlink(missing_ok=True)
                remove_tree(_needs_folder(path.name))
            byte_code.prune(byte_code_folder())
        except OSError as error:
            raise from_os_error(error, "removing an environment") from error
    return None


def _used(seconds: float) -> str:
    days = int(seconds / 86400)
    return f"not used for {counted(days, 'day')}" if days else "used today"


def sweep() -> None:
    """Remove environments that belong to no build and are not being made or used: those of killed
    processes, and replaced ones."""
    for folder, digest in _strays():
        with contextlib.suppress(OSError), exclusive(lock_of(digest), wait=False):
            if folder_of(digest) != folder:
                remove_unused(folder)


def remove_unused(folder: Path) -> bool:
    """Remove an environment unless it is in use; return whether it is gone. Call it with the
    digest's lock held."""
    if folder.is_symlink():  # of an activation that was interrupted
        folder.unlink(missing_ok=True)
        return True
    # Renamed in one step, so that nobody finds half of it, to a name that `sweep` looks for.
    going = folder.with_name(
        f"{_GOING}{place_of(_digest_in(folder.name)).name}-{secrets.token_hex(4)}"
    )
    with _alone_in(folder) as alone:
        if not alone:
            return False
        try:
            os.replace(folder, going)
        except FileNotFoundError:
            return True
    remove_tree(going)
    return True


def _strays() -> list[tuple[Path, str]]:
    """Return folders that belong to no build, with their digests."""
    strays = []
    for folder in sorted((cache_folder() / "environments").glob("*")):
        if folder.name.startswith((_GOING, MADE)):
            digest = _digest_in(folder.name)
            if folder_of(digest) != folder:
                strays.append((folder, digest))
    return strays


def _digest_in(name: str) -> str:
    """Return the digest in the name of an environment's folder."""
    match = _DIGEST.search(name)
    return Digest.from_tag(match[0]) if match else name


@contextlib.contextmanager
def _alone_in(folder: Path) -> Iterator[bool]:
    """Yield whether an environment is unused; nothing starts in it inside the `with` block."""
    with contextlib.ExitStack() as stack:
        with contextlib.suppress(OSError):  # it is gone, or not ours to remove
            descriptor = os.open(folder / USED, os.O_RDWR | os.O_CREAT, 0o644)
            stack.callback(os.close, descriptor)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                yield False
                return
        yield not _running(folder)


def _in_use(folder: Path) -> bool:
    with contextlib.suppress(OSError):
        if is_locked(folder / USED):
            return True
    return _running(folder)


def _waste(identity: str, path: Path, folder: Path, why: str, kept: str | None = None) -> Unused:
    whole = read(folder)
    name = _template_of(folder)
    return Unused(
        kind="environment",
        identity=identity,
        subject=str(path),
        size=whole.size if whole else None,
        why=f"{name}: {why}" if name else why,
        kept=kept,
    )


def _template_of(environment: Path) -> str | None:
    try:
        document = parse_toml((environment / "template" / "template.toml").read_text())
        return str(document["name"])
    except (OSError, ValueError, KeyError):
        return None


def _needs_elsewhere(name: str, digest: str, own: str, needs: Needs) -> Iterator[Need]:
    own = own if "://" in own else os.path.realpath(own)
    for note in sorted(_needs_folder(name).glob("*.txt")):
        with contextlib.suppress(OSError):
            registry = os.fsdecode(note.read_bytes())
            if registry != own and (need := needs.of(registry, digest)):
                yield need


def _needs_folder(name: str) -> Path:
    return cache_folder() / "needed" / name


def _mtime(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except OSError:
        return 0.0


def _running(environment: Path) -> bool:
    """Return whether the command line of any visible process names something in a folder."""
    import psutil

    inside = f"{environment}{os.sep}"
    return any(
        inside in argument
        for process in psutil.process_iter(["cmdline"])
        for argument in process.info["cmdline"] or ()
    )
