"""The request, the values that pass from stage to stage, and the report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from builder.errors import TemplateError
from builder.registry import DEFAULT_CHANNEL, Digest, Ref
from builder.render import Rendered

if TYPE_CHECKING:
    from builder.lock import Lock
    from builder.plan import Plan, PlannedVariant
    from builder.plan.schedule import Schedule
    from builder.precheck import Checked
    from builder.precheck.engine import DockerEngine
    from builder.project import PrecheckWhen
    from builder.record import Publish, Recorded
    from builder.registry.model import Build, Hold
    from builder.spec import Variant
    from builder.system.logs import Log
    from builder.targets.protocol import Built
    from builder.verify import Verified


@dataclass(frozen=True, kw_only=True, slots=True)
class BuildRequest:
    """What to build, and how.

    `names` are as on the command line; none selects all variants. `frozen` takes the committed
    locks; with `lock_stale`, stale ones are resolved. `release` lifts holds and moves these
    channels. `jobs` limits parallel builds (None: the target's limit). With `require_cache`, steps
    that the plan expects in the cache must be there. `accept_fallback` accepts locks that fell back
    to another index. `precheck` overrides the project's setting. `steps` includes the steps of E2B
    in the plan (None: if the target runs them). `with_children` also selects the variants that are
    from the selected ones.
    """

    names: Sequence[str] = ()
    channel: str = DEFAULT_CHANNEL
    frozen: bool = False
    lock_stale: bool = False
    force: bool = False
    refresh_base: bool = False
    release: bool = False
    jobs: int | None = None
    require_cache: bool = False
    accept_fallback: bool = False
    precheck: PrecheckWhen | None = None
    steps: bool | None = None
    with_children: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class Prepared:
    """What is known about all variants before the first build; each stage adds its part.

    `locks`, `results` and `checked` are by template name; `results` are rendered variants, or the
    errors that prevent a build.
    """

    request: BuildRequest
    variants: tuple[Variant, ...] = ()
    locks: Mapping[str, Lock | TemplateError] = field(default_factory=dict)
    results: Mapping[str, Rendered | TemplateError] = field(default_factory=dict)
    plan: Plan | None = None
    engine: DockerEngine | None = None
    checked: Mapping[str, Checked] = field(default_factory=dict)

    @property
    def rendered(self) -> list[Rendered]:
        """Return the rendered variants without errors."""
        return [result for result in self.results.values() if isinstance(result, Rendered)]

    @property
    def complete(self) -> bool:
        """Whether it is all variants of the project, and none of them has failed."""
        return not self.request.names and len(self.rendered) == len(self.results)


@dataclass(frozen=True, kw_only=True, slots=True)
class Attempt:
    """A variant on its way from the plan to the registry; each stage adds its part."""

    request: BuildRequest
    planned: PlannedVariant
    rendered: Rendered
    log: Log
    schedule: Schedule
    built: Built | None = None
    verified: Verified | None = None
    publish: Publish | None = None
    recorded: Recorded | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Outcome:
    """How a variant ended: `build` is its record, `error` why there is none, `held` and `overtaken`
    why the channel does not point at it."""

    name: str
    action: str
    ref: Ref | None = None
    digest: Digest | None = None
    seconds: float = 0.0
    build: Build | None = None
    held: Hold | None = None
    overtaken: str | None = None
    error: TemplateError | None = None

    def to_json(self) -> dict[str, Any]:
        """Return the outcome as plain values."""
        return {
            "name": self.name,
            "action": self.action,
            "ref": self.ref,
            "digest": self.digest,
            "seconds": round(self.seconds, 3),
            "held": self.held.described() if self.held else None,
            "overtaken": self.overtaken,
            "record": self.build.to_json() if self.build else None,
            "error": self.error.to_json() if self.error else None,
        }


@dataclass(frozen=True, kw_only=True, slots=True)
class BuildReport:
    """The plan, and how each variant ended, in the plan's order."""

    plan: Plan
    outcomes: tuple[Outcome, ...]

    @property
    def errors(self) -> dict[str, TemplateError]:
        """Return why variants were not built, by template name."""
        return {outcome.name: outcome.error for outcome in self.outcomes if outcome.error}

    @property
    def notes(self) -> list[str]:
        """Return notes about builds that succeeded."""
        channel = self.plan.channel
        return [
            f"channel {channel} of {outcome.name} is {outcome.held}; it does not point at"
            f" this build until `template-builder promote {outcome.name}"
            f" --channel {channel} --target {self.plan.target}` or `build --release`"
            for outcome in self.outcomes
            if outcome.held
        ]
