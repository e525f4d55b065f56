"""Tell addresses of the Internet from private ones."""

from __future__ import annotations

import contextlib
import ipaddress
import socket

_NOT_PUBLIC = tuple(
    ipaddress.ip_network(network)
    for network in (
        "168.63.129.16/32",  # where machines in Azure find their metadata
        # Versions of Python differ about these.
        *("192.0.0.0/24", "192.88.99.0/24", "2001::/23", "2002::/16", "3fff::/20"),
    )
)
# IPv6 has other ranges that lead to addresses of IPv4.
_INTERNET = ipaddress.ip_network("2000::/3")


def is_public(address: str) -> bool:
    """Return whether an IP address is on the Internet, and not in a private network."""
    try:
        ip = ipaddress.ip_address(address)
    except ValueError:
        return False
    if "%" in address:  # on a link of this machine
        return False
    if not ip.is_global or ip.is_multicast or ip.is_reserved:
        return False
    if any(ip in network for network in _NOT_PUBLIC):
        return False
    return ip.version == 4 or ip in _INTERNET


def is_own(address: str) -> bool:
    """Return whether an IP address belongs to this machine. Nothing is sent."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with contextlib.suppress(OSError), socket.socket(family, socket.SOCK_DGRAM) as sender:
        sender.connect((address, 9))  # chooses the address to send from, which is the same then
        return bool(sender.getsockname()[0] == address)
    return False
