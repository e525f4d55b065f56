"""Builds of the target `local`, put in place as a run of `build` does, but not verified."""

from __future__ import annotations

from typing import Any

from builder.build import Built
from builder.events import silent
from builder.logs import Log
from builder.render import Rendered
from builder.targets.local.target import LocalTarget
from tests.samples import order_of

__all__ = ["build_here"]


def build_here(rendered: Rendered, log: Log, **options: Any) -> Built:
    """Make the environment of what was rendered, and have it serve; `options` are the order's."""
    target, name = LocalTarget(), rendered.variant.name
    with target.claimed(name, report=silent):
        built = target.build(order_of(rendered, **options), report=silent, log=log)
        target.publish(name, {"digest": built.digest}, channel="stable")
    return built
