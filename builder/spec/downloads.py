"""Check the downloads of a chain of specs, and return them as values."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import PurePosixPath
from typing import cast

from builder.errors import Problem
from builder.spec.models import VariantFile
from builder.spec.spec_file import SpecFile
from builder.spec.variant import Download

_HOME = "/home/user"
# Folders that every image has: a file cannot take their place.
_FOLDERS = frozenset(
    (
        *(_HOME, "/home", "/root", "/opt", "/srv", "/mnt", "/tmp", "/etc", "/var", "/bin", "/lib"),  # noqa: S108
        *("/usr", "/usr/bin", "/usr/lib", "/usr/share", "/usr/local", "/usr/local/bin"),
    )
)


def owner_of(target: str, owner: str | None) -> str:
    """Return the owner of what is at `target`: `owner` if it is set, else that of the place."""
    return owner or ("user" if f"{target}/".startswith(f"{_HOME}/") else "root")


def downloads_of(file: SpecFile) -> tuple[Download, ...]:
    """Return the downloads of a spec, and note those whose target it writes twice."""
    model = cast(VariantFile, file.model)
    written = {entry.target for entry in model.files}
    downloads = []
    for number, table in enumerate(model.download):
        if table.target in written:
            file.add(("download", number, "target"), f"{table.target!r} is written twice")
        if not table.extract and table.target in _FOLDERS:
            hint = "add the name of the file"
            file.add(("download", number, "target"), f"{table.target!r} is a folder", hint)
        written.add(table.target)
        downloads.append(
            Download(
                url=table.url,
                sha256=table.sha256,
                target=table.target,
                owner=owner_of(table.target, table.owner),
                mode=table.mode or (None if table.extract else "0644"),
                extract=table.extract,
                number=number,
            )
        )
    return tuple(downloads)


def download_problems(chain: Sequence[SpecFile]) -> Iterator[Problem]:
    """Report downloads that are placed where a file is, and files where a downloaded file is."""
    models = [(file, cast(VariantFile, file.model)) for file in chain]
    downloaded = {d.target: file for file, model in models for d in model.download if not d.extract}
    copied = {entry.target: file for file, model in models for entry in model.files}
    for file, model in models:
        placed = [
            *(("download", number, d.target) for number, d in enumerate(model.download)),
            *(("files", number, entry.target) for number, entry in enumerate(model.files)),
        ]
        for table, number, target in placed:
            for parent in map(str, PurePosixPath(target).parents):
                other = downloaded.get(parent) or (table == "download" and copied.get(parent))
                if other:
                    message = f"{target!r} is below {parent!r}, a file of {other.shown}"
                    yield file.problem((table, number, "target"), message)
