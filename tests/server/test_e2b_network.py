"""The network of sandboxes on E2B: E2B's rules, and the requests of this program."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from builder.runtime import CodeExecutionPrimitive
from tests.support.asking import Ask, asking, built
from tests.support.clouds import Place
from tests.support.e2b_server import Server
from tests.support.e2b_server.egress import ALL, Egress
from tests.support.e2b_server.sandboxes import Running

EVERYTHING, NOTHING = Egress(), Egress(denied=(ALL,))
HOSTS = Egress(allowed=("example.com", "*.example.org"), denied=(ALL,))
DOMAINS_ALONE = (
    "When specifying allowed domains in allow out, you must include 'ALL_TRAFFIC' in deny out to"
    " block all other traffic."
)


@pytest.fixture
def ask(cloud: Server) -> Ask:
    ask = asking(cloud)
    built(ask, "x")
    return ask


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"network": {"allowOut": ["example.com"]}}, DOMAINS_ALONE),
        (
            {"network": {"allowOut": ["example.com"]}, "allow_internet_access": False},
            DOMAINS_ALONE,
        ),
        ({"network": {"denyOut": ["example.com"]}}, "invalid denied CIDR example.com"),
        ({"network": {"denyOut": ["0.0.0.0/8"]}}, "invalid denied CIDR 0.0.0.0/8"),
        ({"network": {"allowOut": ["::/64"]}}, "invalid allowed address ::/64"),
        (
            {"network": {"allowOut": ["a_b.com"], "denyOut": [ALL]}},
            "invalid allowed domain: a_b.com",
        ),
        (
            {"network": {"allowOut": ["https://a.com"], "denyOut": [ALL]}},
            "invalid allowed domain: https://a.com",
        ),
        (
            {"network": {"allow_out": ["a.com"]}},
            "Error at \"/network\": Additional properties are not allowed ('allow_out' was"
            " unexpected)",
        ),
        (
            {"network": {"allowOut": "a.com"}},
            "Error at \"/network/allowOut\": 'a.com' is not of type 'array'",
        ),
        (
            {"allow_internet_access": "no"},
            "Error at \"/allow_internet_access\": 'no' is not of type 'boolean'",
        ),
    ],
)
def test_network_that_e2b_refuses(ask: Ask, fields: dict[str, Any], message: str) -> None:
    """The stand-in refuses the networks that E2B refuses: host names require that all others are
    denied."""
    answer = ask("POST", "/v2/sandboxes", {"templateID": "x", **fields})
    assert answer.status_code == 400
    assert message in answer.json()["message"]


@pytest.mark.parametrize(
    ("fields", "egress"),
    [
        ({}, EVERYTHING),
        ({"allow_internet_access": True}, EVERYTHING),
        ({"allow_internet_access": False}, NOTHING),
        ({"network": {"denyOut": [ALL]}}, NOTHING),
        (
            {"network": {"allowOut": ["example.com", "*.example.org"], "denyOut": [ALL]}},
            HOSTS,
        ),
        ({"network": {"allowOut": ["8.8.8.0/24"]}}, Egress(allowed=("8.8.8.0/24",))),
    ],
)
def test_network_that_e2b_takes(
    cloud: Server, ask: Ask, fields: dict[str, Any], egress: Egress
) -> None:
    """The stand-in accepts the networks that E2B accepts, where allowed hosts take precedence over
    denied ones."""
    answer = ask("POST", "/v2/sandboxes", {"templateID": "x", **fields})
    assert answer.status_code == 201, answer.text
    assert cloud.running[answer.json()["sandboxID"]].egress == egress


def egress_of(server: Server, **options: Any) -> Egress:
    """Return the network of the sandbox of a primitive."""

    async def opened() -> Egress:
        async with CodeExecutionPrimitive(**options):
            (sandbox,) = server.running.values()
            return sandbox.egress

    return asyncio.run(opened())


@pytest.mark.network
@pytest.mark.parametrize(
    ("network", "egress"),
    [
        (None, EVERYTHING),
        ("none", NOTHING),
        ("allow", EVERYTHING),
        (["example.com", "*.example.org"], HOSTS),
    ],
)
def test_argument_becomes_the_options_of_the_sdk(
    ready: Server, network: Any, egress: Egress
) -> None:
    """The argument `network` decides what a sandbox may reach, even for a template that only E2B
    knows."""
    assert egress_of(ready, template_id="one", network=network) == egress
    ref = next(iter(ready.state.templates))
    assert egress_of(ready, template_id=ref, network=network) == egress


@pytest.mark.slow
@pytest.mark.network
def test_network_of_a_spec_reaches_its_sandboxes(
    place: Place, cloud: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A build is verified, recorded and opened with the network of its spec, unless the application
    passes another. Without one, E2B's default applies."""
    monkeypatch.setenv("TEMPLATE_REGISTRY", str(place.folder / "registry.json"))
    seen: list[Egress] = []
    end = cloud.end

    def noted(sandbox: Running) -> None:
        seen.append(sandbox.egress)
        end(sandbox)

    monkeypatch.setattr(cloud, "end", noted)
    assert place.build("four")["four"].error is None
    assert set(seen) == {EVERYTHING}
    assert "network" not in place.recorded("four")
    assert egress_of(cloud, template_id="four") == EVERYTHING
    place.edit("_base", lambda text: text.replace("[base]", 'network = "none"\n[base]'))
    seen.clear()
    outcome = place.build("four")["four"]
    assert (outcome.error, outcome.action) == (None, "built")
    assert set(seen) == {NOTHING}
    assert place.recorded("four")["network"] == "none"
    assert egress_of(cloud, template_id="four") == NOTHING
    assert egress_of(cloud, template_id="four", network="allow") == EVERYTHING


@pytest.mark.network
def test_primitives_with_another_network_share_no_pool(ready: Server) -> None:
    """A pooled sandbox serves only primitives with the same network."""

    async def opened() -> set[Egress]:
        seen = set()
        for network in ("none", "allow"):
            options: dict[str, Any] = {"network": network, "pool_size": 1}
            async with CodeExecutionPrimitive(template_id="one", **options) as executor:
                output = await executor.execute({"code": "1"})
                seen.add(ready.running[output["sandbox_id"]].egress)
        return seen

    assert asyncio.run(opened()) == {NOTHING, EVERYTHING}
