from __future__ import annotations

import pytest

from builder import record, registry


@pytest.mark.parametrize(
    ("text", "requirements"),
    [
        ("idna, six", ("idna", "six")),
        ("pandas >=2, <3, six", ("pandas >=2, <3", "six")),
        ("uvicorn[standard, extra]>=1, idna; python_version < '3.12'",
         ("uvicorn[standard, extra]>=1", "idna; python_version < '3.12'")),
        ("", ()),
    ],
)  # fmt: skip
def test_requirements_are_read_from_a_record(text: str, requirements: tuple[str, ...]) -> None:
    """The requirements of a recorded spec come out one by one, bounds and extras whole."""
    spec = {"extends": "leaf", "leaf: python.packages": text}
    fields = {"inputs": {"spec": spec | {"leaf: verify 'a b'": "0123"}}}
    found = record.recalled(registry.Record(name="x", target="local", ref="r", fields=fields))
    assert found.variant.requirements == requirements
    assert found.left_out == ("a b",)
