"""Variant and lock to the files that are built, and those files on disk."""

from builder.render.dockerfile import RESEED_FILE, GeneratedFile, Rendered, render
from builder.render.generated import check_place, drift, prune, write, write_files

__all__ = [
    "RESEED_FILE",
    "GeneratedFile",
    "Rendered",
    "check_place",
    "drift",
    "prune",
    "render",
    "write",
    "write_files",
]
