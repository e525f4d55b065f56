"""A small real model, from a hub to sandboxes that load it."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from builder.lock import Lock
from builder.lock.resolve import lock_latest
from builder.precheck.engine import DockerEngine
from builder.project import PrecheckSettings
from builder.render import render
from builder.spec import load_variants
from builder.system.events import discard
from builder.system.logs import Log
from tests.conftest import BASE, Command
from tests.support import engine
from tests.support.hub_server import HubServer, Repo, use
from tests.support.prechecks import CERTIFICATES

WEIGHTS = "silero_vad_16k.safetensors"
LEAF = 'schema = 1\nname = "leaf"\nextends = "_base"\n'
SPEC = f"""
{LEAF}
[python]
packages = ["numpy", "safetensors"]
[[model]]
repo = "org/voice"
[[verify]]
name = "the weights load"
code = '''
from safetensors.numpy import load_file
tensors = load_file("models/org/voice/{WEIGHTS}")
print(sum(tensor.nbytes for tensor in tensors.values()) > 1_000_000)
'''
stdout = "True"
"""


@pytest.fixture
def voice(hub: HubServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Repo:
    """A model that recognizes speech, which a Python package contains, on the hub."""
    subprocess.run(
        [
            *(sys.executable, "-m", "uv", "pip", "install", "--quiet", "--no-deps"),
            *("--python", sys.executable, "--target", tmp_path / "package", "silero-vad"),
        ],
        check=True,
    )
    weights = (tmp_path / "package" / "silero_vad" / "data" / WEIGHTS).read_bytes()
    repo = Repo({WEIGHTS: weights, "config.json": b'{"sample_rate": 16000}'})
    hub.repos["model", "org/voice"] = repo
    use(hub, monkeypatch)
    return repo


@pytest.mark.slow
@pytest.mark.network
def test_local_sandboxes_load_a_real_model(
    write: Callable[..., Path], voice: Repo, hub: HubServer, command: Command
) -> None:
    """On `local`, a model of a hub is loaded by the derived check and by a library, without the hub:
    a change of packages fetches nothing of it."""
    folder = write(_base=BASE, leaf=SPEC).parent
    built = command("build", "leaf", "--target", "local", cwd=folder)
    assert built.returncode == 0, built.stderr
    assert "verify: load the model org/voice\n" in built.stderr
    assert "verify: the weights load\n" in built.stderr
    sent = list(hub.sent)
    assert sorted(sent) == ["config.json", WEIGHTS]
    write(_base=BASE, leaf=SPEC.replace('"numpy", ', '"numpy", "idna", '))
    built = command("build", "leaf", "--target", "local", cwd=folder)
    assert built.returncode == 0, built.stderr
    assert hub.sent == sent
    hub.repos.clear()
    again = command("verify", "leaf", "--target", "local", cwd=folder)
    assert again.returncode == 0, again.stderr
    assert "load the model org/voice" in again.stderr


@pytest.mark.slow
@pytest.mark.docker
@pytest.mark.network
def test_image_has_a_real_model_copied_or_fetched(
    write: Callable[..., Path], voice: Repo, own_cache: Path, tmp_path: Path
) -> None:
    """In an image, a model that was copied, and one that a step fetched by commit and hash, pass
    the derived check."""
    voice.files["padding.bin"] = bytes(16 << 20)  # more than an eighth of the memory
    base = BASE.replace("localhost:1/python:3.13", engine.base_image())
    models = '[[model]]\nrepo = "org/voice"\n'
    text = f'{LEAF}{models}files = ["*s", "*.json"]\n{models}target = "/opt/voice"\n'
    folder = write(_base=base, leaf=f"{text}[resources]\nmemory-mb = 128\n")
    (variant,) = load_variants(folder)
    lock = lock_latest([variant], folder=folder, report=discard)["leaf"]
    assert isinstance(lock, Lock), lock
    leaf = render(variant, lock)
    assert [content.copied for content in leaf.fetched] == [True, False]
    docker = DockerEngine(PrecheckSettings(network="host", ca_bundle=str(CERTIFICATES)))
    with Log(tmp_path / "logs", target="test") as log:
        image = docker.build(leaf, tag=f"{engine.LABEL}/models", report=discard, log=log)
    with docker.started(image, variant, idle=True) as machine:
        for check in leaf.loading_checks:
            assert check.command
            code, _, why = machine.run(["sh", "-c", check.command], timeout=60)
            assert (code, why) == (0, "")
        damage = ["sh", "-c", f"echo >> /opt/voice/{WEIGHTS}"]
        assert machine.run(damage, user="root")[0] == 0
        code, _, why = machine.run(["sh", "-c", leaf.loading_checks[1].command or ""])
        assert code == 1
        assert f"/opt/voice/{WEIGHTS} has another size" in why
    engine.client().images.remove(image.identity, force=True)
