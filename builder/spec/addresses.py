"""Addresses in a spec: of packages, wheels and keys."""

from __future__ import annotations

import re

# A requirement that says where the package is: PEP 508 ends the address at the first white space.
_DIRECT = re.compile(r"[^@;]+@\s*(?P<address>\S+)(?:\s+(?:;.*)?)?")
HASHED = re.compile(r"(?P<url>https?://[^#]+)#sha256=(?P<sha256>[0-9a-f]{64})")


def address_of(requirement: str) -> str | None:
    """Return the address that a requirement names: a URL, a commit, or a path of a wheel."""
    direct = _DIRECT.fullmatch(requirement)
    return direct["address"] if direct else None


def wheel_of(requirement: str) -> str | None:
    """Return the path of the wheel in the variants folder that a requirement names."""
    address = address_of(requirement)
    return address if address and "://" not in address else None


def hashed_address(value: str) -> tuple[str, str] | None:
    """Return the URL and the SHA-256 of `https://…#sha256=…`, None for anything else."""
    address = HASHED.fullmatch(value)
    return (address["url"], address["sha256"]) if address else None
