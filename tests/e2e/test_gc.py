from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from builder import registry
from tests.conftest import Command
from tests.support.engine import client, load_image
from tests.support.records import made


@pytest.mark.slow
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
        load_image(labels, tag=tag, created="2001-01-01T00:00:00Z")
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
