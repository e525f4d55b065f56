"""A small template on E2B for `doctor --live`, and the removal of all that is created for it."""

from __future__ import annotations

import asyncio
import contextlib
import datetime as dt
import json
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from builder import plan, workflow
from builder.cli.doctor.assumptions import ENV, FILES, SUM
from builder.errors import BuildError, LimitError, NetworkError, TemplateError
from builder.flatten import Step
from builder.project import Project, TargetSettings
from builder.registry import Ref
from builder.render import Rendered
from builder.sandbox.network import Network
from builder.sandbox.session import Sandbox
from builder.system import processes
from builder.system.events import Event, Reporter
from builder.targets.adapters import connect
from builder.targets.e2b.program import serialized
from builder.targets.e2b.sandbox import open_sandbox
from builder.targets.e2b.target import E2BTarget
from builder.targets.protocol import BuildInput
from builder.workflow.carry_out import carry_out

PREFIX = "template-builder-doctor-"
CPU, MEMORY_MB = 2, 1024
SANDBOX_SECONDS = 900
POLL_SECONDS = 0.5
_ABANDONED = dt.timedelta(hours=2)
_DELETE_SECONDS = 60.0


class Throwaway(Project):
    """A project with its own registry, whatever TEMPLATE_REGISTRY names."""

    __slots__ = ()

    @property
    def registry(self) -> str:
        """A file in the project."""
        return str(self.root / "registry.json")


@dataclass(frozen=True, kw_only=True, slots=True)
class Made:
    """A build of the template; `cached` says how many steps the plan expected in the cache."""

    ref: Ref
    build_id: str
    rendered: Rendered
    cached: str


def refusal(call: Callable[[], object]) -> str | None:
    """Return E2B's message if it refuses a call, else None."""
    try:
        call()
    except LimitError:
        raise
    except BuildError as error:
        return error.message
    return None


class Trial:
    """The template. `left` lists what could not be removed."""

    def __init__(
        self, project: Project, settings: TargetSettings, *, report: Reporter, base: str
    ) -> None:
        """`base` holds tables of the spec, such as another base image."""
        self.project, self.settings, self._report, self._base = project, settings, report, base
        target = connect(settings, project, report=report)
        assert isinstance(target, E2BTarget)
        self._target, self.cloud = target, target.cloud
        self.name = PREFIX + uuid.uuid4().hex[:8]
        self.mark = {"template-builder-doctor": self.name}
        self.left: list[str] = []

    def remove_abandoned(self) -> None:
        """Delete the templates of runs that were killed."""
        limit = dt.datetime.now(dt.UTC) - _ABANDONED
        try:
            templates = self.cloud.templates()
        except (BuildError, NetworkError) as error:
            if isinstance(error, LimitError):
                raise
            self._warn(f"templates of killed runs may be left: {error.message}")
            return
        for listed in templates:
            names = [name.rpartition("/")[2] for name in listed.names]
            if listed.used < limit and any(name.startswith(PREFIX) for name in names):
                refusal(partial(self.cloud.delete_template, listed.template_id))

    def build(self, channel: str, *imports: str) -> Made:
        """Build the template as `template-builder build` does. Raises why it cannot be built."""
        project = self.project
        (project.variants / "files").mkdir(parents=True, exist_ok=True)
        (project.variants / "files" / "doctor.txt").write_text("doctor\n", encoding="utf-8")
        (project.variants / "doctor.toml").write_text(self._spec(imports), encoding="utf-8")
        context = workflow.Context(
            project=project, settings=self.settings, target=self._target, report=self._progress
        )
        request = workflow.BuildRequest(channel=channel, require_cache=True)
        prepared = workflow.prepare(request, context, workflow.PLAN)
        done = carry_out(prepared, context)
        (outcome,), (planned,) = done.outcomes, done.plan.variants
        if outcome.error:
            raise outcome.error
        (rendered,) = prepared.rendered
        assert outcome.ref
        steps = plan.program_of(rendered).steps
        return Made(
            ref=outcome.ref,
            build_id=outcome.ref.build_id,
            rendered=rendered,
            cached=f"{planned.cached} of {len(steps)} steps",
        )

    def _spec(self, imports: tuple[str, ...]) -> str:
        tables = [
            f"schema = 1\nname = {json.dumps(self.name)}\n{self._base}",
            f"[resources]\ncpu = {CPU}\nmemory-mb = {MEMORY_MB}",
            "[env]\n"
            + "\n".join(
                f"{name} = {json.dumps(value.replace('$', '$$'))}" for name, value in ENV.items()
            ),
            *(
                f"[[files]]\nsource = 'files/doctor.txt'\ntarget = '{path}'\nmode = '{mode}'"
                for path, mode in FILES.items()
            ),
            f"[warmup]\nlevel = 'memory'\nimports = {json.dumps(imports)}",
            f"[[verify]]\nname = 'a sum'\ncode = '{SUM}'\nstdout = '2'",
        ]
        return "\n".join(tables) + "\n"

    def begin(self, made: Made) -> tuple[str, str]:
        """Start a build that takes a minute, and return its template ID and build ID."""
        program = replace(
            plan.program_of(made.rendered),
            steps=(Step(kind="RUN", args=("sleep 60", ""), stage="", lines=(1, 1)),),
            start_command=None,
        )
        order = BuildInput(rendered=made.rendered, folder=self.project.root, program=program)
        template_id, build_id = self.cloud.request_build(
            self.name, tag="overtaken", cpu=CPU, memory_mb=MEMORY_MB
        )
        self.cloud.start_build(template_id, build_id, serialized(order))
        return template_id, build_id

    def tags(self) -> Mapping[str, str]:
        """Return the build ID of each tag."""
        return self.cloud.tags(self.name) or {}

    def last_used(self, made: Made) -> dt.datetime:
        """Return when a sandbox of the template was last created, by the list of templates."""
        template_id = made.ref.template_id
        used = {listed.template_id: listed.used for listed in self.cloud.templates()}
        return used.get(template_id, dt.datetime.min.replace(tzinfo=dt.UTC))

    @contextlib.contextmanager
    def sandbox(
        self,
        ref: str | None = None,
        *,
        seconds: int = SANDBOX_SECONDS,
        network: Network | None = None,
    ) -> Iterator[tuple[Any, asyncio.Runner]]:
        """Create a sandbox of `ref`, by default of the bare name, for the `with` block; yield the
        SDK's object and the runner for its calls."""
        with asyncio.Runner() as runner:
            sandbox, _ = runner.run(
                self.cloud.create_sandbox(
                    ref or self.name, seconds=seconds, metadata=self.mark, network=network
                )
            )
            try:
                yield sandbox, runner
            finally:
                self.cloud.kill_sandbox(sandbox.sandbox_id)

    def interpreter(self) -> Sandbox:
        """Create a sandbox that runs code."""
        return open_sandbox(self.cloud, self.name, metadata=self.mark, warn=self._warn)

    def delete(self, template_id: str) -> str | None:
        """Delete the template once its sandboxes have ended; return why E2B refuses, if it does."""
        deadline = time.monotonic() + _DELETE_SECONDS
        while refused := refusal(lambda: self.cloud.delete_template(template_id)):
            if time.monotonic() > deadline:
                return refused
            processes.pause(POLL_SECONDS)
        return None

    def clean_up(self) -> None:
        """Remove everything that the run created."""
        try:
            self._target.tidy()
            for sandbox_id in self.cloud.sandboxes(self.mark):
                self.cloud.kill_sandbox(sandbox_id)
            template_id = self.cloud.template_id(self.name)
            if template_id and (refused := self.delete(template_id)):
                self._leave(f"the template {self.name} ({template_id}): {refused}")
        except TemplateError as error:
            self._leave(f"the template {self.name}, or a sandbox of it: {error.message}")

    def _leave(self, text: str) -> None:
        self.left.append(text)
        self._warn(f"not removed from {self.settings.name}: {text}")

    def _progress(self, event: Event) -> None:
        # The trial's spec causes warnings on purpose.
        if event.kind != "warning":
            self._report(event)

    def _warn(self, text: str) -> None:
        self._report(Event(kind="warning", text=text))
