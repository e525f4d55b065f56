"""E2B's rules for templates, asked of the server of the tests as E2B's own integration tests ask
for them (github.com/e2b-dev/infra, `tests/integration/internal/tests/api/templates`).

Of its 58 cases 55 hold. Three do not, since nothing provisions a machine here:
TestTemplateBuildDistroFamilies (of five distributions), TestTemplateBuildInstalledPackagesAvailable
(its packages) and TestTemplateBuildFuseConfiguration (its device). Those about builds are in
`test_e2b_server_builds.py`, those about statuses and pages in `test_e2b_server_status.py` and
`test_e2b_server_lists.py`, and those whose steps have to run in `test_e2b_server_steps.py`.
"""

from __future__ import annotations

import gzip
from collections.abc import Iterator

import httpx
import pytest

from tests.support.asking import OTHER, Ask, asking, built, of_two_teams, requested
from tests.support.e2b_server import Server
from tests.support.runs import until


@pytest.fixture
def server() -> Iterator[Server]:
    """A server with two teams."""
    with of_two_teams() as made:
        yield made
        assert made.problems == []


@pytest.fixture
def ask(server: Server) -> Ask:
    return asking(server)


def tag(ask: Ask, target: str, *tags: str) -> httpx.Response:
    return ask("POST", "/templates/tags", {"target": target, "tags": tags})


def build_of_sandbox(server: Server, ask: Ask, reference: str) -> str:
    """The build that a sandbox of a reference runs."""
    answer = ask("POST", "/sandboxes", {"templateID": reference, "timeout": 60})
    assert answer.status_code == 201, answer.text
    sandbox_id = answer.json()["sandboxID"]
    build_id = server.running[sandbox_id].build.id
    assert ask("DELETE", f"/sandboxes/{sandbox_id}").status_code == 204
    return build_id


@pytest.mark.parametrize(
    ("size", "message"),
    [
        ({"cpuCount": 0}, "validation error"),
        ({"memoryMB": 32}, "validation error"),
        ({"cpuCount": 1024}, "CPU count must be at most 32"),
        ({"cpuCount": 3}, "CPU count must be 1 or an even number"),
        ({"memoryMB": 1024 * 1024}, "Memory can't be higher than 8192 MiB"),
        ({"memoryMB": 1001}, "Memory must be divisible by 2"),
        ({"cpuCount": 2, "memoryMB": 1024}, None),
    ],
)
def test_size_of_a_template(ask: Ask, size: dict[str, int], message: str | None) -> None:
    """A size is refused that no machine can have, or the team's tier does not allow."""
    answer = ask("POST", "/v3/templates", {"name": "x", **size})
    assert answer.status_code == (400 if message else 202)
    assert answer.json().get("message", "").startswith(message or "")


@pytest.mark.parametrize("path", ["/templates", "/v2/templates"])
def test_list_of_templates(server: Server, ask: Ask, path: str) -> None:
    """The templates of the key's team are listed, and of no other team, even if it is named."""
    made = requested(ask, "x")
    for address in (path, f"{path}?teamID={server.state.teams[server.key].id}"):
        assert [one["templateID"] for one in ask("GET", address).json()] == [made["templateID"]]
    other = ask("GET", f"{path}?teamID=00000000-0000-0000-0000-000000000000")
    assert (other.status_code, other.json()["message"]) == (
        400,
        "Team ID param mismatch with the API key",
    )
    assert ask("GET", path, key=OTHER).json() == []
    assert ask("GET", path, key="invalid-api-key").status_code == 401


def test_deleted_template(ask: Ask) -> None:
    """A template is deleted by its name or ID; of another team's, the name is not known. Its
    ID is never a name."""
    made = built(ask, "x")
    assert ask("DELETE", "/templates/x", key=OTHER).status_code == 404
    assert ask("DELETE", f"/templates/{made['templateID']}", key=OTHER).status_code == 403
    assert ask("DELETE", "/templates/x").status_code == 204
    assert ask("DELETE", "/templates/x").status_code == 404
    named = ask("POST", "/v3/templates", {"name": made["templateID"]})
    assert (named.status_code, named.json()["message"]) == (
        409,
        f"Alias '{made['templateID']}' is already used",
    )


def test_visibility_of_a_template(server: Server, ask: Ask) -> None:
    """A template is published and taken back by its team alone; others run it while it is."""
    made = built(ask, "x")
    path = f"/v2/templates/{made['templateID']}"
    sandbox = {"templateID": made["templateID"], "timeout": 60}
    for public, code in ((True, 201), (False, 404)):
        answer = ask("PATCH", path, {"public": public})
        assert (answer.status_code, answer.json()) == (200, {"names": ["team/x"]})
        assert [one["public"] for one in ask("GET", "/templates").json()] == [public]
        assert ask("POST", "/sandboxes", sandbox, key=OTHER).status_code == code
    assert ask("PATCH", path, {"public": True}, key="invalid-api-key").status_code == 401
    assert ask("PATCH", path, {"public": True}, key=OTHER).status_code == 403
    assert ask("PATCH", "/v2/templates/non-existing", {"public": True}).status_code == 404
    assert [one["public"] for one in ask("GET", "/templates").json()] == [False]


@pytest.mark.slow
def test_tags_of_a_build(server: Server, ask: Ask) -> None:
    """A tag is given to the build that another tag, its name or its own ID leads to."""
    made = built(ask, "x")
    template_id, build_id = made["templateID"], made["buildID"]
    for target, given in (
        (f"{template_id}:default", "staging"),
        (f"{template_id}:staging", "production"),
        ("x:default", "stable"),
        (f"X:{build_id.upper()}", "V1.0.0"),
    ):
        answer = tag(ask, target, given)
        assert answer.status_code == 201, answer.text
        assert answer.json() == {"tags": [given.lower()], "buildID": build_id}
    for name in ("staging", "production", "stable", "v1.0.0", "default", build_id):
        assert build_of_sandbox(server, ask, f"{template_id}:{name}") == build_id
        assert build_of_sandbox(server, ask, f"x:{name}") == build_id


def test_tag_that_is_refused(ask: Ask) -> None:
    """No tag is given to what is not there, none is empty, and `default` is never taken away."""
    built(ask, "x")
    assert tag(ask, "nonexistent-template-id:default", "v1").status_code == 404
    assert tag(ask, "x:nonexistent", "v1").status_code == 404
    for answer, message in (
        (tag(ask, "x:default", ""), "Invalid tag: invalid tag '': invalid tag: "),
        (tag(ask, "x:default"), "At least one tag is required"),
        (
            ask("DELETE", "/templates/tags", {"name": "x", "tags": ["Default"]}),
            "Cannot delete the 'default' tag",
        ),
        (
            ask("DELETE", "/templates/tags", {"name": "x", "tags": []}),
            "At least one tag is required",
        ),
        (
            ask("DELETE", "/templates/tags", {"name": "x:v1", "tags": ["v1"]}),
            "Template name should not contain a tag, use the 'tags' field instead",
        ),
        (tag(ask, "other/x:default", "v1"), "namespace 'other' must match your team 'team'"),
    ):
        assert (answer.status_code, answer.json()["message"]) == (400, message)
    missing = ask("POST", "/sandboxes", {"templateID": "x:nonexistent-tag", "timeout": 60})
    assert (missing.status_code, missing.json()["message"]) == (
        404,
        "tag 'nonexistent-tag' does not exist for template 'team/x'",
    )


def test_tag_is_where_it_was_last_given(server: Server, ask: Ask) -> None:
    """Sandboxes run the build that a tag was given to last, and a name without a tag the newest."""
    first, second = built(ask, "x"), built(ask, "x")
    assert first["templateID"] == second["templateID"]
    assert build_of_sandbox(server, ask, "x:default") == second["buildID"]
    for made in (first, second):
        answer = tag(ask, f"{made['templateID']}:{made['buildID']}", "stable")
        assert answer.json()["buildID"] == made["buildID"]
        assert build_of_sandbox(server, ask, "x:stable") == made["buildID"]


def test_build_that_lost_its_last_tag(server: Server, ask: Ask) -> None:
    """A build that no tag was left on is reached by nobody, not even by its own ID."""
    made = requested(ask, "x", tags=["v1"])
    path = f"/v2/templates/{made['templateID']}/builds/{made['buildID']}"
    assert ask("POST", path, {"fromImage": "a"}).status_code == 202
    until(lambda: server.builds()[0].status == "ready")
    assert ask("DELETE", "/templates/tags", {"name": "x", "tags": ["v1"]}).status_code == 204
    sandbox = {"templateID": f"x:{made['buildID']}", "timeout": 60}
    assert ask("POST", "/sandboxes", sandbox).status_code == 404
    path = f"/templates/{made['templateID']}/builds/{made['buildID']}/status"
    assert ask("GET", path).status_code == 400
    assert ask("GET", f"/templates/{made['templateID']}").json()["builds"] == []


@pytest.mark.parametrize(
    ("name", "tags", "given"),
    [("x", ["v1.0.0", "stable"], ["v1.0.0", "stable"]), ("x:Production", [], ["production"])],
)
def test_build_with_tags(
    server: Server, ask: Ask, name: str, tags: list[str], given: list[str]
) -> None:
    """A build has the tags of its request and of its name, and then not `default`."""
    made = built(ask, name, tags=tags)
    assert set(made["tags"]) == set(given)
    for one in given:
        assert build_of_sandbox(server, ask, f"x:{one}") == made["buildID"]
    assert ask("POST", "/sandboxes", {"templateID": "x", "timeout": 60}).status_code == 404


def test_template_without_a_namespace(server: Server, ask: Ask) -> None:
    """A template without a namespace, as E2B's `base`, is run by everybody under its bare name, as
    long as their team has none of that name, and is not theirs."""
    made = requested(ask, "base")
    path = f"/v2/templates/{made['templateID']}"
    assert ask("POST", f"{path}/builds/{made['buildID']}", {"fromImage": "a"}).status_code == 202
    until(lambda: server.builds()[0].status == "ready")
    assert ask("PATCH", path, {"public": True}).status_code == 200
    alias, sandbox = "/templates/aliases/base", {"templateID": "base", "timeout": 60}
    assert ask("GET", alias, key=OTHER).status_code == 404
    server.state.templates[made["templateID"]].promoted = True
    answer = ask("GET", alias, key=OTHER)
    assert (answer.status_code, answer.json()["message"]) == (
        403,
        "You don't have access to this template alias",
    )
    assert ask("POST", "/sandboxes", sandbox, key=OTHER).json()["templateID"] == made["templateID"]
    own = ask("POST", "/v3/templates", {"name": "base"}, key=OTHER).json()
    assert own["names"] == ["other/base"]
    assert ask("GET", alias, key=OTHER).json()["templateID"] == own["templateID"]
    missing = ask("POST", "/sandboxes", sandbox, key=OTHER)
    assert (missing.status_code, missing.json()["message"]) == (
        404,
        "tag 'default' does not exist for template 'other/base'",
    )


def test_banned_team(server: Server, ask: Ask) -> None:
    """A banned team is refused by every call."""
    server.state.teams[OTHER].banned = True
    for method, path, body in (
        ("GET", "/templates", None),
        ("GET", "/v2/sandboxes", None),
        ("POST", "/v3/templates", {"name": "x"}),
        ("POST", "/sandboxes", {"templateID": "x"}),
        ("DELETE", "/templates/x", None),
    ):
        answer = ask(method, path, body, key=OTHER)
        assert (answer.status_code, answer.json()["message"]) == (403, "team is banned")


def test_waiting_builds_count(server: Server, ask: Ask) -> None:
    """Builds that were asked for and never started count, but none that the new one takes over."""
    server.state.teams[server.key].builds_at_a_time = 1
    requested(ask, "x")
    for name, code in (("y", 429), ("x:v1", 429), ("x", 202)):
        answer = ask("POST", "/v3/templates", {"name": name})
        assert answer.status_code == code, name
    assert (
        "maximum number of concurrent template builds (1)"
        in ask("POST", "/v3/templates", {"name": "y", "cpuCount": 3}).json()["message"]
    )


def test_files_of_a_step(ask: Ask) -> None:
    """A place for files is given by the template's ID, for a hash that is one, also for
    files that are there already."""
    made = requested(ask, "x")
    path = f"/templates/{made['templateID']}/files"
    for present in (False, True):
        answer = ask("GET", f"{path}/{'a' * 64}").json()
        assert answer["present"] is present
        assert httpx.put(answer["url"], content=gzip.compress(b"")).status_code == 200
    for address, key, code in (
        (f"{path}/{'A' * 64}", {}, 400),
        (f"{path}/abc", {}, 400),
        (f"/templates/x/files/{'a' * 64}", {}, 404),
        (f"{path}/{'a' * 64}", {"key": OTHER}, 404),
    ):
        assert ask("GET", address, **key).status_code == code


def test_names_are_lowered(ask: Ask) -> None:
    """A name is trimmed and lowered wherever it is given, in the namespace of the team."""
    made = built(ask, " Team/X:V1 ")
    assert (made["names"], made["aliases"], made["tags"]) == (["team/x"], ["x"], ["v1"])
    for alias, code in (("x", 200), ("X:V1", 200), ("team%2Fx", 200), ("other%2Fx", 400)):
        assert ask("GET", f"/templates/aliases/{alias}").status_code == code
    for alias, key, code in (("x:v2", {}, 404), ("y", {}, 404), ("x", {"key": OTHER}, 404),
                             (made["templateID"], {"key": OTHER}, 403)):  # fmt: skip
        assert ask("GET", f"/templates/aliases/{alias}", **key).status_code == code


def test_sandbox_lives_as_long_as_the_tier_allows(ask: Ask) -> None:
    """A sandbox is not created for longer than the tier allows; later it is given what is left."""
    built(ask, "x")
    for seconds, message in (
        (3601, "Timeout cannot be greater than 1 hours"),
        (0, "Timeout must be greater than 0"),
    ):
        answer = ask("POST", "/v2/sandboxes", {"templateID": "x", "timeout": seconds})
        assert (answer.status_code, answer.json()["message"]) == (400, message)
    sandbox = ask("POST", "/v2/sandboxes", {"templateID": "x", "timeout": 3600}).json()["sandboxID"]
    assert ask("POST", f"/sandboxes/{sandbox}/timeout", {"timeout": 7200}).status_code == 204
    (listed,) = ask("GET", "/v2/sandboxes").json()
    assert listed["startedAt"][:13] <= listed["endAt"][:13]
    for method, path in (("DELETE", ""), ("GET", ""), ("POST", "/timeout")):
        body = {"timeout": 1} if path else None
        answer = ask(method, f"/sandboxes/{sandbox}{path}", body, key=OTHER)
        assert (answer.status_code, answer.json()["message"]) == (
            404,
            f"Sandbox \"{sandbox}\" doesn't exist or you don't have access to it",
        )
