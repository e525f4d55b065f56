from __future__ import annotations

import contextlib
import io
import stat
import tarfile
import zipfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from builder.system.fetch import UnsafeArchiveError, unpack, unpacked_size
from tests.support.content_server import tar_of, zip_of

FILES = {"a.txt": "text\n", "bin/run.sh": "#!/bin/sh\n"}


def tree(folder: Path) -> dict[str, tuple[str, str]]:
    """Return path → (mode, text or target of a link)."""
    return {
        str(path.relative_to(folder)): (
            f"{stat.S_IMODE(path.lstat().st_mode):o}",
            str(path.readlink()) if path.is_symlink() else path.read_text(),
        )
        for path in folder.rglob("*")
        if path.is_symlink() or path.is_file()
    }


def stored(folder: Path, content: bytes) -> str:
    (folder / "archive").write_bytes(content)
    return str(folder / "archive")


@pytest.mark.parametrize(
    "content",
    [tar_of(FILES), tar_of(FILES, mode="w:xz"), zip_of(FILES)],
    ids=["tar.gz", "tar.xz", "zip"],
)
def test_archives_are_unpacked(tmp_path: Path, content: bytes) -> None:
    """Tar and zip archives of every compression become the same files, which only their owner can
    write."""
    archive = stored(tmp_path, content)
    unpack(archive, str(tmp_path / "to"))
    assert tree(tmp_path / "to") == {
        "a.txt": ("644", "text\n"),
        "bin/run.sh": ("755", "#!/bin/sh\n"),
    }
    assert unpacked_size(archive) == 15


def test_mode_of_a_spec_goes_before_the_archive(tmp_path: Path) -> None:
    """A mode of the spec is that of every file, and folders can be entered."""
    archive = stored(tmp_path, tar_of(FILES))
    unpack(archive, str(tmp_path / "to"), 0o640)
    assert {mode for mode, _ in tree(tmp_path / "to").values()} == {"640"}
    assert stat.S_IMODE((tmp_path / "to" / "bin").stat().st_mode) == 0o755


def test_links_inside_are_kept(tmp_path: Path) -> None:
    """A link that leads to a file of the archive stays a link."""
    archive = stored(tmp_path, tar_of(FILES, links={"bin/text": "../a.txt", "tool": "bin/run.sh"}))
    unpack(archive, str(tmp_path / "to"))
    assert (tmp_path / "to" / "bin" / "text").read_text() == "text\n"
    assert (tmp_path / "to" / "tool").readlink() == Path("bin/run.sh")


def entry(name: str, kind: bytes = tarfile.REGTYPE, link: str = "") -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, link
    return info


UNSAFE = {
    "absolute": ([entry("/etc/x")], "contains '/etc/x', which is outside of its folder"),
    "above": ([entry("a/../../x")], "contains 'a/../../x', which is outside of its folder"),
    "device": ([entry("x", tarfile.CHRTYPE)], "contains 'x', which is a device or a pipe"),
    "pipe": ([entry("x", tarfile.FIFOTYPE)], "contains 'x', which is a device or a pipe"),
    "link out": (
        [entry("a/x", tarfile.SYMTYPE, "../../y")],
        "contains the link 'a/x', which leads out to '../../y'",
    ),
    "absolute link": (
        [entry("x", tarfile.SYMTYPE, "/etc")],
        "contains the link 'x', which leads out to '/etc'",
    ),
    "link out by way of another": (
        [entry("p/q/y", tarfile.SYMTYPE, "../.."), entry("p/q/z", tarfile.SYMTYPE, "y/../..")],
        "contains the link 'p/q/z', which leads out to 'y/../..'",
    ),
    "through a link": (
        [entry("x", tarfile.SYMTYPE, "."), entry("x/y")],
        "contains 'x/y', which is below a file",
    ),
    "foreign hard link": (
        [entry("x", tarfile.LNKTYPE, "y")],
        "contains 'x', a link to what is no earlier file of it",
    ),
    "file and folder": (
        [entry("x"), entry("x", tarfile.DIRTYPE)],
        "contains 'x' as a file and as a folder",
    ),
}


@pytest.mark.parametrize("case", UNSAFE)
def test_unsafe_archives_are_refused(tmp_path: Path, case: str) -> None:
    """An archive with anything that is or leads outside of its folder is refused, with the entry."""
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w") as tar:
        for each in UNSAFE[case][0]:
            tar.addfile(each)
    with pytest.raises(UnsafeArchiveError) as refused:
        unpack(stored(tmp_path, archive.getvalue()), str(tmp_path / "to"))
    assert str(refused.value) == UNSAFE[case][1]


def test_zip_links_are_checked(tmp_path: Path) -> None:
    """A zip archive whose link leads out is refused."""
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as bundle:
        info = zipfile.ZipInfo("x")
        info.external_attr = (stat.S_IFLNK | 0o777) << 16
        bundle.writestr(info, "../y")
    with pytest.raises(UnsafeArchiveError) as refused:
        unpacked_size(stored(tmp_path, archive.getvalue()))
    assert str(refused.value) == "contains the link 'x', which leads out to '../y'"


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (
            b"no archive",
            "is neither a tar nor a zip archive: file could not be opened successfully",
        ),
        (tar_of(FILES)[:60], "is neither a tar nor a zip archive: "),
    ],
    ids=["text", "beginning"],
)
def test_other_files_are_refused(tmp_path: Path, content: bytes, reason: str) -> None:
    """What is no archive, or only the beginning of one, is refused as such."""
    with pytest.raises(UnsafeArchiveError) as refused:
        unpacked_size(stored(tmp_path, content))
    assert str(refused.value).startswith(reason)


names = st.lists(st.sampled_from(["a", "b", "..", "c", "."]), min_size=1, max_size=4).map("/".join)
kinds = st.sampled_from(
    [tarfile.REGTYPE, tarfile.DIRTYPE, tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.REGTYPE]
)


@given(members=st.lists(st.tuples(names, kinds, names), max_size=8))
def test_no_archive_writes_or_leads_outside(
    tmp_path_factory: pytest.TempPathFactory, members: list[Any]
) -> None:
    """Whatever an archive contains, what is unpacked is below its folder, and so is what its links
    lead to."""
    folder = tmp_path_factory.mktemp("unpacked")
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w") as tar:
        for member in members:
            tar.addfile(entry(*member))
    place = folder / "outer" / "to"
    with contextlib.suppress(UnsafeArchiveError):
        unpack(stored(folder, archive.getvalue()), str(place))
    assert [path.name for path in folder.iterdir() if path.name not in ("archive", "outer")] == []
    for path in place.rglob("*"):
        try:
            assert path.resolve().is_relative_to(place)
        except (OSError, RuntimeError):  # a link that leads to itself
            assert path.is_symlink()
