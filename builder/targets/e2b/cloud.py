"""E2B's API for one account: its official SDK and, where that has no function, its REST API."""

from __future__ import annotations

import datetime as dt
import functools
import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Concatenate, Literal, ParamSpec, TypeVar

import e2b

from builder.sandbox.network import Network
from builder.targets.e2b.account import Account
from builder.targets.e2b.api import SECONDS, Api
from builder.targets.e2b.creation import Creation
from builder.targets.e2b.failures import AbsentError, ForbiddenError, translating, words_of
from builder.targets.e2b.retries import OF_BUILDS

_P = ParamSpec("_P")
_T = TypeVar("_T")
_Method = Callable[Concatenate["Cloud", _P], _T]


@dataclass(frozen=True, kw_only=True, slots=True)
class BuildState:
    """The state of a build on E2B.

    `lines` are at most 100 lines of its log, `times` their times. `step` is the one that failed:
    "base", a number from 1, or "finalize".
    """

    status: Literal["waiting", "building", "ready", "error"]
    lines: tuple[str, ...] = ()
    times: tuple[dt.datetime, ...] = ()
    message: str = ""
    step: str | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Listed:
    """A template of the account; `used` is when it last started a sandbox, or was created."""

    template_id: str
    names: tuple[str, ...]
    used: dt.datetime


def _call(doing: str, **limits: Any) -> Callable[[_Method[_P, _T]], _Method[_P, _T]]:
    """Retry a method of `Cloud`, and translate its failure.

    `doing` describes the call and may name its arguments; `limits` replace those of `OF_BUILDS`.
    """

    def decorate(method: _Method[_P, _T]) -> _Method[_P, _T]:
        signature = inspect.signature(method)

        @functools.wraps(method)
        def call(self: Cloud, /, *args: _P.args, **kwargs: _P.kwargs) -> _T:
            arguments = signature.bind(self, *args, **kwargs).arguments
            if "tags" in arguments:
                arguments["tags"] = ", ".join(arguments["tags"])
            with translating(doing.format(**arguments), self.account):
                # The method also parses the response: a malformed one is a fault.
                once = functools.partial(method, self, *args, **kwargs)
                return replace(self.patience, **limits).call(once)

        return call

    return decorate


class Cloud:
    """Calls for one account. Safe to use from several threads.

    Every method raises `TargetUnavailableError` if the key is refused, `LimitError` if a limit is
    not lifted within an hour, `NetworkError` for faults that persist, `BuildError` for what E2B
    refuses, and `InterruptedRunError`.
    """

    def __init__(self, account: Account, *, waiting: Callable[[str], None] | None = None) -> None:
        """`waiting` receives the reason whenever a call has to wait."""
        self.account, self._api = account, Api(account)
        self._options = account.options | {"request_timeout": SECONDS}

        def tell(failure: BaseException) -> None:
            if waiting:
                waiting(account.redacted(f"waiting for E2B: {words_of(failure)}"))

        self.patience = replace(OF_BUILDS, waiting=tell)

    @_call("asking for the account", attempts=2, limit_seconds=5.0)
    def team(self) -> str | None:
        """Return the slug of the key's team, or None if no template has it in its names."""
        try:
            templates = self._api.ask("GET", "v2", "templates", query={"limit": 1})
        except ForbiddenError as error:
            raise e2b.AuthenticationException(str(error)) from error
        names = [name for template in templates for name in template["names"] or ()]
        return next((name.partition("/")[0] for name in names if "/" in name), None)

    # A fault in these three is not retried: the caller finds out what has been done.

    @_call("requesting a build of `{name}`", attempts=1)
    def request_build(
        self, name: str, *, tag: str, cpu: int, memory_mb: int, free_disk_mb: int | None = None
    ) -> tuple[str, str]:
        """Request a build, to be started later; return its template ID and build ID."""
        body = {"name": name, "tags": [tag], "cpuCount": cpu, "memoryMB": memory_mb}
        if free_disk_mb is not None:
            body["minFreeDiskMb"] = free_disk_mb
        template = self._api.ask("POST", "v3", "templates", body=body)
        return template["templateID"], template["buildID"]

    @_call("uploading `{source}`", attempts=1)
    def upload(self, template_id: str, folder: Path, source: str, digest: str) -> bool:
        """Upload the files of a COPY from `folder`; return False if E2B has them."""
        link = self._api.ask("GET", "templates", template_id, "files", digest)
        if not link["present"]:
            self._api.upload(folder, source, link)
        return not link["present"]

    @_call("starting build {build_id}", attempts=1)
    def start_build(self, template_id: str, build_id: str, template: Mapping[str, Any]) -> None:
        """Start a requested build, of `program.serialized`."""
        self._api.order("POST", "v2", "templates", template_id, "builds", build_id, body=template)

    @_call("asking for the state of build {build_id}")
    def state(self, template_id: str, build_id: str, offset: int) -> BuildState:
        """Return the state of a build, with its log from line `offset` on."""
        info = e2b.BuildInfo(
            template_id=template_id, build_id=build_id, name=template_id, alias=template_id
        )
        build = e2b.Template.get_build_status(info, logs_offset=offset, **self._options)
        return BuildState(
            status=build.status.value,
            lines=tuple(self.account.redacted(entry.message) for entry in build.log_entries),
            times=tuple(entry.timestamp for entry in build.log_entries),
            message=self.account.redacted(build.reason.message) if build.reason else "",
            step=build.reason.step if build.reason else None,
        )

    @_call("asking for the tags of `{name}`")
    def tags(self, name: str) -> dict[str, str] | None:
        """Return tag → build ID of a template, unfinished builds included; None if it is absent."""
        try:
            # Unlike the SDK, this tells where a redirect leads.
            tags = self._api.ask("GET", "templates", name, "tags")
        except AbsentError:
            return None
        except ForbiddenError:
            # Does another account own the name, or may the key not see its own template?
            if self.template_id(name) is None:
                return None
            raise
        return {tag["tag"]: tag["buildID"] for tag in tags}

    @_call("looking up `{name}`")
    def template_id(self, name: str) -> str | None:
        """Return the ID of the account's template `name`, or None."""
        try:
            # The SDK can tell whether there is one, but not which.
            return str(self._api.ask("GET", "templates", "aliases", name)["templateID"])
        except (AbsentError, ForbiddenError):
            return None

    @_call("looking up the template {template_id}")
    def is_of_another_account(self, template_id: str) -> bool:
        """Return True if the template exists and the key has no access to it."""
        try:
            self._api.ask("GET", "templates", template_id, query={"limit": 1})
        except (AbsentError, ForbiddenError) as error:
            return isinstance(error, ForbiddenError)
        return False

    @_call("listing templates")
    def templates(self) -> list[Listed]:
        """Return the templates of the account."""
        return [
            Listed(
                template_id=item["templateID"],
                names=tuple(item["names"] or ()),
                used=dt.datetime.fromisoformat(item.get("lastSpawnedAt") or item["createdAt"]),
            )
            for item in self._api.pages("v2", "templates")
        ]

    @_call("deleting the template {template_id}")
    def delete_template(self, template_id: str) -> None:
        """Delete a template with all its builds, if it is still there."""
        self._api.delete("templates", template_id)

    @_call("asking for the builds of `{template_id}`")
    def newest_builds(self, template_id: str) -> list[str]:
        """Return the IDs of a template's last hundred builds, newest first."""
        template = self._api.ask("GET", "templates", template_id)
        return [build["buildID"] for build in template["builds"]]

    @_call("moving the tags {tags} of `{name}`")
    def assign_tags(self, name: str, source: str, tags: Sequence[str]) -> None:
        """Move `tags` to the finished build `source`, which is a tag or a build ID."""
        e2b.Template.assign_tags(f"{name}:{source}", list(tags), **self._options)

    @_call("removing the tags {tags} of `{name}`")
    def remove_tags(self, name: str, tags: Sequence[str]) -> None:
        """Remove `tags` from a template, if they are still there."""
        # The SDK would take any response but a refusal for E2B's.
        self._api.delete("templates", "tags", body={"name": name, "tags": list(tags)})

    async def create_sandbox(
        self, ref: str, *, seconds: int, metadata: Mapping[str, str], network: Network | None = None
    ) -> tuple[e2b.AsyncSandbox, int]:
        """Create a sandbox of a build; return it, and the seconds after which E2B ends it."""
        creation = Creation(self.account, ref, seconds=seconds, metadata=metadata, network=network)
        with translating(f"creating a sandbox of `{ref}`", self.account):
            return await creation.sandbox(self.patience), creation.seconds

    def sandboxes(self, metadata: Mapping[str, str]) -> list[str]:
        """Return the IDs of all sandboxes that carry `metadata`."""
        query = e2b.SandboxQuery(metadata=dict(metadata))
        return [sandbox.sandbox_id for sandbox in self._listed(query)]

    def running_templates(self) -> set[str]:
        """Return the IDs of the templates that have sandboxes."""
        return {sandbox.template_id for sandbox in self._listed(None)}

    @_call("listing sandboxes")
    def _listed(self, query: e2b.SandboxQuery | None) -> list[Any]:
        pages = e2b.Sandbox.list(query=query, **self._options)
        sandboxes: list[Any] = []
        while pages.has_next:
            sandboxes += pages.next_items()
        return sandboxes

    @_call("ending the sandbox {sandbox_id}", limit_seconds=30.0)
    def kill_sandbox(self, sandbox_id: str) -> None:
        """End a sandbox, if it is still there."""
        e2b.Sandbox.kill(sandbox_id, **self._options)
