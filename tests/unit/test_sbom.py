from __future__ import annotations

import json
from pathlib import Path

from builder import record, registry
from builder.operations.sbom import bill_of_materials
from builder.registry.references import find_build
from tests.conftest import BASE
from tests.support.index_server import wheel
from tests.support.samples import load, rendered_of, verified_of

COMMIT = f"git+https://git.example.com/c.git@{'0' * 40}"
LEAF = f"""
schema = 1
name = "leaf"
extends = "_base"
[python]
packages = [
    "a @ https://files.example.com/a-1.0-py3-none-any.whl#sha256={"0" * 64}",
    "b[x, y] @ files/b-1.0-py3-none-any.whl",
    "c @ {COMMIT}",
    "d>=1,<2",
]
"""


def test_packages_say_which_address_they_are_from(tmp_path: Path) -> None:
    """The package URL of what a spec names by address has the address, the commit or the file, so
    that a scanner does not take it for the package of an index."""
    (tmp_path / "variants/files").mkdir(parents=True)
    (tmp_path / "variants/files/b-1.0-py3-none-any.whl").write_bytes(wheel("b", "1.0").content)
    rendered = rendered_of(load(tmp_path, _base=BASE, leaf=LEAF)["leaf"])
    packages = dict.fromkeys("abcd", "1.0")
    path = tmp_path / "registry.json"
    record.record(path, verified_of(rendered, packages=packages), rendered, by="a", source={})
    shown = find_build(registry.load(path), "leaf", "stable", target="local")
    document = json.loads(bill_of_materials(shown))
    assert [part["purl"] for part in document["components"] if "purl" in part] == [
        "pkg:pypi/a@1.0?checksum=sha256:"
        f"{'0' * 64}&download_url=https://files.example.com/a-1.0-py3-none-any.whl",
        "pkg:pypi/b@1.0?file_name=b-1.0-py3-none-any.whl",
        f"pkg:pypi/c@1.0?vcs_url=git%2Bhttps://git.example.com/c.git%40{'0' * 40}",
        "pkg:pypi/d@1.0",
    ]
