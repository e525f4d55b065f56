"""Read the specs, and report every mistake in every file at once."""

from builder.spec.load import (
    Source,
    Specs,
    is_stem,
    load_specs,
    load_variants,
    place_in,
    place_of,
)
from builder.spec.parent import Parent, inherit
from builder.spec.secret_shapes import secret_in
from builder.spec.variant import Check, Stage, Variant, WarmupLevel

__all__ = [
    "Check",
    "Parent",
    "Source",
    "Specs",
    "Stage",
    "Variant",
    "WarmupLevel",
    "inherit",
    "is_stem",
    "load_specs",
    "load_variants",
    "place_in",
    "place_of",
    "secret_in",
]
