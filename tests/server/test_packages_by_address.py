"""Packages named by address, in locks, environments and on disk, against real uv and git."""

from __future__ import annotations

import io
import subprocess
import tarfile
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path

import pytest

from builder.errors import FetchError, LockConflictError, StaleLockError, TemplateError
from builder.lock import Lock
from builder.lock.committed import read_committed
from builder.lock.resolve import lock_latest
from builder.render import Rendered, render, write
from builder.system.events import discard
from builder.system.logs import Log
from builder.targets.local import place
from tests.conftest import Command
from tests.support.clouds import Place
from tests.support.e2b_server import Server
from tests.support.here import build_here
from tests.support.index_server import IndexServer, served, sha256, wheel
from tests.support.repositories import commit_of_a_library
from tests.support.samples import load

BASE = f"""
    schema = 1
    [base]
    image = "localhost:1/python@sha256:{"a" * 64}"
    python = ">=3.11"
"""
IDNA = wheel("idna", "3.20")
TOOLS = wheel("tools", "1.2", requires=["idna"], tools="NAME = 'tools'\n")
INDEXES = {"/simple": [IDNA, wheel("ipykernel", "7.0.0")], "/by-address": [TOOLS]}
URL = f"https://files.example.com/by-address/files/{TOOLS.filename}"
HASH = sha256(TOOLS.content)
IDNA_TEXT = f"idna==3.20 \\\n    --hash=sha256:{sha256(IDNA.content)}\n"


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[IndexServer]:
    with served(tmp_path, INDEXES) as server:
        monkeypatch.setenv("GIT_SSL_CAINFO", server.variables["SSL_CERT_FILE"])
        yield server


def spec(*packages: str, extends: str = "_base", name: str = "leaf") -> str:
    return (
        f"schema = 1\n{f'name = {name!r}' if name else ''}\nextends = '{extends}'\n"
        f"[python]\npackages = {list(packages)!r}\n"
    )


def wheel_of_project(folder: Path, content: bytes = TOOLS.content) -> str:
    path = folder / "variants" / "files" / TOOLS.filename
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return f"tools @ files/{TOOLS.filename}"


def lock_of(folder: Path, **specs: str) -> Lock | TemplateError:
    variants = load(folder, _base=BASE, **specs)
    (lock,) = lock_latest(
        list(variants.values()), folder=folder / "variants", report=discard
    ).values()
    return lock


def rendered(folder: Path, **specs: str) -> Rendered:
    (variant,) = load(folder, _base=BASE, **specs).values()
    lock = lock_of(folder, **specs)
    assert isinstance(lock, Lock), lock
    return render(variant, lock)


def failed(folder: Path, **specs: str) -> TemplateError:
    error = lock_of(folder, **specs)
    assert isinstance(error, TemplateError)
    return error


def test_address_is_locked_with_its_hash(tmp_path: Path, index: IndexServer) -> None:
    """A wheel at an address is locked with its hash, its version and what it depends on; a stage
    below adds only what is new."""
    lock = lock_of(
        tmp_path,
        _parent=spec(f"tools @ {URL}#sha256={HASH}", name=""),
        leaf=spec("idna", "tools", extends="_parent"),
    )
    assert isinstance(lock, Lock)
    assert [stage.text for stage in lock.stages] == [
        "",
        f"{IDNA_TEXT}tools @ {URL} \\\n    --hash=sha256:{HASH}\n    # tools==1.2\n",
        "",
    ]
    assert lock.packages == {"idna": "3.20", "tools": "1.2"}


def test_wheel_of_the_project_is_locked_and_copied(tmp_path: Path, index: IndexServer) -> None:
    """A wheel of the project is in the build context, and the lock names its place in the template
    and its hash, with a marker if there is one; other bytes are another template."""
    requirement = wheel_of_project(tmp_path)
    template = rendered(tmp_path, leaf=spec(f"{requirement} ; sys_platform == 'linux'"))
    path = f"wheels/leaf/{TOOLS.filename}"
    assert template.content(path) == TOOLS.content
    marker = " ; sys_platform == 'linux'"
    assert template.lock.stages[1].text == (
        IDNA_TEXT.replace(" \\", f"{marker} \\", 1)
        + f"tools @ file:///opt/template/{path}{marker} \\\n    --hash=sha256:{HASH}\n"
        "    # tools==1.2\n"
    )
    dockerfile = template.content("Dockerfile").decode()
    assert 'COPY ["wheels/leaf/", "/opt/template/wheels/leaf/"]\n' in dockerfile
    other = wheel("tools", "1.2", requires=["idna"], tools="NAME = 'other'\n")
    wheel_of_project(tmp_path, other.content)
    again = rendered(tmp_path, leaf=spec(requirement))
    assert f"--hash=sha256:{sha256(other.content)}\n" in again.lock.stages[1].text
    assert again.digest != template.digest


@pytest.mark.needs("git")
def test_commit_is_locked_without_a_hash(tmp_path: Path, index: IndexServer) -> None:
    """A commit is installed from a file of its own, since pip and uv have no hash of a commit; the
    others keep theirs."""
    requirement = commit_of_a_library(tmp_path, index)
    template = rendered(tmp_path, leaf=spec(requirement, "idna"))
    commits = f"{requirement}\n    # library==2.5\n"
    assert template.lock.stages[1].text == IDNA_TEXT + commits
    assert template.lock.packages == {"idna": "3.20", "library": "2.5"}
    assert template.content("requirements/commits/leaf.txt").decode().endswith(f"\n{commits}")
    assert template.content("requirements/leaf.txt").decode().endswith(f"\n{IDNA_TEXT}")
    (step,) = (
        step
        for step in template.content("Dockerfile").decode().split("\nRUN ")
        if "--requirement /opt/template/requirements/commits/leaf.txt" in step
    )
    assert "--require-hashes" not in step


@pytest.mark.needs("git")
def test_committed_lock_with_addresses_reads_back(tmp_path: Path, index: IndexServer) -> None:
    """What was rendered from a lock with addresses reads back as that lock; a wheel of the project
    whose content has changed since makes it stale."""
    requirement, commit = wheel_of_project(tmp_path), commit_of_a_library(tmp_path, index)
    specs = {"leaf": spec(commit, requirement)}
    template = rendered(tmp_path, **specs)
    write([template], tmp_path / "generated", all_variants=True)
    (variant,) = load(tmp_path, _base=BASE, **specs).values()
    assert read_committed([variant], tmp_path / "generated") == {"leaf": template.lock}
    wheel_of_project(tmp_path, wheel("tools", "1.2").content)
    (variant,) = load(tmp_path, _base=BASE, **specs).values()
    error = read_committed([variant], tmp_path / "generated")["leaf"]
    assert isinstance(error, StaleLockError)
    assert error.message == (
        "the committed lock of `leaf` does not match its spec:\n"
        f"  variants/leaf.toml: the content of `files/{TOOLS.filename}` has changed"
    )


def test_file_with_another_hash_is_refused(tmp_path: Path, index: IndexServer) -> None:
    """A file at an address that is not the one with the hash is an error, at the line of the
    spec."""
    error = failed(tmp_path, leaf=spec("idna", f"tools @ {URL}#sha256={'0' * 64}"))
    assert isinstance(error, FetchError)
    assert error.message == (
        f"variants/leaf.toml:5: {URL} is not the file that the spec names:\n"
        f"  SHA-256 in the spec: {'0' * 64}\n"
        f"  SHA-256 of the file: {HASH}"
    )


def test_address_without_a_file(tmp_path: Path, index: IndexServer) -> None:
    """An address where there is nothing is no missing network: the error names it."""
    url = URL.replace("1.2", "1.3")
    error = failed(tmp_path, leaf=spec(f"tools @ {url}#sha256={HASH}"))
    assert isinstance(error, FetchError)
    assert error.message.splitlines()[0] == (
        f"{url} cannot be fetched: the server answers 404 Not Found: resolving stage `leaf` failed"
    )
    assert error.hint == "check the address in `python.packages`"


@pytest.mark.needs("git")
def test_commit_that_does_not_exist(tmp_path: Path, index: IndexServer) -> None:
    """A commit that the repository lacks is no missing network: the error names it."""
    requirement = commit_of_a_library(tmp_path, index)[:-40] + "0" * 40
    error = failed(tmp_path, leaf=spec(requirement))
    assert isinstance(error, FetchError)
    assert error.message.splitlines()[0] == (
        f"git could not fetch `{requirement}`: resolving stage `leaf` failed"
    )


def test_versions_that_an_address_excludes(tmp_path: Path, index: IndexServer) -> None:
    """A stage that needs another version than that of a parent's address is told both."""
    error = failed(
        tmp_path,
        _parent=spec(wheel_of_project(tmp_path), name=""),
        leaf=spec("tools>2", extends="_parent"),
    )
    assert isinstance(error, LockConflictError)
    assert error.message.partition("\nuv's reasoning:\n")[0] == (
        "stage `leaf` conflicts with the versions that `_parent` locked:\n"
        "  tools==1.2 is locked by stage `_parent`, required by"
        f' "tools @ files/{TOOLS.filename}" at variants/_parent.toml:5\n'
        '  "tools>2" is required by stage `leaf` at variants/leaf.toml:5'
    )


@pytest.mark.slow
@pytest.mark.needs("git")
def test_all_kinds_are_installed_here(
    tmp_path: Path, index: IndexServer, log: Log, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On `local`, a file at an address, a wheel of the project and a commit are installed; the
    second time, without any network."""
    extra = wheel("extra", "3", extra="NAME = 'extra'\n")
    path = f"/by-address/files/{extra.filename}"
    index.answers[path] = extra.content
    address = f"extra @ https://files.example.com{path}#sha256={sha256(extra.content)}"
    commit = commit_of_a_library(tmp_path, index)
    template = rendered(tmp_path, leaf=spec(address, wheel_of_project(tmp_path), commit))
    build_here(template, log)
    index.all_down = "no route"
    monkeypatch.setenv("TEMPLATE_BUILDER_CACHE_DIR", str(tmp_path / "second"))
    build_here(template, log)
    python = place.folder_of(template.digest) / "bin" / "python"
    code = "import extra, library, tools; print(extra.NAME, library.NAME, tools.NAME)"
    output = subprocess.run([python, "-c", code], check=True, capture_output=True, text=True)
    assert output.stdout == "extra library tools\n"


@pytest.mark.slow
@pytest.mark.network
def test_wheel_of_the_project_is_built_on_e2b(
    place: Place, cloud: Server, command: Command
) -> None:
    """E2B gets the bytes of a wheel of the project, and its import is a check; other bytes are a new
    build, for which the plan names the file."""
    iniconfig = wheel("iniconfig", version("iniconfig"))
    spec_file = place.folder / "variants" / "four.toml"
    path = spec_file.parent / iniconfig.filename
    path.write_bytes(iniconfig.content)
    text = spec_file.read_text()
    spec_file.write_text(text.replace('"iniconfig"', f'"iniconfig @ {iniconfig.filename}"'))
    arguments = ("four", "--target", "e2b")
    done = command("build", *arguments, "--precheck", "never", cwd=place.folder)
    assert done.returncode == 0, done.stderr
    uploaded = []
    for content in cloud.state.files.values():
        with tarfile.open(fileobj=io.BytesIO(content)) as tar:
            for entry in tar:
                if entry.name == f"wheels/four/{iniconfig.filename}":
                    file = tar.extractfile(entry)
                    uploaded.append(file and file.read())
    assert uploaded == [iniconfig.content]
    assert "import iniconfig" in place.recorded("four")["verified"]["checks"]
    path.write_bytes(wheel("iniconfig", version("iniconfig"), other="A = 1\n").content)
    planned = command("plan", *arguments, cwd=place.folder)
    assert f"four: wheel {iniconfig.filename}" in planned.stdout
