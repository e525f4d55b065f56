"""The calls for sandboxes: those of the control plane, and those of their code service."""

from __future__ import annotations

import datetime as dt
import json
import re
import time
import uuid
from collections.abc import AsyncIterator, Iterator
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl

from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse

from tests.support.e2b_server import envd
from tests.support.e2b_server.egress import Egress
from tests.support.e2b_server.sandboxes import ContainerService, Running
from tests.support.e2b_server.state import ApiError, Team, new_id, parse_name
from tests.support.e2b_server.steps import DockerSteps
from tests.support.e2b_server.wire import Handler, Order, page

if TYPE_CHECKING:
    from tests.support.e2b_server.server import Server


class SandboxCalls:
    """The calls for sandboxes."""

    def __init__(self, server: Server) -> None:
        self.server = server
        self._by_key: dict[str, Running] = {}
        self._bodies: dict[str, bytes] = {}

    def routes(self) -> list[tuple[str, str, Handler]]:
        """Return the method, path and handler of each call."""
        return [
            ("POST", "/v2/sandboxes", self._create_sandbox),
            ("POST", "/sandboxes", self._create_sandbox),
            ("GET", "/v2/sandboxes", self._list_sandboxes),
            ("GET", "/sandboxes/{sandbox}", self._get_sandbox),
            ("DELETE", "/sandboxes/{sandbox}", self._kill_sandbox),
            ("POST", "/sandboxes/{sandbox}/timeout", self._sandbox_timeout),
            ("GET", "/health", self._health),
            ("GET", "/contexts", self._contexts),
            ("POST", "/contexts", self._create_context),
            ("POST", "/contexts/{context}/restart", self._restart_context),
            ("POST", "/api/kernels/{context}/interrupt", self._interrupt_kernel),
            ("POST", "/execute", self._execute),
        ]

    def _create_sandbox(self, request: Request, body: bytes) -> Response:
        team = self.server.team_of(request)
        fields = json.loads(body)
        key = request.headers.get("idempotency-key")
        with self.server.state.lock:
            if key and self._bodies.setdefault(key, body) != body:
                raise ApiError(422, "the idempotency key was used with another request")
            template, build = self.server.state.resolve(team, fields["templateID"])
            seconds = fields.get("timeout", 15)
            if seconds <= 0:
                raise ApiError(400, "Timeout must be greater than 0")
            if seconds > team.sandbox_hours * 3600:
                raise ApiError(400, f"Timeout cannot be greater than {team.sandbox_hours} hours")
            # autoPauseMemory says how a sandbox is paused at its end.
            if fields.get("autoPauseMemory") is False and not fields.get("autoPause"):
                message = "autoPauseMemory=false only applies when autoPause is true."
                raise ApiError(400, message)
            egress = Egress.of(fields)
            secure = fields.get("secure") is True or request.url.path.startswith("/v2/")
            if not (secure or fields.get("network", {}).get("allowPublicTraffic", True)):
                raise ApiError(
                    400,
                    "You cannot create a sandbox without public access unless you enable secure envd"
                    " access via 'secure' flag.",
                )
            if key and key in self._by_key:
                return self._sandbox_answer(self._by_key[key])
            most = team.sandboxes_at_a_time
            if sum(sandbox.team is team for sandbox in self._alive()) >= most:
                raise ApiError(
                    429,
                    f"you have reached the maximum number of concurrent E2B sandboxes ({most}). If"
                    " you need more, please visit 'https://e2b.dev/docs/billing'",
                )
            template.spawned.append(self.server.now())
            sandbox = Running(
                id="i" + new_id(),
                team=team,
                template=template,
                build=build,
                metadata=fields.get("metadata") or {},
                egress=egress,
                started=self.server.now(),
                ends=time.monotonic() + seconds,
                ready_at=time.monotonic() + self.server.ready_after,
                zygote=self.server.zygote,
                token=uuid.uuid4().hex if secure else None,
            )
            if isinstance(self.server.steps, DockerSteps):
                sandbox.service = service = ContainerService(build)
                sandbox.machine.file_of_image = service.file
            self.server.running[sandbox.id] = sandbox
            self.server.created += 1
            if key:
                self._by_key[key] = sandbox
        return self._sandbox_answer(sandbox)

    def _sandbox_answer(self, sandbox: Running) -> Response:
        content = {
            "templateID": sandbox.template.id,
            "sandboxID": sandbox.id,
            "clientID": "6532622b",
            "envdVersion": self.server.envd_version,
            "alias": sandbox.template.name,
        }
        if sandbox.token:
            content["envdAccessToken"] = sandbox.token
        return JSONResponse(content, status_code=201)

    def _list_sandboxes(self, request: Request, _body: bytes) -> Response:
        team, query = self.server.team_of(request), request.query_params
        ascends = query.get("order") == "asc"
        order = Order(time="startedAt", id="sandboxID", ascends=ascends, ids_ascend=not ascends)
        wanted = dict(parse_qsl(query.get("metadata", "")))
        template_id = self._wanted_template(team, query["template"]) if "template" in query else ""
        after = dt.datetime.fromisoformat(query.get("startedAfter", "0001-01-01T00:00:00Z"))
        listed, headers = [], {}
        if "running" in query.get("state", "running,paused").split(","):
            listed = [
                self._listed(sandbox)
                for sandbox in self._alive()
                if sandbox.team is team
                and wanted.items() <= sandbox.metadata.items()
                and template_id in ("", sandbox.template.id)
                and sandbox.started >= after
            ]
            headers["X-Total-Running"] = str(len(listed))
        return page(request, listed, order, headers=headers)

    def _wanted_template(self, team: Team, reference: str) -> str | None:
        """Return the ID of the template that a list is asked for, or None if nobody sees it."""
        if ":" in reference:
            why = "tags are not supported here because sandboxes are not tag-scoped"
            raise ApiError(400, f"Invalid template: {why}")
        identifier, _ = parse_name(reference, "Invalid template")
        try:
            return self.server.state.look_up(team, identifier).id
        except ApiError:
            return None

    def _listed(self, sandbox: Running) -> dict[str, Any]:
        end = self.server.now() + dt.timedelta(seconds=sandbox.ends - time.monotonic())
        return {
            "templateID": sandbox.template.id,
            "sandboxID": sandbox.id,
            "clientID": "6532622b",
            "startedAt": sandbox.started.isoformat(),
            "endAt": end.isoformat(),
            "cpuCount": sandbox.build.cpu,
            "memoryMB": sandbox.build.memory_mb,
            "diskSizeMB": 1024,
            "state": "running",
            "envdVersion": self.server.envd_version,
            "alias": sandbox.template.name,
            "metadata": sandbox.metadata,
        }

    def _alive(self) -> list[Running]:
        with self.server.state.lock:
            for sandbox in list(self.server.running.values()):
                if sandbox.ends < time.monotonic():
                    self.server.end(sandbox)
            return list(self.server.running.values())

    def _sandbox(self, sandbox_id: str | None, team: Team | None = None) -> Running:
        for sandbox in self._alive():
            if sandbox.id == sandbox_id and team in (None, sandbox.team):
                return sandbox
        message = f"Sandbox \"{sandbox_id}\" doesn't exist or you don't have access to it"
        raise ApiError(404, message)

    def _of_team(self, request: Request) -> Running:
        # Older clients append the ID of the machine that it is on.
        sandbox_id, *client = request.path_params["sandbox"].split("-")
        if len(client) > 1 or not re.fullmatch("[a-z0-9]+", sandbox_id):
            raise ApiError(400, "Invalid sandbox ID")
        return self._sandbox(sandbox_id, self.server.team_of(request))

    def _get_sandbox(self, request: Request, _body: bytes) -> Response:
        sandbox = self._of_team(request)
        return JSONResponse(self._listed(sandbox) | sandbox.egress.shown())

    def _kill_sandbox(self, request: Request, _body: bytes) -> Response:
        self.server.end(self._of_team(request))
        return Response(status_code=204)

    def _sandbox_timeout(self, request: Request, body: bytes) -> Response:
        sandbox = self._of_team(request)
        lived = (self.server.now() - sandbox.started).total_seconds()
        left = sandbox.team.sandbox_hours * 3600 - lived
        sandbox.ends = time.monotonic() + min(json.loads(body)["timeout"], left)
        return Response(status_code=204)

    def _reached(self, request: Request, port: int, *, secured: bool = True) -> Running:
        sandbox_id, asked_port = _addressed(request)
        try:
            sandbox = self._sandbox(sandbox_id)
        except ApiError as error:
            raise ApiError(502, "The sandbox was not found") from error
        if asked_port != str(port):
            raise ApiError(502, "The sandbox is running but port is not open")
        if secured and sandbox.token and request.headers.get("x-access-token") != sandbox.token:
            raise ApiError(401, "unauthorized access, please provide a valid access token")
        return sandbox

    def _in_sandbox(self, request: Request, port: int = 49999) -> Any:
        return self._reached(request, port, secured=False).use()

    def machine(self, request: Request) -> envd.Machine:
        return self.reached(request).machine

    def reached(self, request: Request) -> Running:
        """Return the sandbox of a request to envd."""
        return self._reached(request, envd.PORT)

    def _health(self, request: Request, _body: bytes) -> Response:
        if _addressed(request)[1] == "49999":
            self._in_sandbox(request)
            return JSONResponse("OK")
        self._reached(request, envd.PORT, secured=False)
        return Response(status_code=204)

    def _restart_context(self, request: Request, _body: bytes) -> Response:
        self._in_sandbox(request).restart(request.path_params["context"])
        return JSONResponse(None)

    def _interrupt_kernel(self, request: Request, _body: bytes) -> Response:
        if not self.server.jupyter_is_reached:
            raise ApiError(502, "The sandbox is running but port is not open")
        self._in_sandbox(request, 8888).interrupt(request.path_params["context"])
        return Response(status_code=204)

    def _contexts(self, request: Request, _body: bytes) -> Response:
        return JSONResponse(self._in_sandbox(request).contexts())

    def _create_context(self, request: Request, body: bytes) -> Response:
        return JSONResponse(self._in_sandbox(request).create(json.loads(body)))

    def _execute(self, request: Request, body: bytes) -> Response:
        # The service asks envd for the sandbox's variables, with the token of the request.
        service = self._reached(request, 49999).use()
        return self._answer_of_execution(service.execute(json.loads(body)))

    def _answer_of_execution(self, events: Iterator[bytes] | AsyncIterator[bytes]) -> Response:
        return StreamingResponse(events, media_type="application/json")


def _addressed(request: Request) -> tuple[str | None, str | None]:
    """Return the sandbox and the port of a request: from the first label of the host, or from the
    headers if all sandboxes share the host."""
    label, _, domain = (request.url.hostname or "").partition(".")
    port, dash, sandbox = label.partition("-")
    if dash and domain:
        return sandbox, port
    return request.headers.get("e2b-sandbox-id"), request.headers.get("e2b-sandbox-port")
