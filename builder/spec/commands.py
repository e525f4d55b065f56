"""Read `[[run]]` and `[[system.repository]]`, with the files that they need."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from builder.spec.addresses import hashed_address
from builder.spec.files import matches, read
from builder.spec.spec_file import SpecFile
from builder.spec.variant import FileEntry, Reference, Repository, Run
from builder.system.variables import NoReferenceError, as_reference, expand, references

if TYPE_CHECKING:
    from builder.spec.models import RunTable

_ARMOUR = b"-----BEGIN PGP PUBLIC KEY BLOCK-----"


def runs_of(
    folder: Path, chain: Sequence[SpecFile]
) -> tuple[tuple[Run, ...], tuple[Reference, ...]]:
    """Return the commands of the last file of `chain` and their references to variables that are
    not set, and note mistakes."""
    file = chain[-1]
    known = {name for link in chain for name in link.tables.env}
    runs, unset = [], list[Reference]()
    for number, table in enumerate(file.tables.run):
        env, unset_here = _env(file, number, table, known)
        unset += unset_here
        runs.append(_run(folder, file, number, table, env))
    return tuple(run for run in runs if run), tuple(unset)


def unset_in(key: tuple[str | int, ...], value: str, known: Collection[str]) -> Iterator[Reference]:
    """Yield the references in the value at `key` to variables that are not in `known`. Raise
    `NoReferenceError`."""
    for name in references(value, known):
        yield Reference(name=name, key=key, known=tuple(known))


def _run(
    folder: Path, file: SpecFile, number: int, table: RunTable, env: Mapping[str, str]
) -> Run | None:
    if (table.command is None) == (table.script is None):
        message = "needs a `command` or a `script`" if table.command is None else "has both"
        hint = "write one of `command` and `script`"
        file.add(("run", number), message, hint)
        return None
    if table.command is not None and not table.command.strip():
        file.add(("run", number, "command"), "is empty")
        return None
    inputs: dict[str, FileEntry] = {}
    sources: list[tuple[tuple[str | int, ...], str]] = [
        (("run", number, "inputs", n), source) for n, source in enumerate(table.inputs)
    ]
    if table.script:
        sources.insert(0, (("run", number, "script"), table.script))
    for key, source in sources:
        is_script = key[-1] == "script"
        plain = is_script or not (source.endswith("/") or re.search(r"[*?[]", source))
        try:
            paths = [source] if plain else matches(folder, source)
        except OSError as error:
            file.add(key, f"{source!r} cannot be read: {error.strerror}")
            continue
        if not paths:
            file.add(key, f"nothing matches {source!r}")
        for path in paths:
            content = read(folder, file, key, path)
            if content is not None:
                mode = "0755" if path == table.script else "0644"
                inputs.setdefault(
                    path, FileEntry(source=path, target=path, mode=mode, content=content)
                )
    return Run(
        command=table.command,
        script=table.script,
        user=table.user,
        before_packages=table.before == "packages",
        inputs=tuple(inputs.values()),
        env=env,
        network=table.network,
    )


def _env(
    file: SpecFile, number: int, table: RunTable, known: Collection[str]
) -> tuple[dict[str, str], list[Reference]]:
    """Return the variables of a command, with references to those that its shell has, and its
    references to variables that are not set."""
    values, unset = {name: as_reference(name) for name in known}, list[Reference]()
    for name, value in table.env.items():
        key = ("run", number, "env", name)
        try:
            unset += unset_in(key, value, values)
            values[name] = expand(value, values)
        except NoReferenceError as error:
            values[name] = ""
            file.add(key, str(error), error.hint)
    return {name: values[name] for name in table.env}, unset


def repositories_of(folder: Path, file: SpecFile) -> tuple[Repository, ...]:
    """Return the repositories of a file, and note mistakes."""
    system, repositories = file.tables.system, []
    for number, table in enumerate(system.repository if system else ()):
        key = ("system", "repository", number, "key")
        url, sha256 = hashed_address(table.key) or (None, None)
        content = None if url else read(folder, file, key, table.key)
        if content is None and url is None:
            continue
        armoured = content is None or _ARMOUR in content
        # The first octet of every OpenPGP packet has this bit (RFC 9580, 4.2).
        if content is not None and not armoured and not (content and content[0] & 0x80):
            message = f"{table.key!r} is no PGP key: it has no `{_ARMOUR.decode()}`, and no packet"
            file.add(key, message, "export it with `gpg --armor --export`")
        name = PurePosixPath(url or table.key).name
        repositories.append(
            Repository(
                uri=table.uri,
                suites=tuple(table.suites),
                components=tuple(table.components),
                key=content,
                key_name="asc" if armoured and not name.endswith(".gpg") else "gpg",
                key_url=url,
                key_sha256=sha256,
            )
        )
        flat = [suite for suite in table.suites if suite.endswith("/")]
        components = ("system", "repository", number, "components")
        if table.components and flat:
            message = f"excludes the suite {flat[0]!r}: apt takes none with a suite that ends in /"
            file.add(components, message, "remove one of the two")
        elif not table.components and len(flat) < len(table.suites):
            message = "is missing: only a suite that ends in / has no components"
            file.add(components, message)
    return tuple(repositories)
