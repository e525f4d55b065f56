"""An npm registry, as files for a server."""

from __future__ import annotations

import base64
import hashlib
import json

from tests.support.content_server import tar_of


def registry_of(url: str, name: str) -> dict[str, bytes]:
    """Return the files of an npm registry with a package that has a program of the same name."""
    about = {"name": name, "version": "1.0.0", "bin": {name: "cli.js"}}
    program = f"#!/usr/bin/env node\nconsole.log('{name}')\n"
    archive = tar_of({"package/package.json": json.dumps(about), "package/cli.js": program})
    path = f"{name}/-/{name}-1.0.0.tgz"
    hashed = base64.b64encode(hashlib.sha512(archive).digest()).decode()
    dist = {"tarball": f"{url}/{path}", "integrity": f"sha512-{hashed}"}
    document = {
        "name": name,
        "dist-tags": {"latest": "1.0.0"},
        "versions": {"1.0.0": {**about, "dist": dist}},
    }
    return {path: archive, name: json.dumps(document).encode()}
