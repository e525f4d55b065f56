"""Recognize the commands of a Dockerfile that install packages or only clean up."""

from __future__ import annotations

import posixpath
import re
from collections.abc import Callable, Collection, Iterator, Sequence

from builder.convert.draft import Draft
from builder.convert.pyproject import convert_pyproject
from builder.convert.requirements import convert_requirements, note_option, require
from builder.convert.toml import Table
from builder.convert.values import Files, Line
from builder.system.documents import parse_toml

# Path in a command → path in the image, and that of the file in the source's folder.
Paths = Callable[[str], tuple[str, str | None]]

_SYSTEM_FOLDERS = {"", "/usr/bin", "/usr/local/bin", "/bin"}
_PIP = re.compile(r"pip[\d.]*")
_PYTHON = re.compile(r"python[\d.]*")
# Options that the builder sets itself, or that change only what is printed.
_PIP_SILENT = {
    "--no-cache-dir", "--no-cache", "--upgrade", "-U", "--user", "--break-system-packages", "-q",
    "--quiet", "-qq", "--disable-pip-version-check", "--no-input", "--progress-bar", "--system",
    "--root-user-action", "--compile", "--no-compile", "--compile-bytecode", "--default-timeout",
    "--timeout", "--retries", "--force-reinstall", "--ignore-installed", "-I", "--prefer-binary",
    "--no-warn-script-location", "--require-hashes", "--verbose", "--upgrade-strategy",
    "--exists-action", "-v",
}  # fmt: skip
_PIP_VALUES = {
    "--progress-bar", "--root-user-action", "--default-timeout", "--timeout", "--retries", "-i",
    "--upgrade-strategy", "--exists-action", "--index-url", "--extra-index-url", "--requirement",
    "--find-links", "--trusted-host", "-c", "--constraint", "-e", "--editable", "-r", "-f",
    "--no-binary", "--only-binary", "--use-feature", "--platform", "--python-version",
}  # fmt: skip
# They install to somewhere else, or not as a lock would.
_PIP_OTHER = {
    "--target", "-t", "--prefix", "--root", "--no-deps", "--python", "-p", "--dry-run", "-e",
    "--editable",
}  # fmt: skip
_FOLDER = re.compile(r"\.|/|~")
_APT_SILENT = re.compile(
    r"-[yqmf]+(?:=\d)?|--yes|--assume-yes|--quiet|--no-install-recommends|--no-install-suggests"
    r"|--fix-missing|--fix-broken|--allow-downgrades|--install-recommends"
)
_APT_VALUES = {"-o", "--option", "-t", "--target-release", "--default-release"}
_APT_CLEANING = {"update", "clean", "autoclean", "autoremove"}
_CACHES = re.compile(
    r"/var/lib/apt/lists(?:/.*)?|/var/cache/(?:apt|debconf)(?:/.*)?|/(?:var/)?tmp/\*"
    r"|(?:~|/root|\$HOME)/\.(?:cache|npm)(?:/.*)?"
)
_HOME = "/home/user"
_INSTALLERS = {"pip", "setuptools", "wheel", "uv"}
_CACHE_COMMANDS = (
    ("pip", "cache", "purge"),
    ("uv", "cache", "clean"),
    ("npm", "cache", "clean"),
    ("conda", "clean"),
)


def program_of(words: Sequence[str], folders: Collection[str] = ()) -> tuple[str, ...]:
    """Return the words of a command without `sudo`, and its program without its folder if that is
    one of the system or in `folders`; `python3 -m pip` and `uv pip` are `pip`."""
    rest = list(words)
    if rest[:1] == ["sudo"]:
        rest.pop(0)
        while rest and rest[0] in ("-E", "-H", "-n"):
            rest.pop(0)
    if not rest:
        return ()
    folder, name = posixpath.split(rest[0])
    if folder in _SYSTEM_FOLDERS or folder in folders:
        rest[0] = name
    if (_PYTHON.fullmatch(rest[0]) and rest[1:3] == ["-m", "pip"]) or rest[:2] == ["uv", "pip"]:
        return ("pip", *rest[3 if rest[1] == "-m" else 2 :])
    if _PIP.fullmatch(rest[0]):
        rest[0] = "pip"
    return tuple(rest)


def is_not_needed(words: Sequence[str]) -> bool:
    """Return whether a build does without a command: it only removes caches or prints, or makes the
    account that every template has, or its home."""
    match tuple(words):
        case ("apt-get" | "apt", *arguments):
            verbs = [word for word in arguments if not word.startswith("-")]
            return bool(verbs) and verbs[0] in _APT_CLEANING
        case ("rm", *arguments):
            paths = [word for word in arguments if not word.startswith("-")]
            return bool(paths) and all(_CACHES.fullmatch(path) for path in paths)
        case ("true" | ":" | "echo", *_):
            return True
        case ("useradd" | "adduser", *_, "user"):
            return True
        case ("mkdir", *arguments):
            return {word.rstrip("/") for word in arguments if word[:1] != "-"} <= {_HOME}
        case _:
            return any(tuple(words[: len(command)]) == command for command in _CACHE_COMMANDS)


def virtual_environment(words: Sequence[str]) -> str | None:
    """Return the folder of a virtual environment that a command makes."""
    match tuple(words):
        case (python, "-m", "venv" | "virtualenv", *arguments) if _PYTHON.fullmatch(python):
            pass
        case ("virtualenv", *arguments) | ("uv", "venv", *arguments):
            pass
        case _:
            return None
    folders = [word for word in arguments if word.startswith("/")]
    return folders[0].rstrip("/") if len(folders) == 1 else None


def apt_packages(words: Sequence[str]) -> list[str] | None:
    """Return what `apt-get install` installs; None for anything else."""
    if words[:1] not in (("apt-get",), ("apt",)):
        return None
    packages, release = [], ""
    arguments = iter(words[1:])
    for word in arguments:
        option, has_value, value = word.partition("=")
        if option in _APT_VALUES and word.startswith("-"):
            value = value if has_value else next(arguments, "")
            release = release if option in ("-o", "--option") else value
        elif word.startswith("-"):
            if not _APT_SILENT.fullmatch(word):
                return None
        else:
            packages.append(word)
    if packages[:1] != ["install"] or any("/" in name and name[0] in "./" for name in packages):
        return None
    return [f"{name}/{release}" if release else name for name in packages[1:]]


def is_pip_install(words: Sequence[str], draft: Draft) -> bool:
    """Return whether a command installs Python packages as a lock would: from the index, or from an
    address that a spec may name."""
    if tuple(words[:2]) != ("pip", "install"):
        return False
    for option, value in _pip_arguments(words[2:]):
        if option in _PIP_OTHER or (not option and _FOLDER.match(value)):
            return False
        if not option and "://" in value and not draft.accepts({"python": {"packages": [value]}}):
            return False
    return True


def pip_install(line: Line, words: Sequence[str], draft: Draft, files: Files, paths: Paths) -> None:
    """Take over `pip install`; `paths` finds the files that its arguments name."""
    for option, value in _pip_arguments(words[2:]):
        if option in ("-r", "--requirement"):
            target, source = paths(value)
            content = files.content(source) if source else None
            if source is None or content is None:
                draft.note(line, f"`{value}` is no file that the Dockerfile copies from here")
            else:
                convert_requirements(content.decode("utf-8", "replace"), source, draft, files)
                draft.without_file(target)
        elif option:
            note_option(
                line, {"--editable": "-e", "--constraint": "-c"}.get(option, option), value, draft
            )
        elif re.split(r"[\[<>=!~ ]", value, maxsplit=1)[0] in _INSTALLERS:
            draft.note(line, f"`{value}`: packages are installed with uv, whatever the image has")
        else:
            require(line, value, draft)


def _pip_arguments(words: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Yield the options that mean something with their values, and the packages after ""."""
    arguments = iter(words)
    for word in arguments:
        option, has_value, value = word.partition("=")
        if not word.startswith("-"):
            yield "", word
            continue
        if option in _PIP_VALUES and not has_value:
            value = next(arguments, "")
        if option not in _PIP_SILENT:
            yield option, value


def npm_packages(words: Sequence[str], draft: Draft) -> list[str]:
    """Return what `npm install -g` installs, if a spec may name it."""
    if tuple(words[:1]) != ("npm",) or words[1:2] not in (("install",), ("i",), ("add",)):
        return []
    flags = {word for word in words[2:] if word.startswith("-")}
    packages = [word for word in words[2:] if not word.startswith("-")]
    is_global = bool(flags & {"-g", "--global"}) and flags <= {"-g", "--global", "--no-audit"}
    accepted = is_global and draft.accepts({"node": {"packages": packages}})
    return packages if accepted else []


def is_project_install(words: Sequence[str]) -> bool:
    """Return whether a command installs the dependencies of the project in the current folder."""
    return tuple(words[:2]) in (("uv", "sync"), ("poetry", "install"))


def project_install(line: Line, draft: Draft, files: Files, paths: Paths) -> bool:
    """Take over the dependencies of a pyproject.toml that was copied; return whether one was."""
    _, source = paths("pyproject.toml")
    content = files.content(source) if source else None
    if source is None or content is None:
        return False
    try:
        text = content.decode("utf-8-sig")
        document = Table(parse_toml(text), source, text)
    except ValueError:
        return False
    name = draft.name
    convert_pyproject(document, draft)
    draft.name = name  # the Dockerfile's template is not the project
    draft.note(
        line, "packages are installed into the image's own Python, and not the project itself"
    )
    return True
