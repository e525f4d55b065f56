"""The server: calls over real HTTP, builds in threads."""

from __future__ import annotations

import atexit
import datetime as dt
import json
import socket
import threading
import time
import traceback
from typing import Any
from urllib.parse import unquote

import uvicorn
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from tests.support.e2b_server import envd, processes
from tests.support.e2b_server.description import Call, calls, misfit, shape
from tests.support.e2b_server.faults import Faulty
from tests.support.e2b_server.sandbox_calls import SandboxCalls
from tests.support.e2b_server.sandboxes import Running
from tests.support.e2b_server.state import ApiError, Build, State, Team
from tests.support.e2b_server.steps import DockerSteps, ModelledSteps, Steps
from tests.support.e2b_server.template_calls import TemplateCalls
from tests.support.e2b_server.zygote import Zygote

_ZYGOTE = Zygote()
atexit.register(_ZYGOTE.close)
KEY = "e2b_" + "0123456789abcdef" * 2 + "01234567"


class Server:
    """A running server; use it as a context manager.

    `url` is its address, `key` the first team's key, `state` its data. A sandbox's code service is
    up after `ready_after` seconds. Its clock is wrong by `skew`.
    """

    def __init__(
        self,
        steps: Steps | None = None,
        *,
        teams: list[Team] | None = None,
        ready_after: float = 0.0,
        skew: float = 0.0,
    ) -> None:
        self.steps = steps or ModelledSteps()
        self.state = State(teams or [Team(key=KEY)])
        self.key = next(iter(self.state.teams))
        self.ready_after, self._skew = ready_after, skew
        self.running: dict[str, Running] = {}
        self.ended: list[str] = []
        self.created = 0
        self.problems: list[str] = []
        self.tells_reasons = True
        self.jupyter_is_reached = True
        self.zygote = _ZYGOTE
        self._templates, self._sandboxes = TemplateCalls(self), SandboxCalls(self)
        self.envd_version = "0.6.13"
        files = envd.routes(self._sandboxes.machine, lambda: self.envd_version, self.problems)
        no_route = {404: _no_route, 405: _no_route}
        commands = processes.routes(self._sandboxes.reached, self.problems)
        routes = [*self._routes(), *files, *commands]
        self.front = Faulty(Starlette(routes=routes, exception_handlers=no_route))
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._socket.getsockname()[1]}"
        config = uvicorn.Config(
            self.front, log_level="critical", lifespan="off", timeout_keep_alive=60
        )
        self._server = uvicorn.Server(config)
        self._thread = threading.Thread(target=self._server.run, args=([self._socket],))

    def __enter__(self) -> Server:
        self._thread.start()
        while not self._server.started:
            time.sleep(0.005)
        return self

    def __exit__(self, *_: object) -> None:
        self._server.should_exit = self._server.force_exit = True
        self._thread.join()
        self._socket.close()
        for build in self.builds():
            build.canceled.set()
        for thread in self._templates.threads:
            thread.join()
        for sandbox in list(self.running.values()):
            self.end(sandbox)
        if isinstance(self.steps, DockerSteps):
            self.steps.remove()

    @property
    def environment(self) -> dict[str, str]:
        """Return the variables that point the SDK at this server."""
        return {"E2B_API_KEY": self.key, "E2B_API_URL": self.url, "E2B_SANDBOX_URL": self.url}

    def builds(self, name: str | None = None) -> list[Build]:
        """Return every build, of one template or of all."""
        with self.state.lock:
            return [
                build
                for template in self.state.templates.values()
                if name in (None, template.name)
                for build in template.builds
            ]

    def tags(self, name: str) -> dict[str, str]:
        """Return tag → build ID, as sandboxes resolve them."""
        with self.state.lock:
            template = next(t for t in self.state.templates.values() if t.name == name)
            found = {tag: template.newest(tag, ready=True) for tag, _, _ in template.tags}
            return {tag: entry[1] for tag, entry in found.items() if entry}

    def now(self) -> dt.datetime:
        return dt.datetime.now(dt.UTC) + dt.timedelta(seconds=self._skew)

    def _routes(self) -> list[Route]:
        return [
            Route(
                path,
                self._endpoint(handler, calls().get(shape(f"{method} {path}"))),
                methods=[method],
            )
            for method, path, handler in (*self._templates.routes(), *self._sandboxes.routes())
        ]

    def _endpoint(self, handler: Any, call: Call | None) -> Any:
        def answered(request: Request, body: bytes) -> Response:
            if call:
                self.team_of(request)
                self._check_request(call, request, body)
            response: Response = handler(request, body)
            return response

        async def endpoint(request: Request) -> Response:
            body = await request.body()
            for name, value in request.path_params.items():
                request.path_params[name] = unquote(value)
            try:
                answer: Response = await run_in_threadpool(answered, request, body)
            except ApiError as error:
                told = {"code": error.code, "message": error.message}
                answer = JSONResponse(told, status_code=error.code, headers=error.headers)
            except Exception as error:  # noqa: BLE001 - a test looks at what went wrong
                self.problems.append(f"{request.method} {request.url.path}: {error!r}")
                traceback.print_exc()
                return JSONResponse({"code": 500, "message": repr(error)}, status_code=500)
            if call:
                value = json.loads(bytes(answer.body)) if answer.body else None
                if wrong := call.misfit(answer.status_code, value):
                    self.problems.append(f"{request.method} {request.url.path}: {wrong}")
            return answer

        return endpoint

    @staticmethod
    def _check_request(call: Call, request: Request, body: bytes) -> None:
        wrong = call.misfit_of_query(dict(request.query_params))
        if wrong is None and call.asks is not None:
            try:
                wrong = misfit(call.asks, json.loads(body))
            except ValueError as error:
                wrong = str(error)
        if wrong:
            where = "error in openapi3filter.RequestError: request has an error"
            raise ApiError(400, f"validation error: {where}: {wrong}")

    def team_of(self, request: Request) -> Team:
        return self.state.team(request.headers.get("x-api-key"))

    def end(self, sandbox: Running) -> None:
        with self.state.lock:
            self.running.pop(sandbox.id, None)
            self.ended.append(sandbox.id)
        sandbox.close()


async def _no_route(_request: Request, _error: Exception) -> Response:
    message = "validation error: no matching operation was found"
    return JSONResponse({"code": 404, "message": message}, status_code=404)
