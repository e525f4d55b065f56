"""Find and read the registry."""

from __future__ import annotations

import os

from builder.errors import RegistryError, RegistryVersionError
from builder.registry.values import VERSION, Registry
from builder.system.documents import parse_json
from builder.system.regular_file import read_regular

if False:  # for type checkers; importing typing costs as much as all the rest
    from typing import Any

FILE_NAME = "registry.json"
# From this size on, search the text for one template instead of parsing all of them.
_LARGE_BYTES = 1 << 18
_LARGEST_BYTES = 4 << 30


def find() -> str:
    """Return the registry in use: `TEMPLATE_REGISTRY`, the nearest one upwards, or the shipped one.

    Raise `RegistryError`, which names every place tried, if there is none or the working directory
    is gone, and `ProjectError` for a mistake in a pyproject.toml that may name one.
    """
    named = os.environ.get("TEMPLATE_REGISTRY")
    if named:
        return named
    tried = []
    try:
        folder = os.getcwd()
    except OSError as error:
        raise RegistryError(
            f"cannot look for a registry in the working directory: {error.strerror}",
            hint="set TEMPLATE_REGISTRY, or change to a folder that exists",
        ) from error
    while True:
        if shared := _named_by_project(folder):
            return shared
        candidate = os.path.join(folder, FILE_NAME)
        if os.path.lexists(candidate):  # if it is not a file, loading it says so
            return candidate
        tried.append(candidate)
        parent = os.path.dirname(folder)
        if parent == folder:
            break
        folder = parent
    # Shipped with the package: templates that anyone may use, no build of one machine.
    shipped = os.path.join(os.path.dirname(os.path.abspath(__file__)), "shipped.json")
    if os.path.isfile(shipped):
        return shipped
    tried.append(shipped)
    raise RegistryError(
        "no registry.json found; tried:\n" + "\n".join(f"  {place}" for place in tried),
        hint="set TEMPLATE_REGISTRY, or run `template-builder build` in the project",
    )


def _named_by_project(folder: str) -> str | None:
    """Return the path or URL of the registry that the settings of a project in `folder` name.

    Any mistake in them is an error: an unread setting could name a registry with revocations that
    the next one upwards does not have.
    """
    from builder.system.settings import may_have_settings, read_settings

    path = os.path.join(folder, "pyproject.toml")
    named = read_settings(path).registry if may_have_settings(path) else None
    return named if named is None or is_url(named) else os.path.join(folder, named)


def is_url(location: object) -> bool:
    """Return whether a registry is an object at a URL, not a file."""
    return isinstance(location, str) and "://" in location


def parse(text: str, path: str) -> Registry:
    """Parse the text of a registry; errors name `path`.

    Raise `RegistryError`, also for a duplicate key.
    """
    try:
        data = parse_json(text, object_pairs_hook=_once)
    except _TwiceError as error:
        raise RegistryError(
            f"{path} is not a registry: `{error}` appears twice in one table, as after a merge",
            hint="keep one of the two, then run `template-builder doctor`",
        ) from error
    except ValueError as error:
        if "\n<<<<<<< " in f"\n{text}":
            line = f"\n{text}".partition("\n<<<<<<< ")[0].count("\n") + 1
            raise RegistryError(
                f"{path}:{line}: unresolved merge conflict",
                hint="resolve the conflict, then run `template-builder doctor`",
            ) from error
        raise _no_registry(
            path, error, "; template-builder never leaves it half written"
        ) from error
    if not isinstance(data, dict) or not isinstance(data.get("templates"), dict):
        raise _no_registry(path, "expected an object with `version` and `templates`")
    version = data.get("version")
    if isinstance(version, bool) or not isinstance(version, int) or version < 1:
        raise _no_registry(path, f"`version` is {version!r}, expected {VERSION}")
    if version > VERSION:
        raise RegistryVersionError(
            f"{path} has version {version}; this version of template-builder reads up to version"
            f" {VERSION}",
            hint="upgrade template-builder",
        )
    return Registry(data, path)


def _no_registry(path: str, why: object, more: str = "") -> RegistryError:
    hint = f"restore the file from git{more}"
    return RegistryError(f"{path} is not a registry: {why}", hint=hint)


class _TwiceError(ValueError):
    """A duplicate key in a table."""


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    table = dict(pairs)
    if len(table) != len(pairs):
        keys = [key for key, _ in pairs]
        raise _TwiceError(next(key for key in keys if keys.count(key) > 1))
    return table


def load(path: str | os.PathLike[str] | None = None, *, max_age: float = 0.0) -> Registry:
    """Read the registry at `path`, a file or URL; the default is the one in use (see `find`).

    For an object store, reuse a copy read within the last `max_age` seconds; the registry's `path`
    tells its age. Raise `RegistryError`, `NetworkError`.
    """
    path = os.fspath(path or find())
    if is_url(path):
        from builder.registry.object_store import age_in_words, read

        text, age = read(path, max_age=max_age)
        label = f"{path} (as of {age_in_words(age)} ago)" if age else path
        return parse(text, label)
    return parse(read_text(path), path)


def read_text(path: str) -> str:
    """Return the text of a registry file. Raise `RegistryError`."""
    try:
        return read_regular(path, _LARGEST_BYTES).decode()
    except UnicodeDecodeError as error:
        raise _no_registry(path, error) from error
    except OSError as error:
        raise RegistryError(
            f"{path} cannot be read: {error.strerror}",
            hint="check TEMPLATE_REGISTRY, or run `template-builder build` in the project",
        ) from error


def load_only(name: str, path: str) -> Registry | None:
    """Return the registry with one template only, if the file is large and can be searched."""
    try:
        if not is_large(path):
            return None
        from builder.registry.search import entry_of

        text = entry_of(name, path)
        if text is None:
            return None
        return Registry({"version": VERSION, "templates": {name: parse_entry(text)}}, path)
    except (OSError, ValueError):
        return None


def is_large(path: str) -> bool:
    """Return whether a registry is large enough to be searched. Raise `OSError`."""
    return not is_url(path) and _LARGE_BYTES <= os.stat(path).st_size <= _LARGEST_BYTES


def parse_entry(text: bytes) -> Any:
    """Parse a template's entry. Raise `ValueError`, also for a duplicate key."""
    return parse_json(text, object_pairs_hook=_once)
