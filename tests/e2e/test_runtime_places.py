"""Applications that change their working directory, or lose it."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import pytest

from builder import record
from builder.errors import RevokedError
from builder.runtime import CodeExecutionPrimitive
from tests.support.clouds import Place
from tests.support.records import made


@pytest.mark.slow
@pytest.mark.network
@pytest.mark.parametrize("named", [None, "registry.json"])
def test_revocation_is_seen_from_any_folder(
    place: Place,
    local_cache: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    named: str | None,
) -> None:
    """The registry that a template was looked up in goes on telling whether it is revoked, when the
    application has changed to another project, and when that folder is gone."""
    ref = place.build("one", target="local")["one"].ref or ""
    other = tmp_path / "other"
    made(tmp_path, "1.0")
    other.mkdir()
    (other / "registry.json").write_bytes((tmp_path / "registry.json").read_bytes())
    monkeypatch.chdir(place.folder)
    if named:
        monkeypatch.setenv("TEMPLATE_REGISTRY", named)
    primitive = CodeExecutionPrimitive(template_id="one", target="local")

    async def printed() -> str:
        async with primitive.session() as session:
            return (await session.execute({"code": "print(1)"}))["output"]

    os.chdir(other)
    assert asyncio.run(printed()) == "1\n"
    (other / "registry.json").unlink()
    other.rmdir()
    assert asyncio.run(printed()) == "1\n"
    record.revoke(place.folder / "registry.json", ("one", "local", ref), reason="bad", by="x")
    with pytest.raises(RevokedError, match="bad"):
        asyncio.run(printed())
