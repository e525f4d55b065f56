from __future__ import annotations

import dataclasses
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from builder import record, registry
from builder.cli.plan_command import _plan_lines
from builder.errors import LockConflictError
from builder.plan import Plan, Situation, make_plan
from builder.registry import Ref
from builder.registry.model import Build, Entry
from builder.render import Rendered
from builder.spec import Variant
from tests.conftest import BASE
from tests.support.samples import load, rendered_of, verified_of

LEAF = "schema = 1\nname = 'leaf'\nextends = '_base'\n[python]\npackages = ['idna']\n"
ADOPTED = {
    "leaf": {
        "e2b": Entry(
            channels={"stable": Ref("abc")},
            builds={"abc": Build(template_id="abc", origin="adopted")},
        )
    }
}


def leaf(tmp_path: Path, text: str = LEAF, base: str = BASE, **files: str) -> Variant:
    return load(tmp_path, _base=base, leaf=text, **files)["leaf"]


def recorded(tmp_path: Path, *builds: Rendered) -> dict[str, dict[str, Entry]]:
    path = tmp_path / "registry.json"
    for rendered in builds:
        record.record(path, verified_of(rendered), rendered, by="a tester")
    return registry.load(path).templates


def change(templates: dict[str, dict[str, Entry]], **fields: Any) -> None:
    """Have the one build of `leaf` be recorded with other values."""
    builds = templates["leaf"]["local"].builds
    ((ref, build),) = builds.items()
    builds[ref] = replace(build, **fields)


def planned(
    rendered: Rendered,
    templates: dict[str, dict[str, Entry]],
    *,
    target: str = "local",
    **options: Any,
) -> Plan:
    present = options.pop("present", (rendered.digest,))
    situation = Situation(target=target, present=frozenset(present), **options.pop("situation", {}))
    return make_plan({rendered.variant.name: rendered}, templates, situation, **options)


def outcome(plan: Plan) -> tuple[str, list[str]]:
    (variant,) = plan.variants
    return variant.action, [str(reason) for reason in variant.reasons]


def test_never_built(tmp_path: Path) -> None:
    """A variant without a record on the target is built."""
    rendered = rendered_of(leaf(tmp_path))
    assert outcome(planned(rendered, {})) == ("build", ["never built on local"])


def test_adopted(tmp_path: Path) -> None:
    """An adopted template is not taken for a build of the spec."""
    plan = planned(rendered_of(leaf(tmp_path)), ADOPTED, target="e2b")
    assert outcome(plan) == ("build", ["adopted, not built from this spec"])


def test_nothing_to_do(tmp_path: Path) -> None:
    """The same digest, recorded and there, is skipped."""
    rendered = rendered_of(leaf(tmp_path))
    plan = planned(rendered, recorded(tmp_path, rendered))
    assert outcome(plan) == ("skip", ["nothing changed"])
    assert not plan.something_to_do


def test_base_image_that_is_not_pinned(tmp_path: Path) -> None:
    """Where base images are kept by their names, a plan says since when it has one that is not
    pinned to a digest, and --refresh-base builds on it anew; a pinned one is left alone."""
    note = "base image `localhost:1/python:3.13` is not pinned to a digest"
    until = "until `template-builder build --refresh-base --target local` fetches it again"
    keeps: dict[str, Any] = {"situation": {"steps_cached": True}, "refresh_base": True}
    rendered = rendered_of(leaf(tmp_path), digest=None)
    (variant,) = planned(rendered, {}, **keeps).variants
    assert variant.stale_base == f"{note}; E2B caches it by this name, {until}"
    templates = recorded(tmp_path, rendered)
    change(templates, built_at="2026-03-04T05:06:07+00:00")
    (variant,) = planned(rendered, templates, **keeps).variants
    assert (variant.action, variant.forced) == ("build", True)
    assert [str(reason) for reason in variant.reasons] == ["nothing changed, but --refresh-base"]
    assert (
        variant.stale_base == f"{note}; E2B caches it by this name as it was on 2026-03-04, {until}"
    )
    (elsewhere,) = planned(rendered, templates, refresh_base=True).variants
    assert (elsewhere.action, elsewhere.stale_base) == ("skip", None)
    pinned = rendered_of(leaf(tmp_path))
    (variant,) = planned(pinned, recorded(tmp_path, pinned), **keeps).variants
    assert (variant.action, variant.stale_base) == ("skip", None)


def test_force(tmp_path: Path) -> None:
    """--force builds what would be skipped, and says why."""
    rendered = rendered_of(leaf(tmp_path))
    plan = planned(rendered, recorded(tmp_path, rendered), force=True)
    assert outcome(plan) == ("build", ["nothing changed, but --force"])


def test_environment_gone(tmp_path: Path) -> None:
    """A recorded build that is not on this machine is made again."""
    rendered = rendered_of(leaf(tmp_path))
    here = {"this_machine": True}
    plan = planned(rendered, recorded(tmp_path, rendered), present=(), situation=here)
    assert outcome(plan) == ("build", ["the environment is not on this machine"])


def test_revoked(tmp_path: Path) -> None:
    """A revoked build is made anew although nothing else changed."""
    rendered = rendered_of(leaf(tmp_path))
    templates = recorded(tmp_path, rendered)
    change(templates, revoked="CVE")
    assert outcome(planned(rendered, templates)) == ("build", ["the build is revoked: CVE"])


def test_changed_inputs_carry_both_sides(tmp_path: Path) -> None:
    """Every changed input is a reason with its old and its new value."""
    before = rendered_of(leaf(tmp_path))
    text = (
        LEAF.replace("['idna']", "['idna', 'six']")
        + "[env]\nA = '1'\n[resources]\ncpu = 4\n[warmup]\nlevel = 'disk'\nimports = ['idna']\n"
    )
    after = rendered_of(leaf(tmp_path, text), version="2.0", digest="sha256:" + "b" * 64)
    assert outcome(planned(after, recorded(tmp_path, before), present=())) == (
        "build",
        [
            "`env.A` 1 is new",
            "`leaf: python.packages` changed: idna → idna, six",
            "`resources.cpu` changed: 2 → 4",
            "`warmup.imports` idna is new",
            "`warmup.level` changed: none → disk",
            f"`base.image` changed: localhost:1/python:3.13@sha256:{'a' * 64} →"
            f" localhost:1/python:3.13@sha256:{'b' * 64}",
            "idna 1.0 → 2.0",
            "six 2.0 is new",
        ],
    )


@pytest.mark.parametrize("reverse", [False, True])
def test_changed_owner_shows_both_owners(tmp_path: Path, reverse: bool) -> None:
    """The default owner, which inputs leave out, is shown where the other side names an owner."""
    (tmp_path / "variants").mkdir()
    (tmp_path / "variants" / "a.txt").write_text("x")
    entry = "[[files]]\nsource = 'a.txt'\ntarget = '/home/user/a'\n"
    specs = [LEAF + entry, f"{LEAF}{entry}owner = 'root'\n"]
    before, after = (rendered_of(leaf(tmp_path, text)) for text in specs[:: -1 if reverse else 1])
    owners = ("root", "user") if reverse else ("user", "root")
    old, new = (f"{owner} 0644 2d711642b726" for owner in owners)
    assert outcome(planned(after, recorded(tmp_path, before), present=())) == (
        "build",
        [f"`leaf: file /home/user/a` changed: {old} → {new}"],
    )


def test_removed_inputs_are_reasons(tmp_path: Path) -> None:
    """What is gone from a spec is named with what it was."""
    before = rendered_of(leaf(tmp_path, LEAF + "[env]\nA = '1'\n"))
    after = rendered_of(leaf(tmp_path, LEAF))
    plan = planned(after, recorded(tmp_path, before), present=())
    assert outcome(plan) == ("build", ["`env.A` 1 is gone"])


def test_renderer_change(tmp_path: Path) -> None:
    """Other bytes from the same spec and lock are put down to the renderer, by file."""
    before = rendered_of(leaf(tmp_path))
    templates = recorded(tmp_path, before)
    (build,) = templates["leaf"]["local"].builds.values()
    files = {**build.inputs["files"], "Dockerfile": "older"}
    change(templates, digest="sha256:older", inputs={**build.inputs, "files": files})
    plan = planned(before, templates, present=())
    assert outcome(plan) == ("build", ["`Dockerfile` is rendered differently"])


def test_retag(tmp_path: Path) -> None:
    """A build of this digest that is recorded and there is pointed at, not built again."""
    old, new = rendered_of(leaf(tmp_path)), rendered_of(leaf(tmp_path), version="2.0")
    templates = recorded(tmp_path, new, old)
    action, reasons = outcome(planned(new, templates))
    assert (action, reasons[0]) == ("retag", "idna 1.0 → 2.0")
    assert reasons[-1].startswith("`channel stable` changed: local:leaf@sha256-")


def test_blocked_by_a_lock_that_failed() -> None:
    """A variant that could not be locked is blocked, with the reason, and stops no other."""
    situation = Situation(target="local")
    plan = make_plan({"leaf": LockConflictError("no versions")}, {}, situation)
    assert outcome(plan) == ("blocked", ["no versions"])


def test_blocked_by_the_target(tmp_path: Path) -> None:
    """A variant that the target cannot build is blocked, and its other reasons are kept."""
    rendered = rendered_of(leaf(tmp_path))
    plan = planned(rendered, {}, situation={"blocked": {"leaf": "no Python"}})
    assert outcome(plan) == ("blocked", ["no Python", "never built on local"])


def test_command_without_a_network_blocks_once(tmp_path: Path) -> None:
    """If the target names the commands with `network = false`, the Dockerfile's problem about the
    same is left out, but not with another reason of the target."""
    spec = f"{LEAF}[[run]]\ncommand = 'make'\nnetwork = false\n"
    rendered = rendered_of(leaf(tmp_path, spec))
    own = "E2B runs every command with a network: remove `network = false` (variants/leaf.toml:9)"

    def reasons(blocked: str) -> list[str]:
        situation = {"blocked": {"leaf": blocked}}
        return outcome(planned(rendered, {}, target="e2b", situation=situation, programs=True))[1]

    assert reasons(own) == [own]
    first, second = reasons("no account")
    assert first == "no account"
    assert "`RUN --network`: E2B runs every step in the same network" in second


def test_what_the_target_cannot_provide_is_in_the_plan(tmp_path: Path) -> None:
    """What is lost on a target is said before anything is built."""
    rendered = rendered_of(leaf(tmp_path))
    plan = planned(rendered, {}, situation={"unsupported": {"leaf": ("Debian packages",)}})
    assert plan.variants[0].unsupported == ("Debian packages",)
    assert plan.to_json()["variants"][0]["not_provided"] == ["Debian packages"]


def test_commands_are_in_the_plan_of_a_target_that_runs_them(tmp_path: Path) -> None:
    """The plan has a line for each command, in its text and in JSON, unless builds are folders."""
    rendered = rendered_of(leaf(tmp_path, f"{LEAF}[[run]]\ncommand = 'make -C /opt/r'\n"))
    plan = planned(rendered, {}, target="e2b")
    line = "variants/leaf.toml: make -C /opt/r"
    assert plan.to_json()["variants"][0]["runs"] == [line]
    assert f"runs: {line}" in [*_plan_lines(plan, frozen=True)]
    plan = planned(rendered, {}, situation={"this_machine": True})
    assert plan.to_json()["variants"][0]["runs"] == []


def test_commands_are_shown_by_what_they_do(tmp_path: Path) -> None:
    """A command of several lines is shown by its first line that does more than prepare the others.
    Equal lines are shown once."""
    runs = ("# first\nset -ex\nmake a", "mkdir -p /w && cd /w\nmake a", "cd /w", "cd /w && make b")
    tables = "".join(f"[[run]]\ncommand = {json.dumps(run)}\n" for run in runs)
    plan = planned(rendered_of(leaf(tmp_path, LEAF + tables)), {}, target="e2b")
    lines = [line for line in _plan_lines(plan, frozen=True) if str(line).startswith("runs: ")]
    assert lines == [
        "runs: variants/leaf.toml: make a",
        "runs: variants/leaf.toml: cd /w",
        "runs: variants/leaf.toml: cd /w && make b",
    ]


def test_shared_stages(tmp_path: Path) -> None:
    """The plan names the stages that several variants share, and who shares them."""
    found = load(tmp_path, _base=BASE, a=LEAF.replace("leaf", "a"), b=LEAF.replace("leaf", "b"))
    rendered = {name: rendered_of(variant) for name, variant in found.items()}
    plan = make_plan(rendered, {}, Situation(target="local"))
    assert plan.shared == {"_base": ("a", "b")}


def test_plan_is_a_function_of_its_input(tmp_path: Path) -> None:
    """The same input gives the same plan, whatever order the variants come in."""
    found = load(tmp_path, _base=BASE, a=LEAF.replace("leaf", "a"), b=LEAF.replace("leaf", "b"))
    rendered = {name: rendered_of(variant) for name, variant in found.items()}
    backwards = dict(reversed(rendered.items()))
    situation = Situation(target="local")
    assert make_plan(rendered, {}, situation) == make_plan(backwards, {}, situation)


def test_other_channel_is_another_pointer(tmp_path: Path) -> None:
    """A channel without a build is pointed at the build that another channel has."""
    rendered = rendered_of(leaf(tmp_path))
    plan = planned(rendered, recorded(tmp_path, rendered), channel="canary")
    (variant,) = plan.variants
    assert (variant.action, variant.retag) == ("retag", verified_of(rendered).built.ref)
    assert str(variant.reasons[0]) == "never on channel canary"
    assert dataclasses.asdict(plan)["channel"] == "canary"


def test_steps_of_e2b_are_in_the_plan(tmp_path: Path) -> None:
    """The plan holds every step, and how many of the first ones are the same for whom."""
    other = LEAF.replace("leaf", "other")
    three = load(tmp_path, _base=BASE, leaf=LEAF, other=other, third=LEAF.replace("leaf", "third"))
    rendered = {name: rendered_of(variant) for name, variant in three.items()}
    rendered["third"] = rendered_of(three["third"], version="2.0")
    found = make_plan(rendered, {}, Situation(target="local"))
    everyone = ("leaf", "other", "third")
    assert found.shared_steps == [(3, everyone)]
    told = found.to_json()
    assert told["shared_steps"] == [{"steps": 3, "variants": list(everyone)}]
    assert [step["type"] for step in told["variants"][0]["program"]["steps"]][:3] == [
        "RUN",
        "COPY",
        "RUN",
    ]
    bare = make_plan(rendered, {}, Situation(target="local"), programs=False)
    assert bare.to_json()["variants"][0]["program"] is None


def test_copied_files_are_part_of_a_shared_step(tmp_path: Path) -> None:
    """Steps that copy other contents under the same name are not shared."""
    variant = leaf(tmp_path, base=BASE + "[python]\npackages = ['idna']")
    one = rendered_of(variant)
    other = dataclasses.replace(
        rendered_of(variant, version="2.0"), variant=dataclasses.replace(variant, name="other")
    )
    found = make_plan({"leaf": one, "other": other}, {}, Situation(target="local"))
    copied = [step for step in found.variants[0].program.steps if step.kind == "COPY"]  # type: ignore[union-attr]
    assert copied[1].args[0] == "requirements/_base.txt"
    assert found.shared_steps == [(3, ("leaf", "other"))]
