"""Who does it, and from which state of the specs: asked of git and the environment.

It runs git and nothing else, and is content where there is none.
"""

from __future__ import annotations

import getpass
import os
import re
import subprocess
from pathlib import Path
from typing import Any

_SECONDS = 20
# Who started a run of a CI service, of whom git there knows nothing.
_ACTORS = ("GITHUB_ACTOR", "GITLAB_USER_LOGIN", "BUILDKITE_BUILD_CREATOR", "CIRCLE_USERNAME")
# What a user configures git by. Every other variable of git's (`GIT_DIR`, `GIT_INDEX_FILE`,
# `GIT_CONFIG_PARAMETERS`, …) is about one repository or one command: in a hook that is not
# necessarily the repository of the specs.
_CONFIGURES_GIT = re.compile(
    r"GIT_(?:EXEC_PATH|DISCOVERY_ACROSS_FILESYSTEM"
    r"|CONFIG_(?:GLOBAL|SYSTEM|NOSYSTEM|COUNT|KEY_\d+|VALUE_\d+))"
)


def actor(folder: Path) -> str:
    """Who acts, as history tells it: `TEMPLATE_ACTOR`, a CI service's word, git's, or the login."""
    for variable in ("TEMPLATE_ACTOR", *_ACTORS):
        if told := _line(os.environ.get(variable, "")):
            return told
    name, email = (
        os.environ.get(f"GIT_AUTHOR_{part.upper()}") or _git(folder, "config", f"user.{part}")
        for part in ("name", "email")
    )
    if name:
        return _line(f"{name} <{email}>" if email else name)
    try:
        return _line(getpass.getuser())
    except (OSError, KeyError):
        return "unknown"


def source(folder: Path) -> dict[str, Any]:
    """The commit of the specs below `folder`, and whether they differ from it (`dirty`).

    Empty where they are not in git.
    """
    commit = _git(folder, "rev-parse", "--verify", "HEAD")
    if not commit:
        return {}
    # Untracked specs count, also for a user whose own `git status` leaves them out.
    status = ["status", "--porcelain", "--untracked-files=normal"]
    changed = _git(folder, *status, "--", "variants", "pyproject.toml")
    return {"commit": commit, "dirty": bool(changed)}


def committed(path: Path) -> str | None:
    """The content of a file in the last commit; None where it is not in git."""
    return _git(path.parent, "show", f"HEAD:./{path.name}") or None


def _git(folder: Path, *arguments: str) -> str:
    try:
        done = subprocess.run(
            ["git", "-C", os.fspath(folder), *arguments],  # noqa: S607
            capture_output=True,
            encoding="utf-8",
            errors="replace",
            timeout=_SECONDS,
            check=False,
            stdin=subprocess.DEVNULL,
            env=_environment(),
        )
    except (OSError, subprocess.SubprocessError):
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""


def _environment() -> dict[str, str]:
    """This environment, without what would lead git to another repository than the folder's."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith("GIT_") or _CONFIGURES_GIT.fullmatch(name)
    }
    # A look must not take the index's lock from a command that the user runs meanwhile.
    return kept | {"GIT_OPTIONAL_LOCKS": "0"}


def _line(text: str) -> str:
    return " ".join("".join(c if c.isprintable() else " " for c in text).split())[:200]
