"""The walls of a sandbox as options of bubblewrap, computed from frozen values.

The outer walls contain a trusted process, from which sandboxes are forked; it can write to its own
folders only. Each sandbox has inner walls, which are created inside the outer walls. They begin
with an empty root: a sandbox contains only what an option names.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

HOME = "/home/user"
ENVIRONMENT = "/opt/environment"
VENV = "/opt/venv"
RUN = "/run/sandbox"
RUNS = "/run/sandboxes"  # within the outer walls
KERNEL_HOST = "/run/wall/kernel_host"
GUARD = "/run/wall/guard.py"
FILES = "absolute"  # folder of an environment with the files for absolute paths
# Names in a sandbox's folder: its read-only part, its sockets, its home and its packages.
READ, SOCKETS, OWN_HOME, OWN_VENV = "r", "r/s", "home", "venv"
_USER = 1000
_ROOT_BYTES = 64 << 20
# Libraries read this to find out about processors.
_PROCESSORS = "/sys/devices/system"
ETC = "etc"  # in a run folder: /etc of its sandboxes
_TEMPORARY, _SHARED = "/tmp", "/dev/shm"  # noqa: S108 - of a sandbox
_EMPTY = ("/home", "/media", "/mnt", "/opt", "/root", "/run", "/srv", "/var")
# Every sandbox uses these paths itself.
_TAKEN = (HOME, ENVIRONMENT, VENV, RUN, KERNEL_HOST, "/dev", "/proc", "/sys")


@dataclass(frozen=True, kw_only=True, slots=True)
class View:
    """The parts of this machine that sandboxes of an environment see.

    `bubblewrap` makes the outer walls. Inside them, the options `tools` show it as `program`. The
    options `user` are for the user of the outer walls, `system` for the folders of programs beside
    `/usr`. `interpreter` has the source and destination of each folder of the environment's
    Python. `files` are the destinations of the template's files, `workdir` is its working folder.
    """

    bubblewrap: str
    program: str
    tools: tuple[str, ...]
    user: tuple[str, ...]
    system: tuple[str, ...]
    environment: str
    kernel_host: str
    guard: str
    interpreter: tuple[tuple[str, str], ...] = ()
    files: tuple[str, ...] = ()
    workdir: str = HOME


@dataclass(frozen=True, kw_only=True, slots=True)
class Sizes:
    """The sizes of the file systems in memory, in bytes."""

    temporary: int
    shared: int


def outer(view: View, run: str) -> list[str]:
    """Return the command that starts a program inside the outer walls, without the program.

    The folder `run` holds the sandboxes' own folders, their /etc, and a home. Inside, it is `RUNS`.
    """
    return [
        *(view.bubblewrap, *view.user, "--unshare-ipc", "--unshare-uts", "--unshare-net"),
        *("--unshare-cgroup-try", "--hostname", "sandbox"),
        *("--size", str(_ROOT_BYTES), "--tmpfs", "/", "--dev", "/dev"),
        *_root(view, run, ()),
        # Modules find out about shared memory when they are imported.
        *("--perms", "1777", "--tmpfs", _TEMPORARY, "--perms", "1777", "--tmpfs", _SHARED),
        *_python(view, direct=True),
        *("--ro-bind", view.environment, ENVIRONMENT, *view.tools),
        *("--ro-bind", view.kernel_host, KERNEL_HOST, "--ro-bind", view.guard, GUARD),
        *("--bind", "/proc", "/proc"),
        *("--bind", run, RUNS, "--bind", f"{run}/{OWN_HOME}", HOME),
        *("--chdir", HOME, "--die-with-parent", "--"),
    ]


def inner(view: View, name: str, sizes: Sizes) -> list[str]:
    """Return the command that makes the inner walls of a sandbox. Run it inside the outer walls;
    `name` is that of the sandbox's own folder in `RUNS`."""
    folder = f"{RUNS}/{name}"
    return [
        *(view.program, "--unshare-all", "--unshare-user", "--disable-userns"),
        *("--uid", str(_USER), "--gid", str(_USER), "--hostname", "sandbox"),
        *("--size", str(_ROOT_BYTES), "--tmpfs", "/", "--dev", "/dev"),
        *_root(view, RUNS, view.files),
        *("--size", str(sizes.temporary), "--perms", "1777", "--tmpfs", _TEMPORARY),
        *(
            "--size",
            str(sizes.shared),
            "--perms",
            "1777",
            "--tmpfs",
            _SHARED,
            "--remount-ro",
            "/dev",
        ),
        *_python(view, direct=False),
        *("--ro-bind", ENVIRONMENT, ENVIRONMENT, "--ro-bind", KERNEL_HOST, KERNEL_HOST),
        *_folders([] if below(view.workdir, HOME) else [view.workdir]),
        *_folders(_parents(_bound(view.files))),
        *_binds((_stored(path), path) for path in _bound(view.files)),
        *("--proc", "/proc", "--ro-bind", f"{folder}/{READ}", RUN),
        *("--bind", f"{folder}/{SOCKETS}", f"{RUN}/{SOCKETS.rpartition('/')[2]}"),
        *("--bind", f"{folder}/{OWN_VENV}", VENV, "--bind", f"{folder}/{OWN_HOME}", HOME),
        *("--chdir", HOME, "--die-with-parent", "--new-session"),
    ]


def obstacle(view: View) -> str | None:
    """Return why sandboxes cannot see an environment, or None."""
    for _, destination in view.interpreter:
        if below(destination, HOME):
            return (
                f"its Python is in {destination}, below {HOME}, where each sandbox has its own"
                " home: build it with a Python elsewhere, such as the system's"
            )
        if unavailable(destination):
            return (
                f"its Python is in {destination}, where each sandbox has folders of its own: build"
                " it with a Python elsewhere, such as the system's"
            )
    return None


def unavailable(target: str) -> bool:
    """Return whether every sandbox uses this path itself, so that no file can be there."""
    return any(below(target, path) or below(path, target) for path in _TAKEN)


def below(path: str, folder: str) -> bool:
    """Return whether a path is a folder or inside it."""
    return path == folder or path.startswith(f"{folder.rstrip('/')}/")


def _root(view: View, run: str, files: Sequence[str]) -> list[str]:
    """Return the options for programs, libraries and `/etc`, and the folders of every machine."""
    system = ["--ro-bind", "/usr", "/usr"]
    if any(map(_in_system, files)):
        system = ["--overlay-src", "/usr", "--overlay-src", _stored("/usr"), "--ro-overlay", "/usr"]
    return [
        *system,
        *view.system,
        *("--ro-bind", f"{run}/{ETC}", "/etc"),
        *_folders([*_EMPTY, *_parents([_PROCESSORS])]),
        *("--ro-bind-try", _PROCESSORS, _PROCESSORS),
    ]


def _python(view: View, *, direct: bool) -> list[str]:
    destinations = [destination for _, destination in view.interpreter]
    pairs = view.interpreter if direct else zip(destinations, destinations, strict=True)
    return [*_folders(_parents(destinations)), *_binds(pairs)]


def _stored(path: str) -> str:
    return f"{ENVIRONMENT}/{FILES}{path}"


def _in_system(path: str) -> bool:
    return below(path, "/usr")


def _bound(files: Iterable[str]) -> list[str]:
    """Return the files that are bound one by one. Those in `/usr` are an overlay, those in `/etc`
    are copied."""
    return [path for path in files if not _in_system(path) and not below(path, "/etc")]


def _binds(pairs: Iterable[tuple[str, str]]) -> list[str]:
    return [option for pair in pairs for option in ("--ro-bind", *pair)]


def _folders(paths: Iterable[str]) -> list[str]:
    """Return the options that create folders which every user may enter."""
    return [option for path in paths for option in ("--dir", path)]


def _parents(paths: Iterable[str]) -> list[str]:
    """Return the folders above these paths, outermost first."""
    parents: dict[str, None] = {}
    for path in paths:
        parts = path.strip("/").split("/")[:-1]
        parents |= dict.fromkeys("/" + "/".join(parts[: n + 1]) for n in range(len(parts)))
    return list(parents)
