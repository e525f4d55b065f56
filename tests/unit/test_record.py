from __future__ import annotations

import dataclasses
import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from builder import record, registry
from builder.errors import RegistryError, RegistryVersionError, StorageError
from builder.registry import Ref
from builder.registry.model import Build, Contents, Resources
from builder.system.files import atomic_write, exclusive, remove_tree
from tests.conftest import BASE, ROOT
from tests.support.options import rounds
from tests.support.records import WRITER, WRITERS, WRITES
from tests.support.samples import load, rendered_of, verified_of

KILLS = rounds(13)
LEAF = "schema = 1\nname = 'leaf'\nextends = '_base'\n[python]\npackages = ['idna']\n"


def writer(path: Path, name: str, count: int) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", WRITER, str(path), name, str(count)],
        stdout=subprocess.PIPE,
        text=True,
        cwd=ROOT,
    )


def test_record_holds_what_was_built_and_verified(tmp_path: Path) -> None:
    """A recorded build resolves, and its record says what it is made of and how it was checked."""
    rendered = rendered_of(load(tmp_path, _base=BASE, leaf=LEAF)["leaf"])
    path = tmp_path / "registry.json"
    record.record(path, verified_of(rendered), rendered, by="a tester")
    found = registry.lookup("leaf", path=path)
    assert found.ref == f"local:leaf@{rendered.digest.replace(':', '-')}"
    assert found.digest == rendered.digest
    assert found.build.base_image == "localhost:1/python:3.13@sha256:" + "a" * 64
    assert found.build.resources == Resources(cpu=2, memory_mb=1024)
    assert found.build.verified
    assert found.build.verified.checks == ("import idna",)
    assert found.build.inputs["packages"] == {"idna": "1.0"}


@pytest.mark.parametrize(("target", "runs_code"), [("local", True), ("e2b", False)])
def test_kernel_runs_code_without_a_code_service(
    tmp_path: Path, target: str, runs_code: bool
) -> None:
    """On targets where each machine makes its own build, the kernel runs code with any service; on
    E2B, only a code service runs code."""
    rendered = rendered_of(load(tmp_path, _base=BASE, leaf=LEAF)["leaf"])
    verified = verified_of(rendered, target=target)
    built = dataclasses.replace(verified.built, one_of_many=target == "local")
    build = record.build_of(dataclasses.replace(verified, built=built), rendered, {})
    assert build.runs_code is runs_code


def test_unknown_fields_survive(tmp_path: Path) -> None:
    """What a later version has written into the file is kept by a writer that does not know it."""
    path = tmp_path / "registry.json"
    rendered = rendered_of(load(tmp_path, _base=BASE, leaf=LEAF)["leaf"])
    ref = verified_of(rendered).built.ref
    entry = {"channels": {}, "builds": {ref: {"later": 1}}, "later": 2}
    data = {"version": 1, "later": 3, "templates": {"leaf": {"local": entry}}}
    path.write_text(json.dumps(data))
    record.record(path, verified_of(rendered), rendered, by="a tester")
    found = json.loads(path.read_text())
    assert found["later"] == 3
    assert found["templates"]["leaf"]["local"]["later"] == 2
    assert found["templates"]["leaf"]["local"]["builds"][ref]["later"] == 1


def test_file_is_sorted_and_ends_in_a_newline(tmp_path: Path) -> None:
    """The file's text depends on its content alone, so that git merges it record by record."""
    path = tmp_path / "registry.json"
    for name in ("b", "a"):
        record.update(path, lambda data, name=name: data.templates.update({name: {}}))  # type: ignore[misc]
    assert path.read_text() == (
        '{\n  "templates": {\n    "a": {},\n    "b": {}\n  },\n  "version": 1\n}\n'
    )


@pytest.mark.parametrize(
    ("text", "error"),
    [("{", RegistryError), ('{"version": 9, "templates": {}}', RegistryVersionError)],
)
def test_file_that_cannot_be_read_is_left_alone(
    tmp_path: Path, text: str, error: type[Exception]
) -> None:
    """A broken registry, or one from the future, is refused and not overwritten."""
    path = tmp_path / "registry.json"
    path.write_text(text)
    with pytest.raises(error):
        record.update(path, lambda data: data.templates.update(x={}))
    assert path.read_text() == text


def test_change_that_fails_changes_nothing(tmp_path: Path) -> None:
    """An exception between reading and writing leaves the file as it was."""
    path = tmp_path / "registry.json"
    record.update(path, lambda data: data.templates.update(a={}))
    before = path.read_bytes()

    def fail(data: Contents) -> None:
        data.templates["b"] = {}
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        record.update(path, fail)
    assert path.read_bytes() == before
    assert sorted(p.name for p in tmp_path.iterdir()) == [".builder", "registry.json"]


@pytest.mark.slow
@pytest.mark.chance
def test_many_processes_lose_nothing(tmp_path: Path) -> None:
    """Processes that record at once leave every build of every one of them."""
    path = tmp_path / "registry.json"
    writers = [writer(path, f"t{number}", WRITES) for number in range(WRITERS)]
    assert [process.communicate()[0].count("\n") for process in writers] == [WRITES] * WRITERS
    templates = registry.load(path).templates
    assert {name: len(t["local"].builds) for name, t in templates.items()} == {
        f"t{number}": WRITES for number in range(WRITERS)
    }


@pytest.mark.chance
def test_sigkill_at_any_moment_leaves_a_whole_file(tmp_path: Path) -> None:
    """A writer that is killed leaves a registry that reads, with all that it had finished."""
    path = tmp_path / "registry.json"
    pause = random.Random(7)
    for round_number in range(KILLS):
        process = writer(path, f"t{round_number}", 10_000)
        assert process.stdout
        seen = [process.stdout.readline()]  # it has written once: from here on, any moment will do
        time.sleep(pause.uniform(0, 0.05))
        process.send_signal(signal.SIGKILL)
        seen += process.communicate()[0].splitlines()
        finished = len([line for line in seen if line])
        builds = registry.load(path).templates[f"t{round_number}"]["local"].builds
        assert len(builds) >= finished
    left = [p.name for p in tmp_path.iterdir() if p.name.startswith(".registry.json.")]
    assert len(left) <= KILLS  # a temporary file may stay; it is not the registry


names = st.sampled_from(["a", "b", "c"])
steps = st.lists(
    st.tuples(names, st.sampled_from(["local", "e2b"]), st.integers(0, 5)), max_size=20
)


@pytest.mark.slow
@settings(max_examples=30, suppress_health_check=[HealthCheck.too_slow])
@given(steps=steps)
def test_any_order_of_writers_keeps_every_build(
    steps: list[tuple[str, str, int]], tmp_path_factory: pytest.TempPathFactory
) -> None:
    """After any sequence of writes every build is there and channels point at the last ones."""
    path = tmp_path_factory.mktemp("registry") / "registry.json"
    expected: dict[tuple[str, str], list[str]] = {}
    for name, target, number in steps:
        ref = f"{name}:{number}"

        def change(data: Contents, name: str = name, target: str = target, ref: str = ref) -> None:
            entry = data.new_entry(name, target)
            entry.builds[ref] = Build(template_id=name)
            entry.channels["stable"] = Ref(ref)

        record.update(path, change)
        expected.setdefault((name, target), []).append(ref)
    for (name, target), refs in expected.items():
        assert registry.resolve(name, target=target, path=path) == refs[-1]
        assert set(registry.load(path).templates[name][target].builds) == set(refs)


def test_atomic_write_replaces_in_one_step(tmp_path: Path) -> None:
    """The new content stands in a new file: who had the old one open reads on undisturbed."""
    path = tmp_path / "deep" / "file"
    atomic_write(path, b"old", mode=0o600)
    with path.open("rb") as reader:
        atomic_write(path, b"new", mode=0o755)
        assert reader.read() == b"old"
    assert (path.read_bytes(), path.stat().st_mode & 0o777) == (b"new", 0o755)
    assert [p.name for p in path.parent.iterdir()] == ["file"]


def test_full_disk_is_told_and_leaves_the_old_file(tmp_path: Path) -> None:
    """Writing to a full device is a StorageError that says so, and removes its temporary file."""
    code = (
        "import resource, sys; from pathlib import Path; from builder.system.files import atomic_write\n"
        "import signal; signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))\n"
        "atomic_write(Path(sys.argv[1]), b'x' * 5000)\n"
    )
    path = tmp_path / "file"
    path.write_text("old")
    found = subprocess.run(
        [sys.executable, "-c", code, str(path)],
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
        # Without the measuring of coverage, which writes files of its own at the end.
        env={name: value for name, value in os.environ.items() if not name.startswith("COV")},
    )
    assert found.stderr.strip().splitlines()[-1] == (
        f"builder.errors.StorageError: writing `{path}` failed: File too large"
    )
    assert path.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


def test_place_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    """Writing below something that is no folder is a StorageError, not a traceback."""
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match="/file/x` failed: File exists"):
        atomic_write(tmp_path / "file" / "x", b"")


def test_exclusive_excludes_and_says_that_it_waits(tmp_path: Path) -> None:
    """A held lock is told to who does not want to wait; who waits says so once."""
    lock = tmp_path / "lock"
    with exclusive(lock):
        with pytest.raises(BlockingIOError), exclusive(lock, wait=False):
            pass
        code = (
            "import sys; from pathlib import Path; from builder.system.files import exclusive\n"
            "with exclusive(Path(sys.argv[1]), waiting=lambda: print('waiting', flush=True)):\n"
            "    print('held', flush=True)\n"
        )
        other = subprocess.Popen(
            [sys.executable, "-c", code, str(lock)],
            stdout=subprocess.PIPE,
            text=True,
            cwd=ROOT,
        )
        assert other.stdout
        assert other.stdout.readline() == "waiting\n"
    assert other.communicate()[0] == "held\n"


def test_remove_tree_removes_what_is_deep(tmp_path: Path) -> None:
    """A tree that is deeper than Python's recursion limit is removed with its files and links, but
    not the targets of the links."""
    kept = tmp_path / "kept"
    kept.write_text("")
    (tmp_path / "tree").mkdir()
    folder = os.open(tmp_path / "tree", os.O_RDONLY)
    for level in range(1500):
        os.mkdir("a", dir_fd=folder)
        if level % 500 == 0:
            os.symlink(tmp_path, "link", dir_fd=folder)
            os.close(os.open("file", os.O_CREAT | os.O_WRONLY, dir_fd=folder))
        inner = os.open("a", os.O_RDONLY, dir_fd=folder)
        os.close(folder)
        folder = inner
    os.close(folder)
    remove_tree(tmp_path / "tree")
    assert list(tmp_path.iterdir()) == [kept]


def test_remove_tree_removes_what_is_read_only(tmp_path: Path) -> None:
    """A tree goes with its read-only folders, and an absent one is fine."""
    folder = tmp_path / "a" / "b"
    folder.mkdir(parents=True)
    (folder / "file").write_text("")
    os.chmod(folder, 0o500)
    remove_tree(tmp_path / "a")
    remove_tree(tmp_path / "a")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_remove_tree_removes_what_code_can_make(tmp_path: Path) -> None:
    """A tree is removed whatever its depth, rights and names are, but not the targets of its
    links."""
    kept, removed = tmp_path / "kept", tmp_path / "removed"
    kept.mkdir(0o750)
    (kept / "file").write_text("")
    (kept / "file").chmod(0o400)
    removed.mkdir()
    before = os.open(".", os.O_RDONLY)
    try:
        os.chdir(removed)
        for _ in range(3000):
            os.mkdir("d" * 200)
            os.chdir("d" * 200)
        os.mkdir("sibling")
    finally:
        os.fchdir(before)
        os.close(before)
    (removed / "folder").symlink_to(kept)
    (removed / "name").hardlink_to(kept / "file")
    os.mkdir(os.fsencode(removed) + b"/\xff\n")
    closed = removed / "closed" / "inner"
    closed.mkdir(parents=True)
    (closed / "file").write_text("")
    closed.chmod(0)
    closed.parent.chmod(0o100)
    remove_tree(removed)
    assert [path.name for path in tmp_path.iterdir()] == ["kept"]
    assert [(kept / "file").stat().st_mode & 0o777, kept.stat().st_mode & 0o777] == [0o400, 0o750]
