"""Registries written without building, and their content."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from builder import record, registry
from builder.registry import history
from builder.registry.model import Entry, Hold
from tests.conftest import BASE
from tests.support.options import rounds
from tests.support.samples import load, rendered_of, verified_of

LEAF = "schema = 1\nname = 'leaf'\nextends = '_base'\n[python]\npackages = ['idna']\n"


def made(folder: Path, *versions: str) -> tuple[Path, list[str]]:
    """Write a registry with a build for each version of a package; the last one is `stable`."""
    path = folder / "registry.json"
    variant = load(folder, _base=BASE, leaf=LEAF)["leaf"]
    refs: list[str] = []
    for version in versions:
        rendered = rendered_of(variant, version=version)
        verified = verified_of(rendered, packages={"idna": version}, other_packages={"pip": "9"})
        record.record(path, verified, rendered, by="a tester", source={"commit": "c0ffee"})
        refs.append(verified.built.ref)
    return path, refs


def entry_of(path: Path, name: str = "leaf", target: str = "local") -> dict[str, Any]:
    entry: dict[str, Any] = json.loads(path.read_text())["templates"][name][target]
    return entry


def typed_entry_of(path: Path) -> Entry:
    return Entry.from_json(entry_of(path))


def edited(path: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """Edit the file by hand, without this program noticing."""
    data = json.loads(path.read_text())
    change(data["templates"]["leaf"]["local"])
    path.write_text(json.dumps(data, indent=2, sort_keys=True) + "\n")


def faults(path: Path) -> list[str]:
    return [str(fault) for fault in history.faults(registry.load(path).templates)]


def environment(cache: Path, ref: str, *, days: float = 100.0) -> Path:
    """Write an environment like that of a build, last used some days ago."""
    folder = cache / "environments" / f"sha256-{ref.rpartition('-')[2]}"
    (folder / "bin").mkdir(parents=True, exist_ok=True)
    (folder / "bin" / "python").symlink_to(sys.executable)
    manifest = folder / "environment.json"
    manifest.write_text('{"python": "3", "ipykernel": "7", "seconds": 1, "size": 5, "cold": {}}')
    then = time.time() - days * 86400
    os.utime(manifest, (then, then))
    return folder


# How often each of 32 processes writes, and how many writers are killed.
WRITES = rounds(3)
WRITERS = min(rounds(8), 32)


WRITER = """
import sys
from pathlib import Path
from builder.record import update
from builder.registry.model import Build

path, name, count = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
for number in range(count):
    def change(data):
        entry = data.new_entry(name, "local")
        entry.builds[f"{name}:{number}"] = Build(template_id=name)
        entry.channels["stable"] = f"{name}:{number}"
    update(path, change)
    print(number, flush=True)
"""


def built(path: Path, version: str, *, release: bool = False) -> str:
    """Record a build of another version, as `build` does, and return its ref."""
    rendered = rendered_of(load(path.parent, _base=BASE, leaf=LEAF)["leaf"], version=version)
    verified = verified_of(rendered, packages={"idna": version})
    record.record(path, verified, rendered, by="a job", release=release)
    return verified.built.ref


def held(path: Path) -> Hold | None:
    return typed_entry_of(path).holds.get("stable")


def faultless(path: Path) -> bool:
    """Return whether `doctor` accepts the registry, and `repair` has nothing to do."""
    templates = registry.load(path).checked().templates
    return not list(history.faults(templates)) and record.repair(path, by="x") == ([], [])
