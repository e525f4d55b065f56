from __future__ import annotations

import os
import tempfile
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

from builder.errors import ProjectError
from builder.lock import Lock
from builder.lock.resolve import lock_latest
from builder.render import render
from builder.system import uv, uv_settings
from builder.system.events import discard
from builder.system.logs import Log
from builder.targets.local import place
from tests.support.here import build_here
from tests.support.index_server import IndexServer, served, wheel
from tests.support.samples import load

IDNA = [wheel("idna", version, idna=f"v = {version!r}\n") for version in ("3.4", "3.20", "3.21rc1")]
KERNELS = [wheel("ipykernel", version) for version in ("6.0.0", "7.0.0")]
OTHER = [wheel("idna", "4.0", idna="v = '4.0'\n")]
INDEXES = {"/simple": [*IDNA, *KERNELS], "/other/simple": OTHER}
BASE = f"""
    schema = 1
    [base]
    image = "localhost:1/python@sha256:{"a" * 64}"
    python = ">=3.11"
"""
LEAF = "schema = 1\nname = 'leaf'\nextends = '_base'\n[python]\npackages = ['idna']\n"

# Settings that decide what is locked or installed, as files and as variables have them.
FOREIGN = """
constraint-dependencies = ["idna==3.4", "ipykernel==6.0.0"]
override-dependencies = ["idna==3.4"]
exclude-dependencies = ["idna"]
prerelease = "allow"
resolution = "lowest"
required-version = "==0.0.1"
no-binary = true
[pip]
target = "evil"
prefix = "evil"
prerelease = "allow"
resolution = "lowest"
no-binary = ["idna"]
no-deps = true
require-hashes = true
dry-run = true
python-version = "3.8"
"""
VARIABLES = {
    "UV_CONSTRAINT": "{folder}/pins.txt",
    "UV_OVERRIDE": "{folder}/pins.txt",
    "UV_EXCLUDE": "{folder}/pins.txt",
    "UV_BUILD_CONSTRAINT": "{folder}/pins.txt",
    "UV_PRERELEASE": "allow",
    "UV_RESOLUTION": "lowest",
    "UV_EXCLUDE_NEWER": "2000-01-01",
    "UV_NO_BINARY": "1",
    "UV_REQUIRE_HASHES": "1",
    "UV_TORCH_BACKEND": "cu126",
    "UV_PYTHON": "3.8",
    "UV_WORKING_DIR": "/",
    "UV_PROJECT": "/nowhere",
    "UV_SYSTEM_PYTHON": "1",
    "UV_NO_VERIFY_HASHES": "1",
    "UV_PREVIEW": "1",
    "FORCE_COLOR": "1",
}


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[IndexServer]:
    """The index server, and a user whose settings are read from a home below `tmp_path`."""
    (tmp_path / "here" / "inner").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "here" / "inner")
    with served(tmp_path, INDEXES) as server:
        monkeypatch.delenv("UV_NO_CONFIG")
        monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "home"))
        monkeypatch.setenv("XDG_CONFIG_DIRS", str(tmp_path / "machine"))
        monkeypatch.setenv("TEMPLATE_BUILDER_CACHE_DIR", str(tmp_path / "cache"))
        yield server


def locked(tmp_path: Path) -> Lock:
    variants = load(tmp_path / "project", _base=BASE, leaf=LEAF)
    folder = tmp_path / "project" / "variants"
    lock = lock_latest(list(variants.values()), folder=folder, report=discard)["leaf"]
    assert isinstance(lock, Lock), lock
    return lock


def installed(tmp_path: Path, lock: Lock) -> set[str]:
    """What a build on this machine installs: the distributions with their versions."""
    variants = load(tmp_path / "project", _base=BASE, leaf=LEAF)
    rendered = render(variants["leaf"], lock)
    with Log(tmp_path / "logs", target="local") as log:
        build_here(rendered, log)
    environment = place.find(rendered.digest)
    assert environment
    return {path.name.removesuffix(".dist-info") for path in environment.path.rglob("*.dist-info")}


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


@pytest.mark.parametrize(
    "places",
    [("temporary", "here/inner", "home/uv"), ("here", "machine/uv"), ("pyproject",), ("named",)],
)
def test_no_file_decides_what_is_locked_or_installed(
    tmp_path: Path, index: IndexServer, monkeypatch: pytest.MonkeyPatch, places: tuple[str, ...]
) -> None:
    """Whatever file has settings for uv, and whoever wrote it, the same is locked and installed,
    and in the same place."""
    for where in places:
        if where == "temporary":
            monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / where))
        if where == "named":
            monkeypatch.setenv("UV_CONFIG_FILE", str(tmp_path / where / "uv.toml"))
        if where == "pyproject":
            tables = FOREIGN.replace("[pip]", "[tool.uv.pip]")
            project = f"[project]\nname='x'\nversion='1'\n[tool.uv]\n{tables}"
            write(Path("pyproject.toml"), project)
        else:
            write(tmp_path / where / "uv.toml", FOREIGN)
    lock = locked(tmp_path)
    assert lock.packages == {"idna": "3.20"}
    assert installed(tmp_path, lock) == {"idna-3.20", "ipykernel-7.0.0"}
    assert not list(tmp_path.rglob("evil"))


@pytest.mark.slow
def test_no_variable_decides_what_is_locked_or_installed(
    tmp_path: Path, index: IndexServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same with every variable by which uv would lock or install something else."""
    write(tmp_path / "pins.txt", "idna==3.4\nipykernel==6.0.0\n")
    for name, value in VARIABLES.items():
        monkeypatch.setenv(name, value.format(folder=tmp_path))
    lock = locked(tmp_path)
    assert lock.packages == {"idna": "3.20"}
    assert installed(tmp_path, lock) == {"idna-3.20", "ipykernel-7.0.0"}


@pytest.mark.parametrize(
    ("where", "settings"),
    [
        ("home/uv", 'index-url = "{url}"'),
        ("home/uv", '[[index]]\nurl = "{url}"\ndefault = true\nexclude-newer = "2000-01-01"'),
        ("home/uv", '[pip]\nindex-url = "{url}"'),
        ("machine/uv", 'extra-index-url = ["{url}"]'),
        ("named", '[[index]]\nname = "mine"\nurl = "{url}"'),
        ("variable", "UV_DEFAULT_INDEX"),
        ("variable", "UV_EXTRA_INDEX_URL"),
        ("variable", "UV_INDEX"),
    ],
)
def test_indexes_are_the_users(
    tmp_path: Path,
    index: IndexServer,
    monkeypatch: pytest.MonkeyPatch,
    where: str,
    settings: str,
) -> None:
    """The index that a user or the machine has configured is the one that is asked, however it is
    configured."""
    url = "https://index.test/other/simple"
    if where == "variable":
        monkeypatch.setenv(settings, url)
    else:
        write(tmp_path / where / "uv.toml", settings.format(url=url))
    if where == "named":
        monkeypatch.setenv("UV_CONFIG_FILE", str(tmp_path / where / "uv.toml"))
    assert locked(tmp_path).packages == {"idna": "4.0"}


def kept(monkeypatch: pytest.MonkeyPatch) -> object:
    return tomllib.loads(uv_settings.configuration(os.environ))


def test_settings_of_user_and_machine_are_merged(
    tmp_path: Path, index: IndexServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The user's value goes before the machine's, lists are continued, and a path is that of the
    folder in which the file stands."""
    write(
        tmp_path / "home" / "uv" / "uv.toml",
        'find-links = ["wheels", "https://a.test/x"]\nkeyring-provider = "subprocess"\n'
        '[pip]\nindex-url = "https://user.test/simple"\nuniversal = true\n',
    )
    write(
        tmp_path / "machine" / "uv" / "uv.toml",
        'find-links = ["/opt/wheels"]\nkeyring-provider = "disabled"\nnative-tls = true\n'
        'compile-bytecode = true\n[pip]\nindex-url = "https://machine.test/simple"\n',
    )
    assert kept(monkeypatch) == {
        "find-links": [str(tmp_path / "home" / "uv" / "wheels"), "https://a.test/x", "/opt/wheels"],
        "keyring-provider": "subprocess",
        "native-tls": True,
        "pip": {"index-url": "https://user.test/simple"},
    }
    monkeypatch.setenv("UV_NO_SYSTEM_CONFIG", "1")
    assert "native-tls" not in str(kept(monkeypatch))
    monkeypatch.setenv("UV_NO_CONFIG", "1")
    assert kept(monkeypatch) == {}


def test_settings_that_cannot_be_read(
    tmp_path: Path, index: IndexServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A mistake in the user's settings for uv is told with the file and the line."""
    path = tmp_path / "home" / "uv" / "uv.toml"
    write(path, "index-url = \n")
    with pytest.raises(ProjectError) as caught:
        uv_settings.configuration(os.environ)
    assert caught.value.message == (
        f"uv's settings in {path} are not valid TOML: Invalid value (at line 1, column 13)"
    )
    assert caught.value.hint == "correct the file, or set UV_NO_CONFIG=1 to ignore it"


def test_credentials_of_an_index_reach_uv() -> None:
    """Variables for indexes, credentials, certificates and proxies are passed on."""
    wanted = {
        "UV_INDEX_MINE_USERNAME": "u",
        "UV_INDEX_MINE_PASSWORD": "p",
        "UV_KEYRING_PROVIDER": "subprocess",
        "UV_INDEX_STRATEGY": "unsafe-best-match",
        "UV_SYSTEM_CERTS": "1",
        "SSL_CERT_FILE": "/x",
        "HTTPS_PROXY": "http://p.test",
        "NETRC": "/netrc",
    }
    dropped = {"UV_CONSTRAINT": "x", "VIRTUAL_ENV": "/venv", "UV_CONFIG_FILE": "/x/uv.toml"}
    assert uv_settings.variables(wanted | dropped) == wanted


@pytest.mark.parametrize(
    ("text", "message", "hint"),
    [
        (
            None,
            "uv's settings in {path} cannot be read: No such file or directory",
            "make the file readable",
        ),
        (
            "index = 3\n",
            "uv does not accept its settings in {path}\n           |\n         1 | index = 3\n"
            "           |         ^\n         invalid type: integer `3`, expected a sequence",
            "correct the file",
        ),
    ],
)
def test_settings_that_uv_refuses(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str | None, message: str, hint: str
) -> None:
    """The error names the user's file and a way to do without it, and is none of the spec's."""
    path = tmp_path / "mine" / "uv.toml"
    if text is not None:
        write(path, text)
    monkeypatch.setenv("UV_CONFIG_FILE", str(path))
    with pytest.raises(ProjectError) as caught:
        uv.run(["cache", "dir"], doing="asking uv")
    assert caught.value.message == message.format(path=path)
    assert caught.value.hint == f"{hint}, or unset UV_CONFIG_FILE to ignore it"


def test_variable_that_uv_refuses(monkeypatch: pytest.MonkeyPatch) -> None:
    """A variable with a value that uv cannot read is named, and is no conflict of the spec."""
    monkeypatch.setenv("UV_HTTP_TIMEOUT", "x")
    with pytest.raises(ProjectError) as caught:
        uv.run(["cache", "dir"], doing="asking uv")
    assert caught.value.message.startswith(
        "uv does not accept an environment variable\n"
        "Failed to parse environment variable `UV_HTTP_TIMEOUT` with invalid value `x`"
    )
    assert caught.value.hint == "correct the variable, or unset it"


@pytest.mark.slow
def test_interpreter_of_the_folder_is_not_run(tmp_path: Path, index: IndexServer) -> None:
    """An environment in the folder where the command is run is neither asked nor used."""
    write(Path(".venv/pyvenv.cfg"), "home = /usr/bin\n")
    write(Path(".venv/bin/python"), f"#!/bin/sh\ntouch {tmp_path}/was-run\n")
    Path(".venv/bin/python").chmod(0o755)
    installed(tmp_path, locked(tmp_path))
    uv.run(["python", "find", "--system", "--no-project", ">=3.11"], doing="looking for a Python")
    assert not (tmp_path / "was-run").exists()
