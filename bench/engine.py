"""A project whose templates are built on an image of this machine's Docker engine."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import tomli_w

from bench.child import ROOT, ChildError
from bench.workshop import Workshop
from builder.errors import EngineUnavailableError
from builder.precheck.engine import DockerEngine
from builder.project import PrecheckSettings
from builder.spec import defaults

__all__ = ["BASE", "connect", "project"]

BASE = "template-test/code-interpreter:latest"
_CERTIFICATES = Path("/etc/ssl/certs/ca-certificates.crt")


def connect() -> DockerEngine:
    """Return the engine, once it has the base image. Raises `ChildError`."""
    try:
        engine = DockerEngine(PrecheckSettings(network="host"))
    except EngineUnavailableError as error:
        raise ChildError(f"{error.message}: leave out `image` and `precheck`") from error
    if not engine.has_image(BASE):
        command = ["bash", str(ROOT / "tests" / "support" / "base_image" / "make.sh"), BASE]
        if subprocess.run(command, check=False).returncode:
            raise ChildError(f"{BASE} cannot be made")
    return engine


def project(workshop: Workshop) -> Path:
    """Copy the project, with its specs and locks, onto the base image."""
    place = workshop.folder / "engine-project"
    if place.exists():
        return place
    for name in ("variants", "generated"):
        shutil.copytree(ROOT / name, place / name)
    for path in (*place.glob("variants/*.toml"), *place.glob("generated/*/template.toml")):
        text = path.read_text(encoding="utf-8")
        text = text.replace("e2bdev/code-interpreter:latest", BASE)
        if path.name == "_base.toml":  # another image has no service by default
            service = {"command": list(defaults.COMMAND), "ready-url": defaults.READY_URL}
            text += tomli_w.dumps({"base": {"image": BASE}, "service": service})
        path.write_text(text, encoding="utf-8")
    settings = '[tool.template-builder.precheck]\nnetwork = "host"\n'
    if _CERTIFICATES.exists():
        settings += f'ca-bundle = "{_CERTIFICATES}"\n'
    (place / "pyproject.toml").write_text(settings, encoding="utf-8")
    return place
