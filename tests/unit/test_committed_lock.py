from __future__ import annotations

import socket
from collections.abc import Callable
from pathlib import Path

import pytest

from builder.errors import StaleLockError
from builder.lock import Lock, StageLock
from builder.lock.base_image import BaseImage
from builder.lock.committed import read_committed
from builder.render import render
from builder.render import write as write_files
from builder.spec import load_variants
from builder.system import uv
from tests.conftest import BASE

Write = Callable[..., Path]
LEAF = "schema = 1\nname = 'leaf'\nextends = '_base'\n[python]\n"


def committed(write: Write, **files: str) -> Path:
    folder = write(**files)
    variants = load_variants(folder)
    stages = tuple(
        StageLock(
            stem=stage.stem,
            requirements=stage.requirements,
            text=f"idna==3.0 \\\n    --hash=sha256:{'0' * 64}\n" if stage.requirements else "",
            torch_wanted=stage.torch_backend,
            torch_backend=None,
        )
        for stage in variants[0].stages
    )
    image = BaseImage(reference=variants[0].image, digest=None, note="kept")
    lock = Lock(image=image, python=variants[0].python, stages=stages)
    write_to = folder.parent / "generated"
    write_files([render(variants[0], lock)], write_to, all_variants=True)
    return folder


def test_committed_lock_reads_back(write: Write) -> None:
    """What was rendered from a lock reads back as that lock, to the byte."""
    folder = committed(write, _base=BASE, leaf=LEAF + "packages = ['idna']")
    (variant,) = load_variants(folder)
    lock = read_committed([variant], folder.parent / "generated")["leaf"]
    assert isinstance(lock, Lock)
    again = render(variant, lock)
    path = folder.parent / "generated" / "leaf" / "Dockerfile"
    assert again.content("Dockerfile") == path.read_bytes()
    assert lock.notes == ("kept",)


def test_stale_lock_says_what_changed(write: Write) -> None:
    """A committed lock that is not that of the spec is refused, difference by difference."""
    committed(write, _base=BASE, leaf=LEAF + "packages = ['idna']")
    folder = write(
        _base=BASE.replace("3.13", "3.14").replace(">=3.11", ">=3.12"),
        leaf=LEAF + "packages = ['six']\ntorch-backend = 'cpu'",
    )
    error = read_committed(load_variants(folder), folder.parent / "generated")["leaf"]
    assert isinstance(error, StaleLockError)
    assert str(error) == (
        "the committed lock of `leaf` does not match its spec:\n"
        "  `base.image`: localhost:1/python:3.13 → localhost:1/python:3.14\n"
        "  `base.python`: >=3.11 → >=3.12\n"
        "  variants/leaf.toml: `idna` was removed from `python.packages`\n"
        "  variants/leaf.toml: `six` was added to `python.packages`\n"
        "  variants/leaf.toml: `python.torch-backend`: none → cpu\n\n"
        "hint: run `template-builder lock`"
    )


def test_missing_and_broken_committed_locks(write: Write) -> None:
    """A lock that is not there, or not of this program, is stale, not a crash."""
    folder = write(_base=BASE, leaf=LEAF + "packages = ['idna']")
    generated = folder.parent / "generated"
    variants = load_variants(folder)
    absent = read_committed(variants, generated)["leaf"]
    assert isinstance(absent, StaleLockError)
    assert absent.message == (
        "`leaf` has no committed lock: generated/leaf/template.toml does not exist"
    )
    (generated / "leaf").mkdir(parents=True)
    for text in ("", "lock = 3", "[lock]\nimage = 'x'\npython = 'x'\nstages = [1]", "\x00"):
        (generated / "leaf" / "template.toml").write_text(text)
        broken = read_committed(variants, generated)["leaf"]
        assert isinstance(broken, StaleLockError), text
        assert broken.message.startswith("generated/leaf/template.toml is not valid: ")


def test_frozen_never_touches_the_network(write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    """Reading committed locks starts no uv and opens no connection."""

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("the network was used")

    folder = committed(write, _base=BASE, leaf=LEAF + "packages = ['idna']")
    monkeypatch.setattr(socket, "socket", refuse)
    monkeypatch.setattr(uv, "run", refuse)
    assert isinstance(
        read_committed(load_variants(folder), folder.parent / "generated")["leaf"], Lock
    )


@pytest.mark.parametrize(
    ("path", "old", "new", "said"),
    [
        (
            "template.toml",
            "[lock]\n",
            '[lock]\ndigest = "sha256:x\\nRUN evil"\n',
            "`lock.digest` is 'sha256:x\\nRUN evil'",
        ),
        (
            "template.toml",
            'name = "leaf"\nrequirements',
            'name = "leaf"\ntorch-backend = "cpu; evil"\nrequirements',
            "`torch-backend` of stage 'leaf' is 'cpu; evil'",
        ),
        (
            "requirements/leaf.txt",
            "idna==3.0",
            "-r /etc/passwd\nidna==3.0",
            "requirements/leaf.txt contains more than pins and hashes",
        ),
        (
            "requirements/leaf.txt",
            f" \\\n    --hash=sha256:{'0' * 64}",
            "",
            "requirements/leaf.txt contains more than pins and hashes",
        ),
    ],
)
def test_committed_lock_that_was_tampered_with(
    write: Write, path: str, old: str, new: str, said: str
) -> None:
    """A committed lock that says what no lock says is refused before it reaches a Dockerfile."""
    folder = committed(write, _base=BASE, leaf=LEAF + "packages = ['idna']")
    file = folder.parent / "generated" / "leaf" / path
    text = file.read_text()
    assert old in text
    file.write_text(text.replace(old, new, 1))
    error = read_committed(load_variants(folder), folder.parent / "generated")["leaf"]
    assert isinstance(error, StaleLockError)
    assert error.message == f"generated/leaf/template.toml is not valid: {said}"


def damage(folder: Path) -> str:
    """What is said of the committed lock of `leaf`, below the first line."""
    error = read_committed(load_variants(folder), folder.parent / "generated")["leaf"]
    assert isinstance(error, StaleLockError)
    first, _, rest = error.message.partition("\n")
    assert first == "the committed lock of `leaf` is damaged:"
    assert error.hint == (
        "restore generated/leaf from version control, or run `template-builder lock`"
    )
    return rest


def test_file_of_a_stage_that_is_gone(write: Write) -> None:
    """A file of requirements/ that was deleted is a damaged lock: its packages are missing."""
    folder = committed(write, _base=BASE, leaf=LEAF + "packages = ['idna']")
    (folder.parent / "generated" / "leaf" / "requirements" / "leaf.txt").unlink()
    assert damage(folder) == (
        "  generated/leaf/requirements/leaf.txt lacks `idna`\n"
        "  generated/leaf/template.toml lists 3.0 of `idna`, requirements/ has no version"
    )


def test_version_that_was_edited(write: Write) -> None:
    """A version in requirements/ that template.toml does not list is a damaged lock."""
    folder = committed(write, _base=BASE, leaf=LEAF + "packages = ['idna']")
    file = folder.parent / "generated" / "leaf" / "requirements" / "leaf.txt"
    file.write_text(file.read_text().replace("idna==3.0", "idna==2.0"))
    assert damage(folder) == (
        "  generated/leaf/template.toml lists 3.0 of `idna`, requirements/ has 2.0"
    )
