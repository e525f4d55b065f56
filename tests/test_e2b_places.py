"""Where E2B is: several places in one process, a domain with certificates of its own, namespaces."""

from __future__ import annotations

import asyncio
import ssl
from pathlib import Path

import httpx
import pytest
import trustme

from builder.errors import NetworkError
from builder.runtime import CodeExecutionPrimitive, E2BWebhookPrimitive
from builder.targets.e2b.certificates import certificates
from tests.clouds import Place
from tests.conftest import Command
from tests.e2b_server import Server
from tests.e2b_server.door import DOMAIN, Door
from tests.e2b_server.faults import Fault

pytestmark = pytest.mark.network
NOWHERE = "http://127.0.0.1:1"


def target(name: str, **keys: str) -> str:
    lines = "".join(f'{key.replace("_", "-")} = "{value}"\n' for key, value in keys.items())
    return f'[tool.template-builder.targets.{name}]\nkind = "e2b"\n{lines}'


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
        assert planned.stderr.startswith(f"target second: asked for, at {second.url}\n")
        assert first.problems + second.problems == []


@pytest.mark.parametrize("url", ["cluster.example.com", "ftp://cluster", "https://", ""])
def test_address_that_is_no_url(project: Path, command: Command, url: str) -> None:
    """An address that no client could use is refused with file and line."""
    (project / "pyproject.toml").write_text(target("mine", sandbox_url=url))
    found = command("validate", cwd=project)
    assert found.stderr == (
        f"error: {project / 'pyproject.toml'}:3: [tool.template-builder.targets.mine]:"
        f" `sandbox-url` is {url!r}, expected a URL such as `https://e2b.example.com`\n"
    )


def test_domain_with_certificates_of_its_own(
    place: Place, tmp_path: Path, command: Command
) -> None:
    """A template is built, verified in a sandbox and recorded on a cluster that has a domain and
    certificates that the machine alone trusts: the way that remains when E2B's SDK takes no other
    addresses any more."""
    (place.folder / "pyproject.toml").write_text(target("mine", domain=DOMAIN))
    with Server() as server, Door(server, tmp_path) as door:
        built = command(
            *("build", "four", "--frozen", "--target", "mine"),
            cwd=place.folder,
            E2B_API_KEY=server.key,
            **door.environment,
        )
        assert built.returncode == 0, built.stderr
        (sandbox, *_) = server.ended
        assert {f"api.{DOMAIN}:443", f"49999-{sandbox}.{DOMAIN}:443"} <= door.hosts
        assert server.problems == []
    assert place.recorded("four", "mine")["build_id"]


def test_the_systems_certificates_are_trusted(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the machine trusts is trusted beside what httpx brings."""
    authority = trustme.CA(organization_name="this machine's own")

    def load(context: ssl.SSLContext, *_: object) -> None:
        authority.configure_trust(context)

    monkeypatch.setattr(ssl.SSLContext, "load_default_certs", load)
    trusted = certificates.__wrapped__().get_ca_certs()
    assert [each for each in httpx.create_ssl_context().get_ca_certs() if each not in trusted] == []
    assert "this machine's own" in str(trusted)


def test_name_with_a_namespace(place: Place, cloud: Server, command: Command) -> None:
    """A template may be named with its team: the slash is no part of the path of a request."""
    place.build("four")
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
