from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterator
from typing import Any

import pytest

from builder.render import Rendered
from builder.sandbox.network import Network
from builder.targets.local.confine import proxy, upstream
from builder.targets.local.kernel import KernelSandbox
from tests.escape.attempt import MARK, PRELUDE
from tests.escape.opening import NEEDS_WALLS, open_sandbox
from tests.escape.outside import outside

pytestmark = NEEDS_WALLS

# Asks the proxy for a tunnel to a port of this machine, and reads what a server there says first.
THROUGH_THE_PROXY = """
import urllib.parse

def through_the_proxy(host, port):
    proxy = urllib.parse.urlsplit(os.environ["HTTP_PROXY"])
    with socket.create_connection((proxy.hostname, proxy.port), 20) as line:
        line.sendall(("CONNECT %s:%d HTTP/1.1\\r\\n\\r\\n" % (host, port)).encode())
        answer = line.recv(1000)
        if answer.startswith(b"HTTP/1.1 200 "):
            escaped(has_token(answer + line.recv(1000)))
        print(answer.decode().partition("\\r\\n")[0])
"""
HOSTS = ("127.0.0.1", "localhost", "127.1", "2130706433", "0x7f.1", "0.0.0.0", "[::ffff:127.0.0.1]")  # noqa: S104


@pytest.fixture(scope="module")
def facts() -> Iterator[dict[str, Any]]:
    with outside() as facts:
        yield facts


@pytest.fixture(scope="module", autouse=True)
def _no_proxy() -> Iterator[None]:
    """The proxy of whoever runs the tests is not asked for addresses of this machine."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(proxy, "Upstreams", lambda: upstream.Upstreams({}))
        yield


@pytest.fixture(scope="module")
def kept() -> Iterator[list[KernelSandbox]]:
    sandboxes: list[KernelSandbox] = []
    yield sandboxes
    for each in sandboxes:
        each.close()


@pytest.fixture
def sandbox(
    kept: list[KernelSandbox], facts: dict[str, Any], light: Rendered, ref: str
) -> KernelSandbox:
    """A confined sandbox that may reach every host."""
    if not kept:
        kept.append(open_sandbox("forked", light, ref, "confined", network=Network.of("allow")))
        prepared = f"facts = {facts!r}\n{PRELUDE}{THROUGH_THE_PROXY}"
        assert kept[0].run(prepared, timeout=60).error is None
    return kept[0]


@pytest.mark.parametrize("host", HOSTS)
def test_proxy_leads_to_no_server_of_this_machine(sandbox: KernelSandbox, host: str) -> None:
    """The proxy never connects to this machine, however its address is written, even if every host
    is allowed."""
    execution = sandbox.run(f"through_the_proxy({host!r}, facts['port_everywhere'])", timeout=60)
    assert execution.error is None
    assert execution.stdout.startswith("HTTP/1.1 403 ")
    assert MARK not in execution.stdout


@pytest.mark.parametrize("host", ["169.254.169.254", "100.100.100.200", "168.63.129.16"])
def test_proxy_leads_to_no_metadata(sandbox: KernelSandbox, host: str) -> None:
    """The proxy never connects to the metadata addresses of cloud machines."""
    execution = sandbox.run(f"through_the_proxy({host!r}, 80)", timeout=60)
    assert execution.stdout.startswith("HTTP/1.1 403 ")


def test_proxy_leads_to_no_address_of_this_machine(
    sandbox: KernelSandbox, facts: dict[str, Any]
) -> None:
    """A server that listens on every address of this machine cannot be reached by any of them."""
    if facts["address"] is None:
        pytest.skip("this machine has no network")
    code = "through_the_proxy(facts['address'], facts['port_everywhere'])"
    execution = sandbox.run(code, timeout=60)
    assert execution.stdout.startswith("HTTP/1.1 403 ")
    assert MARK not in execution.stdout


@pytest.mark.parametrize(
    "code",
    [
        "socket.create_connection(('127.0.0.1', facts['port']), 3)",
        "socket.create_connection((facts['far'], 80), 3)",
        "socket.socket(socket.AF_INET, socket.SOCK_DGRAM).connect((facts['name_server'], 53))",
        "socket.getaddrinfo('example.com', 80)",
    ],
)
def test_proxy_is_the_only_way(sandbox: KernelSandbox, code: str) -> None:
    """A sandbox that may reach every host cannot connect or resolve names without the proxy."""
    execution = sandbox.run(code, timeout=60)
    error = (execution.error or "").partition(":")[0]
    assert error in ("ConnectionRefusedError", "OSError", "gaierror")


def test_refusals_are_in_the_result(sandbox: KernelSandbox) -> None:
    """The result of code names each host that was refused, and why."""
    execution = sandbox.run("through_the_proxy('10.0.0.1', 80)", timeout=60)
    assert execution.notes == (
        "connections were refused to hosts on this machine or in private networks, which no"
        " `network` allows: 10.0.0.1",
    )


class Elsewhere:
    """A stand-in for the Internet, where each name leads to one server of this machine."""

    port = 0

    async def resolve(self, host: str, port: int) -> list[str]:
        return ["93.184.216.34"]

    async def connect(
        self, address: str, port: int
    ) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        return await asyncio.open_connection("127.0.0.1", self.port)


def test_hosts_of_the_list_are_reached(
    facts: dict[str, Any], light: Rendered, ref: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Programs that know only the proxy variables reach the hosts of the list, and no others."""
    monkeypatch.setattr(Elsewhere, "port", facts["web_port"])
    monkeypatch.setattr(proxy, "_Internet", Elsewhere)
    network = Network.of(["*.example.org"])
    code = (
        "import urllib.request\n"
        "print(urllib.request.urlopen('http://{}.example.{}/', timeout=20).read().decode())"
    )
    with contextlib.closing(
        open_sandbox("cold", light, ref, "confined", network=network)
    ) as opened:
        allowed = opened.run(code.format("a", "org"), timeout=60)
        assert (allowed.error, allowed.stdout) == (None, f"{facts['token']}\n")
        refused = opened.run(code.format("a", "com"), timeout=60)
        reason = "the `network` of this sandbox does not allow a.example.com"
        assert refused.error == f"HTTPError: HTTP Error 403: {reason}"
        assert refused.notes == (
            "connections were refused to hosts that `network` does not list: a.example.com; add"
            " them to it in the spec, or in `network=` when the sandbox is opened",
        )
