"""Downloads of specs, from a server on loopback to the lock, the store and a build on E2B."""

from __future__ import annotations

import io
import tarfile
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from builder.system import store
from tests.conftest import BASE, Command
from tests.support.clouds import Place
from tests.support.content_server import ContentServer, sha256, tar_of
from tests.support.e2b_server import Server

TABLE = b"a,b\n1,2\n"
LEAF = 'schema = 1\nname = "leaf"\nextends = "_base"\n'
DOWNLOAD = '[[download]]\nurl = "{url}/table.csv"\ntarget = "/home/user/table.csv"\n'
OTHER = b"a,b\n3,4\n"


class Locking:
    """A project with one download, and a cache of its own."""

    def __init__(self, folder: Path, server: ContentServer, command: Command, cache: Path) -> None:
        self.folder, self.server, self._command, self.cache = folder, server, command, cache

    def spec(self, text: str = DOWNLOAD) -> None:
        text = text.format(url=self.server.url)
        (self.folder / "variants" / "leaf.toml").write_text(LEAF + text)

    def run(self, *arguments: str) -> Any:
        return self._command(
            *arguments, cwd=self.folder, TEMPLATE_BUILDER_CACHE_DIR=str(self.cache)
        )

    def locked(self) -> list[dict[str, Any]]:
        path = self.folder / "generated" / "leaf" / "template.toml"
        locked = tomllib.loads(path.read_text())["lock"]["stages"][-1]["downloads"]
        assert isinstance(locked, list)
        return locked


@pytest.fixture
def locking(
    write: Callable[..., Path], content_server: ContentServer, command: Command, tmp_path: Path
) -> Locking:
    content_server.files["table.csv"] = TABLE
    return Locking(write(_base=BASE).parent, content_server, command, tmp_path / "own cache")


def test_first_use_is_locked_and_a_newer_file_is_taken(locking: Locking) -> None:
    """Without a hash in the spec, the lock has that of the first use; a file that has not changed is
    not sent again, and `lock` takes a changed one."""
    locking.spec()
    assert locking.run("lock").returncode == 0
    locked = {"url": f"{locking.server.url}/table.csv", "sha256": sha256(TABLE), "bytes": 8}
    assert locking.locked() == [locked]
    assert (locking.cache / "content" / sha256(TABLE)).read_bytes() == TABLE
    assert locking.run("lock").returncode == 0
    assert locking.server.sent == ["table.csv"]
    locking.server.files["table.csv"] = OTHER
    assert locking.run("lock").returncode == 0
    assert locking.locked() == [locked | {"sha256": sha256(OTHER)}]


def test_known_file_is_not_asked_for(locking: Locking) -> None:
    """A file whose hash is in the spec is fetched once: afterwards the store has it, and its server
    may be gone."""
    locking.spec(f'{DOWNLOAD}sha256 = "{sha256(TABLE)}"\n')
    assert locking.run("lock").returncode == 0
    locking.server.files.clear()
    finished = locking.run("lock")
    assert finished.returncode == 0, finished.stderr
    assert locking.server.sent == ["table.csv"]


def test_other_file_than_the_spec_names_is_refused(locking: Locking) -> None:
    """A file with another hash than that in the spec is an error with both hashes and the place."""
    locking.spec(f'{DOWNLOAD}sha256 = "{sha256(OTHER)}"\n')
    finished = locking.run("lock")
    assert finished.returncode == 17
    assert (
        f"error: variants/leaf.toml:5: {locking.server.url}/table.csv is not the file that"
        " the spec names:\n"
        f"  SHA-256 in the spec: {sha256(OTHER)}\n"
        f"  SHA-256 of the file: {sha256(TABLE)}\n\n"
        "hint: if you trust the new file, write its hash into the spec; otherwise find the right one"
    ) in finished.stderr


def test_file_that_changed_since_the_lock_is_refused(locking: Locking) -> None:
    """With --frozen, a file that the store has lost and that has changed is an error with both
    hashes, and says how to take the new one."""
    locking.spec()
    assert locking.run("lock").returncode == 0
    locking.server.files["table.csv"] = OTHER
    (locking.cache / "content" / sha256(TABLE)).unlink()
    finished = locking.run("build", "--frozen", "--target", "local")
    assert finished.returncode == 17
    assert (
        f"{locking.server.url}/table.csv has changed since it was locked:\n"
        f"  SHA-256 in the lock: {sha256(TABLE)}\n"
        f"  SHA-256 of the file: {sha256(OTHER)}"
    ) in finished.stderr
    assert "hint: `template-builder lock` takes the new file, if you trust it" in finished.stderr


def test_planning_from_a_committed_lock_fetches_nothing(locking: Locking) -> None:
    """A plan with --frozen needs neither the server nor the store."""
    locking.spec()
    assert locking.run("lock").returncode == 0
    locking.server.files.clear()
    (locking.cache / "content" / sha256(TABLE)).unlink()
    finished = locking.run("plan", "--frozen", "--target", "local")
    assert finished.returncode == 0, finished.stderr
    line = f"fetched: {locking.server.url}/table.csv → /home/user/table.csv: 8 bytes\n"
    assert line in finished.stdout


@pytest.mark.slow
def test_faults_of_a_server_are_worded(locking: Locking) -> None:
    """A file that is not there is a mistake at its line; a server that fails is tried again, and
    then an error of the network."""
    locking.spec()
    locking.server.statuses["table.csv"] = 404
    finished = locking.run("lock")
    assert finished.returncode == 17
    assert (
        f"variants/leaf.toml:5: {locking.server.url}/table.csv cannot be fetched: the server answers"
        " 404 Not Found\n\nhint: correct the URL in the spec"
    ) in finished.stderr
    locking.server.statuses["table.csv"] = 403
    hint = "hint: fetch a file that needs a password yourself, and copy it with `[[files]]`"
    assert hint in locking.run("lock").stderr
    locking.server.statuses["table.csv"] = 503
    finished = locking.run("lock")
    assert finished.returncode == 12
    assert "cannot be fetched: the server answers 503 Service Unavailable" in finished.stderr


def test_transfer_that_breaks_off_is_repeated(locking: Locking) -> None:
    """Half a file is never taken for the file."""
    locking.spec()
    locking.server.cut.add("table.csv")
    assert locking.run("lock").returncode == 0
    assert locking.locked()[0]["sha256"] == sha256(TABLE)
    assert locking.server.sent == ["table.csv", "table.csv"]


def test_damaged_file_in_the_store_is_fetched_again(
    content_server: ContentServer, own_cache: Path
) -> None:
    """A file of the store is checked when it is used; a damaged one is removed."""
    with store.incoming() as incoming:
        incoming.write(TABLE)
        path = incoming.keep()
    assert store.find(sha256(TABLE)) == path
    path.chmod(0o644)
    path.write_bytes(OTHER)
    assert store.find(sha256(TABLE)) is None
    assert list(store.folder().iterdir()) == []


def test_unsafe_archive_is_refused_before_a_build(locking: Locking) -> None:
    """An archive that would write outside of its folder is refused by `lock`, with its line."""
    locking.server.files["t.tar"] = tar_of({"../x": ""})
    locking.spec('[[download]]\nurl = "{url}/t.tar"\ntarget = "/opt/t"\nextract = true\n')
    finished = locking.run("lock")
    assert finished.returncode == 17
    assert (
        f"variants/leaf.toml:5: {locking.server.url}/t.tar cannot be extracted: it contains '../x',"
        " which is outside of its folder"
    ) in finished.stderr


@pytest.mark.slow
def test_several_mistakes_are_reported_at_once(locking: Locking) -> None:
    """Every download that fails is in the error."""
    text = DOWNLOAD.replace("table", "one") + DOWNLOAD.replace("table", "two")
    locking.server.files["one.csv"] = b""
    locking.server.statuses["one.csv"] = 503
    locking.spec(text)
    finished = locking.run("lock")
    assert finished.returncode == 17
    url = locking.server.url
    assert (
        f"error: variants/leaf.toml:5: {url}/one.csv cannot be fetched: the server answers 503"
        " Service Unavailable\n"
        f"variants/leaf.toml:8: {url}/two.csv cannot be fetched: the server answers 404 Not Found"
    ) in finished.stderr


@pytest.mark.slow
@pytest.mark.network
def test_e2b_gets_exactly_these_bytes(
    place: Place, cloud: Server, content_server: ContentServer, command: Command
) -> None:
    """What is copied goes to E2B with its modes, an archive as the files in it; what is too large
    is fetched by a step."""
    content_server.files |= {
        "table.csv": TABLE,
        "tool.tar.gz": tar_of({"bin/run.sh": "#!/bin/sh\n"}, links={"run": "bin/run.sh"}),
        "large.bin": b"\0" * ((16 << 20) + 1),
    }
    downloads = DOWNLOAD + (
        '[[download]]\nurl = "{url}/tool.tar.gz"\ntarget = "/opt/tool"\nextract = true\n'
        '[[download]]\nurl = "{url}/large.bin"\ntarget = "/opt/large.bin"\n'
        "[resources]\nmemory-mb = 128\n"
    )
    text = downloads.format(url=content_server.url)
    path = place.folder / "variants" / "four.toml"
    path.write_text(path.read_text() + text)
    finished = command("build", "four", "--precheck", "never", "--target", "e2b", cwd=place.folder)
    assert finished.returncode == 0, finished.stderr
    uploaded: dict[str, tuple[str, bytes]] = {}
    for content in cloud.state.files.values():
        with tarfile.open(fileobj=io.BytesIO(content)) as tar:
            for entry in tar:
                file = tar.extractfile(entry) if entry.isreg() else None
                name = entry.name.partition("/")[2].partition("/")[2]
                if entry.name.startswith("fetched/"):
                    uploaded[name] = (f"{entry.mode:o}", file.read() if file else b"")
    assert uploaded == {
        "table.csv": ("644", TABLE),
        "tool": ("755", b""),
        "tool/bin": ("755", b""),
        "tool/bin/run.sh": ("755", b"#!/bin/sh\n"),
        "tool/run": ("777", b""),
    }
    planned = command("plan", "four", "--frozen", "--target", "e2b", cwd=place.folder).stdout
    assert (
        f"fetched: {content_server.url}/large.bin → /opt/large.bin: 16.8 MB, fetched by a step that"
        " checks the hash: with 128 MiB of memory, a COPY may have 16.8 MB on E2B\n"
    ) in planned
