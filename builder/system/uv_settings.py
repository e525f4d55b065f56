"""The user's settings that uv gets: where packages come from, and how they are reached.

Indexes, credentials, certificates, proxies, time-outs and the cache are the user's. Settings that
decide which versions are locked, or what is installed and where, are ignored: the specs decide.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import tomli_w

from builder.errors import ProjectError
from builder.system.documents import parse_toml

_KEPT_VARIABLES = re.compile(
    r"""UV_(?:
    INDEX | DEFAULT_INDEX | INDEX_URL | EXTRA_INDEX_URL | FIND_LINKS | NO_INDEX | INDEX_STRATEGY
    | INDEX_\w+_(?:USERNAME|PASSWORD) | KEYRING_PROVIDER | CREDENTIALS_DIR | AUTH_TOKEN | API_KEY
    | (?:S3|GCS|AZURE)_ENDPOINT_URL | GITHUB_TOKEN
    | INSECURE_HOST | NATIVE_TLS | SYSTEM_CERTS | OFFLINE | HTTP_\w+ | REQUEST_TIMEOUT
    | CONCURRENT_\w+ | LOCK_TIMEOUT | CACHE_DIR | NO_CACHE | PYTHON_INSTALL_DIR | PYTHON_CACHE_DIR
    )""",
    re.VERBOSE,
)
# uv must not work on the environment of this program, nor colour the output that is parsed.
_DROPPED_VARIABLES = {
    "VIRTUAL_ENV", "CONDA_PREFIX", "CONDA_DEFAULT_ENV", "PYTHONHOME", "PYTHONPATH",
    "FORCE_COLOR", "CLICOLOR_FORCE",
}  # fmt: skip
_INDEX_KEYS = (
    "index", "index-url", "extra-index-url", "find-links", "no-index", "index-strategy",
    "keyring-provider",
)  # fmt: skip
_KEPT_KEYS = (
    *_INDEX_KEYS, "allow-insecure-host", "native-tls", "system-certs", "offline", "cache-dir",
    "no-cache", "http-proxy", "https-proxy", "no-proxy", "concurrent-builds",
    "concurrent-downloads", "concurrent-installs",
)  # fmt: skip
# Not `exclude-newer`, which an index may have too.
_KEPT_KEYS_OF_AN_INDEX = (
    "name", "url", "default", "explicit", "authenticate", "format", "ignore-error-codes",
    "cache-control",
)  # fmt: skip
# uv's own wording; the line is that of the merged file, not of the user's.
_REFUSED_VARIABLE = re.compile(r"Failed to parse environment variable ")
_REFUSED_FILE = re.compile(
    r"Failed to parse: [^\n]*uv\.toml`?\n\s*(?:cause: |Caused by: )?"
    r"TOML parse error at line \d+, column \d+\n"
)
_PLACES = ("url", "index-url", "extra-index-url", "find-links", "cache-dir")


def variables(environ: Mapping[str, str]) -> dict[str, str]:
    """Return the environment for uv: `environ` without variables that the specs decide."""
    return {
        name: value
        for name, value in environ.items()
        if name not in _DROPPED_VARIABLES
        and (not name.startswith("UV_") or _KEPT_VARIABLES.fullmatch(name))
    }


def configuration(environ: Mapping[str, str]) -> str:
    """Return the `uv.toml` for uv: what is kept of the user's and the system's.

    Raises `ProjectError` if one of these is not valid.
    """
    merged: dict[str, Any] = {}
    for path in _files(environ):
        _merge(merged, _kept(_read(path, environ), path.parent))
    return tomli_w.dumps(merged)


def _files(environ: Mapping[str, str]) -> Iterator[Path]:
    """Yield the files that uv reads in any working directory, the most important first."""
    if named := environ.get("UV_CONFIG_FILE"):
        yield Path(named).absolute()
        return
    if _is_set(environ, "UV_NO_CONFIG"):
        return
    home = environ.get("XDG_CONFIG_HOME") or os.path.join(environ.get("HOME") or "~", ".config")
    user = Path(os.path.expanduser(home), "uv", "uv.toml")
    if user.is_absolute() and user.is_file():  # without a home folder there is none
        yield user
    if _is_set(environ, "UV_NO_SYSTEM_CONFIG"):
        return
    folders = [*(environ.get("XDG_CONFIG_DIRS") or "/etc/xdg").split(os.pathsep), "/etc"]
    system = [path for folder in folders if (path := Path(folder, "uv", "uv.toml")).is_file()]
    yield from system[:1]


def _is_set(environ: Mapping[str, str], name: str) -> bool:
    return environ.get(name, "").lower() not in ("", "0", "f", "false", "n", "no", "off")


def refused(message: str, environ: Mapping[str, str]) -> ProjectError | None:
    """Return the error for settings that uv does not accept; None for any other message."""
    if _REFUSED_VARIABLE.match(message):
        return ProjectError(
            f"uv does not accept an environment variable\n{message}",
            hint="correct the variable, or unset it",
        )
    if in_file := _REFUSED_FILE.match(message):
        paths = [str(path) for path in _files(environ)]
        return ProjectError(
            f"uv does not accept its settings in {' and '.join(paths)}\n{message[in_file.end() :]}",
            hint=f"correct the file, or {_without_file(environ)}",
        )
    return None


def _without_file(environ: Mapping[str, str]) -> str:
    if environ.get("UV_CONFIG_FILE"):
        return "unset UV_CONFIG_FILE to ignore it"
    return "set UV_NO_CONFIG=1 to ignore it"


def _read(path: Path, environ: Mapping[str, str]) -> dict[str, Any]:
    try:
        return parse_toml(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ProjectError(
            f"uv's settings in {path} cannot be read: {error.strerror}",
            hint=f"make the file readable, or {_without_file(environ)}",
        ) from error
    except ValueError as error:
        raise ProjectError(
            f"uv's settings in {path} are not valid TOML: {error}",
            hint=f"correct the file, or {_without_file(environ)}",
        ) from error


def _kept(settings: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    kept = {key: _placed(key, settings[key], folder) for key in _KEPT_KEYS if key in settings}
    of_pip = settings.get("pip")
    if isinstance(of_pip, dict):
        kept |= {"pip": {k: _placed(k, of_pip[k], folder) for k in _INDEX_KEYS if k in of_pip}}
    return kept


def _placed(key: str, value: Any, folder: Path) -> Any:
    """Return `value` with absolute paths."""
    if isinstance(value, list):
        return [_placed(key, item, folder) for item in value]
    if isinstance(value, dict):
        return {k: _placed(k, value[k], folder) for k in _KEPT_KEYS_OF_AN_INDEX if k in value}
    if key in _PLACES and isinstance(value, str) and ":" not in value:
        return str(folder / value)
    return value


def _merge(merged: dict[str, Any], further: Mapping[str, Any]) -> None:
    """Add less important settings: extend lists, merge tables, keep other values."""
    for key, value in further.items():
        if isinstance(value, dict) and isinstance(merged.get(key), dict):
            _merge(merged[key], value)
        elif isinstance(value, list) and isinstance(merged.get(key), list):
            merged[key] = merged[key] + value
        else:
            merged.setdefault(key, value)
