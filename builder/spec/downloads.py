"""Read the downloads of a spec as values."""

from __future__ import annotations

from builder.spec.spec_file import SpecFile
from builder.spec.variant import Download

_HOME = "/home/user"


def owner_of(target: str, owner: str | None) -> str:
    """Return the owner of what is at `target`: `owner` if it is set, else that of the place."""
    return owner or ("user" if f"{target}/".startswith(f"{_HOME}/") else "root")


def downloads_of(file: SpecFile) -> tuple[Download, ...]:
    """Return the downloads of a spec."""
    downloads = []
    for number, table in enumerate(file.tables.download):
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
