"""Sandboxes whose code service runs code in real Jupyter kernels, on this machine or in Docker."""

from __future__ import annotations

import asyncio
import contextlib
import datetime as dt
import io
import json
import socket
import tarfile
import tempfile
import threading
import time
import urllib.error
import urllib.request
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from jupyter_core.utils import ensure_event_loop

from tests.support.base_image.contexts import Context
from tests.support.e2b_server.egress import Egress
from tests.support.e2b_server.envd import Machine
from tests.support.e2b_server.state import ApiError, Build, Team, Template
from tests.support.e2b_server.steps import extract
from tests.support.e2b_server.zygote import Zygote

SERVICE_PORT = 49999
_LOOK_SECONDS = 0.2
_READY_SECONDS = 3.0  # between ready commands, each of which costs more than the service's start


class Service(Protocol):
    """The code service of one sandbox."""

    def contexts(self) -> list[dict[str, Any]]: ...

    def create(self, fields: dict[str, Any]) -> dict[str, Any]: ...

    def execute(self, fields: dict[str, Any]) -> Iterator[bytes] | AsyncIterator[bytes]: ...

    def restart(self, context: str) -> None: ...

    def interrupt(self, context: str) -> None: ...

    def close(self) -> None: ...


class _Confined:
    """A context in its own thread, whose event loop ends with it."""

    def __init__(self, start: Callable[..., Any], home: str) -> None:
        self._thread = ThreadPoolExecutor(max_workers=1)
        new_context: Any = Context
        try:
            self._context = self._thread.submit(new_context, "python", home, start).result()
        except BaseException:
            self._thread.submit(lambda: ensure_event_loop().close())
            self._thread.shutdown()
            raise
        self.public: dict[str, Any] = self._context.public()

    async def execute(self, fields: dict[str, Any]) -> AsyncIterator[bytes]:
        loop = asyncio.get_running_loop()
        events: asyncio.Queue[bytes | None] = asyncio.Queue()
        left = threading.Event()

        def put(event: bytes | None) -> None:
            with contextlib.suppress(RuntimeError):  # the server has ended meanwhile
                loop.call_soon_threadsafe(events.put_nowait, event)

        def run() -> None:
            try:
                variables = fields.get("env_vars")
                for event in self._context.execute(fields["code"], variables, left.is_set):
                    put(json.dumps(event).encode() + b"\n")
            finally:
                put(None)

        self._thread.submit(run)
        try:
            while (event := await events.get()) is not None:
                yield event
        finally:
            left.set()

    def interrupt(self) -> None:
        self._context.manager.interrupt_kernel()

    def close(self) -> None:
        self._context.end()
        self._thread.submit(self._end)
        self._thread.shutdown()

    def _end(self) -> None:
        try:
            self._context.close()
        finally:
            ensure_event_loop().close()


class KernelService:
    """Kernels of the tests' interpreter; the first one is warm if the copied files ask for it."""

    def __init__(self, zygote: Zygote, home: str, archives: Sequence[bytes]) -> None:
        self._start, self._home = zygote.start, home
        self._contexts: dict[str, _Confined] = {}
        self._lock = threading.Lock()
        self._closed = False
        self._template = tempfile.TemporaryDirectory(prefix="template-")
        folder = Path(self._template.name)
        for archive in archives:
            extract(archive, folder)
        script = folder / "warmup.py"
        if script.exists() and str(SERVICE_PORT) not in script.read_text():
            self._template.cleanup()
            raise ApiError(502, "The sandbox is running but port is not open")
        warm = (folder / "reseed.py").exists()
        self._new(self._warmed(folder / "warmup.py") if warm else self._start)

    def _warmed(self, script: Path) -> Callable[..., Any]:
        # The only change: a folder of this sandbox instead of the fixed folder of an image.
        state = script.parent / "state"
        state.mkdir()
        (state / "todo").touch()
        script.write_text(script.read_text().replace("/tmp/template-warmup", str(state)))

        def start(*, cwd: str) -> Any:
            kernel, client = self._start(cwd=cwd)
            code = f"__import__('runpy').run_path({str(script)!r}, run_name='template_warmup')"
            client.execute(code, silent=True)
            return kernel, client

        return start

    def _new(self, start: Callable[..., Any] | None = None) -> dict[str, Any]:
        with self._lock:
            if self._closed:
                raise ApiError(502, "The sandbox was not found")
            context = _Confined(start or self._start, self._home)
            self._contexts[context.public["id"]] = context
            return context.public

    def contexts(self) -> list[dict[str, Any]]:
        return [context.public for context in self._contexts.values()]

    def create(self, fields: dict[str, Any]) -> dict[str, Any]:
        return self._new()

    def execute(self, fields: dict[str, Any]) -> AsyncIterator[bytes]:
        if fields.get("context_id") and fields.get("language"):
            raise ApiError(400, "Only one of context_id or language can be provided")
        if fields.get("language") not in (None, "python"):
            raise ApiError(500, f"no kernel for {fields['language']}")
        context = self._contexts.get(fields.get("context_id") or next(iter(self._contexts)))
        if context is None:
            raise ApiError(404, "context not found")
        return context.execute(fields)

    def restart(self, context: str) -> None:
        with self._lock:
            if context not in self._contexts:
                raise ApiError(404, "context not found")
            self._contexts[context].close()
            self._contexts[context] = _Confined(self._start, self._home)
            self._contexts[context].public["id"] = context

    def interrupt(self, context: str) -> None:
        self._contexts[context].interrupt()

    def close(self) -> None:
        with self._lock:
            self._closed = True
            for context in self._contexts.values():
                context.close()
            self._template.cleanup()


class ContainerService:
    """The code service in a container of a build."""

    def __init__(self, build: Build) -> None:
        from tests.support import engine

        image, *_ = build.machine
        start, self._ready_command, layer = build.start or ("sleep infinity", "true", None)
        _, env, user, workdir = layer or build.machine
        self._container = engine.client().containers.run(
            image,
            ["/bin/bash", "-l", "-c", start],
            entrypoint=[],
            user=user,
            working_dir=workdir or engine.home_of(user),
            environment=env | engine.WITHOUT_ENVD,
            detach=True,
            labels={engine.LABEL: ""},
        )
        self._build = build
        self._ready = False
        self._look_again = self._ask_again = 0.0
        self._restarts = 0

    def ready(self) -> bool:
        if self._ready or time.monotonic() < self._look_again:
            return self._ready
        self._look_again = time.monotonic() + _LOOK_SECONDS
        if self._container.logs().count(b"startup failed") > self._restarts:
            # E2B copies the memory of a running service. Here each service starts anew, and on a
            # busy machine its first kernel may start too late.
            self._restarts += 1
            self._container.restart(timeout=0)
            return False
        # Other services have other ports.
        if not self._listens() and time.monotonic() < self._ask_again:
            return False
        self._ask_again = time.monotonic() + _READY_SECONDS
        finished: Any = self._container.exec_run(
            ["/bin/bash", "-l", "-c", self._ready_command], user=self._build.machine[2]
        )
        self._ready = finished.exit_code == 0
        return self._ready

    def _listens(self) -> bool:
        try:
            socket.create_connection((self._address, SERVICE_PORT), timeout=1).close()
        except OSError:
            return False
        return True

    def command(self, text: str) -> tuple[int, tuple[bytes, bytes]]:
        finished: Any = self._container.exec_run(
            ["/bin/bash", "-l", "-c", text], user="user", workdir="/home/user", demux=True
        )
        return finished.exit_code, finished.output

    def file(self, path: str) -> bytes | None:
        """Return the content of a file, if it is there."""
        import docker

        try:
            archive, _ = self._container.get_archive(path)
        except docker.errors.NotFound:
            return None
        with tarfile.open(fileobj=io.BytesIO(b"".join(archive))) as tar:
            member = tar.next()
            opened = tar.extractfile(member) if member and member.isfile() else None
            return opened.read() if opened else None

    @property
    def _address(self) -> str:
        self._container.reload()  # it may have started again, with another address
        network = next(iter(self._container.attrs["NetworkSettings"]["Networks"].values()))
        return str(network["IPAddress"])

    @property
    def _origin(self) -> str:
        return f"http://{self._address}:{SERVICE_PORT}"

    def _ask(self, method: str, path: str, body: Any = None) -> Any:
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(  # noqa: S310 - the container's own address
            self._origin + path, data, {"Content-Type": "application/json"}, method=method
        )
        try:
            return urllib.request.urlopen(request, timeout=120)  # noqa: S310
        except urllib.error.HTTPError as error:
            raise ApiError(error.code, error.reason) from error
        except OSError as error:
            raise ApiError(502, "The sandbox is running but port is not open") from error

    def contexts(self) -> list[dict[str, Any]]:
        with self._ask("GET", "/contexts") as answer:
            contexts: list[dict[str, Any]] = json.load(answer)
            return contexts

    def create(self, fields: dict[str, Any]) -> dict[str, Any]:
        with self._ask("POST", "/contexts", fields) as answer:
            context: dict[str, Any] = json.load(answer)
            return context

    def execute(self, fields: dict[str, Any]) -> Iterator[bytes]:
        with self._ask("POST", "/execute", fields) as answer:
            yield from answer

    def restart(self, context: str) -> None:
        raise ApiError(404, "the service in the tests' image restarts nothing")

    interrupt = restart

    def close(self) -> None:
        self._container.remove(force=True)


@dataclass
class Running:
    """A running sandbox."""

    id: str
    team: Team
    template: Template
    build: Build
    metadata: dict[str, str]
    egress: Egress
    started: dt.datetime
    ends: float
    ready_at: float
    zygote: Zygote
    token: str | None  # of envd; without one, envd is open to everybody
    service: Service | None = None
    machine: Machine = field(default_factory=Machine)
    closed: bool = False
    lock: threading.Lock = field(default_factory=threading.Lock)

    def close(self) -> None:
        """End everything that runs in it; nothing more can be started."""
        with self.lock:
            self.closed = True
            if self.service:
                self.service.close()
            self.machine.close()

    def use(self) -> Service:
        """Return its code service. Raises `ApiError` until that is up."""
        with self.lock:
            if self.closed or time.monotonic() < self.ready_at:
                raise ApiError(502, "The sandbox is running but port is not open")
            if self.service is None:
                self.service = KernelService(self.zygote, self.machine.home, self.build.machine)
            if isinstance(self.service, ContainerService) and not self.service.ready():
                raise ApiError(502, "The sandbox is running but port is not open")
            return self.service
