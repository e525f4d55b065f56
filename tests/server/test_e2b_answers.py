"""Answers that are not those of E2B's API: another server's, cut off, without an end."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from builder.errors import BuildError, NetworkError, TemplateError
from builder.runtime import CodeExecutionPrimitive
from builder.targets.e2b import api, building, retries
from builder.targets.e2b import cloud as of_cloud
from builder.targets.e2b.account import Account
from builder.targets.e2b.cloud import Cloud
from tests.support.clouds import Place
from tests.support.e2b_server import Server
from tests.support.e2b_server.faults import Fault

CALLS: dict[str, tuple[str, Callable[[Cloud], Any]]] = {
    "team": (r"GET /v2/templates", lambda cloud: cloud.team()),
    "state": (r"GET /templates/a/builds/b/status", lambda cloud: cloud.state("a", "b", 0)),
    "tags": (r"GET /templates/a/tags", lambda cloud: cloud.tags("a")),
    "template ID": (r"GET /templates/aliases/a", lambda cloud: cloud.template_id("a")),
    "templates": (r"GET /v2/templates", lambda cloud: cloud.templates()),
    "builds": (r"GET /templates/a", lambda cloud: cloud.newest_builds("a")),
    "deletion": (r"DELETE /templates/a", lambda cloud: cloud.delete_template("a")),
    "moving": (r"POST /templates/tags", lambda cloud: cloud.assign_tags("a", "b", ["c"])),
    "removing": (r"DELETE /templates/tags", lambda cloud: cloud.remove_tags("a", ["c"])),
    "sandbox": (
        r"POST /v2/sandboxes",
        lambda cloud: asyncio.run(cloud.create_sandbox("a", seconds=1, metadata={})),
    ),
    "sandboxes": (r"GET /v2/sandboxes", lambda cloud: cloud.sandboxes({})),
}
PAGE = "<html><body>Sign in</body></html>"


@pytest.fixture
def account(cloud: Server, monkeypatch: pytest.MonkeyPatch) -> Account:
    """The account of the server; nobody waits between two attempts."""
    monkeypatch.setattr(retries.Patience, "_seconds_before", lambda *_: 0.0)
    return Account(api_key=cloud.key)


def failure(account: Account, call: Callable[[Cloud], Any]) -> TemplateError:
    with pytest.raises(TemplateError) as caught:
        call(Cloud(account))
    return caught.value


@pytest.mark.parametrize("body", [PAGE, "null", "7", '[{"names": 7}]', '{"builds": null}'])
@pytest.mark.parametrize("call", CALLS)
def test_answer_of_another_server(cloud: Server, account: Account, call: str, body: str) -> None:
    """A page or a value that is none of E2B's, whatever call it answers, is tried again, and then
    told as what it is, with the address to look at."""
    request, made = CALLS[call]
    cloud.front.faults.append(Fault(request, "status", code=200, body=body, times=1000))
    error = failure(account, made)
    assert type(error) is NetworkError
    assert " failed: the response is not from E2B's API" in error.message
    assert (
        error.hint
        == f"is `{cloud.url}` the address of the API? if it is, run the same command again"
    )
    assert cloud.front.requests.count(request) > 1 or "(" in request


@pytest.mark.parametrize("code", [301, 302, 403, 404])
@pytest.mark.parametrize("call", CALLS)
def test_refusal_of_another_server(cloud: Server, account: Account, call: str, code: int) -> None:
    """A redirect, and a page in place of the reason for a refusal, are not taken for E2B's answer:
    nothing is missing, and nothing is done, because of them."""
    request, made = CALLS[call]
    cloud.front.faults.append(Fault(request, "status", code=code, body=PAGE, times=1000))
    error = failure(account, made)
    assert type(error) is NetworkError
    assert " failed: the response is not from E2B's API" in error.message
    assert "b'" not in error.message


def test_redirect_tells_where_it_leads(cloud: Server, account: Account) -> None:
    """A redirect is not followed, and the error tells where it leads."""
    location = {"location": "https://there.test/"}
    fault = Fault("GET .*", "status", code=301, body=PAGE, headers=location, times=1000)
    cloud.front.faults.append(fault)
    assert failure(account, lambda cloud: cloud.tags("a")).message == (
        "asking for the tags of `a` failed: the response is not from E2B's API: 301: it redirects to"
        " https://there.test/"
    )


@pytest.mark.parametrize("body", [PAGE, "null"])
def test_sandbox_of_another_server(
    ready: Server, monkeypatch: pytest.MonkeyPatch, body: str
) -> None:
    """Applications are told the same, with the address."""
    ready.front.faults.append(
        Fault("POST /v2/sandboxes", "status", code=200, body=body, times=1000)
    )

    async def run() -> None:
        async with CodeExecutionPrimitive(template_id="one"):
            pass

    with pytest.raises(NetworkError) as caught:
        asyncio.run(run())
    assert caught.value.message.endswith(" failed: the response is not from E2B's API")
    assert (
        caught.value.hint
        == f"is `{ready.url}` the address of the API? if it is, run the same command again"
    )


def test_start_that_another_server_answers(place: Place, cloud: Server) -> None:
    """A build that nobody has started, whatever the answer was, is asked for again."""
    fault = Fault("POST /v2/templates/.*", "status", code=200, body="null")
    cloud.front.faults.append(fault)
    assert place.build("four")["four"].error is None
    assert fault.happened == 1
    assert [build.times_started for build in cloud.builds("four")] == [0, 1]


def test_build_that_does_not_begin(
    place: Place, cloud: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While a build that was started does not begin, a line says so."""
    for name, value in (("_QUIET_SECONDS", 0.0), ("_LONGEST_SECONDS", 0.5)):
        monkeypatch.setattr(building, name, value)
    cloud.front.faults.append(Fault("POST /v2/templates/.*", "status", code=202, body=""))
    assert isinstance(place.build("four")["four"].error, BuildError)
    texts = [event.text for event in place.events]
    assert texts.count("waiting for E2B to begin the build") == 1


@pytest.mark.parametrize("call", [call for call in CALLS if call != "team"])
def test_path_that_the_api_does_not_have(cloud: Server, account: Account, call: str) -> None:
    """Below a wrong path nothing is missing, and nothing is done already."""
    wrong = replace(account, api_url=f"{cloud.url}/api")
    error = failure(wrong, CALLS[call][1])
    assert type(error) is NetworkError
    assert " failed: the response is not from E2B's API: 404: validation error: " in error.message
    assert (
        error.hint
        == f"is `{wrong.api_url}` the address of the API? if it is, run the same command again"
    )


@pytest.mark.slow
@pytest.mark.parametrize("call", ["tags", "templates"])
@pytest.mark.usefixtures("with_four")
def test_answer_without_an_end(
    place: Place, cloud: Server, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    """An answer that goes on and on is given up after a while, with a word before the next try."""
    monkeypatch.setattr(retries, "_SLOW_SECONDS", 0.0)
    monkeypatch.setattr(of_cloud, "OF_BUILDS", replace(retries.OF_BUILDS, fault_seconds=2.0))
    for module in (api, of_cloud):
        monkeypatch.setattr(module, "SECONDS", 0.6)
    (template,) = cloud.state.templates
    request = CALLS[call][0].replace("/a/", f"/{template}/")
    fault = Fault(request, "slow body", seconds=0.4, times=1000)
    cloud.front.faults.append(fault)
    told: list[str] = []
    account = Account(api_key=cloud.key)
    with pytest.raises(NetworkError) as caught:
        made = Cloud(account, waiting=told.append)
        made.tags(template) if call == "tags" else made.templates()
    assert "failed: " in caught.value.message
    assert {line.partition(": ")[0] for line in told} == {"waiting for E2B"}
    assert fault.happened == len(told) + 1 <= 3
