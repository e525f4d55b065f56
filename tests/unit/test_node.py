"""npm packages of a spec."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest
from syrupy.assertion import SnapshotAssertion

from builder.errors import SpecError, StaleLockError
from builder.flatten import flatten
from builder.lock import Lock
from builder.lock.committed import read_committed
from builder.lock.npm import normal, package_json, split
from builder.plan.inputs import inputs_of
from builder.render import Rendered, render, write
from builder.spec import Variant
from builder.targets.local.target import LocalTarget
from tests.support.samples import load, lock_of

PACKAGES = ("typescript@5.9.x", "@types/node@^22", "is-odd")
SPEC = f'schema = 1\nname = "leaf"\n[node]\npackages = {json.dumps(PACKAGES)}\n'
LOCKED = normal(
    json.dumps(
        {
            "name": "tmpabc",
            "lockfileVersion": 3,
            "packages": {
                "": {"dependencies": {"is-odd": "latest"}},
                "node_modules/is-odd": {"version": "3.0.1", "integrity": "sha512-CQpn"},
            },
        }
    )
)


def rendered(folder: Path, text: str = SPEC) -> Rendered:
    variant = load(folder, leaf=text)["leaf"]
    return render(variant, locked(variant))


def locked(variant: Variant) -> Lock:
    lock = lock_of(variant)
    (stage,) = lock.stages
    stage = dataclasses.replace(stage, node_packages=PACKAGES, node=LOCKED)
    return dataclasses.replace(lock, stages=(stage,))


def test_packages_are_what_npm_reads(tmp_path: Path, snapshot: SnapshotAssertion) -> None:
    """Each package becomes a dependency, and the build installs exactly what the lock holds."""
    assert [split(package) for package in PACKAGES] == [
        ("typescript", "5.9.x"),
        ("@types/node", "^22"),
        ("is-odd", "latest"),
    ]
    result = rendered(tmp_path)
    assert result.content("node/leaf/package.json").decode() == package_json(PACKAGES)
    assert result.content("node/leaf/package-lock.json").decode() == LOCKED
    assert '"name"' not in LOCKED
    text = result.content("Dockerfile").decode()
    assert text.partition("uv.txt \\\n")[2].partition("# ---- warm-up")[0] == snapshot
    steps = flatten(text, files=[file.path for file in result.files]).steps
    (install,) = [step.args for step in steps if "npm ci" in step.args[0]]
    assert install[1] == "root"
    assert "node.packages: the base image has no npm" in install[0]
    assert inputs_of(result)["spec"]["leaf: node.packages"] == ", ".join(PACKAGES)
    assert LocalTarget(isolation="none").unsupported(result.variant)[0] == (
        f"npm packages of variants/leaf.toml: {', '.join(PACKAGES)}"
    )


def test_committed_lock_is_read_back(tmp_path: Path) -> None:
    """A committed lock is taken as it is; a change of the spec, or of npm's lock, makes it stale."""
    result, generated = rendered(tmp_path), tmp_path / "generated"
    write([result], generated, all_variants=True)
    assert read_committed([result.variant], generated) == {"leaf": result.lock}
    changed = load(tmp_path, leaf=SPEC.replace("5.9.x", "5.8.x"))["leaf"]
    (error,) = read_committed([changed], generated).values()
    assert isinstance(error, StaleLockError)
    assert error.message.splitlines()[1] == (
        "  variants/leaf.toml: `node.packages`: typescript@5.9.x, @types/node@^22, is-odd →"
        " typescript@5.8.x, @types/node@^22, is-odd"
    )
    path = generated / "leaf" / "node" / "leaf" / "package-lock.json"
    path.write_text(path.read_text().replace('"integrity"', '"other"'))
    (error,) = read_committed([result.variant], generated).values()
    assert isinstance(error, StaleLockError)
    assert error.message == (
        "generated/leaf/template.toml is not valid: node_modules/is-odd has no hash"
    )


@pytest.mark.parametrize(
    "package",
    ["Typescript", "a b", "git+https://a/b", "../x", "a@file:../x", "a@npm:b", "-g", "a\nb", "@a"],
)
def test_other_sources_are_refused(tmp_path: Path, package: str) -> None:
    """A package is a name and versions of a registry, never an address, a path or an option."""
    with pytest.raises(SpecError) as error:
        load(tmp_path, leaf=SPEC.replace("is-odd", json.dumps(package)[1:-1]))
    assert (
        str(error.value)
        .splitlines()[1]
        .endswith(
            f"`node.packages[2]`: {package!r} is not an npm package such as 'typescript@5'".replace(
                "\\n", "\\n"
            )
        )
    )
