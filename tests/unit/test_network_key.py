"""The key `network` on its way from a spec to the sandboxes of its template."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from builder import record, registry
from builder.errors import RegistryError, SandboxError
from builder.plan import Situation, make_plan
from builder.runtime import CodeExecutionPrimitive
from builder.sandbox.network import Network
from builder.targets.e2b.program import not_provided
from tests.conftest import BASE, ROOT, Command
from tests.support.pages import blocks
from tests.support.samples import load, problems, rendered_of, verified_of

Write = Callable[..., Path]
LEAF = "schema = 1\nname = 'leaf'\nextends = '_base'\n"
HOSTS = "network = ['example.com', '*.example.org']\n"
EXPECTED = 'expected "none", "allow" or a list of hosts such as ["example.com", "*.example.org"]'


def with_network(text: str) -> str:
    return BASE.replace("schema = 1\n", f"schema = 1\n{text}")


@pytest.mark.parametrize(
    ("base", "leaf", "network"),
    [
        ("", "", None),
        ("network = 'none'\n", "", "none"),
        (HOSTS, "", "example.com, *.example.org"),
        (HOSTS, "network = 'allow'\n", "allow"),
        ("network = 'allow'\n", "network = ['Example.com']\n", "example.com"),
    ],
)
def test_a_child_replaces_the_network_of_its_parent(
    tmp_path: Path, base: str, leaf: str, network: str | None
) -> None:
    """The last spec of a chain that sets `network` decides; without any, it is not set."""
    variant = load(tmp_path, _base=with_network(base), leaf=LEAF + leaf)["leaf"]
    assert (variant.network and str(variant.network)) == network


@pytest.mark.parametrize(
    ("text", "mistakes"),
    [
        (
            "network = 'nome'",
            ['4:1: `network`: \'nome\' is neither "none" nor "allow" (did you mean `none`?)'],
        ),
        (
            "network = 'example.com'",
            [
                '4:1: `network`: \'example.com\' is neither "none" nor "allow"'
                ' (write ["example.com"] to allow that host alone)'
            ],
        ),
        ("network = true", ['4:1: `network`: neither text nor a list (write "allow")']),
        (
            f"network = 0x{'f' * 5000}",
            [f"4:1: `network`: neither text nor a list ({EXPECTED})"],
        ),
        ("[network]\na = 1", [f"4:2: `network`: neither text nor a list ({EXPECTED})"]),
        (
            "network = []",
            ['4:1: `network`: the list is empty (write "none" to allow no host)'],
        ),
        (
            "network = [\n  'example.com',\n  'https://example.org/',\n  3,\n  '10.0.0.1',\n]",
            [
                "6:3: `network[1]`: 'https://example.org/' is not the name of a host"
                " (write 'example.org')",
                "7:3: `network[2]`: expected a string, found 3",
                "8:3: `network[3]`: '10.0.0.1' is an IP address (write the name of the host)",
            ],
        ),
        ("netwrok = 'none'", ["4:1: `netwrok`: unknown key (did you mean `network`?)"]),
    ],
)
def test_mistakes_have_their_line(write: Write, text: str, mistakes: list[str]) -> None:
    """Each mistake in the key is reported with its file, line and place in the list, and a
    correction."""
    folder = write(_base=BASE, leaf=LEAF + text)
    assert problems(folder) == [f"variants/leaf.toml:{mistake}" for mistake in mistakes]


def test_the_documented_spec_is_one(tmp_path: Path) -> None:
    """The spec on the page about security is valid, and has the hosts that the page names."""
    (spec,) = [text for kind, text in blocks(ROOT / "docs" / "security.md") if kind == "toml"]
    network = load(tmp_path, reports=spec)["reports"].network
    assert network
    hosts = ("example.com", "a.example.com", "a.b.example.org", "example.org")
    assert [network.allows(host) for host in hosts] == [True, False, True, False]


def test_the_digest_covers_the_network_once_it_is_set(tmp_path: Path) -> None:
    """A network is in `template.toml`, and so in the digest, only if a spec sets it."""
    texts = ["", "network = 'none'\n", "network = 'allow'\n", HOSTS]
    rendered = [
        rendered_of(load(tmp_path / str(number), _base=BASE, leaf=LEAF + text)["leaf"])
        for number, text in enumerate(texts)
    ]
    assert len({each.digest for each in rendered}) == 4
    lines = [
        [line for line in each.content("template.toml").decode().splitlines() if "network" in line]
        for each in rendered
    ]
    assert lines == [[], ['network = "none"'], ['network = "allow"'], ["network = ["]]
    assert len({each.content("Dockerfile") for each in rendered}) == 1


def recorded(tmp_path: Path, text: str) -> tuple[Path, str]:
    """Record a build of a spec with this text; return the registry and its ref."""
    rendered = rendered_of(load(tmp_path, _base=BASE, leaf=LEAF + text)["leaf"])
    path = tmp_path / "registry.json"
    record.record(path, verified_of(rendered), rendered, by="a tester")
    return path, verified_of(rendered).built.ref


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("", None),
        ("network = 'none'\n", "none"),
        ("network = 'allow'\n", "allow"),
        (HOSTS, ["example.com", "*.example.org"]),
    ],
)
def test_the_record_holds_the_network(tmp_path: Path, text: str, value: object) -> None:
    """The record of a build has the network if the spec sets it; applications and later
    verifications read it."""
    path, ref = recorded(tmp_path, text)
    builds = json.loads(path.read_text())["templates"]["leaf"]["local"]["builds"]
    assert builds[ref].get("network") == value
    recorded_build = registry.lookup("leaf", path=path)
    network = None if value is None else Network.of(value)
    assert recorded_build.network == network
    assert record.recalled(recorded_build).variant.network == network


def test_a_wrong_network_in_the_registry_is_refused(tmp_path: Path) -> None:
    """A damaged network in the file is refused with its key, and never ignored."""
    path = tmp_path / "registry.json"
    for value in ("nome", [], ["10.0.0.1"], {"hosts": None}):
        build = {"template_id": "t", "network": value}
        entry = {"channels": {"stable": "r"}, "builds": {"r": build}}
        path.write_text(json.dumps({"version": 1, "templates": {"t": {"e2b": entry}}}))
        with pytest.raises(RegistryError) as refused:
            registry.lookup("t", path=path)
        assert refused.value.message == (
            f"{path}: `network` of build `r` of template `t` on `e2b` is {json.dumps(value)},"
            f" {EXPECTED}"
        )


def test_a_plan_names_a_changed_network(tmp_path: Path) -> None:
    """A plan names a changed network as a reason to build, with both values."""
    path, _ = recorded(tmp_path, "network = 'none'\n")
    reasons = []
    for text in (HOSTS, ""):
        rendered = rendered_of(load(tmp_path, leaf=LEAF + text)["leaf"])
        plan = make_plan(
            {"leaf": rendered}, registry.load(path).templates, Situation(target="local")
        )
        reasons += [str(reason) for reason in plan.variants[0].reasons]
    assert reasons == [
        "`network` changed: none → example.com, *.example.org",
        "`network` none is gone",
    ]


def test_config_shows_the_network_with_its_place(write: Write, command: Command) -> None:
    """`config` shows the network of the chain with its place, and nothing if it is not set."""
    folder = write(_base=with_network(HOSTS), leaf=LEAF + "network = ['example.net']\n").parent
    lines = command("config", "leaf", cwd=folder).stdout.splitlines()
    assert lines[3:7] == ["# variants/leaf.toml:4", "network = [", '    "example.net",', "]"]
    (folder / "variants" / "leaf.toml").write_text(LEAF + "network = 'none'\n")
    lines = command("config", "leaf", cwd=folder).stdout.splitlines()
    assert lines[3] == 'network = "none"  # variants/leaf.toml:4'
    write(_base=BASE, leaf=LEAF)
    assert "network" not in command("config", "leaf", cwd=folder).stdout


def test_show_and_diff_have_the_network(tmp_path: Path, command: Command) -> None:
    """`show` lists the hosts of a build, and `diff` the networks of two builds."""
    path, first = recorded(tmp_path, HOSTS)
    _, second = recorded(tmp_path, "network = 'none'\n")
    variables = {"TEMPLATE_REGISTRY": str(path)}
    shown = command("show", "leaf", first, **variables).stdout
    assert "\n  network:\n    - example.com\n    - *.example.org\n" in shown
    assert "\n  network: none\n" in command("show", "leaf", second, **variables).stdout
    done = command("diff", f"leaf@{first}", f"leaf@{second}", "--json", **variables)
    changes = json.loads(done.stdout)["differences"]
    assert {
        "kind": "spec",
        "what": "network",
        "old": "example.com, *.example.org",
        "new": "none",
    } in changes


def test_what_e2b_does_not_filter_is_named(tmp_path: Path) -> None:
    """A plan on E2B says that a list of hosts allows only HTTP and TLS, and nothing of a word."""
    lines = [
        not_provided(load(tmp_path / str(number), _base=BASE, leaf=LEAF + text)["leaf"])
        for number, text in enumerate((HOSTS, "network = 'none'\n", "network = 'allow'\n", ""))
    ]
    assert lines == [
        (
            "`network` (variants/leaf.toml:4) for anything but HTTP on port 80 and TLS on port 443:"
            " E2B sees the name of a host only there, and refuses all other connections, except to"
            " DNS at 8.8.8.8",
        ),
        (),
        (),
        (),
    ]


@pytest.mark.parametrize(
    ("argument", "network"),
    [(None, "none"), ("allow", "allow"), (["Example.com"], "example.com"), (("a.example",), "a.example")],
)  # fmt: skip
def test_an_argument_replaces_the_network_of_the_template(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, argument: Any, network: str
) -> None:
    """A template opens with the network of its record, unless the application passes another."""
    path, _ = recorded(tmp_path, "network = 'none'\n")
    monkeypatch.setenv("TEMPLATE_REGISTRY", str(path))
    executor = CodeExecutionPrimitive(template_id="leaf", target="local", network=argument)
    assert str(executor._current.policy.template.network) == network


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ("nome", "network: 'nome' is neither \"none\" nor \"allow\" (did you mean `none`?)"),
        (False, 'network: neither text nor a list (write "none")'),
        (["*", "::1"], "network: '*' is not the name of a host (write \"allow\" instead of the list); '::1' is an IP address (write the name of the host)"),
    ],
)  # fmt: skip
def test_a_wrong_argument_is_refused(argument: Any, message: str) -> None:
    """An invalid argument is refused before the template is looked up."""
    with pytest.raises(ValueError, match="network: ") as refused:
        CodeExecutionPrimitive(template_id="x", target="local", network=argument)
    assert str(refused.value) == message


def test_a_target_that_cannot_restrict_the_network_opens_no_sandbox(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without isolation, a sandbox with a restricted network does not open on this machine."""
    path, _ = recorded(tmp_path, "network = 'none'\n")
    monkeypatch.setenv("TEMPLATE_REGISTRY", str(path))
    executor = CodeExecutionPrimitive(template_id="leaf", target="local", isolation="none")
    with pytest.raises(SandboxError) as refused:
        asyncio.run(executor.execute({"code": "1"}))
    assert (refused.value.message, refused.value.hint) == (
        "sandboxes without isolation have your network, which cannot be restricted to `none`",
        'pass isolation="confined", or network="allow" to give the code your network',
    )
