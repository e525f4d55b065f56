"""Who builds, and from which state of the specs: from git, if there is one, and the environment."""

from __future__ import annotations

import getpass
import os
import re
import subprocess
from pathlib import Path
from typing import Any

_SECONDS = 20
# The user who started a CI run, whom git does not know there.
_ACTORS = ("GITHUB_ACTOR", "GITLAB_USER_LOGIN", "BUILDKITE_BUILD_CREATOR", "CIRCLE_USERNAME")
# Variables that configure git. All others (`GIT_DIR`, `GIT_INDEX_FILE`, …) are about one repository
# or command: in a hook, that may be another repository than that of the specs.
_CONFIGURES_GIT = re.compile(
    r"GIT_(?:EXEC_PATH|DISCOVERY_ACROSS_FILESYSTEM"
    r"|CONFIG_(?:GLOBAL|SYSTEM|NOSYSTEM|COUNT|KEY_\d+|VALUE_\d+))"
)


def actor(folder: Path) -> str:
    """Return who acts, for the history: `TEMPLATE_ACTOR`, else the user of CI, git or the login."""
    for variable in ("TEMPLATE_ACTOR", *_ACTORS):
        if name := _line(os.environ.get(variable, "")):
            return name
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
    """Return the commit of the specs in `folder`, and whether they differ from it (`dirty`); an
    empty table if they are not in git."""
    commit = _git(folder, "rev-parse", "--verify", "HEAD")
    if not commit:
        return {}
    # Untracked specs count, even if the user's `git status` hides them.
    status = ["status", "--porcelain", "--untracked-files=normal"]
    changed = _git(folder, *status, "--", "variants", "pyproject.toml")
    return {"commit": commit, "dirty": bool(changed)}


def committed(path: Path) -> str | None:
    """Return the content of a file in the last commit; None if it is not in git."""
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
    """Return the environment without variables that point git at another repository."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith("GIT_") or _CONFIGURES_GIT.fullmatch(name)
    }
    # Reading must not lock the index against a command that the user runs meanwhile.
    return kept | {"GIT_OPTIONAL_LOCKS": "0"}


def _line(text: str) -> str:
    return " ".join("".join(c if c.isprintable() else " " for c in text).split())[:200]
