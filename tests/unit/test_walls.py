"""The options of bubblewrap: what they may and may not show to a sandbox."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from builder.sandbox.execution import Execution
from builder.sandbox.network import Network
from builder.targets.local import absolute
from builder.targets.local.confine.limits import Limits
from builder.targets.local.confine.notes import notes
from builder.targets.local.confine.refusals import Reason, Refusal
from builder.targets.local.confine.walls import (
    ENVIRONMENT,
    HOME,
    RUN,
    RUNS,
    VENV,
    Sizes,
    View,
    below,
    inner,
    obstacle,
    outer,
    unavailable,
)

PARTS = st.lists(st.sampled_from(["a", "b", "opt", "usr", "home", "user", "tmp", "etc"]), min_size=1, max_size=4)  # fmt: skip
PATHS = PARTS.map(lambda parts: "/" + "/".join(parts))
NAMES = st.from_regex(r"[a-z0-9_-]{1,12}", fullmatch=True)
SIZES = Sizes(temporary=1 << 20, shared=1 << 21)
ARGUMENTS = {
    "--args": 1, "--bind": 2, "--cap-add": 1, "--cap-drop": 1, "--chdir": 1, "--dev": 1,
    "--dir": 1, "--gid": 1, "--hostname": 1, "--overlay-src": 1, "--perms": 1, "--proc": 1,
    "--remount-ro": 1, "--ro-bind": 2, "--ro-bind-try": 2, "--ro-overlay": 1, "--size": 1,
    "--symlink": 2, "--tmpfs": 1, "--uid": 1,
}  # fmt: skip


def view(**values: object) -> View:
    defaults: dict[str, object] = {
        "bubblewrap": "/host/bwrap",
        "program": "/run/wall/bwrap",
        "tools": ("--dir", "/run/wall", "--ro-bind", "/host/bwrap", "/run/wall/bwrap"),
        "user": ("--unshare-user",),
        "system": ("--symlink", "usr/bin", "/bin"),
        "environment": "/host/cache/environment",
        "kernel_host": "/host/kernel_host",
        "guard": "/host/guard.py",
    }
    return View(**(defaults | values))  # type: ignore[arg-type]


def options(command: list[str]) -> Iterator[tuple[str, ...]]:
    """Each option with its arguments."""
    left = command[1:]
    while left:
        count = ARGUMENTS.get(left[0], 0)
        assert left[0].startswith("--"), left
        yield tuple(left[: 1 + count])
        left = left[1 + count :]


def destinations(command: list[str]) -> list[tuple[str, str]]:
    """What is mounted or made, in order, with its option."""
    making = {"--bind", "--dev", "--dir", "--proc", "--ro-bind", "--ro-bind-try", "--ro-overlay", "--symlink", "--tmpfs"}  # fmt: skip
    return [(each[0], each[-1]) for each in options(command) if each[0] in making]


@st.composite
def views(draw: st.DrawFn) -> View:
    prefixes = draw(st.lists(PATHS, max_size=2))
    files = [path for path in draw(st.lists(PATHS, max_size=4)) if not unavailable(path)]
    files = [
        path
        for path in dict.fromkeys(files)
        if not below(path, HOME) and not any(below(path, o) for o in files if o != path)
    ]
    return view(
        interpreter=tuple((f"/host{path}", path) for path in prefixes),
        files=tuple(files),
        workdir=draw(st.sampled_from([HOME, "/app", "/srv/app"])),
    )


@given(view=views(), name=NAMES)
def test_sandbox_writes_to_its_own_folders_alone(view: View, name: str) -> None:
    """A sandbox can write only to its own folder, and nothing is mounted or created below that."""
    if obstacle(view):
        return
    command = inner(view, name, SIZES)
    writable = {each[2]: each[1] for each in options(command) if each[0] == "--bind"}
    assert writable == {
        f"{RUN}/s": f"{RUNS}/{name}/r/s",
        VENV: f"{RUNS}/{name}/venv",
        HOME: f"{RUNS}/{name}/home",
    }
    for _, path in destinations(command):
        assert not any(below(path, place) and path != place for place in writable), path


@given(view=views(), run=PATHS)
def test_outer_walls_write_to_the_run_folder_alone(view: View, run: str) -> None:
    """Inside the outer walls, only the run folder and /proc of the kernel are writable."""
    writable = [each[1:] for each in options(outer(view, run)[:-1]) if each[0] == "--bind"]
    assert writable == [("/proc", "/proc"), (run, RUNS), (f"{run}/home", HOME)]


@given(view=views(), name=NAMES)
def test_options_name_no_path_of_this_machine(view: View, name: str) -> None:
    """The options for a sandbox, which it can read, name only paths that also exist in it."""
    assert not [each for each in inner(view, name, SIZES) if each.startswith("/host")]


def test_sandbox_has_namespaces_of_its_own() -> None:
    """Every namespace is new, no more can be created, and file systems in memory have sizes."""
    command = inner(view(), "s", SIZES)
    assert command[:8] == [
        "/run/wall/bwrap", "--unshare-all", "--unshare-user", "--disable-userns",
        "--uid", "1000", "--gid", "1000",
    ]  # fmt: skip
    assert "--share-net" not in command
    assert {"--die-with-parent", "--new-session"} <= set(command)
    text = " ".join(command)
    assert re.findall(r"--size (\d+) (?:--perms 1777 )?--tmpfs (\S+)", text) == [
        (str(64 << 20), "/"), (str(1 << 20), "/tmp"), (str(1 << 21), "/dev/shm"),
    ]  # fmt: skip
    assert text.count("--tmpfs") == 3


def test_files_of_the_template_are_at_their_paths() -> None:
    """Files are bound read-only from the environment; those below /usr are laid over it."""
    command = inner(view(files=("/opt/data/x", "/usr/local/bin/tool")), "s", SIZES)
    kept = f"{ENVIRONMENT}/absolute"
    assert ("--ro-bind", f"{kept}/opt/data/x", "/opt/data/x") in options(command)
    text = " ".join(command)
    assert f"--overlay-src /usr --overlay-src {kept}/usr --ro-overlay /usr" in text
    assert "--ro-bind /usr /usr" not in text


def test_python_below_the_home_of_sandboxes_is_refused() -> None:
    """An environment whose Python is below /home/user is refused, with the reason."""
    place = "/home/user/.local/share/uv/python/cpython-3.13"
    assert obstacle(view(interpreter=((place, place),))) == (
        f"its Python is in {place}, below /home/user, where each sandbox has its own home: build it"
        " with a Python elsewhere, such as the system's"
    )


@pytest.mark.parametrize("place", ["/opt/venv/python", "/run/sandbox", "/opt", "/dev/python"])
def test_python_that_the_walls_would_hide_is_refused(place: str) -> None:
    """An environment whose Python is at, above or below a folder of the walls is refused."""
    assert obstacle(view(interpreter=((place, place),))) == (
        f"its Python is in {place}, where each sandbox has folders of its own: build it with a"
        " Python elsewhere, such as the system's"
    )


@pytest.mark.parametrize("path", ["/proc/x", "/dev/shm/x", "/opt/venv", "/opt", "/sys/x"])
def test_places_that_a_sandbox_has_for_itself_take_no_files(path: str) -> None:
    """No file of a template can be at a path that every sandbox uses itself."""
    assert unavailable(path)


LIMITS = Limits(memory_mb=1024, cpus=2)


@pytest.mark.parametrize(
    ("error", "note"),
    [
        ("MemoryError: ", "the sandbox has 1024 MiB of memory: `resources.memory-mb` in the spec changes that"),
        ("OSError: [Errno 28] No space left on device", "the sandbox may have 10240 MiB of files, and in /tmp and /dev/shm 512 MiB each (half of `resources.memory-mb`)"),
        ("RuntimeError: can't start new thread", "the sandbox may have 1024 processes and threads, and each process 2048 MiB of memory and stacks of threads"),
        ("OSError: [Errno 24] Too many open files: 'x'", "a process in the sandbox may have 4096 files open"),
        ("URLError: <urlopen error [Errno -3] Temporary failure in name resolution>", 'the sandbox has no network: `network = ["example.com"]` or `network = "allow"` in the spec, or `network=` when it is opened, changes that'),
    ],
)  # fmt: skip
def test_code_that_fails_at_a_limit_gets_a_note(error: str, note: str) -> None:
    """The note for code that fails at a limit names the limit, and the key that changes it."""
    execution = Execution(error=error)
    assert notes(execution, LIMITS, Network.of("none"), {}) == (note,)
    without_error = notes(Execution(stdout=error), LIMITS, Network.of("none"), {})
    assert without_error == ((note,) if "no network" in note else ())


def test_missing_network_is_noted_for_code_without_an_error() -> None:
    """A note says that there is no network if a shell command of the code failed without one; none
    does for a command that succeeded."""
    for words in (
        "Failed to resolve 'example.com' ([Errno -2] Name or service not known)",
        "curl: (6) Could not resolve host: example.com",
        "wget: unable to resolve host address 'example.com'",
        "npm error network request to https://example.com/x failed, reason: getaddrinfo EAI_AGAIN",
    ):
        for execution in (Execution(stdout=words), Execution(stderr=words)):
            (note,) = notes(execution, LIMITS, Network.of("none"), {})
            assert note.startswith("the sandbox has no network: ")
    assert notes(Execution(stdout="done"), LIMITS, Network.of("none"), {}) == ()


def test_refused_hosts_are_counted() -> None:
    """A note names the hosts of refused connections, even if the code succeeds."""
    refused = {Refusal("b.org", Reason.UNLISTED): 1, Refusal("c.org", Reason.UNLISTED): 3}
    assert notes(Execution(), LIMITS, Network.of(["a.org"]), refused) == (
        "connections were refused to hosts that `network` does not list: b.org, c.org (3 times);"
        " add them to it in the spec, or in `network=` when the sandbox is opened",
    )
    (note,) = notes(Execution(error="Could not resolve host: x"), LIMITS, Network.of("allow"), {})
    assert note == (
        "the sandbox reaches other hosts only through the HTTP proxy in HTTP_PROXY and HTTPS_PROXY,"
        " which resolves their names"
    )


@pytest.mark.parametrize(
    ("path", "provided"),
    [
        ("/home/user/app", True),
        ("/srv/app", True),
        ("/usr/src/app", False),
        ("/bin/app", False),
        ("/etc/app", False),
        ("/opt/venv/app", False),
        ("/proc/app", False),
    ],
)
def test_sandboxes_start_where_their_code_may_write(
    path: str, provided: bool, tmp_path: Path
) -> None:
    """Sandboxes do not start in what is read-only or reserved, but in their home."""
    absolute.set_workdir(tmp_path, path)
    assert absolute.listed(tmp_path).workdir == (path if provided else HOME)


def test_working_folder_in_the_home_is_not_made_by_the_walls() -> None:
    """It is part of the home, which hides what is made at its place before."""
    options = destinations(inner(view(workdir=f"{HOME}/app"), "s-1", SIZES))
    assert ("--dir", f"{HOME}/app") not in options
