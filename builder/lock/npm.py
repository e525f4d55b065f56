"""The files in which npm keeps what was asked for and what was locked."""

from __future__ import annotations

import json
from collections.abc import Sequence


def split(package: str) -> tuple[str, str]:
    """Return the name and the versions of a package: `@types/node@^22` → `@types/node`, `^22`."""
    name, at, versions = package[1:].partition("@")
    return package[0] + name, versions if at else "latest"


def package_json(packages: Sequence[str]) -> str:
    """Return the `package.json` that asks for some packages."""
    dependencies = dict(split(package) for package in packages)
    return json.dumps({"private": True, "dependencies": dependencies}, indent=2) + "\n"


def normal(text: str) -> str:
    """Return a lock as npm writes it, without the name of the folder. Raise `ValueError`."""
    document = json.loads(text)
    document.pop("name", None)
    document["packages"][""].pop("name", None)
    for name, package in document["packages"].items():
        if name and not (package.get("integrity") or package.get("link")):
            raise ValueError(f"{name} has no hash")
    return json.dumps(document, indent=2, ensure_ascii=False) + "\n"
