"""Templates whose sandboxes on E2B could not run the code of their checks."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from builder.errors import PrecheckError
from builder.precheck.machine_sandbox import open_sandbox
from builder.spec import Variant
from builder.targets.e2b.program import cannot_be_checked
from tests.clouds import Place
from tests.conftest import BASE, Command
from tests.e2b_server import Server
from tests.samples import load

WHY = (
    "which is not the code interpreter: a sandbox on E2B runs code through one on port 49999 of its"
    " own, as http://localhost:49999/health"
)


def with_service(folder: Path, url: str) -> Variant:
    service = f"[service]\ncommand = ['serve']\nready-url = '{url}'\n"
    leaf = f"schema = 1\nname = 'leaf'\nextends = '_base'\n{service}"
    return load(folder, _base=BASE, leaf=leaf)["leaf"]


@pytest.mark.parametrize(
    "url",
    [
        "http://localhost:8501/",
        "http://localhost/",
        "http://example.com:49999/health",
        "https://localhost:49999/health",
    ],
)
def test_address_that_is_not_that_of_the_interpreter(tmp_path: Path, url: str) -> None:
    """A ready address that cannot be that of a code interpreter is named, with its line."""
    told = f"`service.ready-url` is {url} (variants/leaf.toml:6), {WHY}"
    assert cannot_be_checked(with_service(tmp_path, url)) == told


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1", "[::1]"])
def test_address_of_the_interpreter(tmp_path: Path, host: str) -> None:
    """The interpreter's port on the sandbox itself is taken, by any name of it."""
    assert cannot_be_checked(with_service(tmp_path, f"http://{host}:49999/health")) is None


def test_other_service_is_found_before_the_build(
    place: Place, cloud: Server, command: Command
) -> None:
    """A variant whose service is no code interpreter is blocked in the plan, and no build of it is
    begun."""
    streamlit = 'command = ["streamlit", "run", "/home/user/app.py"]\n'
    service = f'[service]\n{streamlit}ready-url = "http://localhost:8501/"\n'
    place.edit("four", lambda text: text + service)
    done = command("plan", "four", "--frozen", "--target", "e2b", "--exit-code", cwd=place.folder)
    told = f"`service.ready-url` is http://localhost:8501/ (variants/four.toml:8), {WHY}"
    assert (done.returncode, f"  four: {told}" in done.stderr) == (31, True), done.stderr
    done = command("build", "four", "--frozen", "--target", "e2b", cwd=place.folder)
    assert done.returncode == 31
    assert cloud.state.templates == {}


class OtherService:
    """A machine in which something else answers on the interpreter's port."""

    def run(
        self, words: Sequence[str], *, user: str | None = None, timeout: float | None = None
    ) -> tuple[int, str, str]:
        return 1, "", "Traceback …\nurllib.error.HTTPError: HTTP Error 404: Not Found\n"

    def write(self, path: str, content: bytes) -> None:
        raise AssertionError(path)

    def state(self) -> tuple[str, str]:
        return "healthy", ""

    def logs(self) -> str:
        return ""


def test_precheck_finds_another_service_on_the_port(tmp_path: Path) -> None:
    """What is ready on the interpreter's port and has no contexts fails the pre-check."""
    variant = with_service(tmp_path, "http://localhost:49999/health")
    with pytest.raises(PrecheckError) as caught:
        open_sandbox(OtherService(), variant)
    assert caught.value.message == (
        "the service of `leaf` is ready, and is no code interpreter: http://localhost:49999/contexts:"
        " urllib.error.HTTPError: HTTP Error 404: Not Found"
    )
