"""Render a variant and its lock to the files to build, and keep these files on disk."""

from builder.render.dockerfile import RESEED_FILE, Rendered, image_name, render
from builder.render.fetched import undeliverable, write_fetched
from builder.render.generated import check_place, drift, prune, write, write_context

__all__ = [
    "RESEED_FILE",
    "Rendered",
    "check_place",
    "drift",
    "image_name",
    "prune",
    "render",
    "undeliverable",
    "write",
    "write_context",
    "write_fetched",
]
