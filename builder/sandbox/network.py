"""The hosts that the code in a sandbox may reach.

This module loads only the standard library; targets enforce the network.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeVar

from builder.errors import did_you_mean

NONE, ALLOW = "none", "allow"
EXPECTED = 'expected "none", "allow" or a list of hosts such as ["example.com", "*.example.org"]'
_LABEL = r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?"
# The last label begins with a letter, unlike the end of an IP address in any of its forms.
_LAST_LABEL = re.compile(rf"(?=[a-z]){_LABEL}")
_HOST = re.compile(rf"(?=.{{1,253}}\Z)(?:{_LABEL}\.)+{_LAST_LABEL.pattern}")
_ANY = "*."
_Hosts = TypeVar("_Hosts", bound=Sequence[object])


class InvalidNetworkError(ValueError):
    """A value that is not a valid network; the message and `hint` are for the user."""

    def __init__(self, message: str, hint: str | None = None) -> None:
        super().__init__(message)
        self.hint = hint


@dataclass(frozen=True, slots=True)
class Network:
    """The hosts that a sandbox may reach: `hosts` are their patterns, None means all.

    `example.com` is that host alone; `*.example.org` are the hosts below `example.org`, but not
    `example.org` itself.
    """

    hosts: tuple[str, ...] | None

    @classmethod
    def of(cls, value: object) -> Network:
        """Read "none", "allow" or a list of patterns. Raise `InvalidNetworkError` with all
        mistakes."""
        if not isinstance(value, list | tuple):
            return cls(None if network_word(value) == ALLOW else ())
        if problems := list(_problems(value)):
            raise InvalidNetworkError("; ".join(problems))
        return cls(tuple(dict.fromkeys(map(host_pattern, not_empty(value)))))

    @property
    def is_none(self) -> bool:
        """Whether no host can be reached."""
        return self.hosts == ()

    @property
    def is_open(self) -> bool:
        """Whether every host can be reached, except those that the target never allows."""
        return self.hosts is None

    def allows(self, host: str) -> bool:
        """Return whether a host may be reached, by its name; an IP address matches no pattern."""
        if self.hosts is None:
            return True
        name = host.lower().removesuffix(".")
        return any(_matches(pattern, name) for pattern in self.hosts)

    @property
    def value(self) -> str | list[str]:
        """The value as a spec has it."""
        if self.hosts is None:
            return ALLOW
        return list(self.hosts) or NONE

    def __str__(self) -> str:
        return ALLOW if self.hosts is None else ", ".join(self.hosts) or NONE


def network_word(value: object) -> str:
    """Return "none" or "allow". Raise `InvalidNetworkError` for anything else."""
    if not isinstance(value, str):
        hint = EXPECTED
        if isinstance(value, bool):
            hint = f'write "{ALLOW if value else NONE}"'
        raise InvalidNetworkError("neither text nor a list", hint)
    if value in (NONE, ALLOW):
        return value
    if name := _name_in(value):
        hint = f'write ["{name}"] to allow that host alone'
    else:
        hint = did_you_mean(value, (NONE, ALLOW)) or EXPECTED
    raise InvalidNetworkError(f'{value!r} is neither "{NONE}" nor "{ALLOW}"', hint)


def not_empty(hosts: _Hosts) -> _Hosts:
    """Return the list. Raise `InvalidNetworkError` if it is empty."""
    if not hosts:
        raise InvalidNetworkError("the list is empty", f'write "{NONE}" to allow no host')
    return hosts


def host_pattern(value: str) -> str:
    """Return a pattern in lower case. Raise `InvalidNetworkError` if it is neither the name of a
    host nor `*.` and the name of a domain."""
    if _is_pattern(pattern := value.lower()):
        return pattern
    if not value.strip():
        raise InvalidNetworkError(f"{value!r} is not the name of a host", "remove it")
    if name := _name_in(value):
        raise InvalidNetworkError(f"{value!r} is not the name of a host", f"write {name!r}")
    if not value.strip("*."):
        raise InvalidNetworkError(
            f"{value!r} is not the name of a host", f'write "{ALLOW}" instead of the list'
        )
    host = _host_in(value)
    if _is_address(value) or _is_address(host):
        raise InvalidNetworkError(f"{value!r} is an IP address", "write the name of the host")
    if _LAST_LABEL.fullmatch(host):
        raise InvalidNetworkError(
            f"{value!r} has no domain", "write the full name of the host, such as 'example.com'"
        )
    if "*" in value:
        raise InvalidNetworkError(
            f"{value!r} has a `*` that is not its whole first part",
            "write it as in '*.example.org', or list the hosts",
        )
    raise InvalidNetworkError(
        f"{value!r} is not the name of a host", "write it as in 'example.com' or '*.example.org'"
    )


def _problems(values: Iterable[object]) -> Iterator[str]:
    for value in values:
        if not isinstance(value, str):
            yield f"expected the names of hosts, found {type(value).__name__}"
            continue
        try:
            host_pattern(value)
        except InvalidNetworkError as error:
            yield f"{error} ({error.hint})" if error.hint else str(error)


def _is_pattern(text: str) -> bool:
    if text.startswith(_ANY) and _LAST_LABEL.fullmatch(text.removeprefix(_ANY)):
        return True
    return _HOST.fullmatch(text.removeprefix(_ANY)) is not None


def _matches(pattern: str, name: str) -> bool:
    if pattern.startswith(_ANY):
        domain = pattern.removeprefix("*")
        return name.endswith(domain) and name != domain
    return name == pattern


def _is_address(value: str) -> bool:
    import ipaddress  # slow to load, and needed for a message only

    try:
        ipaddress.ip_network(value.strip("[]"), strict=False)
    except ValueError:
        return False
    return True


def _host_in(value: str) -> str:
    """Return the host in a URL, or in a name with a port or a final dot."""
    address = value.strip().lower().rpartition("://")[2]
    return address.partition("/")[0].rpartition("@")[2].partition(":")[0].removesuffix(".")


def _name_in(value: str) -> str | None:
    """Return the pattern in such a value, in ASCII, if there is one."""
    try:
        name = _host_in(value).encode("idna").decode("ascii")
    except UnicodeError:
        return None
    return name if _is_pattern(name) else None
