"""JSON schemas of the file formats, for editors and other programs."""

from __future__ import annotations

from typing import Any

from builder.spec.models import json_schema


def schemas() -> dict[str, dict[str, Any]]:
    """Return schema name → JSON schema, each from the classes that read the format."""
    from builder.registry import model

    return {"registry": model.schema(), "variant": json_schema()}
