from __future__ import annotations

import dataclasses
import datetime as dt
import functools
import json
from typing import Any

import e2b
import pytest

from builder import operations, record, registry
from builder.system.events import discard
from builder.targets.adapters import connect
from builder.targets.protocol import Cleaner, Needs
from tests.conftest import Command
from tests.support.clouds import Place
from tests.support.e2b_server import Server

FEW = ("--keep", "1", "--history", "0", "--target", "e2b")


def with_env(text: str, env: str) -> str:
    return text.partition("[env]")[0] + env


def built_anew(place: Place, *values: str, **options: Any) -> list[str]:
    """Builds of `four` that differ; their refs."""
    refs = []
    for value in values:
        place.edit("four", functools.partial(with_env, env=f"[env]\nA = '{value}'\n"))
        refs.append(str(place.build("four", **options)["four"].ref))
    return refs


def collected(command: Command, place: Place, cloud: Server, *options: str) -> list[dict[str, Any]]:
    done = command("gc", "--yes", "--json", *FEW, *options, cwd=place.folder, **cloud.environment)
    assert done.returncode == 0, done.stderr
    found: list[dict[str, Any]] = json.loads(done.stdout)["found"]
    return [one for one in found if not one["kept"]]


def kept(command: Command, place: Place, cloud: Server, *options: str) -> str:
    """Why the one thing that nothing needs is kept, as it is told."""
    arguments = ("gc", "--yes", *FEW, *options)
    done = command(*arguments, cwd=place.folder, **cloud.environment)
    assert done.returncode == 0, done.stderr
    (line,) = [line for line in done.stdout.splitlines() if line.startswith("kept: ")]
    return line.partition("`four`: ")[2]


@pytest.mark.slow
def test_tags_of_builds_that_nothing_needs_go_on_e2b(
    place: Place, cloud: Server, command: Command
) -> None:
    """On E2B, where no call deletes a build, the digest's tag goes; channels' tags and the records
    stay, and so does everything of a template that a sandbox runs of."""
    built_anew(place, "0", "1", "2")
    before = cloud.tags("four")
    assert collected(command, place, cloud) == []  # younger than the protect window
    done = command(
        "gc", "--yes", *FEW, "--protect-days", "0", cwd=place.folder, **cloud.environment
    )
    assert done.returncode == 0, done.stderr
    now = cloud.tags("four")
    gone = set(before) - set(now)
    assert len(gone) == 2
    assert all(tag.startswith("sha256-") for tag in gone)
    assert now["stable"] == now["default"] == before["stable"]
    path = place.folder / "registry.json"
    assert len(registry.load(path).templates["four"]["e2b"].builds) == 3
    assert "2 items on e2b can be removed" in done.stdout


def adapter_of(place: Place) -> Cleaner:
    project = place.project()
    return connect(project.targets["e2b"], project)


def unneeded(place: Place) -> Needs:
    """Nothing is needed of what the registry has of templates on E2B."""
    templates = registry.load(place.folder / "registry.json").templates
    entries = {name: targets["e2b"] for name, targets in templates.items()}
    return Needs(templates=entries, of=lambda *_: None, protect_seconds=0.0)


@pytest.mark.slow
def test_tag_that_moved_since_it_was_looked_at_stays(place: Place, cloud: Server) -> None:
    """A tag that somebody moves to another build between the look and the removal is kept, with the
    build that it is on."""
    built_anew(place, "1", "2")
    adapter = adapter_of(place)
    waste, other = adapter.unused(unneeded(place))
    name, _, tag = waste.identity.partition(":")
    assert cloud.tags(name)[tag] == waste.subject
    e2b.Template.assign_tags(f"{name}:{other.subject}", tag)
    assert adapter.remove(waste) == f"it is now on build {other.subject}"
    assert cloud.tags(name)[tag] == other.subject


def test_tags_of_a_template_in_use_stay(place: Place, cloud: Server) -> None:
    """While a sandbox of a template runs, none of the template's tags goes."""
    (ref,) = built_anew(place, "1")
    adapter = adapter_of(place)
    sandbox = e2b.Sandbox.create(ref)
    assert adapter.unused(unneeded(place)) == []
    sandbox.kill()
    assert [waste.kind for waste in adapter.unused(unneeded(place))] == ["tag"]


@pytest.mark.parametrize(
    ("action", "used", "kept"),
    [
        ("remove", False, None),
        ("remove", True, "it was used within the protected days"),
        ("adopt", False, "the registry also had an adopted build of it"),
    ],
)
def test_given_up_template_that_is_kept(
    place: Place, cloud: Server, action: Any, used: bool, kept: str | None
) -> None:
    """A template that the registry gave up long ago is kept if it was used lately, and if it was
    once adopted."""
    (ref,) = built_anew(place, "1", channel="trial")
    removal = record.Removal(name="four", target="e2b", builds=(ref,), channels=("trial",))
    e2b.Template.assign_tags(f"four:{ref.partition(':')[2]}", "kept")
    operations.remove(place.project(), removal, reason=None, report=discard)
    (template,) = cloud.state.templates.values()
    template.spawned.clear()
    template.created -= dt.timedelta(days=9)
    if used:
        e2b.Sandbox.create("four:kept").kill()
    needs = dataclasses.replace(unneeded(place), protect_seconds=86400.0)
    entry = needs.templates["four"]
    events = [dataclasses.replace(event, at="2026-01-01T00:00:00Z") for event in entry.history]
    entry.history[:] = [*events, dataclasses.replace(events[-1], action=action)]
    (waste,) = adapter_of(place).unused(needs)
    assert (waste.identity, waste.kept) == (template.id, kept and f"`four`: {kept}")


@pytest.mark.slow
def test_build_without_a_tag_is_out_of_reach(place: Place, cloud: Server, command: Command) -> None:
    """Of a build whose only tag goes no sandbox can be created afterwards, which `gc` says before; a
    build that a channel was on once can be reached still."""
    (published,) = built_anew(place, "1")
    record.move(
        place.folder / "registry.json",
        record.Change(name="four", target="e2b", by="x", channel="stable"),
        published,
        action="rollback",
    )
    (held,) = built_anew(place, "2")
    built_anew(place, "3")
    found = collected(command, place, cloud, "--protect-days", "0")
    assert {one["subject"] for one in found} == {held.partition(":")[2]}
    assert [one["why"] for one in found] == [
        "no channel needs its build; without the tag no sandbox can be created of it, unless it has"
        " or had another tag"
    ]
    with pytest.raises(e2b.SandboxException, match="404"):
        e2b.Sandbox.create(held)
    e2b.Sandbox.create(published).kill()


@pytest.mark.slow
def test_template_that_the_registry_gave_up_is_deleted(
    place: Place, cloud: Server, command: Command
) -> None:
    """A template of which the registry has no build and no channel any more is deleted on E2B, unless
    it was used lately, a sandbox of it runs, or somebody else has built it, too,
    and did not fail."""
    (ref,) = built_anew(place, "1", channel="trial")
    removal = record.Removal(name="four", target="e2b", builds=(ref,), channels=("trial",))
    e2b.Template.assign_tags(f"four:{ref.partition(':')[2]}", ["kept", "default"])
    operations.remove(place.project(), removal, reason=None, report=discard)
    assert set(cloud.tags("four")) == {"kept", "default"}
    now = ("--protect-days", "0")
    assert collected(command, place, cloud) == []
    assert kept(command, place, cloud) == ("the registry gave it up within the protected days")
    sandbox = e2b.Sandbox.create("four")
    assert collected(command, place, cloud, *now) == []
    assert kept(command, place, cloud, *now) == "one of its sandboxes is running or paused"
    adapter = adapter_of(place)
    sandbox.kill()
    (waste,) = adapter.unused(unneeded(place))
    sandbox = e2b.Sandbox.create("four")
    assert adapter.remove(waste) == (
        f"deleting the template {waste.identity} was refused: 400: cannot delete template"
        f" '{waste.identity}' because there are running sandboxes using it"
    )
    sandbox.kill()
    (template,) = [one for one in cloud.state.templates.values() if one.name == "four"]
    theirs = e2b.Template.build(e2b.Template().from_image("x"), "four", tags=["theirs"])
    assert collected(command, place, cloud, *now) == []
    assert kept(command, place, cloud, *now) == "it has a build that this registry never had"
    theirs_now = template.build(theirs.build_id)
    assert theirs_now
    theirs_now.become("error")
    (gone,) = collected(command, place, cloud, *now)
    assert (gone["kind"], gone["identity"], gone["subject"]) == ("template", template.id, "four")
    assert gone["why"] == "the registry has no build or channel of it any more"
    assert template.id not in cloud.state.templates
    assert collected(command, place, cloud, *now) == []
