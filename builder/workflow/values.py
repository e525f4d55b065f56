"""What goes in, what passes from stage to stage, and what comes out."""

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
    """What is asked for.

    `names` are as on the command line, none for all variants. `frozen` takes the committed locks,
    and resolves only those that are stale, if `lock_stale` says so. `release` moves channels that
    are on hold, and lifts that. `jobs` builds run at a time (None: as many as the target takes).
    With `require_cache`, a step that the plan says is cached must be. `accept_fallback` agrees to
    locks that fell back to another index. `precheck` is the project's setting where it is None.
    `steps` says whether the plan holds the steps of E2B: where they are run, if it is None.
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


@dataclass(frozen=True, kw_only=True, slots=True)
class Prepared:
    """What is known of all variants before any is built; each stage adds its part.

    `locks`, `results` and `checked` are by template name. `results` are what was rendered, or the
    error that keeps a variant from being built, in whichever stage.
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
        """What was rendered, and has not failed since."""
        return [result for result in self.results.values() if isinstance(result, Rendered)]

    @property
    def complete(self) -> bool:
        """Whether it is all variants of the project, and none of them has failed."""
        return not self.request.names and len(self.rendered) == len(self.results)

    @property
    def notes(self) -> tuple[str, ...]:
        """What should be known of the locks, each note once."""
        return tuple(
            dict.fromkeys(note for rendering in self.rendered for note in rendering.lock.notes)
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class Attempt:
    """One variant on its way from the plan to the registry; each stage adds its part.

    `publish` has the target follow to the build once `record` has decided where to.
    """

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
    """How one variant ended: `build` is what is recorded, `error` why nothing is, `held` and
    `overtaken` why the channel does not point at it."""

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
        """The outcome as plain values."""
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
    """What was planned, and how each variant ended, in the plan's order."""

    plan: Plan
    outcomes: tuple[Outcome, ...]

    @property
    def errors(self) -> dict[str, TemplateError]:
        """Why variants were not built, by template name."""
        return {outcome.name: outcome.error for outcome in self.outcomes if outcome.error}

    @property
    def notes(self) -> list[str]:
        """What should be known of builds that succeeded."""
        channel = self.plan.channel
        return [
            f"channel {channel} of {outcome.name} is {outcome.held}; it does not point at"
            f" this build until `template-builder promote {outcome.name}"
            f" --channel {channel} --target {self.plan.target}` or `build --release`"
            for outcome in self.outcomes
            if outcome.held
        ]
