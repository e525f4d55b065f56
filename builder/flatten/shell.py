"""Escape literals for the shells of E2B's build."""

from __future__ import annotations

import functools
import re
import shlex
from collections.abc import Mapping, Sequence

# In a value, for the PATH of the base image, which each shell of E2B has.
BASE_PATH = "\0PATH\0"
# Without characters that have a meaning in a pattern.
_PLAIN = re.compile(r"[A-Za-z0-9_./:@,=+-]+")


def env_literal(value: str) -> str:
    """Escape `value` for E2B, which escapes everything in double quotes except `$`.

    `$0` is always set, so `${0:+$}` expands to a dollar sign.
    """
    before, _, after = value.partition(BASE_PATH)
    path = "$PATH"
    # The login shell that expands it may have read a template's profile, which adds the same.
    if _PLAIN.fullmatch(before):
        path = f"${{PATH#{before}}}"
    elif not before and _PLAIN.fullmatch(after):
        path = f"${{PATH%{after}}}"
    return value.replace("$", "${0:+$}").replace(BASE_PATH, path)


def exports(variables: Mapping[str, str]) -> str:
    """Return a command that exports `variables`, some of which a login shell has reset."""
    return "export " + " ".join([_pair(name, value) for name, value in variables.items()])


@functools.lru_cache(maxsize=4096)
def _pair(name: str, value: str) -> str:
    before, is_on_base, after = value.partition(BASE_PATH)
    if name == "PATH" and is_on_base and before and not after:
        # A file in /etc/profile.d may have put it there already.
        word = shlex.quote(before)
        return f'{name}={word}"${{PATH#{word}}}"'
    return f"{name}={_quoted(value)}"


def _quoted(value: str) -> str:
    return shlex.quote(value).replace(BASE_PATH, "'\"$PATH\"'")


def command_line(words: Sequence[str]) -> str:
    """Return the words of an exec form as a command line."""
    return " ".join(map(_quoted, words))


def make_folders(path: str, owner: str) -> str:
    """Return a command that creates `path` and its missing parents for `owner` (user:group)."""
    return _make_folders(shlex.quote(path), owner)


def _make_folders(word: str, owner: str) -> str:
    if owner in ("root:root", "root:"):
        return f"mkdir -p {word}"
    return (
        f"( path={word}; set --;"
        ' until [ -d "$path" ]; do set -- "$path" "$@"; path=$(dirname "$path"); done;'
        ' for path; do mkdir "$path" && chown '
        f'{shlex.quote(owner)} "$path" || exit; done )'
    )


def write_file(content: str, target: str, name: str, *, owner: str, mode: str) -> str:
    """Return a script that writes a file as `COPY <<NAME target` does."""
    lines = [f"target={shlex.quote(target)}"]
    if target.endswith("/"):
        lines.append(f'target="$target"{shlex.quote(name)}')
    else:
        lines.append(f'if [ -d "$target" ]; then target="$target"/{shlex.quote(name)}; fi')
    lines += [
        'folder=$(dirname "$target")',
        _make_folders('"$folder"', owner) + " || exit",
        f"printf '%s' {_quoted(content)} > \"$target\" || exit",
        f'chown {shlex.quote(owner)} "$target" && chmod {shlex.quote(mode)} "$target"',
    ]
    return "\n".join(lines)


def script_file(content: str) -> str:
    """Return a script that runs a here-document with a `#!` line as a program."""
    return (
        "script=$(mktemp) || exit\n"
        f'printf \'%s\' {shlex.quote(content)} > "$script" && chmod 0755 "$script" || exit\n'
        '"$script"\ncode=$?\nrm -f "$script"\nexit "$code"'
    )
