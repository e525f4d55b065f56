"""Open sandboxes of a build, confined or not, with limits for a test."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Mapping
from types import MappingProxyType

import pytest

from builder.render import Rendered
from builder.sandbox.boundary import Boundary
from builder.sandbox.network import Network
from builder.system.isolation import Isolation
from builder.targets.local import place
from builder.targets.local.confine.confinement import confinement
from builder.targets.local.kernel import KernelSandbox
from builder.targets.local.launch import zygote_of

NEEDS_WALLS = [
    pytest.mark.network,
    pytest.mark.skipif(sys.platform != "linux", reason="only Linux confines sandboxes"),
]


def open_sandbox(
    kind: str,
    light: Rendered,
    ref: str,
    isolation: Isolation,
    *,
    network: Network | None = None,
    limits: Mapping[str, int] = MappingProxyType({}),
) -> KernelSandbox:
    """Open a sandbox whose kernel is started from scratch ("cold") or "forked"."""
    path = place.find_build(ref, name="light").path
    confined = confinement(path, Boundary(isolation=isolation, network=network))
    if confined:
        changed = dataclasses.replace(confined.limits, **limits)
        confined = dataclasses.replace(confined, limits=changed)
    zygote = None
    if kind == "forked":
        # This module keeps the folder in which it was imported.
        warm = ["multiprocessing.process"]
        view = confined.view if confined else None
        zygote = zygote_of(path, digest=light.digest, warm=warm, env={}, view=view)
    return KernelSandbox(path, warm=(), env={}, zygote=zygote, confined=confined)
