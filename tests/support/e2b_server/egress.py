"""E2B's rules for the network of a sandbox, from the request that creates the sandbox."""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass
from typing import Any

from tests.support.e2b_server.state import ApiError

ALL = "0.0.0.0/0"
_UNSPECIFIED = ("0.0.0.0", "::")  # noqa: S104 - not an address to bind to
_LABEL = re.compile(r"(?!-)[a-z0-9-]{1,63}(?<!-)")


@dataclass(frozen=True, kw_only=True)
class Egress:
    """The network of a sandbox: `denied` addresses, except for `allowed` ones."""

    allowed: tuple[str, ...] = ()
    denied: tuple[str, ...] = ()

    @classmethod
    def of(cls, fields: dict[str, Any]) -> Egress:
        """Read the fields of a request. Raise `ApiError` for a network that E2B refuses."""
        network = fields.get("network") or {}
        allowed, denied = network.get("allowOut") or [], network.get("denyOut") or []
        for entry in denied:
            if not _is_specified(entry):
                raise ApiError(400, f"invalid denied CIDR {entry}")
        domains = [entry for entry in allowed if _address(entry) is None]
        for entry in allowed:
            if entry not in domains and not _is_specified(entry):
                raise ApiError(400, f"invalid allowed address {entry}")
            if entry in domains and not _is_domain(entry):
                raise ApiError(400, f"invalid allowed domain: {entry}")
        # `allow_internet_access` is no substitute for it.
        if domains and ALL not in denied:
            raise ApiError(
                400,
                "When specifying allowed domains in allow out, you must include 'ALL_TRAFFIC' in"
                " deny out to block all other traffic.",
            )
        if fields.get("allow_internet_access") is False:
            denied = [ALL]
        return cls(allowed=tuple(allowed), denied=tuple(denied))

    def shown(self) -> dict[str, Any]:
        """Return the network as E2B shows it, if the request set one."""
        network = {"allowOut": list(self.allowed), "denyOut": list(self.denied)}
        return {"network": network} if any(network.values()) else {}


def _address(entry: str) -> str | None:
    try:
        return str(ipaddress.ip_network(entry, strict=False).network_address)
    except ValueError:
        return None


def _is_specified(entry: str) -> bool:
    return entry == ALL or _address(entry) not in (None, *_UNSPECIFIED)


def _is_domain(entry: str) -> bool:
    name = entry.removeprefix("*.").lower()
    return name == "*" or all(map(_LABEL.fullmatch, name.split(".")))
