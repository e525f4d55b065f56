"""Parts of the sequence, run in this process: up to rendering, and builds on `local` that are
activated but not verified."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from builder.errors import TemplateError
from builder.project import Project
from builder.registry.model import Build
from builder.render import Rendered
from builder.system.events import discard
from builder.system.logs import Log
from builder.targets.local import place, sealed
from builder.targets.local.target import LocalTarget
from builder.targets.protocol import Built, Publication
from builder.workflow import RENDER, BuildRequest, Context, prepare
from tests.support.samples import order_of

__all__ = ["build_here", "copy_environment", "put_module", "results_of", "unseal"]


def results_of(project: Project, *, frozen: bool = False) -> Mapping[str, Rendered | TemplateError]:
    """Lock and render all variants of a project; return the result or error of each."""
    request, context = BuildRequest(frozen=frozen), Context(project=project)
    return prepare(request, context, RENDER).results


def build_here(rendered: Rendered, log: Log, **options: Any) -> Built:
    """Make the environment of a rendered variant and activate it; `options` are those of the order."""
    target, name = LocalTarget(), rendered.variant.name
    with target.claimed(name):
        built = target.build(order_of(rendered, **options), report=discard, log=log)
        build = Build(digest=built.digest)
        target.publish(Publication(name=name, build=build, channel="stable"))
    return built


def copy_environment(source: Path, target: Path) -> None:
    """Copy a folder with an environment. The files are links, except on another file system, and
    except for the one that is locked while the environment is in use."""
    target.parent.mkdir(exist_ok=True)
    linked = source.stat().st_dev == target.parent.stat().st_dev

    def copy(path: str, name: str) -> None:
        if linked and os.path.basename(path) != place.USED:
            os.link(path, name)
        else:
            shutil.copy2(path, name)

    shutil.copytree(source, target, symlinks=True, copy_function=copy)


def put_module(environment: Path, name: str, text: str) -> None:
    """Add a module to an environment, as if it had been built with it."""
    unseal(environment)
    (folder,) = environment.glob("lib/python*/site-packages")
    (folder / f"{name}.py").write_text(text)
    sealed.seal(environment)


def unseal(environment: Path) -> None:
    """Make an environment writable, also for ordinary users."""
    for folder, _, _ in os.walk(environment):
        os.chmod(folder, 0o755)  # noqa: S103 - of a folder of a test
