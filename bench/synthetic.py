"""Generate specs, locks and registries of any size, shaped like real ones, without the network."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

from builder.lock import Lock, StageLock
from builder.lock.base_image import BaseImage
from builder.record.store import leave_mark
from builder.registry import DEFAULT_CHANNEL, VERSION
from builder.spec import Stage, Variant

__all__ = ["lock_of", "write_registry", "write_variants"]

_SHARED_STAGES = 5
_PINS_OF_A_STAGE = 10
_HASHES_OF_A_PIN = 4

_BASE = """\
schema = 1

[base]
image = "e2bdev/code-interpreter:latest"
python = ">=3.11"

[env]
HF_HOME = "/home/user/.cache/huggingface"

[service]
command = ["sudo", "/root/.jupyter/start-up.sh"]
ready-url = "http://localhost:49999/health"
"""
_SHARED = """\
schema = 1
extends = "_base"

[python]
packages = ["numpy", "shared-{number}"]

[env]
SHARED = "{number}"

[[verify]]
name = "shared {number}"
code = "import numpy; print(numpy.ones(2).sum())"
stdout = "2.0"
"""
_LEAF = """\
schema = 1
name = "leaf-{number}"
description = "Leaf {number} of a large project"
extends = "_shared{parent}"

[python]
packages = ["pandas>=2", "requests", "leaf-{number}"]

[env]
LEAF = "{number}"
MODE = "worker"

[system]
packages = ["libgomp1"]

[[files]]
source = "files/settings.json"
target = "/opt/leaf/settings.json"

[warmup]
level = "memory"
imports = ["numpy", "pandas"]

[[verify]]
name = "a table"
code = '''
import pandas

print(len(pandas.DataFrame({{"x": [1, 2, {number}]}})))
'''
stdout = "3"

[[verify]]
name = "the settings"
code = "import json; print(json.load(open('/opt/leaf/settings.json'))['debug'])"
stdout = "False"
timeout = 30
"""


def write_variants(folder: Path, count: int) -> None:
    """Write specs of `count` variants: chains of `_base`, one of a few shared stages, a leaf."""
    (folder / "files").mkdir(parents=True)
    (folder / "files" / "settings.json").write_text('{"debug": false}\n', encoding="utf-8")
    texts = {"_base": _BASE}
    texts |= {f"_shared{n}": _SHARED.format(number=n) for n in range(_SHARED_STAGES)}
    texts |= {f"leaf{n}": _LEAF.format(number=n, parent=n % _SHARED_STAGES) for n in range(count)}
    for stem, text in texts.items():
        (folder / f"{stem}.toml").write_text(text, encoding="utf-8")


def lock_of(variant: Variant) -> Lock:
    """Return a lock of the variant's shape; no two leaves have the same one."""
    image = BaseImage(reference=variant.image, digest=f"sha256:{_hash('image')}")
    stages = tuple(_stage_lock(stage) for stage in variant.stages)
    return Lock(image=image, python=variant.python, stages=stages)


def write_registry(path: Path, count: int, builds: int = 1) -> str:
    """Write a registry of `count` templates with `builds` builds each on e2b, as the program writes
    it; return the name of the last template.

    It is written in pieces, since a child's peak memory starts at that of the forking process.
    """
    names = [f"template-{number:05}" for number in range(count)]
    with path.open("w", encoding="utf-8") as file:
        file.write('{\n  "templates": {\n')
        for name in names:
            entry = json.dumps(
                {name: _entry(name, builds)}, indent=2, sort_keys=True, ensure_ascii=False
            )
            inner = "\n".join(f"  {line}" for line in entry.splitlines()[1:-1])
            file.write(f"{inner}{'' if name == names[-1] else ','}\n")
        file.write(f'  }},\n  "version": {VERSION}\n}}\n')
    leave_mark(path, path.stat())
    return names[-1]


def _entry(name: str, builds: int) -> dict[str, object]:
    records = dict(_build(name, number) for number in range(builds))
    return {"e2b": {"channels": {DEFAULT_CHANNEL: max(records)}, "builds": records}}


def _build(name: str, number: int) -> tuple[str, dict[str, object]]:
    digest = _hash(f"{name} {number}" if number else name)
    template_id, build_id = digest[:20], digest[20:40]
    ref = f"{template_id}:{build_id}"
    packages = {f"package-{n:02}": f"{n}.{int(digest[n], 16)}.0" for n in range(20)}
    fields = {
        "template_id": template_id,
        "build_id": build_id,
        "origin": "built",
        "digest": f"sha256:{digest}",
        "base_image": f"e2bdev/code-interpreter:latest@sha256:{_hash('image')}",
        "packages": packages,
        "resources": {"cpu": 2, "memory_mb": 2048},
        "warmup": {"level": "memory", "imports": ["numpy", "pandas"]},
        "env": {"HF_HOME": "/home/user/.cache/huggingface"},
        "size_bytes": int(digest[:7], 16),
        "built_at": "2026-01-01T00:00:00Z",
        "verified": {
            "checks": ["import numpy", "import pandas", "a table"],
            "seconds": {
                "build": 41.527,
                "sandbox": 1.203481,
                "warm_sandbox": 0.904417,
                "first_use": {
                    "disk": {"numpy": 0.181022, "pandas": 0.405133},
                    "memory": {"numpy": 2e-06, "pandas": 3e-06},
                },
            },
        },
        "inputs": {
            "base": {"base.image": "e2bdev/code-interpreter:latest"},
            "files": {"Dockerfile": _hash(f"{name} Dockerfile"), "warmup.py": _hash("warmup")},
            "packages": packages,
            "spec": {"extends": "_base → leaf", "leaf: python.packages": "numpy, pandas"},
        },
        "warnings": [],
    }
    return ref, fields


def _stage_lock(stage: Stage) -> StageLock:
    text = ""
    if stage.requirements:
        text = "".join(_pin(stage.stem, number) for number in range(_PINS_OF_A_STAGE))
    return StageLock(
        stem=stage.stem,
        requirements=stage.requirements,
        text=text,
        torch_wanted=None,
        torch_backend=None,
    )


def _pin(stem: str, number: int) -> str:
    name = f"{stem.lstrip('_')}-dependency-{number:02}"
    hashes = sorted(_hash(f"{name} {n}") for n in range(_HASHES_OF_A_PIN))
    lines = [f"{name}=={number}.1.0", *(f"    --hash=sha256:{found}" for found in hashes)]
    return " \\\n".join(lines) + "\n"


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
