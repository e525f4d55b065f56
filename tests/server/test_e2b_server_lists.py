"""E2B's rules for sandboxes and lists, asked of the server of the tests."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from typing import Any
from urllib.parse import quote

import httpx
import pytest

from tests.support.asking import OTHER, Ask, asking, built, of_two_teams, requested
from tests.support.e2b_server import Server


@pytest.fixture
def server() -> Iterator[Server]:
    """A server with two teams."""
    with of_two_teams() as made:
        yield made
        assert made.problems == []


@pytest.fixture
def ask(server: Server) -> Ask:
    return asking(server)


def opened(ask: Ask, template: str, **fields: Any) -> Any:
    """Open a sandbox."""
    answer = ask("POST", "/sandboxes", {"templateID": template, "timeout": 60, **fields})
    assert answer.status_code == 201, answer.text
    return answer.json()


def pages(ask: Ask, path: str, field: str) -> list[str]:
    """Return a field of every item, asked for one at a time."""
    values, token = [], None
    while token != "":
        answer = ask("GET", f"{path}limit=1" + (f"&nextToken={quote(token)}" if token else ""))
        assert answer.status_code == 200, answer.text
        values += [item[field] for item in answer.json()]
        token = answer.headers.get("X-Next-Token", "")
    return values


def token_of(text: str) -> str:
    return base64.urlsafe_b64encode(text.encode()).decode()


def test_templates_come_in_pages(ask: Ask) -> None:
    """The newest template comes first, and a page starts after the last item of the one before,
    even if newer items have come since."""
    made = [requested(ask, name)["templateID"] for name in ("x", "y", "z")]
    assert pages(ask, "/v2/templates?", "templateID") == made[::-1]
    first = ask("GET", "/v2/templates?limit=1")
    requested(ask, "newer")
    token = first.headers["X-Next-Token"]
    time, last = base64.urlsafe_b64decode(token).decode().split("__")
    assert (time[:2], last) == ("20", made[2])
    second = ask("GET", f"/v2/templates?limit=1&nextToken={quote(token)}")
    assert [template["templateID"] for template in second.json()] == [made[1]]


def test_sandboxes_come_in_pages(ask: Ask) -> None:
    """Sandboxes come in both orders, and a token serves only the order that it was made for."""
    built(ask, "x")
    made = [opened(ask, "x")["sandboxID"] for _ in range(3)]
    assert pages(ask, "/v2/sandboxes?", "sandboxID") == made[::-1]
    assert pages(ask, "/v2/sandboxes?order=asc&", "sandboxID") == made
    for order, other in (("asc", "desc"), ("desc", "asc")):
        first = ask("GET", f"/v2/sandboxes?limit=1&order={order}")
        assert first.headers["X-Total-Running"] == "3"
        token = quote(first.headers["X-Next-Token"])
        answer = ask("GET", f"/v2/sandboxes?order={other}&nextToken={token}")
        assert (answer.status_code, answer.json()["message"]) == (400, "Invalid next token")


@pytest.mark.parametrize(
    "token",
    [
        "5",
        "%25",
        token_of("2026-08-01T00:00:00Z"),
        token_of("today__x"),
        token_of("2026-08-01T00:00:00Z__x__down"),
        token_of("2026-08-01T00:00:00Z__x__asc__y"),
    ],
)
def test_token_that_is_none(ask: Ask, token: str) -> None:
    """A token that E2B did not make is refused."""
    template_id = requested(ask, "x")["templateID"]
    for path in ("/v2/templates", "/v2/sandboxes", f"/templates/{template_id}"):
        answer = ask("GET", f"{path}?nextToken={token}")
        assert (answer.status_code, answer.json()["message"]) == (400, "Invalid next token")


def test_sandboxes_of_a_template(ask: Ask) -> None:
    """Sandboxes are listed by template, which has no tag there; one that nobody has is no error."""
    made = {name: built(ask, name)["templateID"] for name in ("x", "y")}
    sandboxes = {name: opened(ask, name)["sandboxID"] for name in made}
    for template, owner in (
        ("x", "x"), (made["x"], "x"), ("team%2Fx", "x"), ("Y", "y"), ("z", None), ("other%2Fx", None)
    ):  # fmt: skip
        answer = ask("GET", f"/v2/sandboxes?template={template}")
        expected = [sandboxes[owner]] if owner else []
        assert [sandbox["sandboxID"] for sandbox in answer.json()] == expected
        assert answer.headers["X-Total-Running"] == str(len(expected))
    for template, message in (
        ("x:v1", "tags are not supported here because sandboxes are not tag-scoped"),
        ("a.b", "invalid template ID: a.b"),
    ):
        answer = ask("GET", f"/v2/sandboxes?template={template}")
        assert (answer.status_code, answer.json()["message"]) == (
            400,
            f"Invalid template: {message}",
        )


def test_sandboxes_since(ask: Ask) -> None:
    """Sandboxes are listed from a moment on; the number of running ones is told if those are asked
    for."""
    built(ask, "x")
    first, second = opened(ask, "x")["sandboxID"], opened(ask, "x")["sandboxID"]
    times = {
        sandbox["sandboxID"]: quote(sandbox["startedAt"])
        for sandbox in ask("GET", "/v2/sandboxes").json()
    }
    for moment, listed in (
        (times[first], [second, first]),
        (times[second], [second]),
        ("2099-01-01T00:00:00Z", []),
    ):
        answer = ask("GET", f"/v2/sandboxes?startedAfter={moment}")
        assert [sandbox["sandboxID"] for sandbox in answer.json()] == listed
        assert answer.headers["X-Total-Running"] == str(len(listed))
    assert "X-Total-Running" not in ask("GET", "/v2/sandboxes?state=paused").headers


def test_sandbox_without_a_token(server: Server, ask: Ask) -> None:
    """Only a sandbox that is asked to be secure has a token for envd, which is open without one."""
    built(ask, "x")
    plain, secure = opened(ask, "x"), opened(ask, "x", secure=True)
    assert "envdAccessToken" not in plain
    assert "envdAccessToken" in ask("POST", "/v2/sandboxes", {"templateID": "x"}).json()
    for made, code in ((plain, 200), (secure, 401)):
        headers = {"E2b-Sandbox-Id": made["sandboxID"], "E2b-Sandbox-Port": "49983"}
        put = {"Content-Type": "application/octet-stream"}
        answer = httpx.post(f"{server.url}/files?path=a", content=b"a", headers=headers | put)
        assert answer.status_code == code, answer.text


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (
            {"autoPauseMemory": False},
            "autoPauseMemory=false only applies when autoPause is true.",
        ),
        (
            {"network": {"allowPublicTraffic": False}},
            "You cannot create a sandbox without public access unless you enable secure envd access"
            " via 'secure' flag.",
        ),
    ],
)
def test_sandbox_that_is_refused(ask: Ask, fields: dict[str, Any], message: str) -> None:
    """Fields that mean nothing without another one are refused without it."""
    built(ask, "x")
    answer = ask("POST", "/sandboxes", {"templateID": "x", "timeout": 60, **fields})
    assert (answer.status_code, answer.json()["message"]) == (400, message)
    opened(ask, "x", **fields, autoPause=True, secure=True)


def test_id_of_a_sandbox(ask: Ask) -> None:
    """The ID of a sandbox has small letters and digits, and may be followed by that of a machine."""
    built(ask, "x")
    sandbox = opened(ask, "x")["sandboxID"]
    for method, path, body in (("GET", "", None), ("POST", "/timeout", {"timeout": 60}), ("DELETE", "", None)):  # fmt: skip
        for wrong in ("Foo_Bar", "a-b-c", "-"):
            answer = ask(method, f"/sandboxes/{wrong}{path}", body)
            assert (answer.status_code, answer.json()["message"]) == (400, "Invalid sandbox ID")
        answer = ask(method, f"/sandboxes/absent-6532622b{path}", body)
        assert (answer.status_code, answer.json()["message"]) == (
            404,
            "Sandbox \"absent\" doesn't exist or you don't have access to it",
        )
        assert ask(method, f"/sandboxes/{sandbox}-6532622b{path}", body).is_success


def test_template_whose_only_sandbox_is_another_teams(ask: Ask) -> None:
    """A template is deleted while only another team's sandbox runs of it, and not while its own
    team's does."""
    made = built(ask, "x")
    assert ask("PATCH", f"/v2/templates/{made['templateID']}", {"public": True}).is_success
    sandbox = {"templateID": made["templateID"], "timeout": 60}
    assert ask("POST", "/sandboxes", sandbox, key=OTHER).status_code == 201
    own = opened(ask, "x")["sandboxID"]
    answer = ask("DELETE", "/templates/x")
    assert (answer.status_code, answer.json()["message"]) == (
        400,
        f"cannot delete template '{made['templateID']}' because there are running sandboxes using it",
    )
    assert ask("DELETE", f"/sandboxes/{own}").status_code == 204
    assert ask("DELETE", "/templates/x").status_code == 204
