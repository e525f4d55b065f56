"""E2B's API for one account, by its official SDK and, where that has no function, its REST API."""

from __future__ import annotations

import datetime as dt
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal, TypeVar

import e2b

from builder.targets.e2b.account import Account
from builder.targets.e2b.api import SECONDS, Api
from builder.targets.e2b.calls import Calls
from builder.targets.e2b.creation import Creation
from builder.targets.e2b.failures import is_absent, status_of

_T = TypeVar("_T")
Identified = Callable[[str, str], None]

_KILL_SECONDS = 30.0
_LOOK_SECONDS = 5.0
_LOOK_ATTEMPTS = 2


@dataclass(frozen=True, kw_only=True, slots=True)
class BuildState:
    """A build as E2B tells it. `lines` are the log from the offset on, at most 100; `step` is the
    one that failed: "base", a number from 1, or "finalize"."""

    status: Literal["waiting", "building", "ready", "error"]
    lines: tuple[str, ...] = ()
    times: tuple[dt.datetime, ...] = ()
    message: str = ""
    step: str | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Listed:
    """A template of the account: `used` is when a sandbox of it was last created, or else when it
    was made."""

    template_id: str
    names: tuple[str, ...]
    used: dt.datetime


class Cloud:
    """Calls for one account. Safe to use from several threads.

    Every method raises `TargetUnavailableError` for a key that is refused, `LimitError` when a
    limit was not lifted within an hour, `NetworkError` for faults that did not pass, `BuildError`
    for what E2B refuses, `InterruptedRunError`.
    """

    def __init__(
        self,
        account: Account,
        *,
        key_variable: str,
        waiting: Callable[[str], None] | None = None,
    ) -> None:
        """`waiting` is told whenever a call is kept waiting, and why."""
        self._account, self._key_variable = account, key_variable
        self._api = Api(account)
        self._options = account.options | {"request_timeout": SECONDS}
        self._call = Calls(account, key_variable=key_variable, waiting=waiting)
        self.redacted = self._call.redacted

    def telling(self, waiting: Callable[[str], None]) -> Cloud:
        """The same account, for a caller who wants to be told of waiting."""
        return Cloud(self._account, key_variable=self._key_variable, waiting=waiting)

    def team(self) -> str | None:
        """The slug of the team that the key belongs to; None where no template of it has one in its
        names. One small request, which is not repeated for long."""

        def get() -> str | None:
            try:
                templates = self._api.ask("GET", "v2", "templates", query={"limit": 1})
            except e2b.TemplateException as error:
                if status_of(error) == 403:
                    raise e2b.AuthenticationException(str(error)) from error
                raise
            names = [name for template in templates for name in template["names"] or ()]
            return next((name.partition("/")[0] for name in names if "/" in name), None)

        return self._call("asking for the account", get, faults=_LOOK_ATTEMPTS, limit=_LOOK_SECONDS)

    def start(
        self,
        template: Any,
        folder: Path,
        *,
        name: str,
        tag: str,
        cpu: int,
        memory_mb: int,
        free_disk_mb: int | None,
        force: bool,
        tell: Callable[[str], None],
        identified: Identified,
        uploaded: Callable[[], None],
    ) -> tuple[str, str]:
        """Ask for a build, upload its files from `folder` and start it; template ID and build ID.

        `identified` is told them before anything is uploaded, and `uploaded` is called before it is
        started; what that raises keeps it from starting. Nothing is repeated after a fault: the
        caller knows better what of it was done.
        """
        doing = f"starting the build of `{name}`"
        resources = {"cpuCount": cpu, "memoryMB": memory_mb, "minFreeDiskMb": free_disk_mb}
        given = {key: value for key, value in resources.items() if value is not None}

        def once(call: Callable[[], _T]) -> _T:
            return self._call(doing, call, faults=1)

        def request() -> tuple[str, str]:
            body = {"name": name, "tags": [tag], **given}
            made = self._api.ask("POST", "v3", "templates", body=body)
            return made["templateID"], made["buildID"]

        def send(template_id: str, source: str, files: str) -> None:
            link = self._api.ask("GET", "templates", template_id, "files", files)
            if not link["present"]:
                self._api.upload(folder, source, link)
                tell(f"uploaded `{source}`")

        steps = once(lambda: json.loads(e2b.Template.to_json(template)))
        steps["force"] |= force
        template_id, build_id = once(request)
        identified(template_id, build_id)
        for step in steps["steps"]:
            if step["type"] == "COPY":
                once(partial(send, template_id, step["args"][0], step["filesHash"]))
        uploaded()
        path = ("v2", "templates", template_id, "builds", build_id)
        once(partial(self._api.order, "POST", *path, body=steps))
        return template_id, build_id

    def state(self, template_id: str, build_id: str, offset: int) -> BuildState:
        """The state of a build, with its log from line `offset` on."""
        info = e2b.BuildInfo(
            template_id=template_id, build_id=build_id, name=template_id, alias=template_id
        )

        def get() -> BuildState:
            build = e2b.Template.get_build_status(info, logs_offset=offset, **self._options)
            return BuildState(
                status=build.status.value,
                lines=tuple(self.redacted(entry.message) for entry in build.log_entries),
                times=tuple(entry.timestamp for entry in build.log_entries),
                message=self.redacted(build.reason.message) if build.reason else "",
                step=build.reason.step if build.reason else None,
            )

        return self._call(f"asking for the state of build {build_id}", get)

    def tags(self, name: str) -> dict[str, str] | None:
        """Tag → build ID of a template, builds that are not finished included; None where there is
        no such template."""

        def get() -> dict[str, str] | None:
            try:
                # Unlike the SDK, this tells where a redirect leads.
                tags = self._api.ask("GET", "templates", name, "tags")
            except e2b.TemplateException as error:
                if is_absent(error):
                    return None
                # The name of another account's template, or one that the key may not see?
                if status_of(error) == 403 and self.template_id(name) is None:
                    return None
                raise
            return {tag["tag"]: tag["buildID"] for tag in tags}

        return self._call(f"asking for the tags of `{name}`", get)

    def template_id(self, name: str) -> str | None:
        """The ID of the template called `name`; None where there is none of this account."""

        def get() -> str | None:
            # The SDK has a call of its own for "is there one", but none that tells which.
            try:
                answer = self._api.ask("GET", "templates", "aliases", name)
            except e2b.TemplateException as error:
                if is_absent(error) or status_of(error) == 403:
                    return None
                raise
            return str(answer["templateID"])

        return self._call(f"looking up `{name}`", get)

    def is_of_another_account(self, template_id: str) -> bool:
        """Whether there is a template of this ID, and the key may not see it."""

        def get() -> bool:
            try:
                self._api.ask("GET", "templates", template_id, query={"limit": 1})
            except e2b.TemplateException as error:
                if not is_absent(error) and status_of(error) != 403:
                    raise
                return status_of(error) == 403
            return False

        return self._call(f"looking up the template {template_id}", get)

    def templates(self) -> list[Listed]:
        """The templates of the account."""

        def get() -> list[Listed]:
            return [
                Listed(
                    template_id=item["templateID"],
                    names=tuple(item["names"] or ()),
                    used=dt.datetime.fromisoformat(item.get("lastSpawnedAt") or item["createdAt"]),
                )
                for item in self._api.pages("v2", "templates")
            ]

        return self._call("listing templates", get)

    def delete_template(self, template_id: str) -> None:
        """Delete a template with all its builds; one that is gone already is fine."""
        delete = partial(self._api.delete, "templates", template_id)
        self._call(f"deleting the template {template_id}", delete)

    def newest_builds(self, template_id: str) -> list[str]:
        """The IDs of a template's builds, a hundred at most; the one asked for last comes first."""

        def get() -> list[str]:
            template = self._api.ask("GET", "templates", template_id)
            return [build["buildID"] for build in template["builds"]]

        return self._call(f"asking for the builds of `{template_id}`", get)

    def assign_tags(self, name: str, source: str, tags: Sequence[str]) -> None:
        """Move `tags` to the finished build that `source` means, a tag or the ID of a build."""
        self._call(
            f"moving the tags {', '.join(tags)} of `{name}`",
            lambda: e2b.Template.assign_tags(f"{name}:{source}", list(tags), **self._options),
        )

    def remove_tags(self, name: str, tags: Sequence[str]) -> None:
        """Remove `tags` from a template; one that is gone already is fine."""
        # The SDK takes whatever is no refusal for an answer of E2B's.
        body = {"name": name, "tags": list(tags)}
        remove = partial(self._api.delete, "templates", "tags", body=body)
        self._call(f"removing the tags {', '.join(tags)} of `{name}`", remove)

    async def create_sandbox(
        self, ref: str, *, seconds: int, metadata: Mapping[str, str]
    ) -> tuple[e2b.AsyncSandbox, int]:
        """A new sandbox of a build, and after how many seconds E2B ends it."""
        creation = Creation(self._account, ref, seconds=seconds, metadata=metadata)
        with self._call.worded(f"creating a sandbox of `{ref}`"):
            return await creation.sandbox(self._call.patience()), creation.seconds

    def sandboxes(self, metadata: Mapping[str, str]) -> list[str]:
        """The IDs of all sandboxes that carry `metadata`."""
        query = e2b.SandboxQuery(metadata=dict(metadata))
        return [sandbox.sandbox_id for sandbox in self._listed(query)]

    def running_templates(self) -> set[str]:
        """The IDs of the templates that sandboxes run of."""
        return {sandbox.template_id for sandbox in self._listed(None)}

    def _listed(self, query: e2b.SandboxQuery | None) -> list[Any]:
        def get() -> list[Any]:
            pages = e2b.Sandbox.list(query=query, **self._options)
            sandboxes: list[Any] = []
            while pages.has_next:
                sandboxes += pages.next_items()
            return sandboxes

        return self._call("listing sandboxes", get)

    def extend_sandbox(self, sandbox_id: str, seconds: int) -> None:
        """Let a sandbox live for `seconds` from now."""
        self._call(
            f"keeping the sandbox {sandbox_id}",
            lambda: e2b.Sandbox.set_timeout(sandbox_id, seconds, **self._options),
        )

    def kill_sandbox(self, sandbox_id: str) -> None:
        """End a sandbox; one that is gone already is fine."""
        self._call(
            f"ending the sandbox {sandbox_id}",
            lambda: e2b.Sandbox.kill(sandbox_id, **self._options),
            limit=_KILL_SECONDS,
        )
