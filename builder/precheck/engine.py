"""A Docker engine: build images from rendered files, and start containers from them.

Images and containers are labelled with their owner, so that the next run can remove those of a
killed one.
"""

from __future__ import annotations

import contextlib
import os
import re
import socket
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import IO, Any

import docker.errors
import psutil
import requests

from builder.errors import (
    EngineUnavailableError,
    PrecheckError,
    ProjectError,
    counted,
)
from builder.precheck import Image
from builder.precheck.connection import connect
from builder.precheck.machine import Machine, pack, packed
from builder.precheck.step import Step, not_pulled
from builder.project import PrecheckSettings
from builder.registry import Ref
from builder.render import Rendered, write_fetched
from builder.spec import Parent, Variant
from builder.system.events import Event, Reporter
from builder.system.logs import Log
from builder.system.regular_file import read_regular
from builder.targets.protocol import Needs, Unused

_OWNER = "template-builder.owner"
_SUBJECT = "template-builder.precheck"
_DIGEST = "template-builder.digest"
_WITHOUT_NETWORK = re.compile(r"^RUN --network=none ", re.MULTILINE)
_STEP = re.compile(r"Step (\d+)/(\d+) : (.*)", re.DOTALL)
_ESCAPES = re.compile(r"\x1b\[[0-9;]*[A-Za-z]")
_LARGEST_BUNDLE = 16 << 20
# Run the image's health check as often as E2B. `ready-seconds` limits how long it may fail.
_HEALTH_CHECK = {"interval": 2 * 10**9, "start_period": 10**6, "retries": 10**6}  # in nanoseconds
# The name of a container whose service has the host's ports: an engine gives a name only once.
_HOST_PORTS = "template-builder-host-ports"
_CONFLICT = 409
_WAIT_SECONDS = 0.5
# Without it E2B's code service requests variables from a service that only E2B's machines have.
_ENVIRONMENT = {"E2B_LOCAL": "true"}
_CERTIFICATES = "/opt/template-precheck/ca.crt"
_CERTIFICATE_VARIABLES = (
    "SSL_CERT_FILE", "PIP_CERT", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE",
    "GIT_SSL_CAINFO", "NODE_EXTRA_CA_CERTS",
)  # fmt: skip


class DockerEngine:
    """The engine of `DOCKER_HOST`, the current context or the usual sockets."""

    def __init__(self, settings: PrecheckSettings) -> None:
        """Connect. Raise `EngineUnavailableError`."""
        self._settings = settings
        self._client, info = connect(timeout=3600)
        self.identity = f"{info['ID']} {info['ServerVersion']}"
        self.cpus = int(info["NCPU"])
        self._labels = {_OWNER: f"{socket.gethostname()}:{os.getpid()}"}

    def close(self) -> None:
        """Close the connection."""
        self._client.close()

    def tidy(self) -> None:
        """Remove containers of killed runs, and untagged images that no current build uses."""
        for container in self._client.containers.list(
            all=True, filters={"label": _OWNER}, ignore_removed=True
        ):
            if _is_gone(container.labels.get(_OWNER, "")):
                with contextlib.suppress(docker.errors.APIError):
                    container.remove(force=True, v=True)
        with contextlib.suppress(docker.errors.APIError):
            self._client.images.prune({"dangling": True, "label": _SUBJECT, "until": "1h"})

    def unused(self, needs: Needs) -> list[Unused]:
        """Return the images of earlier checks that nothing needs, largest first."""
        unused = []
        # Summaries, since an image may disappear meanwhile.
        for image in self._client.api.images(filters={"label": _SUBJECT}):
            age = time.time() - image["Created"]
            digest = image["Labels"].get(_DIGEST)
            if age < needs.protect_seconds or (digest and needs.of("", digest)):
                continue
            tags = [tag for tag in image["RepoTags"] or () if tag != "<none>:<none>"]
            days = counted(age / 86400, "day")
            unused.append(
                Unused(
                    kind="image",
                    identity=tags[0] if tags else image["Id"][:19],
                    subject=image["Id"],
                    size=image["Size"],
                    why=f"no channel needs its content; {days} old",
                )
            )
        return sorted(unused, key=lambda image: -(image.size or 0))

    def remove(self, waste: Unused) -> str | None:
        """Remove an image with its layers; return why not if it is in use."""
        try:
            with contextlib.suppress(docker.errors.ImageNotFound):
                self._client.images.remove(waste.subject, force=False)
        except docker.errors.APIError as error:
            return str(error.explanation or error)
        return None

    def has_image(self, identity: str) -> bool:
        """Return whether an image exists."""
        try:
            self._client.images.get(identity)
        except docker.errors.ImageNotFound:
            return False
        return True

    def image(self, reference: str) -> Image:
        """Return an image by name, and pull it if necessary. Raise `NetworkError`."""
        try:
            try:
                image = self._client.images.get(reference)
            except docker.errors.ImageNotFound:
                image = self._client.images.pull(reference)
        except docker.errors.APIError as error:
            raise not_pulled(reference, str(error.explanation or error)) from error
        return _image(image)

    def lacks_parent(self, rendered: Rendered) -> str | None:
        """Return why a variant cannot be built here: it is from a template without an image."""
        parent = rendered.variant.parent
        if parent is None or self._images_of(parent):
            return None
        if parent.digest is None:
            return f"only E2B has `{parent.title}`, which it is from"
        return (
            f"the engine has no image of {Ref(parent.ref).short}, which it is from;"
            f" `template-builder precheck {parent.title}` makes it if that build is the latest"
        )

    def base_of(self, rendered: Rendered) -> Image:
        """Return the image that a variant is on, and pull it if necessary. Raise `NetworkError`,
        `PrecheckError`."""
        if (parent := rendered.variant.parent) is None:
            return self.image(rendered.docker_base)
        if why := self.lacks_parent(rendered):
            raise PrecheckError(f"`{rendered.variant.name}`: {why}")
        return _image(self._images_of(parent)[0])

    def _images_of(self, parent: Parent) -> list[Any]:
        # Layers of templates that are from it have its label, but no tag.
        filters = {"label": f"{_DIGEST}={parent.digest}", "dangling": False}
        images: list[Any] = self._client.images.list(filters=filters) if parent.digest else []
        return images

    def build(self, rendered: Rendered, *, tag: str, report: Reporter, log: Log) -> Image:
        """Build the rendered files within the spec's memory.

        Raise `PrecheckError` with the step that failed, `StorageError`, `NetworkError`.
        """
        base = rendered.docker_base
        dockerfile = rendered.content("Dockerfile").decode()
        if rendered.variant.parent:  # it may have been tagged again since
            identity = self.base_of(rendered).identity
            dockerfile = dockerfile.replace(f"FROM {base} ", f"FROM {identity} ", 1)
        elif self._settings.ca_bundle:
            self.image(base)
            dockerfile = dockerfile.replace(f"FROM {base} ", f"FROM {self._trusting(base)} ", 1)
        dockerfile, note = with_network(dockerfile)
        if note:
            report(Event(kind="note", variant=rendered.variant.name, text=note))
        files = {file.path: (file.content, file.mode) for file in rendered.files}
        files["Dockerfile"] = (dockerfile.encode(), 0o644)
        with (
            tempfile.TemporaryDirectory() as folder,
            tempfile.TemporaryFile() as context,
        ):
            write_fetched(rendered.fetched, Path(folder), report=report)
            pack(files, context, Path(folder))
            identity = self._follow(rendered, context, tag, report, log)
        return _image(self._client.images.get(identity))

    def _follow(
        self, rendered: Rendered, context: IO[bytes], tag: str, report: Reporter, log: Log
    ) -> str:
        """Report a build, and return the ID of its image: another run may take its tag."""
        variant, identity = rendered.variant, tag
        step = Step(number=0, count="0", text="")
        labels = {_SUBJECT: variant.name, _DIGEST: rendered.digest}
        for line in self._stream(context, tag, labels, variant.memory_mb << 20):
            if "error" in line:
                raise step.failure(line, rendered, log)
            identity = line.get("aux", {}).get("ID", identity)
            status = " ".join(filter(None, map(line.get, ("id", "status", "progress"))))
            text = _ESCAPES.sub("", line.get("stream", "").rstrip() or status)
            if not text:
                continue
            if match := _STEP.match(text):
                step = Step(number=int(match[1]), count=match[2], text=match[3])
                first = match[3].split("\n")[0][:100]
                message = f"precheck: step {match[1]} of {match[2]}: {first}"
                report(Event(kind="step", variant=variant.name, text=message))
            else:
                step.output.append(text)
                last = text.rpartition("\n")[2]
                report(Event(kind="detail", variant=variant.name, text=last))
            log.line(text)
        return identity

    def remove_image(self, image: Image) -> None:
        """Remove an image, and keep the layers below it for the next build."""
        with contextlib.suppress(docker.errors.APIError):
            self._client.images.remove(image.identity, noprune=True)

    @contextlib.contextmanager
    def started(
        self,
        image: Image,
        variant: Variant,
        *,
        idle: bool,
        waiting: Callable[[], None] = lambda: None,
    ) -> Iterator[Machine]:
        """Start a container of an image like a sandbox: its CMD runs, unless it is to be `idle`.

        It is removed at the end of the block. Containers whose services would share the ports of
        the host take turns; `waiting` is called once by those that wait.
        """
        options: dict[str, Any] = {"healthcheck": _HEALTH_CHECK}
        if idle:
            options = {
                "entrypoint": ["sleep"],
                "command": ["infinity"],
                "healthcheck": {"test": ["NONE"]},
            }
        elif self._settings.network == "host":
            options["name"] = _HOST_PORTS
        options |= {
            "image": image.identity,
            "labels": {**self._labels, _SUBJECT: variant.name},
            "environment": _ENVIRONMENT,
            "mem_limit": variant.memory_mb << 20,
            "memswap_limit": variant.memory_mb << 20,
            "nano_cpus": min(variant.cpu, self.cpus) * 1_000_000_000,
            "network_mode": self._settings.network,
        }
        container = None
        try:
            container = self._created(options, waiting)
            container.start()
            yield Machine(container)
        except docker.errors.APIError as error:
            raise PrecheckError(f"the image cannot be started: {error.explanation}") from error
        finally:
            if container:
                with contextlib.suppress(docker.errors.APIError):
                    container.remove(force=True, v=True)

    def _created(self, options: Mapping[str, Any], waiting: Callable[[], None]) -> Any:
        """Create a container. If another one has its name, wait until that is removed."""
        waited = False
        while True:
            try:
                return self._client.containers.create(detach=True, **options)
            except docker.errors.APIError as error:
                if error.status_code != _CONFLICT or "name" not in options:
                    raise
            if not waited:
                waiting()
            waited = True
            self.tidy()  # it may be that of a killed run
            time.sleep(_WAIT_SECONDS)

    def _stream(
        self, context: IO[bytes], tag: str, labels: Mapping[str, str], memory: int | None
    ) -> Iterator[dict[str, Any]]:
        limits: Any = {"memory": memory, "memswap": memory} if memory else {}
        try:
            yield from self._client.api.build(
                fileobj=context,
                custom_context=True,
                decode=True,
                rm=True,
                forcerm=True,
                tag=tag,
                labels=dict(labels),
                network_mode=self._settings.network,
                buildargs=dict(self._settings.build_args),
                container_limits=limits,
            )
        except docker.errors.APIError as error:
            raise PrecheckError(f"the engine refused the build: {error.explanation}") from error
        except (requests.RequestException, OSError) as error:
            raise EngineUnavailableError(
                f"the connection to the engine was lost during the build: {error}",
                hint="start the engine, and run the same command again",
            ) from error

    def _trusting(self, base: str) -> str:
        """Build a base image with the certificates of the settings, for use behind a proxy."""
        path = Path(self._settings.ca_bundle or "")
        try:
            content = read_regular(path, _LARGEST_BUNDLE)
        except OSError as error:
            raise ProjectError(
                f"[tool.template-builder.precheck]: `ca-bundle` {path}: {error.strerror}"
            ) from error
        variables = " ".join(f"{name}={_CERTIFICATES}" for name in _CERTIFICATE_VARIABLES)
        text = f"FROM {base}\nCOPY ca.crt {_CERTIFICATES}\nENV {variables}\n"
        files = {"Dockerfile": (text.encode(), 0o644), "ca.crt": (content, 0o644)}
        tag = "template-builder/base-with-certificates"
        for line in self._stream(packed(files), tag, {_SUBJECT: "base"}, None):
            if "error" in line:
                raise PrecheckError(f"the certificates cannot be added: {line['error']}")
        return tag


def _is_gone(owner: str) -> bool:
    host, _, pid = owner.rpartition(":")
    if host != socket.gethostname() or not pid.isdigit():
        return False  # of another machine that uses the same engine
    return not psutil.pid_exists(int(pid))


def with_network(dockerfile: str) -> tuple[str, str | None]:
    """Return a Dockerfile without a flag of BuildKit, and a note if the flag was there."""
    changed = _WITHOUT_NETWORK.sub("RUN ", dockerfile)
    note = "the pre-check runs commands with `network = false` with a network: only BuildKit can"
    return changed, None if changed == dockerfile else f"{note} run them without"


def _image(image: Any) -> Image:
    config = image.attrs["Config"]
    return Image(
        identity=image.id,
        size=image.attrs["Size"],
        layers=len(image.attrs["RootFS"].get("Layers") or ()),
        env=dict(pair.partition("=")[::2] for pair in config["Env"] or ()),
        user=config["User"] or "root",
        workdir=config["WorkingDir"] or "/",
    )
