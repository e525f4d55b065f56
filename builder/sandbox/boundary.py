"""The boundary of a sandbox on this machine."""

from __future__ import annotations

from dataclasses import dataclass

from builder.sandbox.network import Network
from builder.system.isolation import DEFAULT, Isolation


@dataclass(frozen=True, kw_only=True, slots=True)
class Boundary:
    """Isolation, network and resources of a sandbox on this machine; None is the target's
    default."""

    isolation: Isolation = DEFAULT
    network: Network | None = None
    cpu: int | None = None
    memory_mb: int | None = None
