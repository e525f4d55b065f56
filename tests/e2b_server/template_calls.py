"""The calls for templates, their builds, files and tags."""

from __future__ import annotations

import base64
import datetime as dt
import json
import threading
from typing import TYPE_CHECKING, Any

from e2b.api.client import models
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from tests.e2b_server.building import Builder
from tests.e2b_server.state import ApiError, Template, check_tag
from tests.e2b_server.wire import Handler, answer, checked, fits

if TYPE_CHECKING:
    from tests.e2b_server.server import Server


class TemplateCalls:
    """The calls for templates."""

    def __init__(self, server: Server) -> None:
        self.server = server
        self._builder = Builder(server)
        self.threads: list[threading.Thread] = []

    def routes(self) -> list[tuple[str, str, Handler]]:
        """Method, path, and what answers it."""
        return [
            ("POST", "/v3/templates", self._request_build),
            ("GET", "/templates/aliases/{alias}", self._alias),
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
        ]

    def _request_build(self, request: Request, body: bytes) -> Response:
        team = self.server.team_of(request)
        asked = checked(models.TemplateBuildRequestV3, body)
        with self.server.state.lock:
            template, build, tags = self.server.state.request_build(team, asked)
        return answer(
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
        template = self.server.state.owned(
            self.server.team_of(request), request.path_params["alias"]
        )
        return answer(
            models.TemplateAliasResponse, {"templateID": template.id, "public": False}, 200
        )

    def _file(self, request: Request, _body: bytes) -> Response:
        team = self.server.team_of(request)
        self.server.state.owned(team, request.path_params["name"])
        wanted = request.path_params["hash"]
        if (team.key, wanted) in self.server.state.files:
            return answer(models.TemplateBuildFileUpload, {"present": True}, 201)
        token = base64.urlsafe_b64encode(json.dumps([team.key, wanted]).encode()).decode()
        url = f"{self.server.url}/upload/{token}"
        return answer(models.TemplateBuildFileUpload, {"present": False, "url": url}, 201)

    def _upload(self, request: Request, body: bytes) -> Response:
        team, wanted = json.loads(base64.urlsafe_b64decode(request.path_params["token"]))
        if not body.startswith(b"\x1f\x8b"):
            raise ApiError(400, "not a gzip archive")
        self.server.state.files[team, wanted] = body
        return Response(status_code=200)

    def _start_build(self, request: Request, body: bytes) -> Response:
        team = self.server.team_of(request)
        asked = checked(models.TemplateBuildStartV2, body)
        for step in asked.get("steps", []):
            if step["type"] not in ("COPY", "RUN", "ENV", "WORKDIR", "USER"):
                raise ApiError(400, f"unknown step {step['type']}")
        with self.server.state.lock:
            build = self.server.state.start_build(
                team, request.path_params["name"], request.path_params["build"]
            )
            build.request = asked
            build.become("building")
            build.times_started += 1
            thread = threading.Thread(target=self._builder.carry_out, args=(build,))
            self.threads.append(thread)
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
        with self.server.state.lock:
            # Whoever asks leaves the answer in the cache, for minutes.
            build.cached = build.cached or (build.status, build.message, build.step)
            status, message, step = build.cached
            entries = [] if status == "waiting" else build.log[offset : offset + limit]
            told: dict[str, Any] = {
                "logs": [],
                "logEntries": entries,
                "templateID": template.id,
                "buildID": build.id,
                "status": status,
            }
            if message and self.server.tells_reasons:
                told["reason"] = {"message": message, "logEntries": []}
                if step is not None:
                    shown = [one for one in entries if one.get("step") == step]
                    told["reason"] |= {
                        "step": step,
                        "logEntries": [one for one in shown if one["level"] in ("warn", "error")],
                    }
        return answer(models.TemplateBuildInfo, told, 200)

    def _template_for_build(self, request: Request) -> Template:
        team = self.server.team_of(request)
        template = self.server.state.templates.get(request.path_params["name"])
        if template is None:
            raise ApiError(400, f"Template '{request.path_params['name']}' not found")
        if template.team is not team:
            raise ApiError(403, "You don't have access to this sandbox template")
        return template

    def _tags(self, request: Request, _body: bytes) -> Response:
        template = self.server.state.owned(
            self.server.team_of(request), request.path_params["name"]
        )
        with self.server.state.lock:
            newest = {tag: (build, when) for tag, build, when in template.tags}
        told = [
            {"tag": tag, "buildID": build, "createdAt": when.isoformat()}
            for tag, (build, when) in sorted(newest.items())
        ]
        for one in told:
            fits(models.TemplateTag, one)
        return JSONResponse(told)

    def _assign_tags(self, request: Request, body: bytes) -> Response:
        team = self.server.team_of(request)
        asked = checked(models.AssignTemplateTagsRequest, body)
        for tag in asked["tags"]:
            check_tag(tag)
        with self.server.state.lock:
            template, build = self.server.state.resolve(team, asked["target"])
            now = dt.datetime.now(dt.UTC)
            template.tags += [(tag, build.id, now) for tag in asked["tags"]]
        told = {"tags": asked["tags"], "buildID": build.id}
        return answer(models.AssignedTemplateTags, told, 201)

    def _delete_tags(self, request: Request, body: bytes) -> Response:
        asked = checked(models.DeleteTemplateTagsRequest, body)
        template = self.server.state.owned(self.server.team_of(request), asked["name"])
        with self.server.state.lock:
            template.tags = [one for one in template.tags if one[0] not in asked["tags"]]
        return Response(status_code=204)

    def _described(self, template: Template) -> dict[str, Any]:
        now = self.server.now().isoformat()
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
            "envdVersion": self.server.envd_version,
            "buildStatus": template.builds[-1].status,
        }

    def _list_templates(self, request: Request, _body: bytes) -> Response:
        team = self.server.team_of(request)
        told = [self._described(t) for t in self.server.state.templates.values() if t.team is team]
        return JSONResponse(told)

    def _get_template(self, request: Request, _body: bytes) -> Response:
        template = self.server.state.owned(
            self.server.team_of(request), request.path_params["name"]
        )
        return JSONResponse(self._described(template))

    def _delete_template(self, request: Request, _body: bytes) -> Response:
        template = self.server.state.owned(
            self.server.team_of(request), request.path_params["name"]
        )
        if any(one.template is template for one in self.server.running.values()):
            raise ApiError(400, "cannot delete a template while sandboxes of it run")
        with self.server.state.lock:
            del self.server.state.templates[template.id]
        return Response(status_code=204)
