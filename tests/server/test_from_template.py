"""Templates that are from other templates, on the stand-in for E2B."""

from __future__ import annotations

import pytest

from builder import record, workflow
from builder.errors import BlockedError, LockConflictError
from builder.plan import PlannedVariant
from builder.record import Content
from builder.workflow import BuildRequest, Outcome
from builder.workflow.carry_out import build_all
from tests.support.clouds import START_UP, Place
from tests.support.e2b_server import Server

pytestmark = pytest.mark.network
SERVICE = f'[service]\ncommand = {START_UP}\nready-url = "http://localhost:49999/health"\n'
CHILD = (
    'schema = 1\nname = "child"\nfrom-template = "four"\n[python]\npackages = ["idna"]\n'
    f"{SERVICE}"
    '[[verify]]\nname = "both"\ncode = "import idna, iniconfig; print(1)"\nstdout = "1"\n'
)


@pytest.fixture
def family(place: Place, cloud: Server) -> Place:
    """Have a template `four`, one from it, and one from that."""
    variants = place.folder / "variants"
    for stem in ("one", "two", "three", "_shared"):
        (variants / f"{stem}.toml").unlink()
    (variants / "child.toml").write_text(CHILD)
    grandchild = CHILD.replace('"child"', '"grandchild"').replace('"four"', '"child"')
    (variants / "grandchild.toml").write_text(grandchild.replace('"idna"', '"six"'))
    return place


def built(place: Place, *names: str, with_children: bool = False) -> dict[str, Outcome]:
    request = BuildRequest(names=names, with_children=with_children)
    report = build_all(request, place._context("e2b"))
    return {outcome.name: outcome for outcome in report.outcomes}


def planned(place: Place, *names: str, frozen: bool = False) -> list[PlannedVariant]:
    request = BuildRequest(names=names, frozen=frozen)
    plan = workflow.prepare(request, place._context("e2b"), workflow.PLAN).plan
    assert plan
    return list(plan.variants)


@pytest.mark.slow
def test_a_child_is_built_on_the_build_of_its_parent(family: Place, cloud: Server) -> None:
    """Parents are built before their children, whose requests name the parent's build; a sandbox of
    a child has the files and packages of all of them, and the record says where they are from."""
    outcomes = built(family, "four", with_children=True)
    assert {name: outcome.error for name, outcome in outcomes.items()} == {
        "child": None,
        "four": None,
        "grandchild": None,
    }
    for name, parent in (("child", "four"), ("grandchild", "child")):
        (build,) = cloud.builds(name)
        (below,) = cloud.builds(parent)
        ref = f"{below.template_id}:{below.id}"
        assert build.request["fromTemplate"] == ref
        assert "fromImage" not in build.request
        assert build.machine[: len(below.machine)] == below.machine
        assert family.recorded(name)["from_template"] == ref
    recorded = family.recorded("grandchild")
    assert set(recorded["packages"]) == {"idna", "iniconfig", "six"}
    assert recorded["base_image"] == family.recorded("four")["base_image"]
    assert set(recorded["stages"]) == {"_base", "four", "child", "grandchild"}
    assert {each.action for each in planned(family)} == {"skip"}


@pytest.mark.slow
def test_a_promotion_of_the_parent_makes_children_outdated(family: Place) -> None:
    """A child is built again on the parent's new build; a plan of both says that it comes later."""
    before = built(family)
    four = family.folder / "variants" / "four.toml"
    four.write_text(four.read_text() + '[env]\nMODE = "new"\n')
    assert {each.name: [*map(str, each.reasons)] for each in planned(family)} == {
        "child": ["`four`, which it is from, is built first"],
        "four": ["`env.MODE` new is new"],
        "grandchild": ["`child`, which it is from, is built first"],
    }
    after = built(family, "four")
    (child,) = planned(family, "child")
    changed = f"four {before['four'].ref} → four {after['four'].ref}"
    assert child.action == "build"
    assert [*map(str, child.reasons)] == [
        "`env.MODE` new is new",
        f"`from-template` changed: {changed}",
    ]
    (frozen,) = planned(family, "child", frozen=True)
    assert (frozen.action, str(frozen.reasons[0])) == ("skip", "nothing changed")


def test_a_parent_that_fails_blocks_its_children(family: Place, cloud: Server) -> None:
    """What is from a template that was not built is not built either, and the error says why."""
    cloud.state.failures.append(("base", "base", "no such image"))
    outcomes = built(family)
    assert {name: outcome.action for name, outcome in outcomes.items()} == dict.fromkeys(
        ("child", "four", "grandchild"), "failed"
    )
    errors = {name: outcome.error for name, outcome in outcomes.items()}
    assert isinstance(errors["child"], BlockedError)
    assert str(errors["child"]) == "`child`: `four`, which it is from, was not built"
    assert str(errors["grandchild"]) == "`grandchild`: `child`, which it is from, was not built"
    assert cloud.builds("child") == []


@pytest.mark.slow
def test_a_plan_says_what_to_do_without_the_parents_build(family: Place, cloud: Server) -> None:
    """A child is blocked if its parent was never built here, has another service, or is gone."""
    place = "`from-template` (variants/child.toml:3)"
    (child,) = planned(family, "child")
    assert (child.action, str(child.reasons[0])) == (
        "blocked",
        f"{place}: `four` has no build on e2b; `template-builder build four --with-children"
        " --target e2b` builds it, and then what is from it",
    )
    base = family.folder / "variants" / "_base.toml"
    base.write_text(base.read_text().replace(START_UP, '["serve"]'))
    ref = built(family, "four")["four"].ref
    assert ref
    path = family.folder / "variants" / "child.toml"
    path.write_text(CHILD.replace(SERVICE, ""))
    (child,) = planned(family, "child")
    assert str(child.reasons[0]) == (
        f"{place}: `four` runs the service `serve`, and variants/child.toml the default one, E2B's"
        " code interpreter; write [service] in variants/child.toml"
    )
    path.write_text(CHILD.replace('"four"', '"fourr"'))
    (child,) = planned(family, "child")
    assert str(child.reasons[0]) == (
        f"{place}: `fourr` is neither a template nor a build in {family.folder}/registry.json; did"
        " you mean `four`?"
    )
    path.write_text(CHILD.replace('"four"', '"four@beta"'))
    (child,) = planned(family, "child")
    assert str(child.reasons[0]).startswith(
        f"{place}: `four` has no build or channel `beta` on `e2b`; its builds: `{ref}`"
    )
    path.write_text(CHILD.replace(START_UP, '["serve"]'))
    (build,) = cloud.builds("four")
    build.become("error")
    (child,) = planned(family, "child")
    assert (child.action, str(child.reasons[0])) == (
        "blocked",
        f"build {ref.build_id} of `four`, which it is from, is gone from e2b or not ready;"
        " `template-builder build four --target e2b` makes another one",
    )


@pytest.mark.slow
def test_revocations_reach_children(family: Place) -> None:
    """To revoke a build, a package or a stage revokes what is from it, and `restore` undoes that;
    nothing is built on a revoked build."""
    outcomes = built(family)
    refs = {name: outcome.ref or "" for name, outcome in outcomes.items()}
    path = family.folder / "registry.json"
    build = ("four", "e2b", refs["four"])
    revoked = record.revoke(path, build, reason="a hole", by="x")
    assert [name for name, *_ in revoked] == ["four", "child", "grandchild"]
    since = family.recorded("four")["revocations"]["build"]["at"]
    assert family.recorded("grandchild")["revoked"] == f"template {refs['four']}: a hole"
    (child,) = planned(family, "child", frozen=True)
    assert (child.action, str(child.reasons[0])) == (
        "blocked",
        f"`child` contains template {refs['four']}, which is revoked as of {since}: a hole;"
        " `template-builder lock` takes the build that its channel points at now;"
        " `template-builder restore` lifts the revocation",
    )
    (child,) = planned(family, "child")
    assert str(child.reasons[0]) == (
        f"`from-template` (variants/child.toml:3): the build {refs['four']} of `four` on e2b is"
        f" revoked as of {since}: a hole; `template-builder build four --target e2b` makes another"
        " one if its spec changed, and `template-builder rollback` goes back to one"
    )
    record.restore(path, build, by="x")
    assert "revoked" not in family.recorded("grandchild")
    for content in (
        Content.parse("package", f"iniconfig=={family.recorded('four')['packages']['iniconfig']}"),
        Content.parse("stage", f"four@{family.recorded('four')['stages']['four']}"),
    ):
        reached = record.revoke(path, content, reason="a hole", by="x")
        assert {name for name, *_ in reached} == {"child", "four", "grandchild"}
        record.restore(path, content, by="x")


@pytest.mark.slow
def test_a_template_of_e2b_that_is_not_ours(family: Place, cloud: Server) -> None:
    """A spec may be from any ID that E2B knows; that it follows a tag is in the plan."""
    ref = built(family, "four")["four"].ref
    assert ref
    (family.folder / "registry.json").unlink()
    path = family.folder / "variants" / "child.toml"
    path.write_text(CHILD.replace('"four"', f'"{ref.template_id}"'))
    (child,) = planned(family, "child")
    note = (
        f"`from-template` {ref.template_id} names no build: E2B takes the one that has the tag"
        " `default` when it builds"
    )
    assert (child.action, child.notes) == ("build", (note,))
    assert built(family, "child")["child"].error is None
    (build,) = cloud.builds("child")
    assert build.request["fromTemplate"] == ref.template_id
    assert note in family.recorded("child")["warnings"]


@pytest.mark.slow
def test_a_child_that_cannot_live_with_its_parents_versions(family: Place) -> None:
    """The parent's packages are constraints: the error names the package, both templates and the
    line of the child's spec."""
    built(family, "four")
    version = family.recorded("four")["packages"]["iniconfig"]
    path = family.folder / "variants" / "child.toml"
    path.write_text(CHILD.replace('"idna"', '"iniconfig<2"'))
    error = built(family, "child")["child"].error
    assert isinstance(error, LockConflictError)
    assert error.message.splitlines()[:3] == [
        "stage `child` conflicts with the versions that `four` locked:",
        f"  iniconfig=={version} is locked by stage `four`",
        '  "iniconfig<2" is required by stage `child` at variants/child.toml:5',
    ]
