"""Why the proxy refuses hosts, in words for the code and for the notes of its result. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from enum import Enum
from typing import NamedTuple

from builder.sandbox.network import Network

_LISTED = 10  # in a note, of the hosts that were refused for the same reason


class Reason(Enum):
    """Why a host is refused. The values are the answer to the code, for one host, and the two parts
    of a note, around the hosts."""

    UNLISTED = (
        "the `network` of this sandbox does not allow {host}",
        "hosts that `network` does not list",
        "; add them to it in the spec, or in `network=` when the sandbox is opened",
    )
    ADDRESS = (
        "the `network` of this sandbox lists names, and {host} is an address",
        "addresses, since `network` lists names",
        '; use the name of a host that it lists, or `network = "allow"`',
    )
    PRIVATE = (
        (
            "{host} is not on the Internet, and sandboxes do not reach this machine or private"
            " networks"
        ),
        "hosts on this machine or in private networks, which no `network` allows",
        "",
    )
    UNRESOLVED = (
        "{host} cannot be resolved on this machine, and may be in a private network",
        "hosts that this machine cannot resolve, and that may be in a private network",
        "; through a proxy, sandboxes reach such a host if `network` lists it",
    )


class Refusal(NamedTuple):
    """A host that was refused."""

    host: str
    reason: Reason

    def __str__(self) -> str:
        return self.reason.value[0].format(host=self.host)


def refusal(network: Network, host: str) -> Refusal | None:
    """Return the refusal of a host that a network does not allow; None if it does."""
    if network.allows(host):
        return None
    return Refusal(host, Reason.ADDRESS if _is_address(host) else Reason.UNLISTED)


def notes(refused: Mapping[Refusal, int]) -> Iterator[str]:
    """Yield a note for each reason, given how often each host was refused."""
    for reason in Reason:
        counts = {each.host: count for each, count in refused.items() if each.reason is reason}
        if counts:
            _, what, remedy = reason.value
            yield f"connections were refused to {what}: {_hosts(counts)}{remedy}"


def _hosts(counts: Mapping[str, int]) -> str:
    hosts = [
        host if count == 1 else f"{host} ({count} times)"
        for host, count in list(counts.items())[:_LISTED]
    ]
    more = len(counts) - len(hosts)
    return ", ".join([*hosts, f"and {more} more"] if more else hosts)


def _is_address(host: str) -> bool:
    """Return whether a host is an IP address in any form: its end cannot be that of a name."""
    return ":" in host or not host.rpartition(".")[2][:1].isalpha()
