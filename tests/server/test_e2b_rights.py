"""Templates that are not there, that are another account's, and addresses that are not E2B's."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

from builder.errors import BuildError, NetworkError, TargetUnavailableError
from tests.conftest import Command
from tests.support.clouds import Place
from tests.support.e2b_server import Server
from tests.support.e2b_server.faults import Fault
from tests.support.e2b_server.state import Team
from tests.support.files import files_with

OTHER = "e2b_" + "ff" * 20
TO = ("--target", "e2b")


@pytest.fixture
def teams(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    """A server of two accounts."""
    with Server(teams=[Team(key="e2b_" + "00" * 20), Team(key=OTHER, slug="other")]) as server:
        for name, value in server.environment.items():
            monkeypatch.setenv(name, value)
        yield server
        assert server.problems == []


@pytest.mark.slow
@pytest.mark.usefixtures("with_four")
def test_address_that_is_not_of_the_api(place: Place, cloud: Server, command: Command) -> None:
    """At a wrong address no template is taken for gone: `plan` and `build` end with the address, and
    `remove` says that tags are left."""
    tags = cloud.tags("four")
    wrong = {"E2B_API_URL": f"{cloud.url}/api"}
    for arguments in (["plan"], ["build"]):
        done = command(*arguments, "four", "--frozen", *TO, cwd=place.folder, **wrong)
        assert done.returncode == NetworkError.exit_code, done.stderr
        assert "no matching operation was found" in done.stderr
        assert f"hint: is `{cloud.url}/api` the address of the API?" in done.stderr
    remove = ("remove", "four", *TO, "--channel", "stable", "--yes")
    done = command(*remove, cwd=place.folder, **wrong)
    assert done.returncode == 0, done.stderr
    assert "note: its tags on e2b are left as they are: " in done.stdout
    assert cloud.tags("four") == tags


@pytest.mark.slow
@pytest.mark.parametrize("same_name", [False, True])
def test_key_of_another_account(
    place: Place, teams: Server, command: Command, same_name: bool
) -> None:
    """With the key of another account nothing is taken for gone or built there, whether that has a
    template of the name or not."""
    place.build("four")
    path = place.folder / "registry.json"
    before, tags = path.read_bytes(), teams.tags("four")
    (ours,) = teams.state.templates
    if same_name:
        body = {"name": "four", "tags": ["default"]}
        teams.state.request_build(teams.state.teams[OTHER], body)
    count = len(teams.builds())
    key = {"E2B_API_KEY": OTHER}
    for arguments in (["plan"], ["build"]):
        done = command(*arguments, "four", "--frozen", *TO, cwd=place.folder, **key)
        assert done.returncode == TargetUnavailableError.exit_code, done.stderr
        assert (
            f"error: the template `four` ({ours}) recorded for e2b belongs to another account than"
            " the key\n" in done.stderr
        )
    assert (path.read_bytes(), len(teams.builds())) == (before, count)
    remove = ("remove", "four", *TO, "--channel", "stable", "--yes")
    done = command(*remove, cwd=place.folder, **key)
    assert done.returncode == 0, done.stderr
    assert "note: its tags on e2b are left as they are: the template `four`" in done.stdout
    assert {**tags} == {tag: build.id for build in teams.builds()[:1] for tag in tags}


@pytest.mark.parametrize("words", ["team is banned", "team is blocked: unpaid"])
@pytest.mark.usefixtures("with_four")
def test_account_that_e2b_refuses(
    place: Place, cloud: Server, command: Command, words: str
) -> None:
    """A team that E2B has banned or blocked is told so, and not that its templates are another
    account's."""
    body = json.dumps({"code": 403, "message": words})
    cloud.front.faults.append(Fault(".*", "status", code=403, body=body, times=1000))
    refused = f"E2B refused the key of target `e2b`: 403: {words}\n"
    for arguments in (["plan"], ["build", "--force"]):
        done = command(*arguments, "four", "--frozen", *TO, cwd=place.folder)
        assert done.returncode == TargetUnavailableError.exit_code, done.stderr
        assert refused in done.stderr
        assert (
            "hint: ask E2B why, or set `E2B_API_KEY` to a key of another account\n" in done.stderr
        )
    remove = ("remove", "four", *TO, "--channel", "stable", "--yes")
    done = command(*remove, cwd=place.folder)
    assert f"note: its tags on e2b are left as they are: {refused}" in done.stdout


@pytest.mark.parametrize("route", ["four/tags", "aliases/four"])
@pytest.mark.usefixtures("with_four")
def test_template_that_the_key_may_not_see(place: Place, cloud: Server, route: str) -> None:
    """A template of which one route alone is refused is not taken for one that is not there."""
    cloud.front.faults.append(Fault(f"GET /templates/{route}", "status", code=403, times=1000))
    with pytest.raises(BuildError, match="`four`"):
        place.planned("four")


@pytest.mark.usefixtures("with_four")
def test_template_that_is_gone_has_no_tags(place: Place, cloud: Server, command: Command) -> None:
    """`remove` says so where a template is not there any more."""
    cloud.state.templates.clear()
    done = command("remove", "four", *TO, "--channel", "stable", "--yes", cwd=place.folder)
    assert "note: the template `four` and its tags are gone from e2b\n" in done.stdout


@pytest.mark.slow
def test_key_of_an_account_stays_there(place: Place, cloud: Server, command: Command) -> None:
    """Building on E2B and failing there puts the account's key into no file and no output, neither
    here nor in a step that is sent."""
    outputs, never = [], ("--precheck", "never")
    for arguments in (["build", "one", "four", *never], ["plan", "--json"]):
        done = command(*arguments, "--target", "e2b", cwd=place.folder, **cloud.environment)
        outputs.append(done.stdout + done.stderr)
    path = place.folder / "variants" / "four.toml"
    path.write_text(path.read_text() + '[[verify]]\nname = "x"\ncode = "import nothing"\n')
    done = command(
        "build", "four", "--target", "e2b", *never, cwd=place.folder, **cloud.environment
    )
    assert done.returncode == 21
    outputs.append(done.stdout + done.stderr)
    assert not [text for text in outputs if cloud.key in text]
    assert files_with(cloud.key, place.folder) == []
    sent = repr([(build.request, build.log) for build in cloud.builds()])
    assert "pip" in sent
    assert cloud.key not in sent
