"""Where E2B is: several places in one process, a domain with certificates of its own, namespaces."""

from __future__ import annotations

import asyncio
import itertools
import ssl
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import AsyncMock

import e2b
import httpx
import pytest
import trustme

from builder.errors import (
    NetworkError,
    ProjectError,
    SandboxError,
    TargetUnavailableError,
)
from builder.project import Project, address_error, domain_error
from builder.runtime import CodeExecutionPrimitive, E2BWebhookPrimitive
from builder.targets.adapters import choose, connect
from builder.targets.e2b import api, connection, service
from builder.targets.e2b.account import Account
from builder.targets.e2b.certificates import certificates
from builder.targets.e2b.connection import Connection
from tests.conftest import Command
from tests.support.clouds import Place
from tests.support.e2b_server import Fault, Server
from tests.support.e2b_server.door import DOMAIN, Door

pytestmark = pytest.mark.network
NOWHERE = "http://127.0.0.1:1"


def target(name: str, **keys: str) -> str:
    lines = "".join(f'{key.replace("_", "-")} = "{value}"\n' for key, value in keys.items())
    return f'[tool.template-builder.targets.{name}]\nkind = "e2b"\n{lines}'


@pytest.mark.slow
def test_two_places_in_one_process(
    place: Place, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Targets with addresses of their own are built on and run code side by side, wherever the
    variables of E2B's SDK lead."""
    for name in ("E2B_API_URL", "E2B_SANDBOX_URL"):
        monkeypatch.setenv(name, NOWHERE)
    monkeypatch.chdir(place.folder)
    with Server() as first, Server() as second:
        servers = {"first": first, "second": second}
        (place.folder / "pyproject.toml").write_text(
            "".join(
                target(name, api_url=f"{server.url}/", sandbox_url=server.url)
                for name, server in servers.items()
            )
        )
        monkeypatch.setenv("E2B_API_KEY", first.key)
        for name in servers:
            assert place.build("four", target=name)["four"].action == "built"

        async def run() -> set[str]:
            async with (
                CodeExecutionPrimitive(template_id="four", target="first") as one,
                CodeExecutionPrimitive(template_id="four", target="second") as other,
            ):
                outputs = [await each.execute({"code": "print(1)"}) for each in (one, other)]
                assert [output["output"] for output in outputs] == ["1\n", "1\n"]
                return {output["sandbox_id"] or "" for output in outputs}

        assert asyncio.run(run()) == {first.ended[-1], second.ended[-1]}
        hook = E2BWebhookPrimitive(target="second")
        assert vars(hook)["_origin"] == second.url
        planned = command("plan", "--frozen", "--target", "second", cwd=place.folder)
        assert planned.stderr.startswith(f"target second: requested, at {second.url}\n")
        assert first.problems + second.problems == []


EXPECTED = {
    "api-url": "expected a URL such as `https://e2b.example.com`",
    "sandbox-url": "expected a URL such as `https://e2b.example.com`",
    "domain": "expected a domain such as `e2b.example.com`",
    "E2B_API_URL": "expected a URL such as `https://e2b.example.com`",
    "E2B_SANDBOX_URL": "expected a URL such as `https://e2b.example.com`",
    "E2B_DOMAIN": "expected a domain such as `e2b.example.com`",
}
NO_URLS = (
    "cluster.example.com", "ftp://cluster", "https://", "127.0.0.1:3000", " http://h", "http://[::1",
    "http://h:99999", "http://h:0", "http://h:abc", "http://h?x=1", "http://h/#x", "http://a..b",
)  # fmt: skip
NO_DOMAINS = ("https://cluster", "cluster/api", "c luster", "cluster?x", "cluster:x")
WRONG = [
    *itertools.product(("api-url", "sandbox-url", "E2B_API_URL", "E2B_SANDBOX_URL"), NO_URLS),
    *itertools.product(("domain", "E2B_DOMAIN"), NO_DOMAINS),
]


@pytest.mark.parametrize(("key", "value"), WRONG)
def test_address_that_is_none(
    project: Path, monkeypatch: pytest.MonkeyPatch, key: str, value: str
) -> None:
    """An address that no request could be made with is refused at once, with the file and line or
    the name of the variable."""
    told = f"`{key}` is {value!r}, {EXPECTED[key]}"
    monkeypatch.setenv("E2B_API_KEY", "e2b_a")
    if key.isupper():
        monkeypatch.setenv(key, value)
        found = Project.find(project)
        with pytest.raises(TargetUnavailableError) as unavailable:
            connect(found.targets["e2b"], found)
        assert unavailable.value.message == told
        with pytest.raises(TargetUnavailableError):
            E2BWebhookPrimitive()
        return
    (project / "pyproject.toml").write_text(target("mine", **{key: value}))
    with pytest.raises(ProjectError) as refused:
        Project.find(project)
    assert refused.value.message == (
        f"{project / 'pyproject.toml'}:3: [tool.template-builder.targets.mine]: {told}"
    )


@pytest.mark.parametrize("key", EXPECTED)
def test_address_with_a_password(project: Path, command: Command, key: str) -> None:
    """An address that holds a password is refused, and the password is not printed."""
    value, variables = "http://user:pass-word@127.0.0.1:1", {"E2B_API_KEY": "e2b_a"}
    if key.isupper():
        variables[key] = value
    else:
        (project / "pyproject.toml").write_text(target("e2b", **{key: value}))
    found = command("gc", "--dry-run", "--target", "e2b", cwd=project, **variables)
    assert f"`{key}` contains a user name or a password, which messages and logs" in found.stderr
    assert found.returncode in (ProjectError.exit_code, TargetUnavailableError.exit_code)
    assert "pass-word" not in found.stdout + found.stderr


@pytest.mark.parametrize("url", ["user:pass-word@h", "http://u:pass-word@[::1", "http://u:p@a/b@c"])
def test_password_in_what_is_no_address(url: str) -> None:
    """A password is not repeated either where the rest of the address is wrong, too."""
    for wrong in (address_error(url), domain_error(url)):
        assert wrong == "contains a user name or a password, which messages and logs would show"


@pytest.mark.parametrize(("key", "other"), [("api-url", "sandbox-url"), ("sandbox-url", "api-url")])
def test_one_address_of_two(project: Path, key: str, other: str) -> None:
    """A target that says where its API is and not where its sandboxes are, or the other way round,
    is refused with file and line; a domain says both."""
    (project / "pyproject.toml").write_text(target("mine", **{key: "http://h:1/x"}))
    with pytest.raises(ProjectError) as refused:
        Project.find(project)
    assert str(refused.value) == (
        f"{project / 'pyproject.toml'}:3: [tool.template-builder.targets.mine]: `{key}` is set, but"
        f" neither `{other}` nor `domain` is\n\nhint: set both; a server of your own may have its"
        " API and sandboxes at the same address"
    )
    (project / "pyproject.toml").write_text(
        target("mine", **{key: "http://h:1/x"}, domain="h:8443")
    )
    assert Project.find(project).targets["mine"].domain == "h:8443"


@pytest.mark.parametrize("key", ["e2b_aaaa1111\ne2b_bbbb2222", "e2b_é"])
def test_key_that_no_request_can_carry(project: Path, command: Command, key: str) -> None:
    """A key with characters that no key has is refused before it is sent, and is not printed."""
    told = "the key for target `e2b` contains characters that no key has"
    for arguments in (("doctor", "--json"), ("gc", "--dry-run", "--target", "e2b")):
        found = command(*arguments, cwd=project, E2B_API_KEY=key, E2B_API_URL=NOWHERE)
        assert found.returncode == TargetUnavailableError.exit_code, found.stderr
        assert told in found.stderr
        assert "e2b_" not in found.stdout + found.stderr
    swept = command("gc", "--dry-run", cwd=project, E2B_API_KEY=key)
    assert f"left out: {told}" in swept.stderr


@pytest.mark.slow
def test_domain_with_certificates_of_its_own(
    place: Place, tmp_path: Path, command: Command
) -> None:
    """A template is built, verified in a sandbox and recorded on a cluster that has a domain and
    certificates that the machine alone trusts: the way that remains when E2B's SDK takes no other
    addresses any more. What variables say of other places does not lead there."""
    (place.folder / "pyproject.toml").write_text(target("mine", domain=DOMAIN))
    with Server() as server, Server() as elsewhere, Door(server, tmp_path) as door:
        built = command(
            *("build", "four", "--frozen", "--target", "mine"),
            cwd=place.folder,
            E2B_API_KEY=server.key,
            E2B_API_URL=elsewhere.url,
            E2B_SANDBOX_URL=elsewhere.url,
            E2B_DOMAIN="elsewhere.test",
            E2B_DEBUG="true",
            **door.environment,
        )
        assert built.returncode == 0, built.stderr
        (sandbox, *_) = server.ended
        assert {f"api.{DOMAIN}:443", f"49999-{sandbox}.{DOMAIN}:443"} <= door.hosts
        assert elsewhere.front.requests == []
        assert server.problems == []
    assert place.recorded("four", "mine")["build_id"]


@pytest.mark.parametrize(
    ("sandboxes", "told"),
    [
        ("http://127.0.0.1:1", "All connection attempts failed"),
        ("http://nowhere.invalid", ""),
        ("{https}", "[SSL"),
        ("{url}/x/y", "404 "),
    ],
)
def test_sandboxes_that_are_not_there(
    place: Place, cloud: Server, monkeypatch: pytest.MonkeyPatch, sandboxes: str, told: str
) -> None:
    """Where no sandbox is at the address of sandboxes, that is the error, and soon, not one about
    the service of the template; the sandbox is ended."""
    monkeypatch.setattr(service, "_REACH_SECONDS", 0.5)
    url = sandboxes.format(url=cloud.url, https=cloud.url.replace("http:", "https:"))
    (place.folder / "pyproject.toml").write_text(target("e2b", api_url=cloud.url, sandbox_url=url))
    error = place.build("four")["four"].error
    assert isinstance(error, SandboxError)
    assert f"the sandbox {cloud.ended[0]}: it is not at {url}: {told}" in error.message
    assert error.hint == (
        "check where sandboxes are: `sandbox-url` or `domain` of the target, or `E2B_SANDBOX_URL`"
    )
    assert cloud.running == {}


def test_the_systems_certificates_are_trusted(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the machine trusts is trusted beside what httpx brings."""
    authority = trustme.CA(organization_name="this machine's own")

    def load(context: ssl.SSLContext, *_: object) -> None:
        authority.configure_trust(context)

    monkeypatch.setattr(ssl.SSLContext, "load_default_certs", load)
    trusted = certificates.__wrapped__().get_ca_certs()
    assert [each for each in httpx.create_ssl_context().get_ca_certs() if each not in trusted] == []
    assert "this machine's own" in str(trusted)


def test_all_calls_trust_the_systems_certificates(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Calls of the API and those to a sandbox's code service reach a cluster whose certificates the
    machine alone trusts."""

    def load(context: ssl.SSLContext, *_: object) -> None:
        context.load_verify_locations(tmp_path / "ca.pem")

    async def health(account: Account) -> int:
        sandbox: Any = SimpleNamespace(
            connection_config=e2b.ConnectionConfig(**account.options),
            sandbox_id="i1",
            sandbox_domain=DOMAIN,
            traffic_access_token=None,
        )
        asking = Connection(sandbox, alive=AsyncMock(return_value=True), worded=str)
        try:
            return (await asking.ask("GET", "/health")).status_code
        finally:
            await asking.close()

    monkeypatch.setattr(ssl.SSLContext, "load_default_certs", load)
    with Server() as server, Door(server, tmp_path) as door:
        monkeypatch.setenv("HTTPS_PROXY", door.environment["HTTPS_PROXY"])
        trusted = certificates.__wrapped__()
        for module in (api, connection):
            monkeypatch.setattr(module, "certificates", lambda: trusted)
        client = api._client.__wrapped__()
        monkeypatch.setattr(api, "_client", lambda: client)
        account = Account(api_key=server.key, domain=DOMAIN)
        assert api.Api(account).ask("GET", "v2", "templates") == []
        client.close()
        assert asyncio.run(health(account)) == 502  # no sandbox is there
        assert door.hosts == {f"api.{DOMAIN}:443", f"49999-i1.{DOMAIN}:443"}


@pytest.mark.usefixtures("with_four")
def test_name_with_a_namespace(place: Place, cloud: Server, command: Command) -> None:
    """A template may be named with its team: the slash is no part of the path of a request."""
    (build,) = cloud.builds("four")
    adopted = command("adopt", "one", f"team/four:{build.id}", "--target", "e2b", cwd=place.folder)
    assert adopted.returncode == 0, adopted.stderr
    assert place.recorded("one")["build_id"] == build.id
    assert "GET /templates/aliases/team%2Ffour" in cloud.front.requests


def test_retries_do_not_multiply(ready: Server) -> None:
    """A call that is refused is made as often as this program decides, with no retries within."""
    ready.front.faults.append(Fault("POST /v2/sandboxes", "status", code=503, times=1000))

    async def run() -> None:
        async with CodeExecutionPrimitive(template_id="one"):
            pass

    with pytest.raises(NetworkError, match=r"creating a sandbox of .* failed: 503"):
        asyncio.run(run())
    assert ready.front.requests.count("POST /v2/sandboxes") == 5


def test_variables_of_other_targets_are_not_read(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A target that has its own address works whatever E2B's variables hold."""
    monkeypatch.setenv("E2B_API_KEY", "e2b_a")
    for variable in ("E2B_API_URL", "E2B_SANDBOX_URL", "E2B_DOMAIN"):
        monkeypatch.setenv(variable, "no address")
    (project / "pyproject.toml").write_text(target("mine", domain="e2b.example.com"))
    project_read = Project.find(project)
    connect(project_read.targets["mine"], project_read)
    with pytest.raises(TargetUnavailableError):
        connect(project_read.targets["e2b"], project_read)


@pytest.mark.parametrize("channel", ["default", "sha256-1"])
def test_channel_that_would_be_a_tag_of_ours(place: Place, command: Command, channel: str) -> None:
    """A channel cannot have the name of a tag with a meaning of its own."""
    said = command("build", "four", "--channel", channel, cwd=place.folder)
    assert said.returncode == 64
    assert f"'{channel}' is reserved for builds on E2B: choose another name" in said.stderr


def test_key_of_spaces_is_none(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """A key that is set to spaces is not set."""
    monkeypatch.setenv("E2B_API_KEY", "  ")
    assert choose(place.project(), None)[0].kind == "local"
    with pytest.raises(TargetUnavailableError, match="E2B_API_KEY"):
        place.build("four")
