from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest

from builder.errors import LockConflictError, NetworkError, TemplateError
from builder.lock import Lock
from builder.lock.conflict import explain
from builder.lock.pins import parse_pins
from builder.lock.resolve import lock_latest
from builder.spec import load_variants
from builder.system.events import Event, discard
from tests.conftest import BASE, Command

Write = Callable[..., Path]
LEAF = "schema = 1\nname = 'leaf'\nextends = '_base'\n[python]\n"


def latest(folder: Path) -> dict[str, Lock | TemplateError]:
    return lock_latest(load_variants(folder), folder=folder, report=discard)


def locked(folder: Path, name: str = "leaf") -> Lock:
    lock = latest(folder)[name]
    assert isinstance(lock, Lock), lock
    return lock


def failed(folder: Path, name: str = "leaf") -> TemplateError:
    error = latest(folder)[name]
    assert isinstance(error, TemplateError)
    return error


@pytest.mark.network
def test_lock_is_exact_hashed_and_knows_no_host(write: Write) -> None:
    """Every line of a lock is a pin or a hash: no header, no URL, no index, no path."""
    folder = write(
        _base=BASE, leaf=LEAF + "packages = ['requests', 'colorama; sys_platform == \"win32\"']"
    )
    text = locked(folder).stages[1].text
    shape = re.compile(r"[a-z0-9-]+==\S+( ; .+)? \\|    --hash=sha256:[0-9a-f]{64}( \\)?")
    assert [line for line in text.splitlines() if not shape.fullmatch(line)] == []
    names = [name for name, _ in parse_pins(text)]
    assert set(names) > {"requests", "idna", "urllib3", "certifi", "colorama"}
    assert names == sorted(names)


@pytest.mark.network
def test_lock_is_universal(write: Write) -> None:
    """What only another platform needs is in the lock, under its marker."""
    folder = write(_base=BASE, leaf=LEAF + "packages = ['tqdm']")
    assert "colorama==" in locked(folder).stages[1].text
    assert "sys_platform == 'win32'" in locked(folder).stages[1].text


@pytest.mark.network
def test_child_is_locked_under_its_parents_lock(write: Write) -> None:
    """A child takes the version that its parent has locked, and adds only what is new."""
    folder = write(
        _base=BASE + "[python]\npackages = ['idna<3']",
        leaf=LEAF + "packages = ['idna', 'six']",
    )
    base, leaf = locked(folder).stages
    assert [name for name, _ in parse_pins(base.text)] == ["idna"]
    assert [name for name, _ in parse_pins(leaf.text)] == ["six"]
    assert dict(parse_pins(base.text))["idna"].startswith("2.")


@pytest.mark.network
def test_shared_stage_is_the_same_lock(write: Write) -> None:
    """Two variants that share a stage share its lock, text and all."""
    folder = write(
        _base=BASE + "[python]\npackages = ['idna']",
        a="schema = 1\nname = 'a'\nextends = '_base'\n",
        b="schema = 1\nname = 'b'\nextends = '_base'\n",
    )
    locks = latest(folder)
    a, b = locks["a"], locks["b"]
    assert isinstance(a, Lock)
    assert isinstance(b, Lock)
    assert a.stages[0] == b.stages[0]


@pytest.mark.network
def test_conflict_between_stages_names_both_sides(write: Write) -> None:
    """A child that cannot live with its parent's versions: both packages, stages and lines."""
    folder = write(
        _base=BASE + "[python]\npackages = ['idna<3']",
        leaf=LEAF + "packages = ['six', 'idna>=3.4']",
    )
    error = failed(folder)
    assert isinstance(error, LockConflictError)
    head, _, reasoning = error.message.partition("\nuv's reasoning:\n")
    version = re.search(r"idna==(\S+)", head)
    assert version
    assert head == (
        "stage `leaf` conflicts with the versions that `_base` locked:\n"
        f'  idna=={version[1]} is locked by stage `_base`, required by "idna<3"'
        " at variants/_base.toml:7\n"
        '  "idna>=3.4" is required by stage `leaf` at variants/leaf.toml:5'
    )
    assert "Because" in reasoning
    assert error.hint == (
        'loosen "idna>=3.4" in variants/leaf.toml,'
        " or require a version that both can use in stage `_base`"
    )


@pytest.mark.network
def test_conflict_within_a_stage_names_the_requirements(write: Write) -> None:
    """Requirements of one stage that exclude each other are named with their lines."""
    folder = write(_base=BASE, leaf=LEAF + "packages = ['requests==2.31.0', 'idna<2.5']")
    error = failed(folder)
    assert error.message.startswith(
        "stage `leaf`: no versions meet all requirements:\n"
        '  "idna<2.5" is required by stage `leaf` at variants/leaf.toml:5\n'
        '  "requests==2.31.0" is required by stage `leaf` at variants/leaf.toml:5\n'
        "uv's reasoning:\n"
    )


@pytest.mark.network
def test_package_that_does_not_exist(write: Write) -> None:
    """A misspelt package is named with the place where the spec asks for it."""
    folder = write(_base=BASE, leaf=LEAF + "packages = ['six', 'no-such-package-of-anybody']")
    error = failed(folder)
    assert error.message.startswith(
        "stage `leaf`: package `no-such-package-of-anybody` (variants/leaf.toml:5)"
        " does not exist in the package index\n"
    )
    assert error.hint == "check the spelling of the package's name"


@pytest.mark.network
def test_one_failing_variant_stops_no_other(write: Write) -> None:
    """A variant without a solution leaves the others their locks."""
    folder = write(
        _base=BASE,
        leaf=LEAF + "packages = ['idna==0.0.0']",
        other="schema = 1\nname = 'other'\nextends = '_base'\n[python]\npackages = ['idna']\n",
    )
    locks = latest(folder)
    assert isinstance(locks["leaf"], LockConflictError)
    assert isinstance(locks["other"], Lock)


def test_no_network_is_one_sentence(
    write: Write, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Without a network and without a cache, locking fails as a NetworkError."""
    monkeypatch.setenv("UV_OFFLINE", "1")
    monkeypatch.setenv("UV_CACHE_DIR", str(tmp_path / "empty"))
    error = failed(write(_base=BASE, leaf=LEAF + "packages = ['idna']"))
    assert isinstance(error, NetworkError)
    assert error.message.startswith(
        "no network: resolving stage `leaf` could not reach a package index\n"
    )


def test_base_image_without_a_registry_is_said(write: Write) -> None:
    """Where no registry answers, the tag is kept, noted in the lock and reported once."""
    folder = write(
        _base=BASE,
        a="schema = 1\nname = 'a'\nextends = '_base'\n",
        b="schema = 1\nname = 'b'\nextends = '_base'\n",
    )
    events: list[Event] = []
    locks = lock_latest(load_variants(folder), folder=folder, report=events.append)
    note = (
        "base image `localhost:1/python:3.13` is not pinned to a digest:"
        " its registry did not answer; the tag is kept"
    )
    assert [lock.notes for lock in locks.values() if isinstance(lock, Lock)] == [(note,)] * 2
    assert [event.text for event in events] == [note]


def test_unknown_wording_of_uv_is_passed_on(write: Write) -> None:
    """What uv says in words we do not know reaches the person unchanged."""
    folder = write(_base=BASE, leaf=LEAF + "packages = ['idna']")
    (variant,) = load_variants(folder)
    error = explain("something else entirely", variant.stages, {}, folder)
    assert error.message == (
        "stage `leaf` cannot be resolved\nuv's reasoning:\nsomething else entirely"
    )


@pytest.mark.slow
@pytest.mark.network
def test_commands_accept_what_build_wrote(write: Write, command: Command) -> None:
    """After a `build`, every frozen command takes the lock of a chain with a marker that never holds
    and a stage that adds no package."""
    folder = write(
        _base=f"{BASE}[python]\npackages = ['requests']\n",
        light="schema = 1\nname = 'light'\nextends = '_base'\n[python]\n"
        "packages = ['idna', \"tomli; python_version < '3.11'\"]\n",
    ).parent
    for line in (
        "build --target local",
        "render --check",
        "plan --frozen --target local",
        "build --frozen --target local",
        "verify light --target local",
        "diff light spec",
    ):
        done = command(*line.split(), cwd=folder)
        assert (done.returncode, "error" in done.stderr) == (0, False), f"{line}: {done.stderr}"
