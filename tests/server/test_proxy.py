from __future__ import annotations

import contextlib
import gc
import http.client
import http.server
import os
import socket
import socketserver
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from builder.sandbox.network import Network
from builder.targets.local.confine import proxy
from builder.targets.local.confine.proxy import Proxy, Waits
from builder.targets.local.confine.refusals import Reason, Refusal
from builder.targets.local.confine.upstream import Upstreams
from tests.support.proxies import PUBLIC, Answers, Names, Sandbox, serving

OTHER_PUBLIC, PUBLIC_6 = "93.184.216.35", "2606:4700::1111"
NOT_INTERNET = "is not on the Internet, and sandboxes do not reach this machine or private networks"
OTHERS = Refusal("other hosts", Reason.UNLISTED)


@pytest.fixture(scope="module")
def server() -> Iterator[int]:
    with serving(Answers) as port:
        yield port


Make = Callable[..., Sandbox]


@pytest.fixture
def make() -> Iterator[Make]:
    with contextlib.ExitStack() as stack:

        def make_proxy(
            network: object, outside: proxy.Outside | None = None, waits: Waits | None = None
        ) -> Sandbox:
            opened = Proxy(
                Network.of(network), outside=outside, upstreams=Upstreams({}), waits=waits
            )
            stack.callback(opened.close)
            return Sandbox(opened)

        yield make_proxy


def test_allowed_host_is_reached_both_ways(make: Make, server: int) -> None:
    """CONNECT and a URL both reach an allowed host at the resolved address, and the server sees the
    host of the URL."""
    outside = Names({"a.example.org": [[PUBLIC]]}, server)
    sandbox = make(["*.example.org"], outside)
    client = http.client.HTTPConnection("127.0.0.1", sandbox.port, timeout=20)
    client.set_tunnel("a.example.org", 8443)
    client.request("GET", "/path")
    assert client.getresponse().read() == b"/path a.example.org:8443"
    client.close()
    assert sandbox.get("http://a.example.org/x?y") == (200, "/x?y a.example.org")
    body = b"POST http://a.example.org/ HTTP/1.1\r\nContent-Length: 4\r\n\r\nbody"
    assert sandbox.send(body) == (200, "body")
    assert outside.connected == [(PUBLIC, 8443), (PUBLIC, 80), (PUBLIC, 80)]
    assert sandbox.proxy.refused == {}


def test_other_hosts_are_refused_and_counted(make: Make, server: int) -> None:
    """A host that is not in the list is answered with 403, counted, and not resolved."""
    outside = Names({"example.org": [[PUBLIC]], "a.example.org.evil.com": [[PUBLIC]]}, server)
    sandbox = make(["*.example.org"], outside)
    for host in ("example.org", "a.example.org.evil.com", "EXAMPLE.org."):
        name = host.lower().rstrip(".")
        message = f"the `network` of this sandbox does not allow {name}"
        assert sandbox.open(host) == (403, message)
    assert sandbox.get("http://example.org/")[0] == 403
    message = f"the `network` of this sandbox lists names, and {PUBLIC} is an address"
    assert sandbox.open(PUBLIC) == (403, message)
    assert (outside.asked, outside.connected) == ([], [])
    assert sandbox.proxy.refused == {
        Refusal("example.org", Reason.UNLISTED): 3,
        Refusal("a.example.org.evil.com", Reason.UNLISTED): 1,
        Refusal(PUBLIC, Reason.ADDRESS): 1,
    }


@pytest.mark.parametrize(
    "addresses",
    [
        *(["127.0.0.1"], ["10.1.2.3"], ["169.254.169.254"], ["::1"], ["fe80::1"]),
        *(["::ffff:127.0.0.1"], ["::ffff:93.184.216.34"], ["224.0.0.1"], ["0.0.0.0"]),  # noqa: S104
        *([PUBLIC, "127.0.0.1"], ["fd00:ec2::254", PUBLIC], [PUBLIC, PUBLIC_6, "::1"]),
    ],
)
def test_name_that_leads_inside_is_refused(make: Make, server: int, addresses: list[str]) -> None:
    """A name with any address that is not public is refused, in the list or with every host
    allowed."""
    for network in (["rebound.example.org"], "allow"):
        outside = Names({"rebound.example.org": [addresses]}, server)
        sandbox = make(network, outside)
        expected = (403, f"rebound.example.org {NOT_INTERNET}")
        assert sandbox.open("rebound.example.org") == expected
        assert sandbox.get("http://rebound.example.org/") == expected
        assert outside.connected == []
        assert sandbox.proxy.refused == {Refusal("rebound.example.org", Reason.PRIVATE): 2}


def test_second_answer_is_not_asked_for(make: Make, server: int) -> None:
    """A name is resolved once for each connection, which goes to the address that was checked."""
    outside = Names({"rebound.example.org": [[PUBLIC], ["127.0.0.1"]]}, server)
    sandbox = make(["rebound.example.org"], outside)
    assert sandbox.open("rebound.example.org")[0] == 200
    assert outside.asked == ["rebound.example.org"]
    assert sandbox.open("rebound.example.org")[0] == 403
    assert outside.connected == [(PUBLIC, 443)]


@pytest.mark.parametrize(
    "host",
    [
        *("127.0.0.1", "127.1", "2130706433", "0x7f000001", "0177.0.0.1", "0", "10.0.0.1"),
        *("169.254.169.254", "2852039166", "[::1]", "[::ffff:127.0.0.1]", "[::ffff:7f00:1]"),
        *(
            "[fe80::1]",
            "[fd00:ec2::254]",
            "[64:ff9b::7f00:1]",
            "localhost",
            "[::]",
            "100.100.100.200",
        ),
        "168.63.129.16",
    ],
)
def test_addresses_in_every_form_are_refused(make: Make, host: str) -> None:
    """With this machine's resolver, no form of a private address is reached, even if every host is
    allowed."""
    sandbox = make("allow")
    status, reason = sandbox.open(host, 80)
    assert (status, reason) == (403, f"{host.strip('[]')} {NOT_INTERNET}")
    assert sum(sandbox.proxy.refused.values()) == 1


def test_own_public_address_is_refused(
    make: Make, server: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A public address of this machine is refused, since it leads to local servers."""
    monkeypatch.setattr(proxy, "is_own", PUBLIC.__eq__)
    outside = Names({"me.example.org": [[PUBLIC]], "you.example.org": [[OTHER_PUBLIC]]}, server)
    sandbox = make("allow", outside)
    assert sandbox.open("me.example.org") == (403, f"me.example.org {NOT_INTERNET}")
    assert sandbox.open("you.example.org")[0] == 200


@pytest.mark.parametrize("port", ["1", "22", "8443", "65535", "0443"])
def test_every_port_is_allowed(make: Make, server: int, port: str) -> None:
    """An allowed host can be reached on every port."""
    outside = Names({"a.example.org": [[PUBLIC]]}, server)
    assert make("allow", outside).open("a.example.org", port)[0] == 200
    assert outside.connected == [(PUBLIC, int(port))]


@pytest.mark.parametrize("port", ["0", "65536", "-1", "http", "", "44 3"])
def test_what_is_no_port_is_a_bad_request(make: Make, server: int, port: str) -> None:
    """An invalid port is answered with 400, and is not counted as a refusal."""
    sandbox = make("allow", Names({"a.example.org": [[PUBLIC]]}, server))
    assert sandbox.open("a.example.org", port)[0] == 400
    assert sandbox.proxy.refused == {}


def test_next_address_is_tried(make: Make, server: int) -> None:
    """If a name has several addresses, the first that answers is used; if none does, the answer
    says why."""
    outside = Names({"a.example.org": [[PUBLIC_6, PUBLIC]], "b.example.org": [[PUBLIC_6]]}, server)
    outside.dead = {PUBLIC_6}
    sandbox = make("allow", outside)
    assert sandbox.open("a.example.org")[0] == 200
    assert outside.connected == [(PUBLIC_6, 443), (PUBLIC, 443)]
    reason = "b.example.org cannot be reached: Connection refused"
    assert sandbox.open("b.example.org") == (502, reason)
    assert sandbox.open("c.example.org") == (502, "c.example.org cannot be resolved")
    assert sandbox.proxy.refused == {}


def test_second_request_cannot_choose_another_host(make: Make, server: int) -> None:
    """What follows a request on its connection goes to the same server, whichever host it names."""
    outside = Names({"a.example.org": [[PUBLIC]], "b.example.org": [[OTHER_PUBLIC]]}, server)
    sandbox = make(["a.example.org"], outside)
    first = b"GET http://a.example.org/1 HTTP/1.1\r\n\r\n"
    for second in (
        b"GET http://b.example.org/2 HTTP/1.1\r\nHost: b.example.org\r\n\r\n",
        b"CONNECT b.example.org:443 HTTP/1.1\r\n\r\n",
    ):
        assert sandbox.send(first + second) == (200, "/1 a.example.org")
    assert outside.asked == ["a.example.org"] * 2
    assert outside.connected == [(PUBLIC, 80)] * 2


def test_body_in_chunks_arrives_unchanged(make: Make) -> None:
    """The proxy passes on a body as it is, with its length given twice, too: only the chosen server
    reads it."""
    body = b"4;a=b\r\nbody\r\n0\r\n\r\nGET http://b.example.org/ HTTP/1.1\r\n\r\n"
    fields = b"Transfer-Encoding: chunked\r\nContent-Length: 4\r\n"

    class Reads(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            received = b"".join(iter(lambda: self.request.recv(1 << 16), b""))
            answer = received.partition(b"\r\n\r\n")[2] == body and fields in received
            self.request.sendall(b"HTTP/1.1 200 %d\r\n\r\n" % answer)

    with serving(Reads) as port:
        sandbox = make("allow", Names({"a.example.org": [[PUBLIC]]}, port))
        header = b"POST http://a.example.org/ HTTP/1.1\r\n" + fields + b"\r\n"
        with sandbox.connect(header + body) as connection:
            connection.shutdown(socket.SHUT_WR)
            assert connection.recv(1024) == b"HTTP/1.1 200 1\r\n\r\n"


@pytest.mark.slow
def test_silent_connections_do_not_keep_others_out(make: Make, server: int) -> None:
    """More silent connections than the proxy serves at once end in time, and further ones are
    answered."""
    sandbox = make("allow", Names({"a.example.org": [[PUBLIC]]}, server), Waits(header=2))
    with contextlib.ExitStack() as stack:
        for _ in range(160):
            stack.enter_context(sandbox.connect(b"CONNECT a"))
        assert sandbox.open("a.example.org")[0] == 200


def test_header_bomb_is_refused(make: Make, server: int) -> None:
    """A header without an end is answered with 431, and not read further."""
    sandbox = make("allow", Names({}, server))
    bomb = b"GET http://a.example.org/ HTTP/1.1\r\n" + b"X: " + b"x" * (1 << 17)
    assert sandbox.send(bomb) == (431, "the header of the request is longer than 65536 bytes")
    assert sandbox.send(b"A: b\r\n" * 30_000)[0] == 431


def test_slow_clients_are_let_go(make: Make, server: int) -> None:
    """A client that does not complete its header, or is idle for long, is disconnected; a client
    that closes early does no harm."""
    outside = Names({"a.example.org": [[PUBLIC]]}, server)
    sandbox = make("allow", outside, Waits(header=0.3, idle=0.5))
    assert sandbox.send(b"CONNECT a.ex") == (408, "the request took too long")
    with sandbox.connect(b"CONNECT a.example.org:1 HTTP/1.1\r\n\r\n") as connection:
        assert connection.recv(1024).startswith(b"HTTP/1.1 200 ")
        start = time.monotonic()
        with contextlib.suppress(ConnectionResetError):
            assert connection.recv(1) == b""
        assert time.monotonic() - start < 10
    sandbox.connect(b"CONNECT").close()
    with sandbox.connect(b"CONNECT a") as connection:
        connection.shutdown(socket.SHUT_WR)
        assert b"HTTP/1.1 400 the request ends within its header\r\n" in connection.recv(1024)
    assert sandbox.open("a.example.org")[0] == 200


def test_long_answer_arrives_whole_while_the_client_is_silent(make: Make) -> None:
    """A long download does not end because the client sends nothing: both directions count as
    activity."""

    class Slow(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            self.request.recv(1)
            for _ in range(8):
                time.sleep(0.1)
                self.request.sendall(b"x" * 100_000)

    with serving(Slow) as port:
        sandbox = make("allow", Names({"a.example.org": [[PUBLIC]]}, port), Waits(idle=0.6))
        with sandbox.connect(b"CONNECT a.example.org:1 HTTP/1.1\r\n\r\nx") as connection:
            connection.shutdown(socket.SHUT_WR)
            size = sum(map(len, iter(lambda: connection.recv(1 << 20), b"")))
        assert size == 800_000 + len(b"HTTP/1.1 200 Connection established\r\n\r\n")


def test_connections_are_limited(make: Make, server: int) -> None:
    """A sandbox has at most 64 connections; further ones are answered with 503 until one ends."""
    sandbox = make("allow", Names({"a.example.org": [[PUBLIC]]}, server))
    with contextlib.ExitStack() as stack:
        for _ in range(64):
            data = b"CONNECT a.example.org:1 HTTP/1.1\r\n\r\n"
            connection = stack.enter_context(sandbox.connect(data))
            assert connection.recv(1024).startswith(b"HTTP/1.1 200 ")
        reason = "a sandbox has at most 64 connections at the same time"
        assert sandbox.open("a.example.org") == (503, reason)
    deadline = time.monotonic() + 10
    while (status := sandbox.open("a.example.org")[0]) == 503 and time.monotonic() < deadline:
        time.sleep(0.05)
    assert status == 200


def test_refusals_of_many_hosts_take_little_memory(make: Make, server: int) -> None:
    """Refusals are counted for 1,000 hosts separately, and for all other hosts together."""
    sandbox = make("none", Names({}, server))
    for number in range(1010):
        assert sandbox.open(f"{number}.example.org")[0] == 403
    refused = sandbox.proxy.refused
    assert (len(refused), refused[OTHERS]) == (1001, 10)


def test_proxy_is_closed_at_any_moment(make: Make, server: int) -> None:
    """A proxy that is closed while it, or a connection, starts leaves no socket open."""
    for wait in (0, 0, 0.001, 0.002, 0.005) * 4:
        sandbox = make("allow", Names({"a.example.org": [[PUBLIC]]}, server))
        with contextlib.ExitStack() as stack:
            for _ in range(5):
                data = b"CONNECT a.example.org:1 HTTP/1.1\r\n\r\n"
                stack.enter_context(sandbox.connect(data))
            time.sleep(wait)
            sandbox.proxy.close()
            with pytest.raises(ConnectionRefusedError):
                sandbox.connect()
    gc.collect()  # which would warn of a socket that was not closed


def test_closed_proxy_leaves_nothing(make: Make, server: int) -> None:
    """Closing ends all connections and the thread at once, closes the listening socket, and may be
    repeated."""
    descriptors = len(os.listdir("/proc/self/fd")) if Path("/proc/self/fd").exists() else None
    sandbox = make("allow", Names({"a.example.org": [[PUBLIC]]}, server))
    with (
        sandbox.connect(b"CONNECT a.example.org:1 HTTP/1.1\r\n\r\n") as connection,
        sandbox.connect(b"CONNECT a"),
    ):
        assert connection.recv(1024).startswith(b"HTTP/1.1 200 ")
        start = time.monotonic()
        sandbox.proxy.close()
        assert time.monotonic() - start < 10  # before any time-out
        with contextlib.suppress(ConnectionResetError):
            assert connection.recv(1) == b""
    with pytest.raises(ConnectionRefusedError):
        sandbox.connect()
    sandbox.proxy.close()
    assert "sandbox-proxy" not in [thread.name for thread in threading.enumerate()]
    if descriptors:
        deadline = time.monotonic() + 10  # for the server's own end
        while len(os.listdir("/proc/self/fd")) > descriptors and time.monotonic() < deadline:
            time.sleep(0.05)
        assert len(os.listdir("/proc/self/fd")) == descriptors
