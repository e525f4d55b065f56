"""The calls for templates, their builds, files and tags."""

from __future__ import annotations

import base64
import datetime as dt
import json
import re
import threading
import uuid
from typing import TYPE_CHECKING, Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from tests.support.e2b_server.building import Builder
from tests.support.e2b_server.state import (
    DEFAULT_TAG,
    ApiError,
    Build,
    Template,
    check_namespace,
    clean_tags,
    parse_name,
)
from tests.support.e2b_server.status import shown
from tests.support.e2b_server.wire import Handler, Order, page

if TYPE_CHECKING:
    from tests.support.e2b_server.server import Server

_LEVELS = ("debug", "info", "warn", "error")


class TemplateCalls:
    """The calls for templates."""

    def __init__(self, server: Server) -> None:
        self.server = server
        self._builder = Builder(server)
        self.threads: list[threading.Thread] = []

    def routes(self) -> list[tuple[str, str, Handler]]:
        """Return the method, path and handler of each call."""
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
            ("GET", "/v2/templates", self._list_templates_in_pages),
            ("PATCH", "/v2/templates/{name}", self._update_template),
            ("GET", "/templates/{name}", self._get_template),
            ("DELETE", "/templates/{name}", self._delete_template),
            ("PUT", "/upload/{token}", self._upload),
        ]

    def _request_build(self, request: Request, body: bytes) -> Response:
        team = self.server.team_of(request)
        fields = json.loads(body)
        with self.server.state.lock:
            template, build, tags = self.server.state.request_build(team, fields)
        return JSONResponse(
            {
                "templateID": template.id,
                "buildID": build.id,
                "public": template.public,
                "names": [template.full_name],
                "tags": tags,
                "aliases": [template.name],
            },
            status_code=202,
        )

    def _alias(self, request: Request, _body: bytes) -> Response:
        team, reference = self.server.team_of(request), request.path_params["alias"]
        identifier, tag = parse_name(reference, "Invalid alias format")
        check_namespace(identifier, team)
        template = self.server.state.owned(
            team, identifier, refused="You don't have access to this template alias"
        )
        if ":" in reference and self.server.state.ready(template, tag) is None:
            missing = tag or DEFAULT_TAG
            raise ApiError(404, f"tag '{missing}' does not exist for template '{identifier}'")
        content = {"templateID": template.id, "public": template.public}
        return JSONResponse(content)

    def _file(self, request: Request, _body: bytes) -> Response:
        team = self.server.team_of(request)
        wanted = request.path_params["hash"]
        if not re.fullmatch("[0-9a-f]{64}", wanted):
            raise ApiError(400, "Invalid files hash")
        missing = "Error when getting template: no rows in result set"
        template = self.server.state.templates.get(request.path_params["name"])
        if template is None or template.team is not team:
            raise ApiError(404, missing)
        present = (team.key, wanted) in self.server.state.files
        token = base64.urlsafe_b64encode(json.dumps([team.key, wanted]).encode()).decode()
        url = f"{self.server.url}/upload/{token}"
        return JSONResponse({"present": present, "url": url}, status_code=201)

    def _upload(self, request: Request, body: bytes) -> Response:
        team, wanted = json.loads(base64.urlsafe_b64decode(request.path_params["token"]))
        if not body.startswith(b"\x1f\x8b"):
            raise ApiError(400, "not a gzip archive")
        self.server.state.files[team, wanted] = body
        return Response(status_code=200)

    def _start_build(self, request: Request, body: bytes) -> Response:
        team = self.server.team_of(request)
        fields = json.loads(body)
        with self.server.state.lock:
            build = self.server.state.start_build(
                team, request.path_params["name"], request.path_params["build"]
            )
            build.request = fields
            reference = fields.get("fromTemplate")
            sources = (fields.get("fromImage") is not None) + bool(reference)
            if sources != 1:
                rule = "cannot specify both" if sources else "must specify either"
                named = "fromImage and fromTemplate" if sources else "fromImage or fromTemplate"
                why = f"failed to set template source: {rule} {named}"
                build.become("error", f"error when building env: {why}")
                raise ApiError(500, f"Error when starting template build: {why}")
            build.times_started += 1
            if reference:
                try:
                    build.source = self.server.state.resolve(team, reference)[1]
                except ApiError as error:
                    build.become("error", error.message.replace("Invalid", "invalid"), "base")
                    return Response(status_code=202)
            build.become("building")
            thread = threading.Thread(target=self._builder.carry_out, args=(build,))
            self.threads.append(thread)
            thread.start()
        return Response(status_code=202)

    def _status(self, request: Request, _body: bytes) -> Response:
        team, query = self.server.team_of(request), request.query_params
        template_id, asked = request.path_params["name"], request.path_params["build"]
        offset, limit = int(query.get("logsOffset", 0)), int(query.get("limit", 100))
        least = _LEVELS.index(query.get("level", "debug"))
        with self.server.state.lock:
            build, (status, message, step) = shown(self.server.state, template_id, asked)
            if build.team is not team:
                refused = f"You don't have access to this sandbox template ({template_id})"
                raise ApiError(403, refused)
            log = [entry for entry in build.log if _LEVELS.index(entry["level"]) >= least]
            entries = [] if status == "waiting" else log[offset : offset + limit]
        content: dict[str, Any] = {
            "logs": [],
            "logEntries": entries,
            "templateID": template_id,
            "buildID": asked,
            "status": status,
        }
        if message and self.server.tells_reasons:
            content["reason"] = {"message": message}
            if step is not None:
                of_step = [entry for entry in entries if entry.get("step") == step]
                content["reason"] |= {
                    "step": step,
                    "logEntries": [
                        entry for entry in of_step if entry["level"] in ("warn", "error")
                    ],
                }
        return JSONResponse(content)

    def _tags(self, request: Request, _body: bytes) -> Response:
        template = self.server.state.owned(
            self.server.team_of(request), request.path_params["name"]
        )
        with self.server.state.lock:
            newest = {tag: (build, when) for tag, build, when in template.tags}
        content = [
            {"tag": tag, "buildID": build, "createdAt": when.isoformat()}
            for tag, (build, when) in sorted(newest.items())
        ]
        return JSONResponse(content)

    def _assign_tags(self, request: Request, body: bytes) -> Response:
        team = self.server.team_of(request)
        fields = json.loads(body)
        if not fields["tags"]:
            raise ApiError(400, "At least one tag is required")
        identifier, tag = parse_name(fields["target"], "Invalid target template format")
        check_namespace(identifier, team)
        with self.server.state.lock:
            template = self.server.state.look_up(team, identifier)
            build = self.server.state.ready(template, tag)
            if build is None:
                target = f"Template '{fields['target']}' with tag '{tag or DEFAULT_TAG}'"
                raise ApiError(404, f"{target} not found")
            self.server.state.owned(team, identifier)
            tags = clean_tags(fields["tags"])
            now = dt.datetime.now(dt.UTC)
            template.tags += [(tag, build.id, now) for tag in tags]
        return JSONResponse({"tags": tags, "buildID": build.id}, status_code=201)

    def _delete_tags(self, request: Request, body: bytes) -> Response:
        team = self.server.team_of(request)
        fields = json.loads(body)
        tags = clean_tags(fields["tags"])
        if not tags:
            raise ApiError(400, "At least one tag is required")
        if DEFAULT_TAG in tags:
            raise ApiError(400, "Cannot delete the 'default' tag")
        identifier, tag = parse_name(fields["name"], "Invalid template name format")
        check_namespace(identifier, team)
        if tag is not None:
            instead = "use the 'tags' field instead"
            raise ApiError(400, f"Template name should not contain a tag, {instead}")
        with self.server.state.lock:
            template = self.server.state.owned(team, identifier)
            template.tags = [entry for entry in template.tags if entry[0] not in tags]
        return Response(status_code=204)

    def _described(self, template: Template) -> dict[str, Any]:
        """Return an entry of a list; its sizes are those of the build with the tag `default`."""
        newest = template.newest(DEFAULT_TAG, ready=False)
        latest = template.build(newest[1]) if newest else None
        build = self.server.state.ready(template, None)
        return {
            "templateID": template.id,
            "buildID": build.id if build else str(uuid.UUID(int=0)),
            "cpuCount": build.cpu if build else 0,
            "memoryMB": build.memory_mb if build else 0,
            "diskSizeMB": 1024 if build else 0,
            "public": template.public,
            "aliases": [template.name],
            "names": [template.full_name],
            "createdAt": template.created.isoformat(),
            "updatedAt": max(build.created for build in template.builds).isoformat(),
            "createdBy": None,
            "lastSpawnedAt": template.spawned[-1].isoformat() if template.spawned else None,
            "spawnCount": len(template.spawned),
            "buildCount": len(template.builds),
            "envdVersion": self.server.envd_version if build else "",
            "buildStatus": latest.status if latest else "waiting",
        }

    def _list_templates(self, request: Request, _body: bytes) -> Response:
        return JSONResponse([self._described(template) for template in self._of_team(request)])

    def _list_templates_in_pages(self, request: Request, _body: bytes) -> Response:
        described = [self._described(template) for template in self._of_team(request)]
        return page(request, described, Order(time="createdAt", id="templateID"))

    def _of_team(self, request: Request) -> list[Template]:
        team = self.server.team_of(request)
        if request.query_params.get("teamID", team.id) != team.id:
            raise ApiError(400, "Team ID param mismatch with the API key")
        return [
            template for template in self.server.state.templates.values() if template.team is team
        ]

    def _get_template(self, request: Request, _body: bytes) -> Response:
        wanted = request.path_params["name"]
        template = self.server.state.by_id(
            self.server.team_of(request),
            wanted,
            f"Template {wanted} not found",
            f"You don't have access to this sandbox template ({wanted})",
        )
        builds = [self._build(build) for build in template.builds if template.build(build.id)]
        return page(
            request,
            builds,
            Order(time="createdAt", id="buildID"),
            lambda builds: self._described(template) | {"builds": builds},
        )

    def _build(self, build: Build) -> dict[str, Any]:
        content: dict[str, Any] = {
            "buildID": build.id,
            "status": build.status,
            "createdAt": build.created.isoformat(),
            "updatedAt": build.created.isoformat(),
            "cpuCount": build.cpu,
            "memoryMB": build.memory_mb,
        }
        if build.status == "ready":
            content |= {"diskSizeMB": 1024, "envdVersion": self.server.envd_version}
        return content if build.active else content | {"finishedAt": build.created.isoformat()}

    def _named(self, request: Request) -> Template:
        return self.server.state.owned(
            self.server.team_of(request),
            request.path_params["name"],
            invalid="Invalid template ID",
            refused="You don't have access to template '{}'",
        )

    def _update_template(self, request: Request, body: bytes) -> Response:
        template = self._named(request)
        fields = json.loads(body)
        template.public = fields.get("public", template.public)
        content = {"names": [template.full_name]}
        return JSONResponse(content)

    def _delete_template(self, request: Request, _body: bytes) -> Response:
        template = self._named(request)
        if any(
            sandbox.template is template and sandbox.team is template.team
            for sandbox in self.server.running.values()
        ):
            why = "because there are running sandboxes using it"
            raise ApiError(400, f"cannot delete template '{template.id}' {why}")
        with self.server.state.lock:
            self.server.state.deleted[template.id] = self.server.state.templates.pop(template.id)
        return Response(status_code=204)
