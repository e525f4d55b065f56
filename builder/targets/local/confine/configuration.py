"""The folder /etc of confined sandboxes: copies of the files that programs need, and no file that
describes this machine or its users."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterable
from pathlib import Path

from builder.targets.local.confine.walls import HOME

USER = 1000
_COPIED = (
    *("alternatives", "fonts", "ld.so.cache", "ld.so.conf", "ld.so.conf.d", "localtime"),
    *("magic", "mime.types", "pki/ca-trust/extracted", "pki/tls/certs", "ssl/certs"),
    *("ssl/openssl.cnf", "timezone"),
)
_OWN = {
    "passwd": (
        f"root:x:0:0:root:/root:/bin/bash\nuser:x:{USER}:{USER}::{HOME}:/bin/bash\n"
        "nobody:x:65534:65534:nobody:/:/usr/sbin/nologin\n"
    ),
    "group": f"root:x:0:\nuser:x:{USER}:\nnogroup:x:65534:\n",
    "hostname": "sandbox\n",
    "hosts": "127.0.0.1\tlocalhost sandbox\n::1\tlocalhost\n",
    "nsswitch.conf": "passwd: files\ngroup: files\nhosts: files\n",
}


def write(folder: Path, kept: Path, files: Iterable[str]) -> None:
    """Write the folder, with those of the template's `files` that belong below /etc; `kept` is the
    environment's folder of them. Raises `OSError`."""
    for name in _COPIED:
        _copy(Path("/etc") / name, folder / name)
    for name, text in _OWN.items():
        (folder / name).write_text(text, encoding="ascii")
    for path in files:
        if path.startswith("/etc/"):
            _copy(kept / path.lstrip("/"), folder / path.removeprefix("/etc/"))


def _copy(source: Path, target: Path) -> None:
    """Copy the readable part of a file or folder; links stay links."""
    if not os.path.lexists(source):
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    with contextlib.suppress(shutil.Error, PermissionError):
        if source.is_dir():
            shutil.copytree(source, target, symlinks=True, dirs_exist_ok=True)
        elif source.exists():
            target.unlink(missing_ok=True)
            shutil.copy(source, target)
