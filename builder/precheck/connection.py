"""Find and connect to a Docker engine, leaving nothing open on failure."""

from __future__ import annotations

import contextlib
import os
import socket
from pathlib import Path
from typing import Any

import docker
import docker.context
import docker.errors
import docker.utils
import requests

from builder.errors import EngineUnavailableError

_LOOK_SECONDS = 10.0


def connect(*, timeout: int) -> tuple[docker.DockerClient, dict[str, Any]]:
    """Return a client of the engine, and the engine's description of itself.

    The engine is that of `DOCKER_HOST`, the current context or the usual sockets. Raise
    `EngineUnavailableError`.
    """
    address = "the usual socket"
    try:
        address, options = _address()
        _check_socket(address)
        with contextlib.ExitStack() as opened:
            client = docker.DockerClient(**options, timeout=timeout)
            opened.callback(client.close)
            info: dict[str, Any] = client.info()
            opened.pop_all()
    except (docker.errors.DockerException, requests.RequestException, OSError) as error:
        raise EngineUnavailableError(
            f"no Docker engine answers at {address}",
            hint="install one (docs.docker.com/engine/install), start it, or select another one"
            " with DOCKER_HOST or `docker context use`",
        ) from error
    return client, info


def _check_socket(address: str) -> None:
    """Raise `OSError` if nothing listens on a Unix socket.

    The docker package leaves a Unix socket open when its own connection fails.
    """
    scheme, _, path = address.partition("://")
    if scheme in {"unix", "http+unix"}:
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(_LOOK_SECONDS)
            connection.connect(f"/{path.lstrip('/')}")


def _address() -> tuple[str, dict[str, Any]]:
    """Return the address of the engine, and the options of docker's client for it."""
    host = os.environ.get("DOCKER_HOST")
    if host:
        options = docker.utils.kwargs_from_env()
        return host, options | {"use_ssh_client": host.startswith("ssh://")}
    current = docker.context.ContextAPI.get_current_context()
    if current and current.name != "default" and current.Host:
        url, tls = current.Host, current.TLSConfig
        named = {"base_url": url, "use_ssh_client": url.startswith("ssh://")}
        return url, named | ({"tls": tls} if tls else {})
    rootless = Path(os.environ.get("XDG_RUNTIME_DIR", "/nowhere")) / "docker.sock"
    if rootless.exists() and not Path("/var/run/docker.sock").exists():
        return f"unix://{rootless}", {"base_url": f"unix://{rootless}"}
    return "unix:///var/run/docker.sock", {}
