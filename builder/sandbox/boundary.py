"""What keeps the code in a sandbox on this machine from everything else."""

from __future__ import annotations

from dataclasses import dataclass

from builder.sandbox.network import Network
from builder.system.isolation import DEFAULT, Isolation


@dataclass(frozen=True, kw_only=True, slots=True)
class Boundary:
    """What a sandbox on this machine is kept to; without numbers and a `network`, to what its
    target sets."""

    isolation: Isolation = DEFAULT
    network: Network | None = None
    cpu: int | None = None
    memory_mb: int | None = None
