from __future__ import annotations

from pathlib import Path

import pytest

from builder import errors
from builder.errors import BlockedError, ProjectError
from builder.lock.download_size import download_size
from builder.project import Project
from tests.conftest import Command
from tests.support.clouds import Place
from tests.support.e2b_server import Server

WHY = (
    '`torch-backend = "cpu"`: that index could not be reached; PyTorch is taken from the default'
    " index: on Linux on x86-64 the CUDA build, a download of 3.00 GB; run `template-builder lock`"
    " where that index can be reached, or accept it with `build --accept-fallback` or"
    " `accept-fallback = true` in [tool.template-builder]"
)


@pytest.fixture
def fallen(place: Place) -> Place:
    """The project, in which the lock of `three` fell back to the default index."""
    spec = place.folder / "variants" / "three.toml"
    spec.write_text(spec.read_text() + 'torch-backend = "cpu"\n')
    file = place.folder / "generated" / "three" / "template.toml"
    text = file.read_text()
    line = 'requirements = [\n    "pluggy",\n]\n'
    assert text.count(line) == 1
    added = 'torch-backend-wanted = "cpu"\nfallback-bytes = 3000000000\n'
    file.write_text(text.replace(line, line + added))
    return place


def test_fallback_is_not_built_in_the_cloud(fallen: Place, cloud: Server) -> None:
    """A lock that fell back to another index is blocked on E2B, with what it would cost and what to
    do; nothing is sent. Other variants are built."""
    planned = {one.name: one for one in fallen.planned().variants}
    assert planned["three"].action == "blocked"
    assert [str(reason) for reason in planned["three"].reasons] == [WHY, "never built on e2b"]
    outcomes = fallen.build("three", "four")
    error = outcomes["three"].error
    assert isinstance(error, BlockedError)
    assert error.message == f"`three`: {WHY}"
    assert outcomes["four"].action == "built"
    assert cloud.builds("three") == []


@pytest.mark.slow
def test_fallback_that_is_accepted_is_built(fallen: Place, cloud: Server, command: Command) -> None:
    """With --accept-fallback it is built, and what is built is nothing to accept again."""
    arguments = ("build", "three", "--frozen", "--target", "e2b", "--precheck", "never")
    refused = command(*arguments, cwd=fallen.folder)
    assert (refused.returncode, WHY in refused.stderr) == (errors.BlockedError.exit_code, True)
    done = command(*arguments, "--accept-fallback", cwd=fallen.folder)
    assert done.returncode == 0, done.stderr
    assert len(cloud.builds("three")) == 1
    assert [one.action for one in fallen.planned("three").variants] == ["skip"]


def test_fallback_that_the_project_accepts_is_built(fallen: Place, cloud: Server) -> None:
    """The same by the project's setting."""
    settings = fallen.folder / "pyproject.toml"
    settings.write_text("[tool.template-builder]\naccept-fallback = true\n")
    assert fallen.build("three")["three"].action == "built"
    settings.write_text("[tool.template-builder]\naccept-fallback = 1\n")
    with pytest.raises(ProjectError) as caught:
        Project.find(fallen.folder)
    assert caught.value.message == (
        f"{settings}:2: [tool.template-builder]: `accept-fallback` is 1, expected true or false"
    )


@pytest.mark.slow
def test_fallback_is_built_on_this_machine(fallen: Place, local_cache: Path) -> None:
    """On this machine nothing is blocked: what uv has in its cache is not downloaded again."""
    assert fallen.build("three", target="local")["three"].action == "built"
    notes = fallen.recorded("three", target="local")["warnings"]
    cost = "(on Linux on x86-64 the CUDA build, a download of 3.00 GB)"
    assert [note.endswith(cost) for note in notes].count(True) == 1


PYLOCK = """
lock-version = "1.0"
created-by = "uv"
[[packages]]
name = "torch"
version = "1"
wheels = [
    { url = "https://a.test/torch-1-cp311-cp311-manylinux_2_28_x86_64.whl", size = 500, hashes = { sha256 = "00" } },
    { url = "https://a.test/torch-1-cp312-cp312-manylinux_2_28_x86_64.whl", size = 700, hashes = { sha256 = "00" } },
    { url = "https://a.test/torch-1-cp311-cp311-win_amd64.whl", size = 9000, hashes = { sha256 = "00" } },
]
[[packages]]
name = "abi"
version = "1"
wheels = [
    { url = "https://a.test/abi-1-cp310-abi3-manylinux2014_x86_64.whl", size = 20, hashes = { sha256 = "00" } },
    { url = "https://a.test/abi-1-py3-none-any.whl", size = 1, hashes = { sha256 = "00" } },
]
[[packages]]
name = "colorama"
version = "1"
marker = "sys_platform == 'win32'"
wheels = [{ url = "https://a.test/colorama-1-py3-none-any.whl", size = 9000, hashes = { sha256 = "00" } }]
[[packages]]
name = "source"
version = "1"
sdist = { url = "https://a.test/source-1.tar.gz", size = 3, hashes = { sha256 = "00" } }
"""


def test_size_is_that_of_the_files_that_are_installed() -> None:
    """Of each package for Linux on x86-64, the wheel that fits best counts, or its source."""
    assert download_size(PYLOCK, "3.11") == 500 + 20 + 3
    assert download_size(PYLOCK, "3.12") == 700 + 20 + 3


def test_size_that_an_index_does_not_say() -> None:
    """A file without a size, or none at all, makes the sum unknown."""
    assert download_size(PYLOCK.replace(", size = 700", ""), "3.12") is None
    assert download_size(PYLOCK, "3.13") is None
