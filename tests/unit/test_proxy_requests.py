from __future__ import annotations

import ipaddress
import socket

import pytest
from hypothesis import given
from hypothesis import strategies as st

from builder.targets.local.confine.addresses import is_own, is_public
from builder.targets.local.confine.requests import BadRequestError, Request, parse

PRIVATE = (
    "0.0.0.0",  # noqa: S104 - nothing listens on it
    *("10.0.0.1", "100.64.0.1", "100.100.100.200", "127.0.0.1", "127.255.255.254"),
    *("168.63.129.16", "169.254.169.254", "172.16.0.1", "172.31.255.255", "192.0.0.192"),
    *(
        "192.0.2.1",
        "192.168.1.1",
        "192.88.99.1",
        "198.18.0.1",
        "203.0.113.1",
        "224.0.0.1",
        "239.255.255.250",
    ),
    *("240.0.0.1", "255.255.255.255"),
    *("::", "::1", "::7f00:1", "::ffff:127.0.0.1", "::ffff:8.8.8.8", "::ffff:0:127.0.0.1"),
    *("64:ff9b::7f00:1", "64:ff9b::8.8.8.8", "64:ff9b:1::1", "100::1", "2001::1", "2001:db8::1"),
    *("2002:7f00:1::", "2002:808:808::1", "fc00::1", "fd00:ec2::254", "fe80::1", "fe80::1%lo"),
    *("fec0::1", "ff02::1", "ff0e::1", "4000::1", "2606:4700::1111%lo", "2606:4700::1111%2"),
    *("", "example.com", "127.1", "2130706433", "0x7f.1", "0177.0.0.1", "8.8.8.8.", "8.8.8.8/32"),
)


@pytest.mark.parametrize("address", PRIVATE)
def test_only_the_internet_is_public(address: str) -> None:
    """Addresses that are private, loopback, link-local, metadata, multicast, reserved, translated
    from IPv4, or in an unusual form are not public."""
    assert not is_public(address)


PRIVATE_4 = st.sampled_from(["10.0.0.0/8", "127.0.0.0/8", "169.254.0.0/16", "172.16.0.0/12", "192.168.0.0/16"]).flatmap(
    lambda network: st.ip_addresses(network=network)
)  # fmt: skip


@given(PRIVATE_4, st.integers(0, 2**64 - 1))
def test_no_address_of_ipv6_leads_to_a_private_one_of_ipv4(
    address: ipaddress.IPv4Address, bits: int
) -> None:
    """A private address is not public inside one of IPv6: mapped, compatible, translated, or the
    end of a tunnel of 6to4 or Teredo."""
    number = int(address)
    forms = (
        *(number, 0xFFFF << 32 | number, 0xFFFF << 48 | number),  # ::, ::ffff:, ::ffff:0:
        *(0x64FF9B << 96 | number, 0x64FF9B0001 << 80 | bits << 32 & (1 << 80) - 1 | number),
        0x2002 << 112 | number << 80 | bits,
        *(0x20010000 << 96 | bits << 32 | each for each in (number, number ^ 0xFFFFFFFF)),
    )
    for form in forms:
        assert not is_public(str(ipaddress.IPv6Address(form))), ipaddress.IPv6Address(form)


@given(PRIVATE_4, st.integers(1, 4), st.lists(st.sampled_from("doxX"), min_size=4, max_size=4))
def test_no_form_of_a_private_address_is_public(
    address: ipaddress.IPv4Address, parts: int, bases: list[str]
) -> None:
    """A private address in one to four parts, each decimal, octal or hexadecimal, is resolved by
    this machine to one that is not public."""
    packed = address.packed
    numbers = [*packed[: parts - 1], int.from_bytes(packed[parts - 1 :])]
    text = {"d": "{}", "o": "0{:o}", "x": "0x{:x}", "X": "0X{:X}"}
    form = ".".join(text[base].format(number) for base, number in zip(bases, numbers, strict=False))
    (answer, *_) = socket.getaddrinfo(form, 80, type=socket.SOCK_STREAM)
    assert answer[4][0] == str(address)
    assert not is_public(str(answer[4][0]))
    assert not is_public(form)
    assert parse(connect(f"{form}:80")).host == form.lower()


@pytest.mark.parametrize("address", ["1.1.1.1", "8.8.8.8", "2606:4700::1111", "2a00:1450::1"])
def test_public_addresses_are_public(address: str) -> None:
    """Ordinary addresses of servers are public."""
    assert is_public(address)


def test_own_addresses_are_recognised() -> None:
    """An address of this machine is its own; another's is not."""
    assert is_own("127.0.0.1")
    assert not is_own("8.8.8.8")
    assert is_own("::1") == socket.has_ipv6
    assert not is_own("2606:4700::1111")


def connect(authority: str) -> bytes:
    return f"CONNECT {authority} HTTP/1.1\r\nHost: {authority}\r\n\r\n".encode("latin-1")


@pytest.mark.parametrize(
    ("authority", "host", "port"),
    [
        ("example.com:443", "example.com", 443),
        ("Example.COM.:0443", "example.com", 443),
        ("example.com:1", "example.com", 1),
        ("a_b.example.com:65535", "a_b.example.com", 65535),
        ("[2606:4700::1111]:8443", "2606:4700::1111", 8443),
        ("[::ffff:127.0.0.1]:80", "::ffff:127.0.0.1", 80),
        ("2130706433:80", "2130706433", 80),
    ],
)
def test_connect_names_a_host_and_a_port(authority: str, host: str, port: int) -> None:
    """CONNECT gives the host, as it is compared and resolved, and any port."""
    assert parse(connect(authority)) == Request(host=host, port=port, forwarded=None)


EXPECTED_HOST = "expected a host and a port, such as example.com:443"
NO_FIELD = "a line of the header is not a field"
NO_REQUEST = "the first line is not that of an HTTP/1.1 request"
NO_URL = "expected CONNECT, or a URL that begins with http://"


@pytest.mark.parametrize(
    "authority",
    [
        *("example.com", "example.com:", "example.com:0", "example.com:65536", "example.com:-1"),
        *("example.com:http", "example.com:+80", "example.com:٨٠".encode().decode("latin-1")),
        *("user@example.com:80", "example.com:80@10.0.0.1:80", "a\\b:80", "exa%6dple.com:80"),
        *("::1:80", "[::1", "[::1]", "[fe80::1%25lo]:80", "[example.com]:80", ":80", "*"),
        *("http://example.com:80", f"{'a' * 255}:80", "example.com:000080"),
        *("example.com..:80", ".:80", "..:80", ".example.com:80", "a..b:80"),
    ],
)
def test_other_authorities_are_bad_requests(authority: str) -> None:
    """CONNECT to anything but one host and one port is refused before a name is resolved."""
    with pytest.raises(BadRequestError) as caught:
        parse(connect(authority))
    assert str(caught.value) in (EXPECTED_HOST, NO_REQUEST)
    assert caught.value.status == 400


def test_url_becomes_a_path() -> None:
    """A request with a URL is forwarded with the path, without the fields for the proxy."""
    header = (
        b"POST http://Example.com:8080/a?b=c#d HTTP/1.1\r\nHost: other.example\r\n"
        b"Proxy-Authorization: Basic eDp5\r\nProxy-Connection: keep-alive\r\n"
        b"connection: keep-alive\r\nContent-Length: 2\r\nX-Y: \xe4\r\n\r\n"
    )
    expected = (
        b"POST /a?b=c HTTP/1.1\r\nHost: Example.com:8080\r\nContent-Length: 2\r\nX-Y: \xe4\r\n"
        b"Connection: close\r\n\r\n"
    )
    assert parse(header) == Request(host="example.com", port=8080, forwarded=expected)


@pytest.mark.parametrize(
    ("url", "line"),
    [
        ("http://example.com", b"GET / HTTP/1.1"),
        ("HTTP://example.com?a", b"GET /?a HTTP/1.1"),
        ("http://[2606:4700::1111]/", b"GET / HTTP/1.1"),
        ("http://example.com//a/../b", b"GET //a/../b HTTP/1.1"),
    ],
)
def test_url_without_a_port_means_port_80(url: str, line: bytes) -> None:
    """The port of a URL is 80 by default, and its path `/`."""
    request = parse(f"GET {url} HTTP/1.0\r\n\r\n".encode())
    assert request.port == 80
    assert request.forwarded
    assert request.forwarded.startswith(line + b"\r\nHost: ")


@pytest.mark.parametrize(
    ("header", "reason"),
    [
        (b"GET / HTTP/1.1\r\nHost: example.com\r\n\r\n", NO_URL),
        (b"GET https://example.com/ HTTP/1.1\r\n\r\n", NO_URL),
        (b"GET ftp://example.com/ HTTP/1.1\r\n\r\n", NO_URL),
        (b"OPTIONS * HTTP/1.1\r\n\r\n", NO_URL),
        (b"GET http://example.com@10.0.0.1/ HTTP/1.1\r\n\r\n", EXPECTED_HOST),
        (b"GET http://10.0.0.1\\@example.com/ HTTP/1.1\r\n\r\n", EXPECTED_HOST),
        (b"GET http:///a HTTP/1.1\r\n\r\n", EXPECTED_HOST),
        (b"PRI * HTTP/2.0\r\n\r\n", NO_REQUEST),
        (b"\x16\x03\x01\r\n\r\n", NO_REQUEST),
        (b"\r\n\r\n", NO_REQUEST),
        (b"GET http://example.com/ a HTTP/1.1\r\n\r\n", NO_REQUEST),
        (b"GET http://example.com/\n HTTP/1.1\r\n\r\n", NO_REQUEST),
        (b"GET http://example.com/ HTTP/1.1\r\nHost : a\r\n\r\n", NO_FIELD),
        (b"GET http://example.com/ HTTP/1.1\r\nA: b\r\n c\r\n\r\n", NO_FIELD),
        (b"GET http://example.com/ HTTP/1.1\r\nA: b\nC: d\r\n\r\n", NO_FIELD),
        (b"GET http://example.com/ HTTP/1.1\r\nA: b\0\r\n\r\n", NO_FIELD),
        (b"GET http://example.com/ HTTP/1.1\r\nA\r\n\r\n", NO_FIELD),
    ],
)
def test_other_requests_are_bad(header: bytes, reason: str) -> None:
    """A request of another kind, or that servers could read in two ways, is refused."""
    with pytest.raises(BadRequestError) as caught:
        parse(header)
    assert str(caught.value) == reason


@given(st.binary(max_size=300))
def test_any_bytes_are_a_request_or_a_bad_one(data: bytes) -> None:
    """Any bytes are a request or an error, and a forwarded header has one end."""
    for header in (data, b"GET http://a/" + data, b"GET http://a/ HTTP/1.1\r\n" + data):
        try:
            request = parse(header + b"\r\n\r\n")
        except BadRequestError:
            continue
        forwarded = request.forwarded or b""
        assert forwarded.count(b"\n") == forwarded.count(b"\r\n")
        assert b"\r\n\r\n" not in forwarded[:-4]
