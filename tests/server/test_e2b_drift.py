from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from builder import registry
from tests.conftest import ROOT, Command
from tests.support.clouds import Place
from tests.support.e2b_server import Server
from tests.support.runs import reasons


@pytest.mark.usefixtures("with_four")
def test_template_that_is_gone_is_built_again(place: Place, cloud: Server) -> None:
    """A template that somebody has deleted is told as gone, and built anew."""
    cloud.state.templates.clear()
    assert reasons(place, "four") == ("build", ["the template `four` is gone from e2b"])
    assert place.build("four")["four"].action == "built"
    assert reasons(place, "four") == ("skip", ["nothing changed"])


@pytest.mark.usefixtures("with_four")
def test_build_that_is_not_ready_is_built_again(place: Place, cloud: Server) -> None:
    """A recorded build that is not ready on E2B is told by its ID, and another one made."""
    (build,) = cloud.builds("four")
    build.become("error")
    expected = f"build {build.id} on e2b is gone or not ready"
    assert reasons(place, "four") == ("build", [expected])
    assert place.build("four")["four"].action == "built"
    assert place.recorded("four")["build_id"] == cloud.builds("four")[1].id


@pytest.mark.slow
@pytest.mark.parametrize("tag", ["default", "stable"])
@pytest.mark.usefixtures("with_four")
def test_tag_that_was_moved_by_hand_is_moved_back(place: Place, cloud: Server, tag: str) -> None:
    """A tag on another build than the registry says is told with both, and moved back."""
    good = place.recorded("four")["build_id"]
    place.edit("four", lambda text: f'{text}[env]\nA = "1"\n')
    place.build("four", channel="canary")
    (template,) = cloud.state.templates.values()
    other = cloud.tags("four")["canary"]
    template.tags.append((tag, other, template.tags[-1][2]))
    place.edit("four", lambda text: text.replace('[env]\nA = "1"\n', ""))
    assert reasons(place, "four") == (
        "retag",
        [
            f"the tag `{tag}` on e2b is on build {other}, but the registry names {good}: it was"
            " moved by hand, or by another registry"
        ],
    )
    builds = len(cloud.builds("four"))
    assert place.build("four")["four"].action == "retagged"
    assert cloud.tags("four")["default"] == cloud.tags("four")["stable"] == good
    assert len(cloud.builds("four")) == builds
    assert reasons(place, "four") == ("skip", ["nothing changed"])


@pytest.mark.usefixtures("with_four")
def test_tag_that_was_removed_is_put_back(place: Place, cloud: Server) -> None:
    """A tag that is not there any more is told as gone, and put back without a build."""
    (template,) = cloud.state.templates.values()
    template.tags = [entry for entry in template.tags if entry[0] != "default"]
    action, (reason,) = reasons(place, "four")
    assert action == "retag"
    assert reason.startswith("the tag `default` on e2b is gone, but the registry names ")
    assert place.build("four")["four"].action == "retagged"
    assert "default" in cloud.tags("four")


@pytest.mark.usefixtures("with_four")
def test_going_back_to_an_earlier_spec_builds_nothing(place: Place, cloud: Server) -> None:
    """A spec that was built before is published again from that build, tags and all."""
    first = place.recorded("four")["build_id"]
    place.edit("four", lambda text: f'{text}[env]\nA = "1"\n')
    place.build("four")
    assert cloud.tags("four")["stable"] != first
    place.edit("four", lambda text: text.replace('[env]\nA = "1"\n', ""))
    assert place.build("four")["four"].action == "retagged"
    assert cloud.tags("four")["stable"] == cloud.tags("four")["default"] == first
    assert place.recorded("four")["build_id"] == first


@pytest.mark.usefixtures("with_four")
def test_build_of_another_machine_is_taken(place: Place, cloud: Server) -> None:
    """What another machine has built and this registry does not hold is verified and recorded
    here, and not built again."""
    (place.folder / "registry.json").unlink()
    assert reasons(place, "four") == ("build", ["never built on e2b"])
    assert place.build("four")["four"].action == "built"
    assert len(cloud.builds("four")) == 1
    assert place.recorded("four")["build_id"] == cloud.builds("four")[0].id


def test_adopted_template_shows_as_not_of_this_spec(
    tmp_path: Path, cloud: Server, command: Command
) -> None:
    """The plan of this repository says that its adopted template was not built from the spec, and
    would build it and the others."""
    for name in ("variants", "generated"):
        shutil.copytree(ROOT / name, tmp_path / name)
    shutil.copy(ROOT / "registry.json", tmp_path)
    # The committed locks may be those of a machine that PyTorch's own index was out of reach of.
    (tmp_path / "pyproject.toml").write_text("[tool.template-builder]\naccept-fallback = true\n")
    found = command("plan", "--frozen", "--target", "e2b", "--json", cwd=tmp_path)
    assert found.returncode == 0, found.stderr
    planned = {one["name"]: one for one in json.loads(found.stdout)["variants"]}
    assert {one["action"] for one in planned.values()} == {"build"}
    ml = planned["tta-ml-minimal"]
    assert ml["ref"] == "3xmp0rmfztawhlpysu4v"
    assert [reason["text"] for reason in ml["reasons"]] == ["adopted, not built from this spec"]
    assert (planned["tta-vision-minimal"]["cached_steps"], planned["tta-vision-minimal"]["cached_by"]) == (
        5,
        "tta-ml-minimal",
    )  # fmt: skip


@pytest.mark.usefixtures("with_four")
def test_what_was_built_is_what_code_resolves(place: Place, cloud: Server) -> None:
    """The registry gives the ref of exactly the build that was verified, and it opens."""
    path = place.folder / "registry.json"
    ref = registry.resolve("four", path=path)
    (build,) = cloud.builds("four")
    assert ref == f"{build.template_id}:{build.id}"
    from e2b_code_interpreter import Sandbox

    sandbox = Sandbox.create(ref)
    try:
        assert sandbox.run_code("print(6 * 7)").logs.stdout == ["42\n"]
    finally:
        sandbox.kill()


@pytest.mark.slow
def test_verify_runs_the_checks_of_the_recorded_build(
    place: Place, ready: Server, command: Command
) -> None:
    """`verify` opens sandboxes of the recorded build itself, even where its digest has a newer
    one, builds nothing, and leaves nothing running."""
    first = place.recorded("one")["build_id"]
    found = command("verify", "one", "--target", "e2b", cwd=place.folder)
    assert found.returncode == 0, found.stderr
    assert "one: 3 checks passed" in found.stdout
    posts = {r for r in ready.front.requests if r.startswith("POST")}
    assert posts == {"POST /v2/sandboxes", "POST /contexts", "POST /execute"}
    assert ready.running == {}
    assert [build.id for build in ready.builds("one")] == [first]
    assert list((place.folder / ".builder" / "journal").rglob("*.json")) == []


NOTE = (
    "base image `localhost:1/python:3.13` is not pinned to a digest: its registry did not answer;"
    " the tag is kept; E2B caches it by this name"
)
UNTIL = "until `template-builder build --refresh-base --target e2b` fetches it again"


@pytest.mark.slow
def test_base_that_is_not_pinned_is_said_and_refreshed(
    place: Place, cloud: Server, command: Command
) -> None:
    """Each build on a base image that is not pinned says that E2B caches it by its name; the plan
    says since when, and --refresh-base builds what has not changed on a base that is fetched."""
    done = command("build", "four", "--frozen", "--target", "e2b", cwd=place.folder)
    assert f"warning: {NOTE}, {UNTIL}\n" in done.stderr, done.stderr
    first = place.recorded("four")
    assert first["base_fetched"] is True
    done = command("build", "three", "--frozen", "--target", "e2b", cwd=place.folder)
    since = f"{NOTE} as it was on {first['built_at'][:10]}, {UNTIL}"
    assert f"warning: {since}\n" in done.stderr
    assert "base_fetched" not in place.recorded("three")
    done = command("plan", "four", "--frozen", "--target", "e2b", cwd=place.folder)
    assert f"note: {since}\n" in done.stdout
    for frozen in (["--frozen"], []):  # nothing is built, and it is said all the same, once
        done = command("build", "four", *frozen, "--target", "e2b", cwd=place.folder)
        assert "skipped" in done.stdout, done.stderr
        assert f"warning: {since}\n" in done.stderr
        assert done.stderr.count("is not pinned to a digest") == 1
    refresh = ("build", "four", "--refresh-base", "--frozen", "--target")
    done = command(*refresh, "e2b", cwd=place.folder)
    assert done.returncode == 0, done.stderr
    again = place.recorded("four")
    assert again["build_id"] != first["build_id"]
    assert again["base_fetched"] is True
    assert not [line for line in cloud.builds("four")[1].log if "CACHED" in line["message"]]
    done = command(*refresh, "local", cwd=place.folder)
    assert (
        "--refresh-base has no effect: local caches no base image by its name alone\n"
        in done.stderr
    )
