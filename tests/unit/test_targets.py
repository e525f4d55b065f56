"""Files, folders, downloads, models and the working folder that take each other's place."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.samples import load, problems

LEAF = "schema = 1\nname = 'leaf'\n"
BASE = "schema = 1\n[base]\nimage = 'python:3.13'\n"
CHILD = f"{LEAF}extends = '_base'\n"
APP = "[[files]]\nsource = 'app/'\ntarget = '/opt/app'\n"
SLASH = "[[files]]\nsource = 'app/'\ntarget = '/opt/app/'\n"
A = "variants/leaf.toml:8:1: `files[1].target`: "


def single(target: str, source: str = "a.txt") -> str:
    return f"[[files]]\nsource = '{source}'\ntarget = '{target}'\n"


def download(target: str, more: str = "") -> str:
    return f"[[download]]\nurl = 'https://host.example/a.zip'\ntarget = '{target}'\n{more}"


def model(target: str, url: str = "https://host.example/a.bin") -> str:
    return f"[[model]]\nurl = '{url}'\ntarget = '{target}'\n"


def workdir(path: str) -> str:
    return f"[workdir]\npath = '{path}'\n"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder of specs with a file, and a folder `app` of the file x and the folder sub."""
    for path in ("app/x", "app/sub/b", "a.txt"):
        (tmp_path / "variants" / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "variants" / path).write_text(path)
    return tmp_path / "variants"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            APP + single("/opt/app/sub"),
            f"{A}'/opt/app/sub' is a folder of variants/leaf.toml (write another path for the file)",
        ),
        (
            single("/opt/app/sub") + APP,
            f"{A}'/opt/app/sub' is a file of variants/leaf.toml (write another path for the folder)",
        ),
        (APP + single("/opt/app/x"), f"{A}'/opt/app/x' is written twice"),
        (SLASH + single("/opt/app/x"), f"{A}'/opt/app/x' is written twice"),
        (single("/opt/app/x") + APP, f"{A}'/opt/app/x' is written twice"),
        (
            APP + single("/opt/app/x/y"),
            f"{A}'/opt/app/x/y' is below '/opt/app/x', a file of variants/leaf.toml",
        ),
        (
            single("/etc"),
            "variants/leaf.toml:5:1: `files[0].target`: '/etc' is a folder (add the name of the"
            " file)",
        ),
        (
            single("/home/user"),
            "variants/leaf.toml:5:1: `files[0].target`: '/home/user' is a folder (add the name of"
            " the file)",
        ),
        (
            single("/opt/dir/"),
            "variants/leaf.toml:5:1: `files[0].target`: 'a.txt' is a single file, but '/opt/dir/'"
            " is a folder (write '/opt/dir/a.txt')",
        ),
    ],
)
def test_file_in_the_place_of_another(folder: Path, text: str, expected: str) -> None:
    """A file where the same spec has a folder or another file is one mistake, in either order."""
    (folder / "leaf.toml").write_text(LEAF + text)
    assert problems(folder) == [expected]


@pytest.mark.parametrize("app", [APP, SLASH])
@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (download("/opt/app/x"), "download[0].target`: '/opt/app/x' is written twice"),
        (
            download("/opt/app"),
            "download[0].target`: '/opt/app' is a folder of variants/leaf.toml (write another path"
            " for the file)",
        ),
        (
            download("/opt/app", "extract = true\n"),
            "download[0].target`: '/opt/app' is written twice",
        ),
        (
            download("/opt/app/x/y"),
            "download[0].target`: '/opt/app/x/y' is below '/opt/app/x', a file of"
            " variants/leaf.toml",
        ),
        (
            model("/opt/app/x"),
            "model[0]`: '/opt/app/x' is already the target of a key in variants/leaf.toml",
        ),
        (model("/opt/app"), "model[0]`: '/opt/app' is already a folder of variants/leaf.toml"),
    ],
)
def test_fetched_content_in_the_place_of_a_copy(
    folder: Path, app: str, text: str, expected: str
) -> None:
    """A download or model at a file or folder of `[[files]]` is one mistake, with or without a
    slash at the end of the folder's target."""
    (folder / "leaf.toml").write_text(LEAF + app + text)
    assert [problem.partition(": `")[2] for problem in problems(folder)] == [expected]


@pytest.mark.parametrize(
    "text",
    [
        APP + download("/opt/app/new"),
        SLASH + download("/opt/app/sub/new"),
        APP + download("/opt/app/unpacked", "extract = true\n"),
        APP + model("/opt/app/sub/new"),
        APP + single("/opt/app/x", "app/x") + "mode = '0755'\n",
        APP + workdir("/opt/app/sub"),
        model("/opt/models", "s3://bucket/models/") + workdir("/opt/models/a"),
    ],
)
def test_places_that_are_free(folder: Path, text: str) -> None:
    """What is below a folder of `[[files]]` at another path is no mistake, nor is a file of it
    that is named again for its mode."""
    assert load(folder.parent, leaf=LEAF + text)


@pytest.mark.parametrize(
    ("base", "leaf", "expected"),
    [
        (
            single("/opt/app"),
            APP,
            "'/opt/app' is a file of variants/_base.toml (write another path for the folder)",
        ),
        (
            APP,
            single("/opt/app"),
            "'/opt/app' is a folder of variants/_base.toml (write another path for the file)",
        ),
    ],
)
def test_places_of_a_parent(folder: Path, base: str, leaf: str, expected: str) -> None:
    """A child cannot replace a file of its parent by a folder, nor a folder by a file."""
    (folder / "_base.toml").write_text(BASE + base)
    (folder / "leaf.toml").write_text(CHILD + leaf)
    assert problems(folder) == [f"variants/leaf.toml:6:1: `files[0].target`: {expected}"]


@pytest.mark.parametrize(
    ("base", "leaf"),
    [
        (single("/opt/app/x"), APP),
        (APP, single("/opt/app/x")),
        (single("/opt/a"), single("/opt/a", "app/x")),
    ],
)
def test_child_replaces_a_file(folder: Path, base: str, leaf: str) -> None:
    """A child may replace a file of its parent by another file."""
    assert load(folder.parent, _base=BASE + base, leaf=CHILD + leaf)


@pytest.mark.parametrize(
    "text", [single("/opt/a"), download("/opt/a"), model("/opt/a"), APP.replace("app'", "a'")]
)
@pytest.mark.parametrize("below", ["", "/b"])
def test_working_folder_at_or_below_a_file(folder: Path, text: str, below: str) -> None:
    """A working folder at a copied or fetched file, or below it, is a mistake at its key."""
    file = "/opt/a/x" if "app/" in text else "/opt/a"
    (folder / "leaf.toml").write_text(LEAF + text + workdir(file + below))
    relation = f"below {file!r}, a file" if below else "a file"
    assert problems(folder) == [
        f"variants/leaf.toml:7:1: `workdir.path`: '{file}{below}' is {relation} of"
        " variants/leaf.toml (write the path of a folder)"
    ]


def test_file_below_a_fetched_file(folder: Path) -> None:
    """A file below a model that is a single file is a mistake."""
    (folder / "leaf.toml").write_text(LEAF + single("/opt/m/a") + model("/opt/m"))
    assert problems(folder) == [
        "variants/leaf.toml:5:1: `files[0].target`: '/opt/m/a' is below '/opt/m', a file of"
        " variants/leaf.toml"
    ]
