"""Test this program's assumptions on E2B itself.

A small template is built twice, examined from inside, and removed with everything around it.
"""

from __future__ import annotations

import asyncio
import contextlib
import datetime as dt
import json
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

from builder import operations, record
from builder.cli.doctor.assumptions import (
    AFTERWARDS,
    ASSUMPTIONS,
    ENDLESS,
    HOSTS,
    OUTPUT,
    WARM_MODULE,
    inspection,
    verdicts,
)
from builder.cli.doctor.trial import (
    CPU,
    MEMORY_MB,
    POLL_SECONDS,
    SANDBOX_SECONDS,
    Made,
    Throwaway,
    Trial,
    refusal,
)
from builder.errors import (
    BuildError,
    InterruptedRunError,
    LimitError,
    SandboxError,
    TemplateError,
    VerifyError,
)
from builder.project import TargetSettings
from builder.registry import DEFAULT_CHANNEL
from builder.sandbox.network import Network
from builder.sandbox.session import Sandbox
from builder.system import processes
from builder.system.events import Event, Reporter, discard
from builder.system.scratch import Scratch
from builder.webhooks.ledger import GIB_SECOND, VCPU_SECOND

_CHANNEL = "trial"
_SANDBOXES = 12
_CODE_SECONDS = 60.0
_LONG_SECONDS = 40 * 86400
# E2B caches the state of a build for minutes.
_CANCEL_SECONDS = 420.0
_BEGIN_SECONDS = 10.0

State = Literal["holds", "differs", "not checked"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Checked:
    """An assumption, and what was observed."""

    key: str
    state: State
    seen: str

    def to_json(self) -> dict[str, str]:
        """Return it as plain values."""
        assumed = ASSUMPTIONS[self.key]
        return {"key": self.key, "assumed": assumed, "state": self.state, "seen": self.seen}


def cost() -> str:
    """Describe the most that a trial uses of the account."""
    second = CPU * VCPU_SECOND + MEMORY_MB / 1024 * GIB_SECOND
    dollars = _SANDBOXES * SANDBOX_SECONDS * second
    return (
        f"four builds, two of them cancelled, and at most {_SANDBOXES} sandboxes of {CPU} CPUs and"
        f" {MEMORY_MB} MiB, which end as soon as possible; if each ran for"
        f" {SANDBOX_SECONDS // 60} minutes, they would cost ${dollars:.2f} at E2B's prices of"
        " August 2026"
    )


def try_out(
    settings: TargetSettings, *, report: Reporter, base: str = ""
) -> tuple[list[Checked], list[str], TemplateError | None]:
    """Test every assumption on the account of a target. Return the results, what could not be
    removed afterwards, and the error that ended the run early, if any.

    `base` holds tables of the spec, such as another base image. Everything that was created is
    removed in any case. Raises what prevents any result: a refused key, a limit, a network that is
    down.
    """
    scratch = Scratch()
    try:
        project = Throwaway(root=scratch.path, targets={settings.name: settings})
        trial = Trial(project, settings, report=report, base=base)
        live = _Live(trial, report)
        ended: TemplateError | None = None
        interrupted = False
        try:
            live.run()
        except InterruptedRunError:
            interrupted = True
        except TemplateError as error:
            if not live.results:
                raise
            ended = error
        except BaseException as error:
            if isinstance(error, Exception):
                raise
            interrupted = True  # by a signal
        finally:
            with processes.interruptible():  # its calls must work after an interrupt too
                trial.clean_up()
        if interrupted:
            rest = "some of it was not removed" if trial.left else "all that it made was removed"
            ended = InterruptedRunError(
                f"interrupted; {rest} from {settings.name}",
                hint="run the same command again; it begins anew",
            )
        return live.results.in_order(), trial.left, ended
    finally:
        scratch.remove()


class _Results(dict[str, Checked]):
    """The assumptions that were checked, by key."""

    def in_order(self) -> list[Checked]:
        """Return every assumption, in the order of the list."""
        return [self.get(key) or _unchecked(key, "a step before it failed") for key in ASSUMPTIONS]

    def holds(self, key: str) -> bool:
        """Return whether an assumption is known to hold."""
        return key in self and self[key].state == "holds"

    def note(self, key: str, seen: str, *, holds: bool = True) -> None:
        """Add an observation about an assumption."""
        self[key] = Checked(key=key, state="holds" if holds else "differs", seen=seen)

    def skip(self, *keys: str, why: str) -> None:
        """Add assumptions that cannot be checked."""
        self.update((key, _unchecked(key, why)) for key in keys)

    @contextlib.contextmanager
    def deciding(self, *keys: str) -> Iterator[None]:
        """If the block fails, note that the `keys` without a result do not hold. Raise unrelated
        errors, such as a limit or a network that is down."""
        try:
            yield
        except (BuildError, SandboxError, VerifyError) as error:
            if isinstance(error, LimitError):
                raise
            for key in keys:
                if key not in self:
                    self.note(key, error.headline, holds=False)


def _unchecked(key: str, why: str) -> Checked:
    return Checked(key=key, state="not checked", seen=why)


class _Live:
    """One run through the list."""

    def __init__(self, trial: Trial, report: Reporter) -> None:
        self._trial, self._report = trial, report
        self._cloud, self._name = trial.cloud, trial.name
        self.results = _Results()
        self._note, self._deciding = self.results.note, self.results.deciding

    def run(self) -> None:
        """Test every assumption."""
        self._trial.remove_abandoned()
        with self._deciding("build"):
            first = self._trial.build(DEFAULT_CHANNEL, WARM_MODULE)
            self._note("build", first.ref)
        if not self.results.holds("build"):
            return
        used = None
        with self._deciding("used"):
            used = self._trial.last_used(first)
        with self._deciding("tags"):
            tags = self._trial.tags()
            wanted = {DEFAULT_CHANNEL, "default", first.rendered.digest.tag}
            published = wanted <= {*tags} and {*tags.values()} == {first.build_id}
            self._note("tags", ", ".join(sorted(tags)), holds=published)
        self._say("looking at it from inside")
        self._inspect()
        self._say("building it again, with a small change")
        self._build_again(first)
        self._say("overtaking a build by another one")
        with self._deciding("overtaken", "cancelled"):
            self._overtake(first)
        with self._deciding("used"):
            if used:
                now = self._trial.last_used(first)
                seen = f"{now.isoformat()}, and before it {used.isoformat()}"
                self._note("used", seen, holds=now > used)
        self._say("removing it")
        self._delete(first)

    def _inspect(self) -> None:
        with self._deciding("lifetime", "metadata", "network", "unknown"):
            self._look_outside()
        keys = ("warm", "variables", "ownership", "tmp", "login", "accounts")
        with self._deciding(*keys), self._trial.sandbox() as (other, runner):
            command = self._command(other, runner)
            with contextlib.closing(self._trial.interpreter()) as sandbox:
                answer = sandbox.run(inspection(), timeout=_CODE_SECONDS)
                if answer.error:
                    raise SandboxError(answer.error)
                for key, holds, seen in verdicts(answer.stdout, command):
                    self._note(key, seen, holds=holds)
                self._run_code(sandbox)

    def _look_outside(self) -> None:
        with self._trial.sandbox(seconds=_LONG_SECONDS, network=Network(HOSTS)) as (
            sandbox,
            runner,
        ):
            try:
                info = runner.run(sandbox.get_info())
            except Exception as error:
                raise SandboxError(self._cloud.account.redacted(str(error))) from error
            network = info.network or {}
            allowed, denied = network.get("allow_out", []), network.get("deny_out", [])
            self._note(
                "network",
                f"allowed: {', '.join(allowed) or 'all'}; denied: {', '.join(denied) or 'none'}",
                holds=sorted(allowed) == sorted(HOSTS) and bool(denied),
            )
            seconds = (info.end_at - dt.datetime.now(dt.UTC)).total_seconds()
            self._note("lifetime", f"of {_LONG_SECONDS} seconds it lets it live {seconds:.0f}")
            marked = self._cloud.sandboxes(self._trial.mark)
            self._note(
                "metadata",
                f"found: {', '.join(marked) or 'none'}",
                holds=marked == [sandbox.sandbox_id],
            )
        missing = f"{self._name}:no-such-tag"
        refused = refusal(lambda: self._create(missing))
        self._note("unknown", refused or "one was created", holds=refused is not None)

    def _create(self, ref: str) -> None:
        with self._trial.sandbox(ref, seconds=60):
            pass

    def _run_code(self, sandbox: Sandbox) -> None:
        with self._deciding("output"):
            whole = sandbox.run(OUTPUT, timeout=_CODE_SECONDS)
            failed = sandbox.run("1 / 0", timeout=_CODE_SECONDS)
            results = [result.text for result in whole.results]
            seen = [whole.stdout, whole.stderr, results, failed.error]
            wanted = ["out\n", "err\n", ["42"], "ZeroDivisionError: division by zero"]
            self._note("output", json.dumps(seen), holds=seen == wanted)
        with self._deciding("interrupt"):
            slow = sandbox.run(ENDLESS, timeout=2.0)
            after = sandbox.run(AFTERWARDS, timeout=_CODE_SECONDS)
            ended = slow.timed_out and not slow.lost and after.stdout == "42\n"
            self._note("interrupt", after.error or after.stdout.strip(), holds=ended)

    def _command(self, sandbox: Any, runner: asyncio.Runner) -> str | None:
        command = sandbox.commands.run("id -un; pwd; env -0", timeout=_CODE_SECONDS)
        try:
            return str(runner.run(command).stdout)
        except Exception as error:  # noqa: BLE001 - the SDK's, of whatever kind
            seen = self._cloud.account.redacted(f"`commands.run` failed: {error}")
            self.results.skip("login", "accounts", why=seen)
            return None

    def _build_again(self, first: Made) -> None:
        with self._deciding("cache"):
            second = self._trial.build(_CHANNEL, WARM_MODULE, "wave")
            self._note("cache", second.cached, holds=not second.cached.startswith("0 "))
        if not self.results.holds("cache"):
            return
        with self._deciding("default"):
            default = self._trial.tags().get("default")
            self._note("default", f"`default` is on {default}", holds=default == first.build_id)
        with self._deciding("order"):
            builds = self._cloud.newest_builds(first.ref.template_id)
            ordered = builds == [second.build_id, first.build_id]
            self._note("order", ", ".join(builds), holds=ordered)
        refused = refusal(lambda: self._cloud.assign_tags(self._name, "no-such-tag", ["again"]))
        self._note("source", refused or "it was moved", holds=refused is not None)
        refused = refusal(lambda: self._cloud.remove_tags(self._name, ["default"]))
        self._note("undeletable", refused or "it was removed", holds=refused is not None)
        if not refused:
            with self._deciding():
                self._cloud.assign_tags(self._name, first.build_id, ["default"])
        with self._deciding("left", "unreachable"):
            for build_id in (second.build_id, first.build_id):
                self._cloud.assign_tags(self._name, build_id, ["passing"])
            removal = record.Removal(
                name=self._name,
                target=self._trial.settings.name,
                builds=(second.ref,),
                channels=(_CHANNEL,),
            )
            operations.remove(self._trial.project, removal, reason=None, report=discard)
            refused = self._tagging(second)
            self._note("left", refused or "it can be tagged", holds=refused is None)
            self._cloud.remove_tags(self._name, ["again", "passing"])
            refused = self._tagging(second)
            self._note("unreachable", refused or "it can be tagged", holds=refused is not None)

    def _tagging(self, made: Made) -> str | None:
        return refusal(lambda: self._cloud.assign_tags(self._name, made.build_id, ["again"]))

    def _overtake(self, first: Made) -> None:
        template_id, older = self._trial.begin(first)
        processes.pause(_BEGIN_SECONDS)  # do not ask for its state, which E2B would cache
        _, newer = self._trial.begin(first)
        tagged = self._trial.tags().get("overtaken")
        self._note(
            "overtaken", f"the tag is on {tagged}, the newer is {newer}", holds=tagged == newer
        )
        deadline = time.monotonic() + _CANCEL_SECONDS
        while True:
            state = self._cloud.state(template_id, older, 0)
            if state.status in ("ready", "error") or time.monotonic() > deadline:
                break
            processes.pause(POLL_SECONDS)
        if state.status == "ready":
            seen = "the older build was ready before it was overtaken"
            self.results.skip("cancelled", why=seen)
            return
        named = any(word in state.message for word in ("cancel", "superseded"))
        seen = f"{state.status}: {state.message or 'no message'}, step {state.step}"
        ended = state.status == "error" and named and state.step is None
        self._note("cancelled", seen, holds=ended)

    def _delete(self, first: Made) -> None:
        template_id = first.ref.template_id
        with self._deciding("busy"), self._trial.sandbox():
            refused = refusal(lambda: self._cloud.delete_template(template_id))
            self._note("busy", refused or "it was deleted", holds=refused is not None)
        with self._deciding("deleted"):
            refused = self._trial.delete(template_id)
            left = self._cloud.tags(self._name) or self._cloud.template_id(self._name)
            seen = refused or (f"its name still means {left}" if left else "nothing has its name")
            self._note("deleted", seen, holds=not refused and not left)

    def _say(self, text: str) -> None:
        self._report(Event(kind="step", variant=self._name, text=text))
