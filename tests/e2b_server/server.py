"""The server: its calls over real HTTP, its builds in threads."""

from __future__ import annotations

import atexit
import base64
import datetime as dt
import json
import socket
import threading
import time
import traceback
import uuid
from collections.abc import AsyncIterator, Iterator
from typing import Any
from urllib.parse import parse_qsl

import uvicorn
from e2b.api.client import models
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from tests.e2b_server import envd
from tests.e2b_server.faults import Faulty
from tests.e2b_server.sandboxes import ContainerService, Running
from tests.e2b_server.state import ApiError, Build, State, Team, Template
from tests.e2b_server.steps import DockerSteps, ModelledSteps, StepError, Steps, chained
from tests.e2b_server.zygote import Zygote

_ZYGOTE = Zygote()
atexit.register(_ZYGOTE.close)
KEY = "e2b_" + "0123456789abcdef" * 2 + "01234567"


class Server:
    """A running server; use it as a context manager.

    `url` is where, `key` the first team's key, `state` what it knows. `ready_after` is how many
    seconds a sandbox's code service takes, `skew` how wrong its clock is.
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
        self._zygote = _ZYGOTE
        self._by_key: dict[str, Running] = {}
        self._threads: list[threading.Thread] = []
        self.envd_version = "0.6.13"
        files = envd.routes(self._machine, lambda: self.envd_version, self.problems)
        self.front = Faulty(Starlette(routes=[*self._routes(), *files]))
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
        for thread in self._threads:
            thread.join()
        for sandbox in list(self.running.values()):
            self.end(sandbox)
        if isinstance(self.steps, DockerSteps):
            self.steps.remove()

    @property
    def environment(self) -> dict[str, str]:
        """The variables that lead the SDK here."""
        return {"E2B_API_KEY": self.key, "E2B_API_URL": self.url, "E2B_SANDBOX_URL": self.url}

    def builds(self, name: str | None = None) -> list[Build]:
        """Every build, of one template or of all."""
        with self.state.lock:
            return [
                build
                for template in self.state.templates.values()
                if name in (None, template.name)
                for build in template.builds
            ]

    def tags(self, name: str) -> dict[str, str]:
        """Tag → build ID, as sandboxes resolve them."""
        with self.state.lock:
            template = next(t for t in self.state.templates.values() if t.name == name)
            found = {tag: template.newest(tag, ready=True) for tag, _, _ in template.tags}
            return {tag: entry[1] for tag, entry in found.items() if entry}

    def now(self) -> dt.datetime:
        return dt.datetime.now(dt.UTC) + dt.timedelta(seconds=self._skew)

    def _routes(self) -> list[Route]:
        return [
            Route(path, self._endpoint(handler), methods=[method])
            for method, path, handler in (
                ("POST", "/v3/templates", self._request_build),
                ("GET", "/templates/aliases/{alias:path}", self._alias),
                ("POST", "/templates/tags", self._assign_tags),
                ("DELETE", "/templates/tags", self._delete_tags),
                ("GET", "/templates/{name}/files/{hash}", self._file),
                ("GET", "/templates/{name}/tags", self._tags),
                ("GET", "/templates/{name}/builds/{build}/status", self._status),
                ("POST", "/v2/templates/{name}/builds/{build}", self._start_build),
                ("GET", "/templates", self._list_templates),
                ("GET", "/v2/templates", self._list_templates),
                ("GET", "/templates/{name}", self._get_template),
                ("DELETE", "/templates/{name}", self._delete_template),
                ("PUT", "/upload/{token}", self._upload),
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
            )
        ]

    def _endpoint(self, handler: Any) -> Any:
        async def endpoint(request: Request) -> Response:
            body = await request.body()
            try:
                answer: Response = await run_in_threadpool(handler, request, body)
            except ApiError as error:
                told = {"code": error.code, "message": error.message}
                return JSONResponse(told, status_code=error.code, headers=error.headers)
            except Exception as error:  # noqa: BLE001 - a test looks at what went wrong
                self.problems.append(f"{request.method} {request.url.path}: {error!r}")
                traceback.print_exc()
                return JSONResponse({"code": 500, "message": repr(error)}, status_code=500)
            return answer

        return endpoint

    def _team(self, request: Request) -> Team:
        return self.state.team(request.headers.get("x-api-key"))

    # ---- templates

    def _request_build(self, request: Request, body: bytes) -> Response:
        team = self._team(request)
        asked = _checked(models.TemplateBuildRequestV3, body)
        with self.state.lock:
            template, build, tags = self.state.request_build(team, asked)
        return _answer(
            models.TemplateRequestResponseV3,
            {
                "templateID": template.id,
                "buildID": build.id,
                "public": False,
                "names": [f"{template.team.slug}/{template.name}"],
                "tags": tags,
                "aliases": [template.name],
            },
            202,
        )

    def _alias(self, request: Request, _body: bytes) -> Response:
        template = self.state.owned(self._team(request), request.path_params["alias"])
        return _answer(
            models.TemplateAliasResponse, {"templateID": template.id, "public": False}, 200
        )

    def _file(self, request: Request, _body: bytes) -> Response:
        team = self._team(request)
        self.state.owned(team, request.path_params["name"])
        wanted = request.path_params["hash"]
        if (team.key, wanted) in self.state.files:
            return _answer(models.TemplateBuildFileUpload, {"present": True}, 201)
        token = base64.urlsafe_b64encode(json.dumps([team.key, wanted]).encode()).decode()
        url = f"{self.url}/upload/{token}"
        return _answer(models.TemplateBuildFileUpload, {"present": False, "url": url}, 201)

    def _upload(self, request: Request, body: bytes) -> Response:
        team, wanted = json.loads(base64.urlsafe_b64decode(request.path_params["token"]))
        if not body.startswith(b"\x1f\x8b"):
            raise ApiError(400, "not a gzip archive")
        self.state.files[team, wanted] = body
        return Response(status_code=200)

    def _start_build(self, request: Request, body: bytes) -> Response:
        team = self._team(request)
        asked = _checked(models.TemplateBuildStartV2, body)
        for step in asked.get("steps", []):
            if step["type"] not in ("COPY", "RUN", "ENV", "WORKDIR", "USER"):
                raise ApiError(400, f"unknown step {step['type']}")
        with self.state.lock:
            build = self.state.start_build(
                team, request.path_params["name"], request.path_params["build"]
            )
            build.status, build.request = "building", asked
            build.times_started += 1
            thread = threading.Thread(target=self._carry_out, args=(build,))
            self._threads.append(thread)
            thread.start()
        return Response(status_code=202)

    def _status(self, request: Request, _body: bytes) -> Response:
        template = self._template_for_build(request)
        build = template.build(request.path_params["build"])
        if build is None:
            raise ApiError(400, f"Build '{request.path_params['build']}' not found")
        query = request.query_params
        offset, limit = int(query.get("logsOffset", 0)), int(query.get("limit", 100))
        if not 0 <= limit <= 100:
            raise ApiError(400, "limit must be at most 100")
        with self.state.lock:
            entries = [] if build.status == "waiting" else build.log[offset : offset + limit]
            told: dict[str, Any] = {
                "logs": [],
                "logEntries": entries,
                "templateID": template.id,
                "buildID": build.id,
                "status": build.status,
            }
            if build.status == "error" and self.tells_reasons:
                told["reason"] = {"message": build.message, "logEntries": build.log[-5:]}
                if build.step is not None:
                    told["reason"]["step"] = build.step
        return _answer(models.TemplateBuildInfo, told, 200)

    def _template_for_build(self, request: Request) -> Template:
        team = self._team(request)
        template = self.state.templates.get(request.path_params["name"])
        if template is None:
            raise ApiError(400, f"Template '{request.path_params['name']}' not found")
        if template.team is not team:
            raise ApiError(403, "You don't have access to this sandbox template")
        return template

    def _tags(self, request: Request, _body: bytes) -> Response:
        template = self.state.owned(self._team(request), request.path_params["name"])
        with self.state.lock:
            newest = {tag: (build, when) for tag, build, when in template.tags}
        told = [
            {"tag": tag, "buildID": build, "createdAt": when.isoformat()}
            for tag, (build, when) in sorted(newest.items())
        ]
        for one in told:
            _fits(models.TemplateTag, one)
        return JSONResponse(told)

    def _assign_tags(self, request: Request, body: bytes) -> Response:
        from tests.e2b_server.state import check_tag

        team = self._team(request)
        asked = _checked(models.AssignTemplateTagsRequest, body)
        for tag in asked["tags"]:
            check_tag(tag)
        with self.state.lock:
            template, build = self.state.resolve(team, asked["target"])
            now = dt.datetime.now(dt.UTC)
            template.tags += [(tag, build.id, now) for tag in asked["tags"]]
        told = {"tags": asked["tags"], "buildID": build.id}
        return _answer(models.AssignedTemplateTags, told, 201)

    def _delete_tags(self, request: Request, body: bytes) -> Response:
        asked = _checked(models.DeleteTemplateTagsRequest, body)
        template = self.state.owned(self._team(request), asked["name"])
        with self.state.lock:
            template.tags = [one for one in template.tags if one[0] not in asked["tags"]]
        return Response(status_code=204)

    def _described(self, template: Template) -> dict[str, Any]:
        now = self.now().isoformat()
        ready = [build for build in template.builds if build.status == "ready"]
        last = (ready or template.builds)[-1]
        return {
            "templateID": template.id,
            "buildID": last.id,
            "cpuCount": last.cpu,
            "memoryMB": last.memory_mb,
            "diskSizeMB": 1024,
            "public": False,
            "aliases": [template.name],
            "names": [f"{template.team.slug}/{template.name}"],
            "createdAt": now,
            "updatedAt": now,
            "createdBy": None,
            "lastSpawnedAt": None,
            "spawnCount": 0,
            "buildCount": len(template.builds),
            "envdVersion": self.envd_version,
            "buildStatus": template.builds[-1].status,
        }

    def _list_templates(self, request: Request, _body: bytes) -> Response:
        team = self._team(request)
        told = [self._described(t) for t in self.state.templates.values() if t.team is team]
        return JSONResponse(told)

    def _get_template(self, request: Request, _body: bytes) -> Response:
        template = self.state.owned(self._team(request), request.path_params["name"])
        return JSONResponse(self._described(template))

    def _delete_template(self, request: Request, _body: bytes) -> Response:
        template = self.state.owned(self._team(request), request.path_params["name"])
        if any(one.template is template for one in self.running.values()):
            raise ApiError(400, "cannot delete a template while sandboxes of it run")
        with self.state.lock:
            del self.state.templates[template.id]
        return Response(status_code=204)

    # ---- builds

    def _carry_out(self, build: Build) -> None:
        team, asked = build.team.key, build.request
        steps = asked.get("steps", [])
        force = bool(asked.get("force"))

        def tell(message: str, step: str, level: str = "info") -> None:
            entry = {
                "timestamp": self.now().isoformat(),
                "message": message,
                "level": level,
                "step": step,
            }
            _fits(models.BuildLogEntry, entry)
            with self.state.lock:
                build.log.append(entry)

        at = "base"
        try:
            key = f"{asked.get('fromImage') or asked.get('fromTemplate')}\n{build.free_disk_mb}"
            tell("Building template", at)
            layer = self._layer(team, key, force, lambda: self.steps.base(asked["fromImage"]))
            cached = "CACHED " if layer[1] else ""
            tell(f"{cached}[base] FROM {asked['fromImage']} [{key_hash(key)}]", at)
            made = layer[0]
            for number, step in enumerate(steps, start=1):
                if build.canceled.is_set():
                    return
                at = str(number)
                force = force or bool(step.get("force"))
                key = chained(key, step)
                head = f"[builder {number}/{len(steps)}] {step['type']}"
                told = f"{head} {' '.join(step.get('args', []))} [{key_hash(key)}]"
                with self.state.lock:
                    known = None if force else self.state.layers.get((team, key))
                if known is not None:
                    made = known
                    tell(f"CACHED {told}", at)
                    continue
                tell(told, at)
                made = self._run(build, made, step, number, len(steps), tell)
                with self.state.lock:
                    self.state.executed.append((team, key))
                    self.state.layers[team, key] = made
            at = "finalize"
            tell("[finalize] Finalizing template build", at)
            build.machine = self.steps.finish(made, build)
            tell("[finalize] Build finished", at)
        except StepError as error:
            with self.state.lock:
                if not build.canceled.is_set():
                    build.status, build.message, build.step = "error", str(error), at
            return
        with self.state.lock:
            if not build.canceled.is_set():
                build.status, build.ended_at = "ready", time.monotonic()

    def _layer(self, team: str, key: str, force: bool, make: Any) -> tuple[Any, bool]:
        with self.state.lock:
            known = None if force else self.state.layers.get((team, key))
        if known is not None:
            return known, True
        made = make()
        with self.state.lock:
            self.state.layers[team, key] = made
        return made, False

    def _run(
        self, build: Build, layer: Any, step: dict[str, Any], number: int, count: int, tell: Any
    ) -> Any:
        files = None
        if step["type"] == "COPY":
            files = self.state.files.get((build.team.key, step.get("filesHash", "")))
            if files is None:
                raise StepError("the files of the step were not uploaded")
        return self.steps.run(
            layer,
            step,
            files,
            lambda line: tell(f"[builder {number}/{count}] {line}", str(number)),
        )

    # ---- sandboxes

    def _create_sandbox(self, request: Request, body: bytes) -> Response:
        team = self._team(request)
        asked = _checked(models.NewSandboxV2, body)
        key = request.headers.get("idempotency-key")
        with self.state.lock:
            if key and key in self._by_key:
                return self._sandbox_answer(self._by_key[key])
            alive = [one for one in self.running.values() if one.team is team]
            if len(alive) >= team.sandboxes_at_a_time:
                raise ApiError(429, "you have reached the maximum number of concurrent sandboxes")
            template, build = self.state.resolve(team, asked["templateID"])
            seconds = asked.get("timeout", 300)
            sandbox = Running(
                id="i" + uuid.uuid4().hex[:19],
                team=team,
                template=template,
                build=build,
                metadata=asked.get("metadata") or {},
                started=self.now(),
                ends=time.monotonic() + seconds,
                ready_at=time.monotonic() + self.ready_after,
                zygote=self._zygote,
            )
            if isinstance(self.steps, DockerSteps):
                sandbox.service = ContainerService(build)
            self.running[sandbox.id] = sandbox
            self.created += 1
            if key:
                self._by_key[key] = sandbox
        return self._sandbox_answer(sandbox)

    def _sandbox_answer(self, sandbox: Running) -> Response:
        told = {
            "templateID": sandbox.template.id,
            "sandboxID": sandbox.id,
            "clientID": "6532622b",
            "envdVersion": self.envd_version,
            "envdAccessToken": sandbox.token,
            "alias": sandbox.template.name,
        }
        return _answer(models.Sandbox, told, 201)

    def _list_sandboxes(self, request: Request, _body: bytes) -> Response:
        team = self._team(request)
        wanted = dict(parse_qsl(request.query_params.get("metadata", "")))
        told = []
        for one in self._alive():
            if one.team is team and wanted.items() <= one.metadata.items():
                told.append(self._listed(one))
                _fits(models.ListedSandbox, told[-1])
        return JSONResponse(told)

    def _listed(self, one: Running) -> dict[str, Any]:
        end = one.started + dt.timedelta(seconds=one.ends - time.monotonic())
        return {
            "templateID": one.template.id,
            "sandboxID": one.id,
            "clientID": "6532622b",
            "startedAt": one.started.isoformat(),
            "endAt": end.isoformat(),
            "cpuCount": one.build.cpu,
            "memoryMB": one.build.memory_mb,
            "diskSizeMB": 1024,
            "state": "running",
            "envdVersion": self.envd_version,
            "alias": one.template.name,
            "metadata": one.metadata,
        }

    def _alive(self) -> list[Running]:
        with self.state.lock:
            for one in list(self.running.values()):
                if one.ends < time.monotonic():
                    self.end(one)
            return list(self.running.values())

    def _sandbox(self, sandbox_id: str | None) -> Running:
        for one in self._alive():
            if one.id == sandbox_id:
                return one
        raise ApiError(404, f"sandbox '{sandbox_id}' not found")

    def _get_sandbox(self, request: Request, _body: bytes) -> Response:
        self._team(request)
        return JSONResponse(self._listed(self._sandbox(request.path_params["sandbox"])))

    def _kill_sandbox(self, request: Request, _body: bytes) -> Response:
        self._team(request)
        self.end(self._sandbox(request.path_params["sandbox"]))
        return Response(status_code=204)

    def end(self, sandbox: Running) -> None:
        with self.state.lock:
            self.running.pop(sandbox.id, None)
            self.ended.append(sandbox.id)
        sandbox.close()

    def _sandbox_timeout(self, request: Request, body: bytes) -> Response:
        self._team(request)
        seconds = json.loads(body)["timeout"]
        self._sandbox(request.path_params["sandbox"]).ends = time.monotonic() + seconds
        return Response(status_code=204)

    def _in_sandbox(self, request: Request, port: int = 49999) -> Any:
        try:
            sandbox = self._sandbox(request.headers.get("e2b-sandbox-id"))
        except ApiError as error:
            raise ApiError(502, "The sandbox was not found") from error
        if request.headers.get("e2b-sandbox-port") != str(port):
            raise ApiError(502, "The sandbox is running but port is not open")
        return sandbox.use()

    def _machine(self, request: Request) -> envd.Machine:
        try:
            sandbox = self._sandbox(request.headers.get("e2b-sandbox-id"))
        except ApiError as error:
            raise ApiError(502, "The sandbox was not found") from error
        if request.headers.get("e2b-sandbox-port") != str(envd.PORT):
            raise ApiError(502, "The sandbox is running but port is not open")
        if request.headers.get("x-access-token") != sandbox.token:
            raise ApiError(401, "unauthorized access, please provide a valid access token")
        return sandbox.machine

    def _health(self, request: Request, _body: bytes) -> Response:
        if request.headers.get("e2b-sandbox-port") == "49999":
            self._in_sandbox(request)
            return JSONResponse("OK")
        try:
            self._sandbox(request.headers.get("e2b-sandbox-id"))
        except ApiError as error:
            raise ApiError(502, "The sandbox was not found") from error
        return Response(status_code=204)

    def _restart_context(self, request: Request, _body: bytes) -> Response:
        self._in_sandbox(request).restart(request.path_params["context"])
        return JSONResponse(None)

    def _interrupt_kernel(self, request: Request, _body: bytes) -> Response:
        if not self.jupyter_is_reached:
            raise ApiError(502, "The sandbox is running but port is not open")
        self._in_sandbox(request, 8888).interrupt(request.path_params["context"])
        return Response(status_code=204)

    def _contexts(self, request: Request, _body: bytes) -> Response:
        return JSONResponse(self._in_sandbox(request).contexts())

    def _create_context(self, request: Request, body: bytes) -> Response:
        return JSONResponse(self._in_sandbox(request).create(json.loads(body)))

    def _execute(self, request: Request, body: bytes) -> Response:
        return self._answer_of_execution(self._in_sandbox(request).execute(json.loads(body)))

    def _answer_of_execution(self, events: Iterator[bytes] | AsyncIterator[bytes]) -> Response:
        return StreamingResponse(events, media_type="application/json")


def key_hash(key: str) -> str:
    import hashlib

    return hashlib.sha256(key.encode()).hexdigest()[:12]


def _fits(model: Any, value: dict[str, Any]) -> None:
    """Whether a value has the shape that E2B's description gives it, and nothing besides."""
    found = model.from_dict(value)
    if found.additional_properties:
        raise ValueError(f"{model.__name__} has no {', '.join(found.additional_properties)}")
    for key, text in found.to_dict().items():
        if key in value and type(value[key]) is not type(text):
            raise ValueError(f"{model.__name__}: {key} is {value[key]!r}")


def _checked(model: Any, body: bytes) -> dict[str, Any]:
    try:
        value = json.loads(body)
        _fits(model, value)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ApiError(400, f"Invalid request body: {error}") from error
    found: dict[str, Any] = value
    return found


def _answer(model: Any, value: dict[str, Any], code: int) -> Response:
    _fits(model, value)
    return JSONResponse(value, status_code=code)
