"""Projects for the pre-checks of the Docker tests."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Callable
from pathlib import Path

import filelock

from builder import errors
from builder.lock import Lock
from builder.lock.resolve import lock_latest
from builder.precheck.engine import DockerEngine
from builder.project import PrecheckSettings
from builder.render import Rendered, render
from builder.spec import load_variants
from builder.system.events import discard
from builder.system.logs import Log
from tests.conftest import ROOT
from tests.support import engine
from tests.support.samples import load, rendered_of

CERTIFICATES = Path("/etc/ssl/certs/ca-certificates.crt")


SERVICE = """
    [service]
    command = ["sudo", "--preserve-env=E2B_LOCAL", "/root/.jupyter/start-up.sh"]
    ready-url = "http://localhost:49999/health"
"""


def write_project(
    write: Callable[..., Path],
    leaf: str,
    *,
    name: str,
    known: Path,
    base: str = "",
    ready: int = 300,
    network: str = "default",
) -> Path:
    """Write a project with one spec on the tests' base image. `known` keeps results about base
    images for other projects. No other test may use `name`, so that tests can share an engine."""
    text = f'schema = 1\n[base]\nimage = "{engine.base_image()}"\npython = ">=3.11"\n{base}'
    leaf = f'schema = 1\nname = "{name}"\nextends = "_base"\n{leaf}'
    folder = write(_base=text, **{name: leaf}).parent
    settings = f'[tool.template-builder.precheck]\nnetwork = "{network}"\nready-seconds = {ready}\n'
    if CERTIFICATES.exists():
        settings += f'ca-bundle = "{CERTIFICATES}"\n'
    (folder / "pyproject.toml").write_text(settings)
    share_known(folder, known)
    return folder


def share_known(folder: Path, known: Path) -> None:
    """Let a project use and extend the results about base images of other pre-checks."""
    known.mkdir(exist_ok=True)
    kept = folder / ".builder" / "precheck" / "bases"
    if not kept.exists():
        kept.parent.mkdir(parents=True)
        kept.symlink_to(known)


def keep_first_layers(done: Path) -> None:
    """Build the layers that all templates begin with once for all processes, with the installer in
    them, and keep them: removing an image removes its layers that no other image has."""
    with filelock.FileLock(f"{done}.lock"):
        if done.exists():
            return
        spec = f'schema = 1\n[base]\nimage = "{engine.base_image()}"\npython = ">=3.11"\n'
        folder = done.parent / "first"
        variants = load(folder, _base=spec, first='schema = 1\nname = "first"\nextends = "_base"\n')
        rendered = rendered_of(variants["first"], digest=None)
        for bundle in [None, str(CERTIFICATES)][: 1 + CERTIFICATES.exists()]:
            docker_engine = DockerEngine(PrecheckSettings(network="host", ca_bundle=bundle))
            tag = f"{engine.LABEL}/first-layers{'-with-certificates' if bundle else ''}"
            with Log(folder / "logs", target="test") as log:
                docker_engine.build(rendered, tag=tag, report=discard, log=log)
            docker_engine.close()
        done.touch()


def failed(finished: subprocess.CompletedProcess[str], kind: type[errors.TemplateError]) -> str:
    """Return the error that a command ended with."""
    assert finished.returncode == kind.exit_code, finished.stderr
    assert str(ROOT / "builder") not in finished.stderr  # no traceback of ours
    return finished.stderr[finished.stderr.index("error: ") :]


# The product's own chains, with small packages.
LIGHT = {
    "torch": "six",
    "torchvision": "idna",
    "transformers": "attrs",
    "spacy": "toolz",
    "pandas": "tomli-w",
    "scikit-learn": "pluggy",
    "matplotlib": "cycler",
    "numpy": "packaging",
    "pillow": "certifi",
    "opencv-python-headless": "iniconfig",
}


def lightened(write: Callable[..., Path], files: dict[str, str]) -> list[Rendered]:
    """Render this repository's variants on the tests' base image, with small packages."""
    image = engine.base_image()
    texts = {}
    for path in (ROOT / "variants").glob("*.toml"):
        text = path.read_text()
        if path.stem == "_base":
            text += f'[base]\nimage = "{image}"\n{SERVICE}'
        for name, small in LIGHT.items():
            text = re.sub(rf'"{name}"', f'"{small}"', text)
        text = re.sub(r"imports = \[[^]]*\]", 'imports = ["sqlite3"]', text)
        text = re.sub(r"torch-backend.*\n", "", text)
        # The network in which the tests run may need its own certificates.
        text = text.replace("[env]", '[env]\nSSL_CERT_FILE = "/etc/ssl/certs/ca-certificates.crt"')
        texts[path.stem] = text.partition("[[verify]]")[0] + files.get(path.stem, "")
    folder = write(**texts)
    (folder / "tool.sh").write_text("#!/bin/sh\n")
    variants = load_variants(folder)
    locks = lock_latest(variants, folder=folder, report=discard)
    rendered = []
    for variant in variants:
        lock = locks[variant.name]
        assert isinstance(lock, Lock), lock
        rendered.append(render(variant, lock))
    return rendered
