"""Packages that code in a confined sandbox installs through the proxy of its sandbox."""

from __future__ import annotations

import asyncio
import contextlib
import os
import ssl
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from builder.render import Rendered
from builder.sandbox.boundary import Boundary
from builder.sandbox.network import Network
from builder.system.logs import Log
from builder.targets.local import place
from builder.targets.local.confine import proxy
from builder.targets.local.confine.confinement import confinement
from builder.targets.local.confine.upstream import Upstream, Upstreams
from builder.targets.local.kernel import KernelSandbox
from builder.targets.local.launch import zygote_of
from tests.conftest import BASE
from tests.support.here import build_here
from tests.support.index_server import IndexServer, wheel
from tests.support.sandboxes import prepared

pytestmark = [
    pytest.mark.network,
    pytest.mark.skipif(sys.platform != "linux", reason="only Linux confines sandboxes"),
]
CERTIFICATE = {"SSL_CERT_FILE": "/etc/ssl/certs/company.pem"}
HOST, PUBLIC = "packages.example.com", "93.184.216.34"
SPEC = """
schema = 1
name = "company"
extends = "_base"
[python]
packages = ["pip"]
[[files]]
source = "company.pem"
target = "/etc/ssl/certs/company.pem"
"""
INSTALL = (
    "import subprocess, sys\n"
    "print(subprocess.run(['pip', 'install', '--retries=1', '--index-url', 'https://{}/simple',"
    " 'acme-tools'], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True).stdout)"
)
USE = "import acme_tools; print(acme_tools.ANSWER)"


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory) -> Iterator[IndexServer]:
    """An index of a company, behind TLS and the company's proxy."""
    wheels = [wheel("acme-tools", "1.0", acme_tools="ANSWER = 42\n")]
    with IndexServer({"/simple": wheels}, tmp_path_factory.mktemp("index")) as server:
        yield server


@pytest.fixture(scope="module")
def company(
    index: IndexServer, tmp_path_factory: pytest.TempPathFactory, cache: Path
) -> tuple[Rendered, str]:
    """A template with pip and the company's certificate, and its ref."""
    folder = tmp_path_factory.mktemp("company")
    (folder / "variants").mkdir()
    (folder / "variants" / "_base.toml").write_text(BASE.replace("    ", ""))
    (folder / "variants" / "company.toml").write_text(SPEC)
    certificate = Path(index.variables["SSL_CERT_FILE"]).read_bytes()
    (folder / "variants" / "company.pem").write_bytes(certificate)
    rendered = prepared(folder)
    with pytest.MonkeyPatch.context() as patch, Log(folder / "logs", target="local") as log:
        patch.setenv("TEMPLATE_BUILDER_CACHE_DIR", str(cache))
        return rendered, build_here(rendered, log).ref


@contextlib.contextmanager
def opened(template: tuple[Rendered, str], network: object) -> Iterator[KernelSandbox]:
    rendered, ref = template
    path = place.find_build(ref, name="company").path
    confined = confinement(path, Boundary(isolation="confined", network=Network.of(network)))
    assert confined
    digest = str(rendered.digest)
    zygote = zygote_of(path, digest=digest, warm=(), env={}, view=confined.view)
    sandbox = KernelSandbox(path, warm=(), env={}, zygote=zygote, confined=confined)
    with contextlib.closing(sandbox):
        yield sandbox


@pytest.mark.slow
@pytest.mark.usefixtures("local_cache")
@pytest.mark.parametrize("network", [[HOST], "allow"])
def test_installed_package_is_the_sandboxes_own(
    company: tuple[Rendered, str],
    index: IndexServer,
    network: object,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """`pip install` over TLS, with a certificate of the template, works through the proxy, also
    behind the application's own. The package is only in that sandbox."""
    proxies = Upstreams({"https": index.variables["HTTPS_PROXY"]})
    if network == "allow":  # and no proxy of the application
        monkeypatch.setattr(Internet, "port", index.server_port)
        monkeypatch.setattr(proxy, "_Internet", Internet)
        proxies = Upstreams({})
    monkeypatch.setattr(proxy, "Upstreams", lambda: proxies)
    with opened(company, network) as sandbox:
        installed = sandbox.run(INSTALL.format(HOST), timeout=300, variables=CERTIFICATE)
        assert "Successfully installed acme-tools-1.0" in installed.stdout, installed
        assert installed.notes == ()
        used = sandbox.run(USE, timeout=60)
        assert (used.error, used.stdout) == (None, "42\n")
    with opened(company, network) as sandbox:
        error = sandbox.run(USE, timeout=60).error
        assert error == "ModuleNotFoundError: No module named 'acme_tools'"


class Internet:
    """A stand-in for the Internet, where every name leads to the index."""

    port = 0

    async def resolve(self, host: str, port: int) -> list[str]:
        return [PUBLIC]

    async def connect(
        self, address: str, port: int
    ) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        assert address == PUBLIC
        return await Upstream(variable="", host="127.0.0.1", port=self.port).tunnel(HOST, port)


@pytest.mark.slow
@pytest.mark.usefixtures("local_cache")
@pytest.mark.parametrize(
    ("network", "note"),
    [
        ("none", "the sandbox has no network: "),
        (["example.org"], "connections were refused to hosts that `network` does not list: "),
    ],
)
def test_failed_installation_says_what_to_change(
    company: tuple[Rendered, str], network: object, note: str
) -> None:
    """If the network of a sandbox does not allow the index, the result of `pip install` says so,
    although the code itself has no error."""
    with opened(company, network) as sandbox:
        failed = sandbox.run(INSTALL.format(HOST), timeout=300, variables=CERTIFICATE)
        assert failed.error is None
        (only_note,) = failed.notes
        assert only_note.startswith(note)


@pytest.mark.usefixtures("local_cache")
def test_certificates_of_this_machine_are_in_its_sandboxes(company: tuple[Rendered, str]) -> None:
    """A confined sandbox trusts the certificates that this machine trusts."""
    folder = ssl.get_default_verify_paths().openssl_capath
    code = f"import os; print(sorted(os.listdir({folder!r})))"
    with opened(company, "none") as sandbox:
        listed = sandbox.run(code, timeout=60)
        assert listed.stdout == f"{sorted({*os.listdir(folder), 'company.pem'})}\n"
