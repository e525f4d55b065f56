from __future__ import annotations

import json
import shutil
import threading
from collections.abc import Callable
from typing import Any

import pytest

from builder import operations, record, workflow
from builder.system.events import discard
from builder.targets.e2b import promotion
from builder.workflow import BuildRequest
from tests.conftest import Command
from tests.support.clouds import Place
from tests.support.e2b_server import ModelledSteps, Server
from tests.support.runs import meanwhile, until, variable

Places = Callable[[str], Place]


class Slow(ModelledSteps):
    """Steps that say "slow" last until they are released."""

    def __init__(self) -> None:
        super().__init__(seconds=self._wait)
        self.released = threading.Event()

    def _wait(self, step: dict[str, Any]) -> float:
        if "slow" in str(step.get("args")):
            self.released.wait(120)
        return 0.0


@pytest.fixture
def server(lead: Callable[[Server], Server]) -> Server:
    return lead(Server(Slow()))


def overtake(old: Place, new: Place, server: Server, channel: str) -> str:
    """Build on `old`, and once that has begun, on `new`, which ends first; its build."""

    def second() -> None:
        assert isinstance(server.steps, Slow)
        until(lambda: server.builds("four") and server.builds("four")[-1].running)
        try:
            assert new.build("four", channel=channel)["four"].error is None
        finally:
            server.steps.released.set()

    with meanwhile(second):
        outcome = old.build("four", channel=channel)["four"]
    first, last = server.builds("four")[-2:]
    assert outcome.error is None
    assert outcome.ref == f"{first.template_id}:{first.id}"
    said = (
        f"`{outcome.ref}` is recorded but was overtaken: channel `{channel}` points at build {last.id},"
        " which was started later"
    )
    if not (old.folder / "registry.json").is_symlink():
        said += "; `template-builder registry rebuild four --target e2b` adds that build to this registry"
    assert outcome.overtaken == said
    assert said in old.warnings()
    assert said in old.log("four")
    return last.id


@pytest.mark.parametrize("channel", ["stable", "canary"])
@pytest.mark.parametrize("shared", [False, True], ids=["two registries", "one registry"])
def test_newest_build_wins(places: Places, server: Server, channel: str, shared: bool) -> None:
    """An older build that ends after a newer one is recorded and moves nothing, and says so; the
    newer one's plan finds nothing to do, and neither does that of the older one's registry."""
    old, new = places("old"), places("new")
    with server:
        variable(old, "slow")
        variable(new, "fast")
        if shared:
            (new.folder / "registry.json").write_text('{"version": 1, "templates": {}}')
            (old.folder / "registry.json").symlink_to(new.folder / "registry.json")
        last = overtake(old, new, server, channel)
        tags = server.tags("four")
        assert tags[channel] == last
        assert tags.get("default") == (last if channel == "stable" else None)
        entry = json.loads((new.folder / "registry.json").read_text())["templates"]["four"]["e2b"]
        assert entry["channels"][channel].endswith(last)
        (planned,) = new.planned("four", channel=channel).variants
        assert (planned.action, [str(one) for one in planned.reasons]) == (
            "skip",
            ["nothing changed"],
        )
        if shared:
            check_overtaken_in_one_registry(old, new, server, channel)
            return
        entry = json.loads((old.folder / "registry.json").read_text())["templates"]["four"]["e2b"]
        assert channel not in entry.get("channels", {})
        assert entry["history"][-1]["reason"].endswith("which was started later")
        (planned,) = old.planned("four", channel=channel).variants
        tag = "default" if channel == "stable" else channel
        assert (planned.action, [str(one) for one in planned.reasons]) == (
            "skip",
            [
                f"the tag `{tag}` on e2b is on build {last}, which another machine published"
                " and this registry does not know: `template-builder registry rebuild four --target"
                " e2b` records it"
            ],
        )
        again = old.build("four", channel=channel)["four"]
        assert (again.action, again.overtaken) == (
            "skipped",
            f"the channel does not move to `{again.ref}`: {planned.reasons[0]}",
        )
        assert server.tags("four") == tags


def check_overtaken_in_one_registry(old: Place, new: Place, server: Server, channel: str) -> None:
    """An older build moves nothing when its run is repeated either, until somebody promotes it or
    the newer one is revoked."""
    project = old.project()
    first, last = server.builds("four")[-2:]
    older, newer = (f"{build.template_id}:{build.id}" for build in (first, last))
    (planned,) = old.planned("four", channel=channel).variants
    why = (
        f"channel {channel} points at build {newer}, which was started after {older}, the build of"
        f" this spec; `template-builder promote four {older} --channel {channel} --target e2b` moves"
        " it anyway"
    )
    assert (planned.action, [str(one) for one in planned.reasons]) == ("skip", [why])
    again = old.build("four", channel=channel)["four"]
    assert (again.action, again.ref) == ("skipped", older)
    assert again.overtaken == f"the channel does not move to `{older}`: {why}"
    assert server.tags("four")[channel] == last.id
    assert [one.action for one in new.planned("four", channel=channel).variants] == ["skip"]
    operations.promote(
        project,
        operations.ChannelRequest(name="four", channel=channel, target="e2b"),
        first.id,
        report=discard,
    )
    assert [one.action for one in old.planned("four", channel=channel).variants] == ["skip"]
    assert new.build("four", channel=channel)["four"].action == "retagged"
    assert old.build("four", channel=channel)["four"].action == "skipped"
    record.revoke(project.registry, ("four", "e2b", newer), reason="bad", by="me")
    assert old.build("four", channel=channel)["four"].action == "retagged"
    assert server.tags("four")[channel] == first.id


@pytest.mark.slow
def test_overtaken_machine_is_told_the_way_out(
    places: Places, server: Server, command: Command
) -> None:
    """A machine with a registry of its own, whose build was overtaken, is told by each command how
    its registry gets to know the newer one, and then resolves it."""
    old, new = places("old"), places("new")
    way = "`template-builder registry rebuild four --target e2b`"
    with server:
        variable(old, "slow")
        variable(new, "fast")
        last = overtake(old, new, server, "stable")
        done = command("build", "four", "--frozen", "--target", "e2b", cwd=old.folder)
        assert "skipped, overtaken" in done.stdout
        assert way in done.stderr
        done = command("list", cwd=old.folder)
        assert server.builds("four")[0].id in done.stdout
        for arguments, code in (
            (["show", "four"], 46),
            (["resolve", "four"], 44),
            (["verify", "four", "--target", "e2b"], 44),
        ):
            done = command(*arguments, cwd=old.folder)
            assert done.returncode == code
            assert f"hint: {way} records what another machine has published there" in done.stderr
        context = old._context("e2b")
        prepared = workflow.prepare(
            BuildRequest(names=["four"], frozen=True), context, workflow.RENDER
        )
        (found,) = operations.outdated(prepared, context, max_age_days=99)
        assert str(found.reasons[0]) == (
            f"never on channel stable: channel `stable` points at build {last}, which was started"
            f" later; {way} records that one"
        )
        done = command("registry", "rebuild", "four", "--target", "e2b", cwd=old.folder)
        assert done.returncode == 0, done.stderr
        done = command("resolve", "four", cwd=old.folder)
        assert done.stdout.endswith(f":{last}\n")


@pytest.mark.slow
def test_move_that_was_on_its_way(
    places: Places, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where a newer build takes the channel between an older one's look at the tags and its move,
    E2B refuses the move."""
    old, new = places("old"), places("new")
    move = promotion._move

    def late(*where: Any) -> None:
        monkeypatch.setattr(promotion, "_move", move)
        assert new.build("four")["four"].error is None
        move(*where)

    with server:
        variable(old, "1")
        variable(new, "2")
        monkeypatch.setattr(promotion, "_move", late)
        outcome = old.build("four")["four"]
        _, last = server.builds("four")
        assert outcome.overtaken
        assert {server.tags("four")[tag] for tag in ("default", "stable")} == {last.id}
        assert server.problems == []


@pytest.mark.slow
def test_claim_of_a_run_that_was_killed_is_honoured(places: Places, server: Server) -> None:
    """A newer build that was verified and claimed the channel gets it from the older one, though
    its own run died before it could move it."""
    old, new = places("old"), places("new")
    with server:
        variable(old, "1")
        variable(new, "2")
        assert old.build("four")["four"].error is None
        assert new.build("four")["four"].error is None
        first, last = server.builds("four")
        (template,) = server.state.templates.values()
        now = template.tags[-1][2]
        template.tags = [one for one in template.tags if one[0] not in ("default", "stable")]
        template.tags += [("default", first.id, now), ("stable", first.id, now)]
        shutil.rmtree(old.folder / ".builder")
        (old.folder / "registry.json").unlink()
        outcome = old.build("four")["four"]
        assert outcome.overtaken
        assert {server.tags("four")[tag] for tag in ("default", "stable")} == {last.id}


@pytest.mark.slow
@pytest.mark.parametrize("by_hand", [False, True], ids=["earlier version", "by hand"])
def test_channel_without_a_claim(places: Places, server: Server, by_hand: bool) -> None:
    """A newer build that has the channel without a claim, as earlier versions published it, keeps
    it; one that is none of this program's and was tagged by hand does not."""
    old, new = places("old"), places("new")
    with server:
        variable(old, "1")
        variable(new, "2")
        assert old.build("four")["four"].error is None
        assert new.build("four")["four"].error is None
        first, last = server.builds("four")
        (template,) = server.state.templates.values()
        ours = ("stable.", "sha256-") if by_hand else ("stable.",)
        template.tags = [
            tag for tag in template.tags if tag[1] != last.id or not tag[0].startswith(ours)
        ]
        shutil.rmtree(old.folder / ".builder")
        (old.folder / "registry.json").unlink()
        outcome = old.build("four")["four"]
        assert outcome.error is None
        assert (outcome.overtaken is None) is by_hand
        kept = first if by_hand else last
        assert {server.tags("four")[tag] for tag in ("default", "stable")} == {kept.id}


@pytest.mark.slow
def test_promotion_goes_over_newer_builds(place: Place, cloud: Server) -> None:
    """Whoever moves a channel back on purpose does, and the next newer build has it again."""
    from builder import operations
    from builder.system.events import discard

    for value in "12":
        variable(place, value)
        assert place.build("four")["four"].error is None
    first, last = cloud.builds("four")
    operations.rollback(
        place.project(),
        operations.ChannelRequest(name="four", channel="stable", target="e2b"),
        None,
        report=discard,
    )
    assert cloud.tags("four")["stable"] == first.id
    variable(place, "1")
    assert place.build("four")["four"].action == "skipped"
    variable(place, "2")
    assert place.build("four", release=True)["four"].action == "retagged"
    assert cloud.tags("four")["stable"] == last.id
    claims = [tag for tag in cloud.tags("four") if tag.startswith("stable.")]
    assert claims == [f"stable.{last.id}"]
