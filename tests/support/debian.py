"""A signed repository of Debian packages, as files for a server."""

from __future__ import annotations

import gzip
import hashlib
import io
import os
import subprocess
import tarfile
from collections.abc import Mapping
from pathlib import Path

ARCHITECTURES = ("all", "amd64", "arm64")


class Signer:
    """A new PGP key in its own folder; `key` is its public half, armoured."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(mode=0o700)
        self._folder = folder
        self._gpg("--passphrase", "", "--quick-generate-key", "tests@example.com", "ed25519")
        self.key = self._gpg("--armor", "--export")

    def clearsigned(self, text: str) -> bytes:
        """Return a text with its signature around it."""
        return self._gpg("--clearsign", content=text.encode())

    def _gpg(self, *arguments: str, content: bytes = b"") -> bytes:
        command = ["gpg", "--batch", "--quiet", *arguments]
        environment = os.environ | {"GNUPGHOME": str(self._folder)}
        try:
            return subprocess.run(
                command, input=content, check=True, capture_output=True, env=environment
            ).stdout
        finally:  # the agent that gpg has started would outlive the tests
            subprocess.run(["gpgconf", "--kill", "gpg-agent"], check=True, env=environment)


def repository(
    signer: Signer, folder: str, package: str, suite: str, component: str = ""
) -> dict[str, bytes]:
    """Return the files of a repository with version 1.2 of one package, which has a program of the
    same name. A suite without components is itself a folder."""
    deb = _deb(package, {f"usr/bin/{package}": f"#!/bin/sh\necho {package}\n"})
    name = f"{package}.deb"
    entry = (
        f"Package: {package}\nVersion: 1.2\nArchitecture: all\nMaintainer: Tests <t@example.com>\n"
        f"Description: of the tests\nFilename: {name}\nSize: {len(deb)}\n"
        f"SHA256: {hashlib.sha256(deb).hexdigest()}\n"
    ).encode()
    paths = ["Packages"]
    if component:
        paths = [f"{component}/binary-{each}/Packages" for each in ARCHITECTURES]
    sums = "".join(f" {hashlib.sha256(entry).hexdigest()} {len(entry)} {path}\n" for path in paths)
    release = (
        f"Suite: {suite}\nArchitectures: {' '.join(ARCHITECTURES)}\nComponents: {component}\n"
        f"Date: Thu, 01 Jan 2026 00:00:00 UTC\nSHA256:\n{sums}"
    )
    place = f"{folder}/dists/{suite}" if component else f"{folder}/{suite}".removesuffix("/")
    return {
        f"{folder}/{name}": deb,
        f"{place}/InRelease": signer.clearsigned(release),
        **{f"{place}/{path}": entry for path in paths},
    }


def _deb(package: str, files: Mapping[str, str]) -> bytes:
    control = (
        f"Package: {package}\nVersion: 1.2\nArchitecture: all\nMaintainer: Tests <t@example.com>\n"
        "Description: of the tests\n"
    )
    members = {
        "debian-binary": b"2.0\n",
        "control.tar.gz": _tar({"control": control}, 0o644),
        "data.tar.gz": _tar(files, 0o755),
    }
    archive = b"!<arch>\n"
    for name, content in members.items():
        archive += f"{name:<16}{0:<12}{0:<6}{0:<6}{'100644':<8}{len(content):<10}`\n".encode()
        archive += content + b"\n" * (len(content) % 2)
    return archive


def _tar(files: Mapping[str, str], mode: int) -> bytes:
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w") as tar:
        for name, text in files.items():
            entry = tarfile.TarInfo(f"./{name}")
            entry.size, entry.mode = len(text), mode
            tar.addfile(entry, io.BytesIO(text.encode()))
    return gzip.compress(content.getvalue(), mtime=0)
