"""How the sandboxes of an environment are confined: their walls, limits and network."""

from __future__ import annotations

import base64
import functools
import json
import os
import posixpath
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from builder.errors import SandboxError
from builder.sandbox.boundary import Boundary
from builder.sandbox.network import Network
from builder.system import guard
from builder.system.scratch import short_folder
from builder.targets.local import absolute, kernel_host
from builder.targets.local.confine import bubblewrap, configuration, remembered, seccomp
from builder.targets.local.confine.limits import Limits
from builder.targets.local.confine.walls import (
    ENVIRONMENT,
    ETC,
    FILES,
    GUARD,
    HOME,
    KERNEL_HOST,
    RUN,
    RUNS,
    SOCKETS,
    VENV,
    View,
    inner,
    obstacle,
    outer,
)
from builder.targets.local.kernel_host import PROXY_PORT

CONNECTION = "kernel.json"  # as the kernel sees it


@dataclass(frozen=True, kw_only=True, slots=True)
class Confinement:
    """The walls of the sandboxes of one environment, and the limits and network of each."""

    view: View
    limits: Limits
    network: Network

    @property
    def proxy_variables(self) -> dict[str, str]:
        """The variables that name the proxy to other hosts, if there is one."""
        if self.network.is_none:
            return {}
        proxy = f"http://127.0.0.1:{PROXY_PORT}"
        names = ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY")
        variables = dict.fromkeys(names, proxy) | {"NO_PROXY": "localhost,127.0.0.1,::1"}
        return variables | {name.lower(): value for name, value in variables.items()}

    def request(self, folder: Path, *, cold: bool) -> dict[str, Any]:
        """Return the request to a zygote for the sandbox in `folder`, which is in the zygote's own.
        A `cold` kernel is started from scratch."""
        connection = f"{RUN}/{CONNECTION}"
        walls = {
            "command": inner(self.view, folder.name, self.limits.sizes),
            "program": base64.b64encode(_program()).decode(),
            "limits": self.limits.of_processes(),
            "budget": self.limits.of_all(),
            "proxy": not self.network.is_none,
        }
        if cold:
            walls["kernel"] = [f"{VENV}/bin/python", KERNEL_HOST, "kernel", connection]
        return {
            "connection": connection,
            "folder": RUN,
            "home": HOME,
            "log": f"{RUN}/{SOCKETS.rpartition('/')[2]}/child.log",
            "walls": walls,
        }


def confinement(environment: Path, boundary: Boundary) -> Confinement | None:
    """Return how sandboxes of an environment are confined; None without isolation. Raises
    `ConfinementError` where they cannot be."""
    if boundary.isolation == "none":
        return None
    limits = Limits.of(boundary.memory_mb, boundary.cpu, folder=short_folder())
    return Confinement(
        view=view_of(environment), limits=limits, network=boundary.network or Network.of("none")
    )


def check(boundary: Boundary) -> None:
    """Raise `SandboxError` if this machine cannot keep a sandbox to a boundary."""
    if boundary.isolation == "none":
        if boundary.network and not boundary.network.is_open:
            raise SandboxError(
                "sandboxes without isolation have your network, which cannot be restricted to"
                f" `{boundary.network}`",
                hint='pass isolation="confined", or network="allow" to give the code your network',
            )
    elif refusal := remembered.refusal():
        raise refusal


def view_of(environment: Path) -> View:
    """Return what sandboxes of an environment see. Raises `ConfinementError`."""
    program = bubblewrap.working()
    shown = absolute.listed(environment)
    view = View(
        bubblewrap=program.path,
        program=program.inside,
        tools=tuple(program.bind()),
        user=tuple(bubblewrap.outer_user()),
        system=tuple(bubblewrap.top_links()),
        environment=str(environment),
        kernel_host=kernel_host.__path__[0],
        guard=guard.__file__,
        interpreter=tuple(_interpreter(str(environment))),
        files=tuple(shown.paths),
        workdir=shown.workdir,
    )
    if why := obstacle(view) or _unreadable(view):
        raise bubblewrap.ConfinementError(f"the environment cannot be confined: {why}")
    return view


def _unreadable(view: View) -> str | None:
    """Return why the user that root's sandboxes run as cannot read an environment, or None."""
    if os.getuid() != 0:
        return None
    for folder in (view.environment, *(source for source, _ in view.interpreter)):
        for path in (folder, f"{folder}/lib"):
            if os.path.isdir(path) and os.stat(path).st_mode & 0o005 != 0o005:
                return f"{path} is not readable for other users, as which root's sandboxes run"
    return None


def zygote_command(
    view: View, run: Path, *, task: str, modules: Sequence[str], idle: str = ""
) -> list[str]:
    """Return the command that starts a zygote, or a starter, inside the outer walls."""
    return [
        *outer(view, str(run)),
        *(f"{ENVIRONMENT}/bin/python", KERNEL_HOST, task, RUNS, GUARD),
        *(str(bubblewrap.NOBODY), idle, *modules),
    ]


def prepare(view: View, run: Path) -> None:
    """Prepare the run folder of a zygote, and its home, for the outer walls. Raises `OSError`."""
    configuration.write(run / ETC, Path(view.environment) / FILES, view.files)
    bubblewrap.hand_over(run)


def write_connection(connection: Path) -> None:
    """Write a second connection file, with paths as a kernel behind walls sees them. Raises
    `OSError`."""
    content = json.loads(connection.read_text(encoding="utf-8"))
    content["ip"] = f"{RUN}/s/{posixpath.basename(content['ip'])}"
    file = connection.with_name(CONNECTION)
    file.touch(0o600)
    file.write_text(json.dumps(content), encoding="utf-8")


@functools.cache
def _program() -> bytes:
    return seccomp.program()


def _interpreter(environment: str) -> Iterator[tuple[str, str]]:
    """Yield each folder of an environment's Python with the names that lead to it."""
    path = f"{environment}/bin/python"
    while os.path.islink(path):
        path = posixpath.normpath(posixpath.join(posixpath.dirname(path), os.readlink(path)))
        prefix = posixpath.dirname(posixpath.dirname(path))
        real = os.path.realpath(prefix)
        if prefix.startswith(environment) or real in ("/", "/usr") or real.startswith("/usr/"):
            continue
        yield real, real
        if prefix != real:
            yield real, prefix
