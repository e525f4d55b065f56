from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from builder.errors import LockConflictError, NetworkError, TemplateError
from builder.lock import Lock
from builder.lock.resolve import lock_latest
from builder.system.events import discard
from tests.support.index_server import Failure, IndexServer, served, wheel
from tests.support.samples import load

INDEXES = {
    "/simple": [
        wheel("idna", "3.20"),
        wheel("pandas", "3.0"),
        wheel("needy", "1", requires=["ghost"]),
    ]
}
BASE = f"""
    schema = 1
    [base]
    image = "localhost:1/python@sha256:{"a" * 64}"
    python = ">=3.11"
"""
LEAF = "schema = 1\nname = 'leaf'\nextends = '_base'\n[python]\npackages = [\n"
SECRET = "opensesame"  # noqa: S105 - what must not be shown


@pytest.fixture
def index(tmp_path: Path) -> Iterator[IndexServer]:
    with served(tmp_path, INDEXES) as server:
        yield server


def results(tmp_path: Path, **files: str) -> dict[str, Lock | TemplateError]:
    variants = load(tmp_path, **{"_base": BASE, **files})
    return lock_latest(list(variants.values()), folder=tmp_path / "variants", report=discard)


def failed(tmp_path: Path, **files: str) -> TemplateError:
    error = results(tmp_path, **files)["leaf"]
    assert isinstance(error, TemplateError)
    return error


def head(error: TemplateError) -> str:
    return error.message.partition("\nuv's reasoning:\n")[0]


def test_all_unknown_packages_are_named_at_once(tmp_path: Path, index: IndexServer) -> None:
    """Every package of a spec that the index lacks is named with its line and near matches, in one
    error, whatever their order and number."""
    error = failed(
        tmp_path,
        leaf=LEAF
        + "'idnaa',\n'idna',\n'pandsa>=1',\n'quux',\n'quux[x]; python_version > \"3\"',\n]",
    )
    assert isinstance(error, LockConflictError)
    lines = head(error).splitlines()
    assert lines[0] == "3 packages do not exist in the package index:"
    assert sorted(lines[1:]) == [
        "  `idnaa` (variants/leaf.toml:6); did you mean `idna`?",
        "  `pandsa` (variants/leaf.toml:8)",
        "  `quux` (variants/leaf.toml:10)",
    ]
    assert error.hint == "check the spelling of the packages' names"


def test_unknown_packages_of_a_whole_chain(tmp_path: Path, index: IndexServer) -> None:
    """What a parent's spec misspells is named together with what the child's does, by the child;
    the parent's other children name the parent's alone."""
    locks = results(
        tmp_path,
        _parent="schema = 1\nextends = '_base'\n[python]\npackages = ['pandsa']\n",
        leaf=LEAF.replace("_base", "_parent") + "'idnaa',\n'idna']",
        other="schema = 1\nname = 'other'\nextends = '_parent'\n[python]\npackages = ['pandas']\n",
    )
    leaf, other = locks["leaf"], locks["other"]
    assert isinstance(leaf, LockConflictError)
    assert isinstance(other, LockConflictError)
    assert head(leaf) == (
        "2 packages do not exist in the package index:\n"
        "  `pandsa` (variants/_parent.toml:4)\n"
        "  `idnaa` (variants/leaf.toml:6); did you mean `idna`?"
    )
    assert head(other) == (
        "stage `_parent`: package `pandsa` (variants/_parent.toml:4) does not exist in the package"
        " index"
    )


def test_unknown_package_that_another_one_needs(tmp_path: Path, index: IndexServer) -> None:
    """A package that is missing from the index and that no spec asks for is named as such."""
    assert head(failed(tmp_path, leaf=LEAF + "'needy']")) == (
        "stage `leaf`: package `ghost` (needed by another package) does not exist in the package"
        " index"
    )


@pytest.mark.parametrize("code", ["401", "403"])
def test_index_that_refuses_access(
    tmp_path: Path, index: IndexServer, monkeypatch: pytest.MonkeyPatch, code: Failure
) -> None:
    """An index that wants credentials is a network error that names it and says what to do, not a
    package that is misspelt; no credentials are shown."""
    index.all_down = code
    url = f"https://user:{SECRET}@index.test/simple"
    monkeypatch.setenv("UV_DEFAULT_INDEX", url)
    error = failed(tmp_path, leaf=LEAF + "'idna']")
    assert isinstance(error, NetworkError)
    assert error.message.startswith(
        f"the package index https://index.test/simple refused access (HTTP {code}): resolving stage"
        " `leaf` failed\n"
    )
    assert error.hint == (
        "give uv the credentials of that index (~/.netrc, `uv auth login`, or"
        " UV_INDEX_<NAME>_USERNAME and UV_INDEX_<NAME>_PASSWORD), and check that they have read access"
    )
    assert SECRET not in str(error)


@pytest.mark.parametrize("failure", ["no type", "text"])
def test_answer_that_is_no_page_of_an_index(
    tmp_path: Path, index: IndexServer, monkeypatch: pytest.MonkeyPatch, failure: Failure
) -> None:
    """An answer without a content type, or of another one, is a network error with the page's
    URL."""
    index.all_down = failure
    monkeypatch.setenv("UV_DEFAULT_INDEX", f"https://user:{SECRET}@index.test/simple")
    error = failed(tmp_path, leaf=LEAF + "'idna']")
    assert isinstance(error, NetworkError)
    assert error.message.startswith(
        "https://index.test/simple/idna/ is not a page of a package index: resolving stage `leaf`"
        " failed\n"
    )
    assert error.hint == (
        "check the URL of the index that uv is configured for; a login page or a filter may have"
        " answered instead"
    )
    assert SECRET not in str(error)


def test_login_page_in_place_of_an_index(tmp_path: Path, index: IndexServer) -> None:
    """A page without any file is told as that, with the login page that it may be."""
    index.all_down = "login"
    error = failed(tmp_path, leaf=LEAF + "'idna']")
    assert head(error) == "stage `leaf`: the package index has no files of `idna`"
    assert error.hint == (
        "check the package's name and the URL of uv's index: a login page or a filter may have"
        " answered instead"
    )
