"""A stage's digest: what a revocation of a stage takes out of use, and what it does not."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from builder import record, registry
from builder.errors import RevokedError
from builder.record.fields import first_stages_of
from builder.render import Rendered
from tests.conftest import BASE
from tests.support.samples import load, rendered_of, verified_of

LEAF = "schema = 1\nname = 'leaf'\nextends = '_base'\n[python]\npackages = ['idna']\n"
BAD = f"{BASE}[env]\nHOLE = '1'\n"
MENDED = f"{BASE}[env]\nHOLE = '0'\n"


def rendered(folder: Path, base: str, leaf: str = LEAF) -> Rendered:
    return rendered_of(load(folder, _base=base, leaf=leaf)["leaf"])


def stage_of(path: Path, rendered: Rendered, stem: str = "_base") -> record.Content:
    """The stage as `show` tells it of the build of what was rendered."""
    ref = verified_of(rendered).built.ref
    digest = registry.load(path).templates["leaf"]["local"].builds[ref].stages[stem]
    return record.Content.parse("stage", f"{stem}@{digest}")


def recorded(path: Path, rendered: Rendered) -> str:
    verified = verified_of(rendered)
    record.record(path, verified, rendered, by="x")
    return verified.built.ref


@pytest.mark.parametrize(
    "mended",
    [
        MENDED,
        f"{BASE}[service]\ncommand = ['other']\nready-url = 'http://localhost:1/'\n",
        f"{BASE}[resources]\ncpu = 4\n",
        f"{BASE}[warmup]\nlevel = 'disk'\nimports = ['idna']\n",
        BASE.replace(">=3.11", ">=3.12"),
    ],
)
def test_mended_stage_is_another_one(tmp_path: Path, mended: str) -> None:
    """Whatever a stage declares differently makes it another stage, which is not revoked with the
    bad one; every stage on top of it is another, too."""
    path = tmp_path / "registry.json"
    bad = recorded(path, rendered(tmp_path, BAD))
    for stem in ("_base", "leaf"):
        record.revoke(path, stage_of(path, rendered(tmp_path, BAD), stem), reason="r", by="x")
    with pytest.raises(RevokedError, match="contains stage _base@sha256:"):
        recorded(path, rendered(tmp_path, BAD))
    good = recorded(path, rendered(tmp_path, mended))
    assert registry.resolve("leaf", path=path) == good != bad


def test_words_about_a_stage_are_no_part_of_it(tmp_path: Path) -> None:
    """A comment or a description leaves a stage what it was."""
    described = BASE.replace("schema = 1\n", "schema = 1\ndescription = 'the base'  # for all\n")
    assert "description" in described
    contents = [record.contents_of(rendered(tmp_path, base)) for base in (BASE, described)]
    assert contents[0].stages == contents[1].stages


def with_first_digests(path: Path, ref: str) -> str:
    """Turn a record into one of the first version, whose stages' digests knew no environment;
    returns that of `_base`."""
    data = json.loads(path.read_text())
    fields: dict[str, Any] = data["templates"]["leaf"]["local"]["builds"][ref]
    fields["stages"] = first_stages_of(fields["inputs"])
    del fields["stages_algorithm"]
    path.write_text(json.dumps(data))
    digest: str = fields["stages"]["_base"]
    return digest


def test_revocation_by_a_first_digest_holds(tmp_path: Path) -> None:
    """A stage that is revoked by the digest of an old record takes out of use the old build, the
    builds that contain it since, and those that are still to be made."""
    path = tmp_path / "registry.json"
    old = recorded(path, rendered(tmp_path, BAD))
    digest = with_first_digests(path, old)
    other_leaf = LEAF.replace("idna", "six")
    new = recorded(path, rendered(tmp_path, BAD, other_leaf))
    content = record.Content.parse("stage", f"_base@{digest}")
    revoked = record.revoke(path, content, reason="r", by="x")
    assert {row[2] for row in revoked} == {old, new}
    with pytest.raises(RevokedError):
        recorded(path, rendered(tmp_path, BAD, LEAF.replace("idna", "attrs")))


def test_first_digests_are_as_they_were() -> None:
    """The first algorithm gives what it gave in the registry that is committed here."""
    inputs = {
        "base": {"base.image": "i@sha256:0"},
        "spec": {
            "extends": "_base → leaf",
            "leaf: python.packages": "idna",
            "leaf: verify 'a'": "0123",
            "env.A": "1",
            "resources.cpu": "2",
        },
        "files": {"requirements/leaf.txt": "abc"},
    }
    assert first_stages_of(inputs) == {
        "_base": "sha256:75f15f359237af7466502e04fc3a50760545d40bec8ef2175819cc365ebf5869",
        "leaf": "sha256:0f202339d5198c7ecc26c8ecb8186cdd0c0c196ea195e1014c202a86e170ee26",
    }
