from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from builder import registry
from tests.conftest import BASE, ROOT
from tests.support.clouds import Place
from tests.support.e2b_server import Server
from tests.support.records import made

# What the extras bring, as it is imported.
MODULES = (
    "docker",
    "huggingface_hub",
    "requests",
    "cyclonedx",
    "packageurl",
    "obstore",
    "starlette",
)
Run = Callable[..., "subprocess.CompletedProcess[str]"]


def environment(folder: Path, *options: str) -> Path:
    """Make an environment with this package, as `uv pip install` does."""
    python = folder / "bin" / "python"
    subprocess.run(["uv", "venv", "--quiet", str(folder)], check=True)
    install = ["uv", "pip", "install", "--quiet", "--python", str(python)]
    subprocess.run([*install, *options, str(ROOT)], check=True)
    return folder


def python_of(folder: Path) -> Run:
    """Run the Python of an environment."""

    def run(*arguments: object, cwd: Path, **variables: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [str(folder / "bin" / "python"), *map(str, arguments)],
            capture_output=True,
            text=True,
            check=False,
            cwd=cwd,
            env=os.environ | variables,
        )

    return run


@pytest.fixture(scope="module")
def plain_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The package without any extra."""
    return environment(tmp_path_factory.mktemp("plain") / "environment")


@pytest.fixture(scope="module")
def plain(plain_folder: Path) -> Run:
    return python_of(plain_folder)


@pytest.fixture(scope="module")
def untraced(plain_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """The package without OpenTelemetry, which E2B's SDK brings, too."""
    folder = tmp_path_factory.mktemp("untraced") / "environment"
    shutil.copytree(plain_folder, folder, symlinks=True)  # with the byte code that is there
    python = str(folder / "bin" / "python")
    uninstall = ["uv", "pip", "uninstall", "--quiet", "--python", python, "opentelemetry-api"]
    subprocess.run(uninstall, check=True)
    return python_of(folder)


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """The package without what it depends on."""
    return python_of(environment(tmp_path_factory.mktemp("alone") / "environment", "--no-deps"))


@pytest.mark.slow
@pytest.mark.network
def test_plain_environment_lacks_what_extras_bring(plain: Run, tmp_path: Path) -> None:
    """Nothing that the package depends on brings what belongs to an extra."""
    code = (
        "import importlib.util, sys;"
        " print([name for name in sys.argv[1:] if importlib.util.find_spec(name)])"
    )
    assert plain("-c", code, *MODULES, cwd=tmp_path).stdout == "[]\n"


RUN = """
import asyncio, sys
from builder.runtime import CodeExecutionPrimitive

async def main():
    async with CodeExecutionPrimitive(template_id="one", target=sys.argv[1]) as primitive:
        result = await primitive.execute({"code": "import idna; print(idna.__name__)"})
        print(result["output"], result["error"])

asyncio.run(main())
"""


@pytest.mark.slow
@pytest.mark.network
@pytest.mark.parametrize(("target", "installed"), [("e2b", "plain"), ("local", "untraced")])
def test_main_job_needs_no_extra(
    request: pytest.FixtureRequest,
    place: Place,
    cloud: Server,
    local_cache: Path,
    target: str,
    installed: str,
) -> None:
    """From specs to a verified and recorded template, and code that runs in it, nothing of an extra
    is needed, on either target; without OpenTelemetry there are no spans."""
    run: Run = request.getfixturevalue(installed)
    built = run("-m", "builder", "build", "one", "--frozen", "--target", target, cwd=place.folder)
    assert built.returncode == 0, built.stderr
    entry = registry.load(place.folder / "registry.json").templates["one"][target]
    assert all(build.is_verified for build in entry.builds.values())
    ran = run("-c", RUN, target, cwd=place.folder)
    assert (ran.stdout, ran.stderr, ran.returncode) == ("idna\n None\n", "", 0)


MISSING = {
    "show leaf --sbom": (
        7,
        "error: `cyclonedx` is not installed; it is part of the extra `sbom`\n\n"
        "hint: pip install 'template-builder[sbom]'\n",
    ),
    "precheck": (
        16,
        "error: `docker` is not installed; it is part of the extra `docker`\n\n"
        "hint: pip install 'template-builder[docker]'\n",
    ),
}


@pytest.mark.slow
@pytest.mark.network
def test_model_of_a_hub_names_its_extra(plain: Run, write: Callable[..., Path]) -> None:
    """A model of a hub is an error without the library for it, with its line and the extra."""
    leaf = 'schema = 1\nname = "leaf"\nextends = "_base"\n[[model]]\nrepo = "org/small"\n'
    folder = write(_base=BASE, leaf=leaf).parent
    done = plain("-m", "builder", "lock", cwd=folder)
    assert done.returncode == 7
    assert (
        "error: variants/leaf.toml:5: `huggingface_hub` is not installed; it is part of the extra"
        " `hub`\n\nhint: pip install 'template-builder[hub]'\n"
    ) in done.stderr


@pytest.mark.network
@pytest.mark.parametrize("command", MISSING)
def test_missing_extra_is_named(plain: Run, tmp_path: Path, command: str) -> None:
    """A command that needs an extra which is not installed says how to install it."""
    made(tmp_path, "1.0")
    done = plain("-m", "builder", *command.split(), cwd=tmp_path)
    assert (done.returncode, done.stderr, done.stdout) == (*MISSING[command], "")


@pytest.mark.network
@pytest.mark.parametrize("command", ["resolve one", "list", "plan --frozen"])
def test_shared_registry_needs_its_extra(plain: Run, place: Place, command: str) -> None:
    """Whatever reads a registry that is kept in an object store names the extra for that."""
    url = "s3://team/registry.json"
    done = plain("-m", "builder", *command.split(), cwd=place.folder, TEMPLATE_REGISTRY=url)
    assert done.returncode == 7
    assert done.stderr.endswith(
        "error: `obstore` is not installed; it is part of the extra `store`\n\n"
        "hint: pip install 'template-builder[store]'\n"
    )


@pytest.mark.network
def test_receiver_needs_its_extra(plain: Run, tmp_path: Path) -> None:
    """The receiver of webhooks alone needs the extra for it, and is an `ImportError` without."""
    code = (
        "from builder.runtime import E2BWebhookPrimitive, Event, Ledger\n"
        "try:\n"
        "    from builder.runtime import WebhookReceiver\n"
        "except ImportError as error:\n"
        "    print(error)\n"
    )
    assert plain("-c", code, cwd=tmp_path).stdout == (
        "`starlette` is not installed; it is part of the extra `webhooks`\n\n"
        "hint: pip install 'template-builder[webhooks]'\n"
    )


@pytest.mark.slow
@pytest.mark.network
def test_build_without_docker_package_is_not_prechecked(
    plain: Run, place: Place, cloud: Server
) -> None:
    """Where the extra for Docker is not installed, a build for E2B goes on without a pre-check and
    says what would have it, and `--precheck always` fails."""
    command = ("-m", "builder", "build", "four", "--frozen", "--target", "e2b")
    always = plain(*command, "--precheck", "always", cwd=place.folder)
    assert always.returncode == 16, always.stderr
    done = plain(*command, cwd=place.folder)
    assert done.returncode == 0, done.stderr
    assert (
        "not pre-checked: `docker` is not installed; it is part of the extra `docker`;"
        " pip install 'template-builder[docker]'" in done.stderr
    )


@pytest.mark.slow
@pytest.mark.network
def test_names_are_looked_up_without_dependencies(alone: Run, tmp_path: Path) -> None:
    """Installed with `--no-deps`, the package resolves names with the standard library alone, and
    its command line says what it needs."""
    path, (ref,) = made(tmp_path, "1.0")
    code = "from builder import registry; print(registry.resolve('leaf', target='local'))"
    assert alone("-c", code, cwd=path.parent).stdout == f"{ref}\n"
    unknown = alone("-c", code.replace("leaf", "laef"), cwd=path.parent)
    assert unknown.stderr.endswith("hint: did you mean `leaf`?\n")
    done = alone("-m", "builder", "resolve", "leaf", cwd=path.parent)
    assert (done.returncode, done.stdout, done.stderr) == (
        7,
        "",
        "error: `typer` is not installed: without its dependencies, template-builder can only look up"
        " names, with `builder.registry`\n\nhint: pip install template-builder\n",
    )


@pytest.mark.slow
@pytest.mark.network
def test_wheel_ships_the_adopted_template_alone(tmp_path: Path) -> None:
    """What is installed from a wheel, made from the source distribution, resolves the adopted
    template without any project, and nothing that was built on another machine."""
    uv = [sys.executable, "-m", "uv"]
    built = tmp_path / "dist"
    for arguments in (
        ["build", "--quiet", "--out-dir", built, ROOT],
        ["venv", "--quiet", "--python", sys.executable, tmp_path / "venv"],
    ):
        subprocess.run([*uv, *map(str, arguments)], check=True, capture_output=True)
    (wheel,) = built.glob("*.whl")
    python = tmp_path / "venv" / "bin" / "python"
    install = ["pip", "install", "--quiet", "--no-deps", "--offline", "--python", python, wheel]
    subprocess.run([*uv, *map(str, install)], check=True, capture_output=True)
    shipped = [name for name in zipfile.ZipFile(wheel).namelist() if name.endswith(".json")]
    assert shipped == ["builder/registry/shipped.json"]
    (sources,) = built.glob("*.tar.gz")
    with tarfile.open(sources) as archive:
        assert any(name.endswith("/builder/registry/shipped.json") for name in archive.getnames())
    code = """
from builder import registry
print(registry.resolve("tta-ml-minimal"))
for name, target in (("tta-ml-minimal", "local"), ("tta-data-minimal", None)):
    try:
        registry.resolve(name, target=target)
    except LookupError as error:
        print(type(error).__name__)
print(sorted(registry.load().templates))
"""
    environment = {k: v for k, v in os.environ.items() if not k.startswith("COV")}
    found = subprocess.run(
        [python, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        cwd=tmp_path,
        env=environment,
    )
    assert found.stdout.splitlines() == [
        "3xmp0rmfztawhlpysu4v",
        "NotBuiltError",
        "UnknownTemplateError",
        "['tta-ml-minimal']",
    ]
