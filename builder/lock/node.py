"""Lock npm packages with npm itself.

The lock is npm's own `package-lock.json`, with the hash of every package and without the address of
a registry (https://docs.npmjs.com/cli/configuring-npm/package-lock-json).
"""

from __future__ import annotations

import dataclasses
import re
import shutil
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from builder.errors import LockConflictError, NetworkError, TemplateError
from builder.lock.npm import normal, package_json
from builder.lock.values import Lock
from builder.spec import Stage, Variant, place_of
from builder.system import processes

_SHOWN_LINES = 6
# npm's codes of errors that are not about the packages.
_UNREACHABLE = (
    "ENOTFOUND",
    "getaddrinfo",
    "ECONNREFUSED",
    "ECONNRESET",
    "ETIMEDOUT",
    "ENETUNREACH",
)
NodeLocks = Mapping[str, str | TemplateError]


def lock_node(variants: Sequence[Variant]) -> NodeLocks:
    """Lock the npm packages of every stage that has some; by its stem."""
    stages = {stage.stem: stage for variant in variants for stage in variant.stages if stage.node}
    locks: dict[str, str | TemplateError] = {}
    for stem, stage in stages.items():
        try:
            locks[stem] = _locked(stage)
        except TemplateError as error:
            locks[stem] = error
    return locks


def with_node(lock: Lock, variant: Variant, locks: NodeLocks) -> Lock | TemplateError:
    """Return a lock with the npm packages of its stages, or the error of one that failed."""
    stages = []
    for declared, stage in zip(variant.stages, lock.stages, strict=True):
        text = locks.get(stage.stem, "")
        if isinstance(text, TemplateError):
            return text
        stages.append(dataclasses.replace(stage, node_packages=declared.node, node=text))
    return dataclasses.replace(lock, stages=tuple(stages))


def _locked(stage: Stage) -> str:
    key = ("node", "packages")
    where = place_of(stage.path.parent, stage.source, key) if stage.path else stage.source
    npm = shutil.which("npm")
    if npm is None:
        raise LockConflictError(
            f"{where}: `node.packages` are locked by npm, which is not on this machine",
            hint="install Node.js, or take the committed lock with --frozen",
        )
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "package.json").write_text(package_json(stage.node), encoding="utf-8")
        command = [npm, "install", "--package-lock-only", "--ignore-scripts", "--no-audit"]
        command += ["--no-fund", "--omit-lockfile-registry-resolved", "--loglevel=error"]
        with processes.started(
            command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        ) as process:
            assert process.stdout
            output = process.stdout.read()
            process.wait()
        processes.check_not_stopped()
        if process.returncode:
            lines = (
                re.sub(r"npm error ?(E?\d{3})?", "", line).strip() for line in output.splitlines()
            )
            text = "\n".join(line for line in lines if line and "complete log" not in line)
            kind = NetworkError if any(code in text for code in _UNREACHABLE) else LockConflictError
            shown = "\n".join(f"  {line}" for line in text.splitlines()[:_SHOWN_LINES])
            raise kind(f"{where}: npm cannot lock `node.packages`:\n{shown}")
        return normal(Path(folder, "package-lock.json").read_text(encoding="utf-8"))
