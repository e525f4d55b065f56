"""The proxy of a sandbox behind the proxy of its application."""

from __future__ import annotations

import base64
import contextlib
import socket
import socketserver
import threading
from collections.abc import Iterator, Mapping

import pytest

from builder.sandbox.network import Network
from builder.targets.local.confine.proxy import Proxy
from builder.targets.local.confine.refusals import Reason, Refusal
from builder.targets.local.confine.upstream import Upstream, UpstreamError, Upstreams
from tests.support.proxies import PUBLIC, Answers, Names, Sandbox, serving

NAME, OTHER = "a.example.org", "b.example.org"
NOT_INTERNET = "is not on the Internet, and sandboxes do not reach this machine or private networks"
UNRESOLVED = "cannot be resolved on this machine, and may be in a private network"
HEADER_END = b"\r\n\r\n"


class Tunnels(socketserver.ThreadingTCPServer):
    """A proxy that answers CONNECT with `answer`, and leads every tunnel to one server."""

    daemon_threads = True

    def __init__(self, destination: int) -> None:
        super().__init__(("127.0.0.1", 0), Tunnel)
        self.destination = destination
        self.answer = b"HTTP/1.1 200 OK\r\nVia: b\r\n\r\n"
        self.asked: list[str] = []
        self.credentials: list[str] = []

    @property
    def port(self) -> int:
        return int(self.server_address[1])


class Tunnel(socketserver.BaseRequestHandler):
    """One connection to the proxy."""

    server: Tunnels

    def handle(self) -> None:
        header = b""
        while HEADER_END not in header:
            if not (data := self.request.recv(1)):
                return
            header += data
        first, *fields = header.decode().splitlines()
        self.server.asked.append(first)
        self.server.credentials += [line for line in fields if "authorization" in line.lower()]
        self.request.sendall(self.server.answer)
        if b" 200 " not in self.server.answer:
            return
        with socket.create_connection(("127.0.0.1", self.server.destination)) as remote:
            back = threading.Thread(target=copy, args=(remote, self.request))
            back.start()
            copy(self.request, remote)
            back.join()


def copy(source: socket.socket, target: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while data := source.recv(1 << 16):
            target.sendall(data)
        target.shutdown(socket.SHUT_WR)


@pytest.fixture(scope="module")
def server() -> Iterator[int]:
    with serving(Answers) as port:
        yield port


@pytest.fixture
def tunnels(server: int) -> Iterator[Tunnels]:
    opened = Tunnels(server)
    thread = threading.Thread(target=opened.serve_forever, args=(0.01,))
    thread.start()
    yield opened
    opened.shutdown()
    thread.join()
    opened.server_close()


@contextlib.contextmanager
def sandbox_of(
    network: object,
    server: int,
    variables: Mapping[str, str],
    names: Mapping[str, list[list[str]]] | None = None,
) -> Iterator[tuple[Sandbox, Names]]:
    """Yield a sandbox of an application with these proxies, and what it connects to directly."""
    outside = Names({NAME: [[PUBLIC]]} if names is None else names, server)
    opened = Proxy(Network.of(network), outside=outside, upstreams=Upstreams(variables))
    with contextlib.closing(opened):
        yield Sandbox(opened), outside


def both(tunnels: Tunnels, user: str = "") -> dict[str, str]:
    return dict.fromkeys(("http", "https"), f"http://{user}127.0.0.1:{tunnels.port}")


def test_listed_hosts_are_reached_through_the_proxy(tunnels: Tunnels, server: int) -> None:
    """Connections and plain requests to a listed host go through the application's proxy, which is
    given the name and its own credentials, and nothing connects directly."""
    variables = both(tunnels, "user:p%40ss@")
    with sandbox_of(["*.example.org"], server, variables) as (sandbox, outside):
        assert sandbox.open(NAME, 8443)[0] == 200
        assert sandbox.get(f"http://{NAME}/x?y") == (200, f"/x?y {NAME}")
        assert sandbox.open("example.com")[0] == 403
    assert tunnels.asked == [f"CONNECT {NAME}:8443 HTTP/1.1", f"CONNECT {NAME}:80 HTTP/1.1"]
    encoded = base64.b64encode(b"user:p@ss").decode()
    assert tunnels.credentials == [f"Proxy-Authorization: Basic {encoded}"] * 2
    assert outside.connected == []


def test_credentials_of_the_code_are_not_passed_on(tunnels: Tunnels, server: int) -> None:
    """What the code sends to its own proxy does not reach that of the application."""
    with sandbox_of([NAME], server, both(tunnels)) as (sandbox, _):
        header = b"CONNECT a.example.org:1 HTTP/1.1\r\nProxy-Authorization: Basic eDp5\r\n\r\n"
        with sandbox.connect(header) as connection:
            assert connection.recv(1024).startswith(b"HTTP/1.1 200 ")
    assert tunnels.credentials == []


def test_allowed_hosts_are_reached_at_the_checked_address(tunnels: Tunnels, server: int) -> None:
    """With every host allowed, the application's proxy is given the address that was checked, so
    that no name leads it into a private network."""
    names = {NAME: [[PUBLIC]], "six.example.org": [["2606:4700::1111"]]}
    with sandbox_of("allow", server, both(tunnels), names) as (sandbox, outside):
        assert sandbox.open(NAME)[0] == 200
        assert sandbox.open("six.example.org")[0] == 200
    assert tunnels.asked == [
        f"CONNECT {PUBLIC}:443 HTTP/1.1",
        "CONNECT [2606:4700::1111]:443 HTTP/1.1",
    ]
    assert outside.connected == []


@pytest.mark.parametrize("network", [[NAME], "allow"])
def test_private_addresses_are_refused_before_the_proxy(
    tunnels: Tunnels, server: int, network: object
) -> None:
    """A name that leads to a private address here is refused, whatever the application's proxy
    would do."""
    names = {NAME: [[PUBLIC, "10.0.0.1"]]}
    with sandbox_of(network, server, both(tunnels), names) as (sandbox, _):
        assert sandbox.open(NAME) == (403, f"{NAME} {NOT_INTERNET}")
    assert tunnels.asked == []


@pytest.mark.parametrize("host", ["127.0.0.1", "10.0.0.1", "2130706433", "0x7f.1", "[::1]"])
def test_private_addresses_in_every_form_are_refused(tunnels: Tunnels, host: str) -> None:
    """With this machine's resolver, no form of a private address is passed on."""
    opened = Proxy(Network.of("allow"), upstreams=Upstreams(both(tunnels)))
    with contextlib.closing(opened):
        assert Sandbox(opened).open(host) == (403, f"{host.strip('[]')} {NOT_INTERNET}")
    assert tunnels.asked == []


def test_unknown_names_are_for_the_list(tunnels: Tunnels, server: int) -> None:
    """A name that this machine cannot resolve is left to the application's proxy if it is listed,
    and refused if every host is allowed, since it may be private."""
    with sandbox_of([OTHER], server, both(tunnels)) as (sandbox, _):
        assert sandbox.open(OTHER)[0] == 200
    assert tunnels.asked == [f"CONNECT {OTHER}:443 HTTP/1.1"]
    with sandbox_of("allow", server, both(tunnels)) as (sandbox, _):
        assert sandbox.open(OTHER) == (403, f"{OTHER} {UNRESOLVED}")
        assert sandbox.proxy.refused == {Refusal(OTHER, Reason.UNRESOLVED): 1}
    assert len(tunnels.asked) == 1


@pytest.mark.parametrize(
    ("variables", "through"),
    [
        ({"https": "http://{}"}, [True, False]),
        ({"http": "http://{}"}, [False, True]),
        ({"all": "http://{}"}, [True, True]),
        ({"https": "{}", "http": ""}, [True, False]),
        ({"all": "http://{}", "no": "localhost,example.org"}, [False, False]),
        ({"all": "http://{}", "no": "a.example.org:443"}, [False, True]),
        ({"all": "http://{}", "no": "*"}, [False, False]),
        ({"all": "http://{}", "no": "b.example.org"}, [True, True]),
        ({}, [False, False]),
    ],
)
def test_variables_decide_what_goes_through_the_proxy(
    tunnels: Tunnels, server: int, variables: dict[str, str], through: list[bool]
) -> None:
    """Each kind of connection goes through the proxy in its variable, but for hosts in
    NO_PROXY."""
    address = f"127.0.0.1:{tunnels.port}"
    filled = {name: value.format(address) for name, value in variables.items()}
    with sandbox_of([NAME], server, filled) as (sandbox, outside):
        assert sandbox.open(NAME)[0] == 200
        assert sandbox.get(f"http://{NAME}/")[0] == 200
    assert [f"CONNECT {NAME}:{port} HTTP/1.1" in tunnels.asked for port in (443, 80)] == through
    assert [(PUBLIC, port) not in outside.connected for port in (443, 80)] == through


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (
            b"HTTP/1.1 407 Proxy Authentication Required\r\n\r\nlog in",
            "answered 407 Proxy Authentication Required",
        ),
        (b"HTTP/1.0 403\r\n\r\n", "answered 403"),
        (b"SSH-2.0\r\n\r\n", "answered without a status"),
        (b"", "closed the connection"),
        (b"HTTP/1.1 200 OK\r\nX: " + b"x" * (1 << 17) + HEADER_END, "closed the connection"),
    ],
)
def test_failing_proxy_is_named(tunnels: Tunnels, server: int, answer: bytes, reason: str) -> None:
    """If the application's proxy opens no tunnel, the answer has its status, and nothing connects
    directly instead."""
    tunnels.answer = answer
    with sandbox_of([NAME], server, both(tunnels)) as (sandbox, outside):
        expected = f"{NAME} cannot be reached: the proxy in HTTPS_PROXY {reason}"
        assert sandbox.open(NAME) == (502, expected)
    assert outside.connected == []


def test_unreachable_proxy_is_named(server: int) -> None:
    """If nothing listens at the application's proxy, the answer says so, without its address."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    with sandbox_of([NAME], server, {"all": f"http://127.0.0.1:{port}"}) as (sandbox, outside):
        reason = "the proxy in ALL_PROXY does not answer: Connection refused"
        assert sandbox.open(NAME) == (502, f"{NAME} cannot be reached: {reason}")
    assert outside.connected == []


@pytest.mark.parametrize("value", ["socks5://u:secret@h:1", "https://h", "http://", "http://h:x"])
def test_other_proxies_are_not_used(server: int, value: str) -> None:
    """A proxy that speaks something else is an error that does not show its credentials, and
    nothing connects directly instead."""
    with sandbox_of([NAME], server, {"https": value}) as (sandbox, outside):
        assert sandbox.open(NAME) == (
            502,
            f"{NAME} cannot be reached: the proxy in HTTPS_PROXY has no address that begins with"
            " http://, as sandboxes need it",
        )
    assert outside.connected == []


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_proxy_itself_is_not_reached(tunnels: Tunnels, server: int, scheme: str) -> None:
    """Code that may reach every host cannot speak to the application's proxy, which would lead it
    further, by its name or by its address."""
    names = {"proxy.example.org": [[PUBLIC]], NAME: [[PUBLIC]]}
    variables = {scheme: "http://proxy.example.org:3128"}
    with sandbox_of("allow", server, variables, names) as (sandbox, outside):
        for host in ("proxy.example.org", NAME):
            assert sandbox.open(host, 3128) == (403, f"{host} {NOT_INTERNET}")
            assert sandbox.get(f"http://{host}:3128/") == (403, f"{host} {NOT_INTERNET}")
    assert outside.connected == []


def test_second_request_stays_in_the_tunnel(tunnels: Tunnels, server: int) -> None:
    """A second request on the connection of a first one cannot choose another host: it goes to the
    same server, inside the tunnel."""
    with sandbox_of([NAME], server, both(tunnels)) as (sandbox, _):
        second = b"CONNECT evil.example.com:443 HTTP/1.1\r\n\r\n"
        assert sandbox.send(b"GET http://a.example.org/ HTTP/1.1\r\n\r\n" + second)[0] == 200
    assert tunnels.asked == [f"CONNECT {NAME}:80 HTTP/1.1"]


def test_variables_are_those_of_the_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """The proxies are those of the environment, and the credentials are not shown."""
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    assert Upstreams().of("example.com", 443, scheme="https") is None
    monkeypatch.setenv("HTTPS_PROXY", "http://u:secret@Proxy.example.com:3128/")
    upstream = Upstreams().of("example.com", 443, scheme="https")
    assert upstream
    assert (upstream.host, upstream.port) == ("proxy.example.com", 3128)
    assert "secret" not in repr(upstream)
    monkeypatch.setenv("no_proxy", "example.com")
    assert Upstreams().of("example.com", 443, scheme="https") is None
    with pytest.raises(UpstreamError):
        Upstream.of("HTTPS_PROXY", "socks5h://h:1")
