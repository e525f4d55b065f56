from __future__ import annotations

import hashlib
import io
import json
import tarfile
from pathlib import Path
from typing import Any

import pytest

from builder import registry
from tests.conftest import Command
from tests.support.engine import client
from tests.support.records import made


def archive(tag: str, labels: dict[str, str]) -> bytes:
    """Return an old image without files, as `docker save` writes it."""
    layer = io.BytesIO()
    tarfile.open(fileobj=layer, mode="w").close()
    config = {
        "architecture": "amd64",
        "os": "linux",
        "created": "2001-01-01T00:00:00Z",
        "config": {"Labels": labels | {"of": tag}},
        "rootfs": {
            "type": "layers",
            "diff_ids": [f"sha256:{hashlib.sha256(layer.getvalue()).hexdigest()}"],
        },
    }
    manifest = [{"Config": "config.json", "RepoTags": [f"{tag}:latest"], "Layers": ["layer.tar"]}]
    files = {
        "config.json": json.dumps(config).encode(),
        "layer.tar": layer.getvalue(),
        "manifest.json": json.dumps(manifest).encode(),
    }
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as tar:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return packed.getvalue()


@pytest.mark.docker
def test_images_of_checks_that_nothing_needs_go(
    tmp_path: Path, own_cache: Path, command: Command
) -> None:
    """Images that `precheck` left go when no channel needs what they were built from; needed ones
    and those of others stay."""
    made(tmp_path, "1")
    digest = registry.lookup("leaf", path=tmp_path / "registry.json").digest
    subject, key = "template-builder.precheck", "template-builder.digest"
    engine = client()
    tags: dict[str, dict[str, Any]] = {
        "template-builder-test/needed": {subject: "leaf", key: digest},
        "template-builder-test/not-needed": {subject: "leaf", key: "sha256:" + "0" * 64},
        "template-builder-test/foreign": {},
    }
    for tag, labels in tags.items():
        engine.images.load(archive(tag, labels))
    try:
        # Older than any image of another test, or of whoever runs the tests.
        old = ("--protect-days", "5000")
        done = command("gc", "--target", "docker", "--yes", *old, "--json", cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        found = {one["identity"] for one in json.loads(done.stdout)["found"]}
        assert "template-builder-test/not-needed:latest" in found
        left = {tag for image in engine.images.list() for tag in image.tags}
        assert {tag for tag in tags if f"{tag}:latest" in left} == {
            "template-builder-test/needed",
            "template-builder-test/foreign",
        }
    finally:
        for tag in tags:
            if engine.images.list(tag):
                engine.images.remove(tag)
