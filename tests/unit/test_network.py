import dataclasses
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from builder.sandbox.network import InvalidNetworkError, Network, host_pattern

EXPECTED = 'expected "none", "allow" or a list of hosts such as ["example.com", "*.example.org"]'


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("none", "none"),
        ("allow", "allow"),
        (["example.com", "*.example.org"], "example.com, *.example.org"),
        (("Example.com", "example.com"), "example.com"),
    ],
)
def test_a_value_has_a_text_and_reads_back(value: object, text: str) -> None:
    """A network is shown as in a spec, with each host once and in lower case, and can be read
    again."""
    network = Network.of(value)
    assert str(network) == text
    assert Network.of(network.value) == network


@pytest.mark.parametrize(
    ("value", "host", "allowed"),
    [
        ("none", "example.com", False),
        ("allow", "example.com", True),
        ("allow", "10.0.0.1", True),
        (["example.com"], "example.com", True),
        (["example.com"], "Example.Com.", True),
        (["example.com"], "files.example.com", False),
        (["example.com"], "example.com.example.net", False),
        (["example.com"], "xexample.com", False),
        (["example.com"], "example.com..", False),
        (["example.com"], "", False),
        (["*.example.org"], "a.example.org", True),
        (["*.example.org"], "a.b.example.org", True),
        (["*.example.org"], "example.org", False),
        (["*.example.org"], ".example.org", False),
        (["*.example.org"], "xexample.org", False),
        (["*.example.org", "example.com"], "example.com", True),
        (["*.org"], "192.0.2.1", False),
    ],
)
def test_a_host_is_allowed_by_its_whole_name(value: object, host: str, allowed: bool) -> None:
    """A name allows only that host, `*.` allows the hosts below a domain, and no pattern allows an
    address."""
    assert Network.of(value).allows(host) is allowed


def test_a_network_is_of_one_kind() -> None:
    """A network is exactly one of none, open and a list."""
    kinds = [(n.is_none, n.is_open) for n in map(Network.of, ("none", "allow", ["example.com"]))]
    assert kinds == [(True, False), (False, True), (False, False)]
    with pytest.raises(dataclasses.FrozenInstanceError):
        Network.of("none").hosts = None  # type: ignore[misc]


@pytest.mark.parametrize(
    ("value", "message", "hint"),
    [
        ("nome", '\'nome\' is neither "none" nor "allow"', "did you mean `none`?"),
        ("", '\'\' is neither "none" nor "allow"', EXPECTED),
        ("NONE", '\'NONE\' is neither "none" nor "allow"', EXPECTED),
        (
            "example.com",
            '\'example.com\' is neither "none" nor "allow"',
            'write ["example.com"] to allow that host alone',
        ),
        (
            "https://example.com/simple",
            '\'https://example.com/simple\' is neither "none" nor "allow"',
            'write ["example.com"] to allow that host alone',
        ),
        (True, "neither text nor a list", 'write "allow"'),
        (False, "neither text nor a list", 'write "none"'),
        (None, "neither text nor a list", EXPECTED),
        ({}, "neither text nor a list", EXPECTED),
        ([], "the list is empty", 'write "none" to allow no host'),
        (
            ["example.com", 1, "https://example.com/", "*"],
            "expected the names of hosts, found int; 'https://example.com/' is not the name of a host (write 'example.com');"
            " '*' is not the name of a host (write \"allow\" instead of the list)",
            None,
        ),
    ],
)
def test_a_wrong_value_is_refused(value: object, message: str, hint: str | None) -> None:
    """A wrong value is refused with all its mistakes, and the value to write."""
    with pytest.raises(InvalidNetworkError) as refused:
        Network.of(value)
    assert (str(refused.value), refused.value.hint) == (message, hint)


@pytest.mark.parametrize(
    ("value", "message", "hint"),
    [
        ("example.com:443", "is not the name of a host", "write 'example.com'"),
        ("example.com.", "is not the name of a host", "write 'example.com'"),
        ("https://*.example.com:8443/simple", "is not the name of a host", "write '*.example.com'"),
        (" example.com", "is not the name of a host", "write 'example.com'"),
        ("bücher.example", "is not the name of a host", "write 'xn--bcher-kva.example'"),
        ("*", "is not the name of a host", 'write "allow" instead of the list'),
        ("*.*", "is not the name of a host", 'write "allow" instead of the list'),
        ("", "is not the name of a host", "remove it"),
        ("10.0.0.1", "is an IP address", "write the name of the host"),
        ("10.0.0.0/8", "is an IP address", "write the name of the host"),
        ("http://10.0.0.1:80/", "is an IP address", "write the name of the host"),
        ("::1", "is an IP address", "write the name of the host"),
        ("[fd00::1]", "is an IP address", "write the name of the host"),
        ("localhost", "has no domain", "write the full name of the host, such as 'example.com'"),
        ("localhost:80", "has no domain", "write the full name of the host, such as 'example.com'"),
        (
            "example.*",
            "has a `*` that is not its whole first part",
            "write it as in '*.example.org', or list the hosts",
        ),
        (
            "*example.com",
            "has a `*` that is not its whole first part",
            "write it as in '*.example.org', or list the hosts",
        ),
        ("a_b.org", "is not the name of a host", "write it as in 'example.com' or '*.example.org'"),
        ("a..org", "is not the name of a host", "write it as in 'example.com' or '*.example.org'"),
        ("-a.org", "is not the name of a host", "write it as in 'example.com' or '*.example.org'"),
        ("0x7f.1", "is not the name of a host", "write it as in 'example.com' or '*.example.org'"),
        ("a.0x7f", "is not the name of a host", "write it as in 'example.com' or '*.example.org'"),
        ("a.org\n", "is not the name of a host", "write 'a.org'"),
    ],
)
def test_a_wrong_host_is_refused(value: str, message: str, hint: str) -> None:
    """An invalid host name is refused, and a name that it contains is suggested."""
    with pytest.raises(InvalidNetworkError) as refused:
        host_pattern(value)
    assert (str(refused.value), refused.value.hint) == (f"{value!r} {message}", hint)


@pytest.mark.parametrize("length", [253, 254])
def test_a_name_has_the_length_of_one(length: int) -> None:
    """A name has at most 253 characters."""
    name = ".".join(["a" * 49] * 5) + "." + "b" * (length - 250)
    assert len(name) == length
    if length > 253:
        with pytest.raises(InvalidNetworkError):
            host_pattern(name)
    else:
        assert host_pattern(name) == name


@given(st.text())
def test_any_text_is_a_pattern_or_refused_in_words(text: str) -> None:
    """Any text is a pattern in ASCII and lower case, or refused with a hint."""
    value, hint = "", None
    try:
        value = host_pattern(text)
    except InvalidNetworkError as error:
        hint = error.hint
    assert bool(value) != bool(hint)
    assert value.isascii()
    assert value == value.lower()


def test_it_loads_the_standard_library_alone() -> None:
    """Reading a network loads only the standard library and this package."""
    code = (
        "import sys; before = set(sys.modules);"
        "from builder.sandbox.network import Network; Network.of(['example.com']);"
        "names = {name.partition('.')[0] for name in set(sys.modules) - before};"
        "print(sorted(names - sys.stdlib_module_names))"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout == "['builder']\n"
