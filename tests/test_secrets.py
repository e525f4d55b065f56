from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.clouds import Place
from tests.conftest import Command
from tests.e2b_server import Server

CANARY = "canary-4f1c9a77-of-the-environment"
SECRETS = {
    "SOME_API_KEY": CANARY,
    "AWS_SECRET_ACCESS_KEY": CANARY,
    "HF_TOKEN": CANARY,
    "MY_PASSWORD": CANARY,
}


def files_with(text: str, *folders: Path) -> list[str]:
    """Every file below the folders that holds the text."""
    return [
        str(path.relative_to(folder))
        for folder in folders
        for path in folder.rglob("*")
        if path.is_file() and not path.is_symlink() and text.encode() in path.read_bytes()
    ]


def test_secrets_of_the_environment_stay_there(
    project: Path, command: Command, tmp_path: Path
) -> None:
    """Building, planning, failing, changing channels and looking on `local` put no secret of the
    environment into any file, environment, log, registry or output."""
    cache = tmp_path / "cache-of-its-own"
    secrets = SECRETS | {"TEMPLATE_BUILDER_CACHE_DIR": str(cache)}
    outputs = []
    for arguments in (
        ["build", "--target", "local"],
        ["plan", "--json", "--target", "local"],
        ["verify", "light", "--target", "local"],
        ["promote", "light", "--channel", "prod"],
        ["revoke", "light", "prod", "--reason", "x"],
        ["restore", "light", "prod"],
        ["show", "light", "--json"],
        ["show", "light", "--sbom"],
        ["logs", "light"],
        ["doctor"],
        ["gc", "--dry-run", "--protect-days", "0", "--target", "local"],
        ["plan", "--target", "e2b"],
        ["adopt", "x", "abc"],
    ):
        done = command(*arguments, cwd=project, **secrets)
        assert "Traceback" not in done.stderr
        outputs.append(done.stdout + done.stderr)
    assert (project / "registry.json").exists()
    assert not [text for text in outputs if CANARY in text]
    assert files_with(CANARY, project, cache) == []


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


def test_spans_hold_no_secret(tmp_path: Path) -> None:
    """Spans of opening and running tell the template and the target, and no key."""
    code = """
import asyncio, sys
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import ConsoleSpanExporter, SimpleSpanProcessor
provider = TracerProvider()
provider.add_span_processor(SimpleSpanProcessor(ConsoleSpanExporter()))
trace.set_tracer_provider(provider)
from builder.runtime import CodeExecutionPrimitive
async def main():
    try:
        async with CodeExecutionPrimitive(template_id="abc", api_key=sys.argv[1]) as one:
            await one.execute({"code": "1", "env_vars": {"A_TOKEN": sys.argv[1]}}, None)
    except Exception as error:
        print(type(error), error, repr(error))
asyncio.run(main())
"""
    done = subprocess.run(
        [sys.executable, "-c", code, CANARY],
        capture_output=True,
        text=True,
        check=False,
        cwd=Path(__file__).parent.parent,
        env={"PATH": "/usr/bin:/bin", "E2B_API_URL": "http://127.0.0.1:1", "HOME": str(tmp_path)},
    )
    assert '"name": ' in done.stdout, done.stderr
    assert CANARY not in done.stdout + done.stderr


HIDDEN = {
    "a GitHub token": "ghp_" + "a1" * 20,
    "an AWS access key": "AKIA" + "A1" * 8,
    "an E2B key": "e2b_" + "0a" * 20,
    "a private key": "-----BEGIN RSA PRIVATE KEY-----",
    "a key of a model's API": "sk-proj-" + "a1" * 20,
    "a GitLab token": "glpat-" + "a1" * 10,
    "a JSON web token": "eyJ" + "a" * 12 + ".eyJ" + "b" * 12 + "." + "c" * 12,
    "an address with a password": "https://user:hunter22@index.example/simple",
    "the value of `MY_PASSWORD` of this environment": CANARY,
}
PLACES: dict[str, tuple[str, str]] = {
    "env.A": ("[env]\nA = {0!r}\n", "env.A"),
    "description": ("description = {0!r}\n", "description"),
    "verify": ('[[verify]]\nname = "x"\ncode = {0!r}\n', "verify[0].code"),
    "service": (
        '[service]\ncommand = ["run", {0!r}]\nready-url = "http://localhost:1/"\n',
        "service.command[1]",
    ),
    "packages": ("[python]\npackages = [{0!r}]\n", "python.packages[0]"),
    "torch": ("[python]\ntorch-backend = {0!r}\n", "python.torch-backend"),
    "unknown key": ("unknown = {0!r}\n", "unknown"),
}


@pytest.mark.parametrize("kind", HIDDEN)
@pytest.mark.parametrize("where", ["env.A", "verify", "packages"])
def test_secret_in_a_spec_is_refused(
    project: Path, command: Command, kind: str, where: str
) -> None:
    """Wherever a spec holds what has the shape or the value of a secret, it is refused with its
    file, line and key, and the message does not repeat it."""
    table, key = PLACES[where]
    text = f"schema = 1\nname = 'leaf'\nextends = '_base'\n{table.format(HIDDEN[kind])}"
    (project / "variants" / "leaf.toml").write_text(text)
    done = command("validate", cwd=project, MY_PASSWORD=CANARY)
    assert done.returncode == 4
    assert f"`{key}`: holds {kind}; what a template holds can be read by all" in done.stderr
    assert f"variants/leaf.toml:{4 + table.count(chr(10), 0, table.index('{'))}:" in done.stderr
    assert HIDDEN[kind] not in done.stderr + done.stdout


@pytest.mark.parametrize("where", PLACES)
def test_secret_in_any_place_is_refused(project: Path, command: Command, where: str) -> None:
    """No text of a spec is left out, also where another rule would have told its value."""
    table, key = PLACES[where]
    text = f"schema = 1\nname = 'leaf'\nextends = '_base'\n{table.format(CANARY)}"
    (project / "variants" / "leaf.toml").write_text(text)
    done = command("validate", "--json", cwd=project, MY_PASSWORD=CANARY)
    assert done.returncode == 4
    assert f"`{key}`: holds the value of `MY_PASSWORD` of this environment" in done.stderr
    assert CANARY not in done.stderr + done.stdout


def test_secret_in_a_copied_file_is_refused(project: Path, command: Command) -> None:
    """A file that would be copied into the template is looked through as well."""
    variants = project / "variants"
    (variants / "id_rsa").write_text(f"{HIDDEN['a private key']}\nabc\n")
    text = "[[files]]\nsource = 'id_rsa'\ntarget = '/opt/key'\n"
    (variants / "leaf.toml").write_text(f"schema = 1\nname = 'leaf'\nextends = '_base'\n{text}")
    done = command("validate", cwd=project)
    assert done.returncode == 4
    assert "`files[0].source`: 'id_rsa' holds a private key; what a template" in done.stderr


def test_what_only_resembles_a_secret_is_fine(project: Path, command: Command) -> None:
    """Ordinary values are not taken for secrets."""
    harmless = {
        "TOKENIZERS_PARALLELISM": "false", "HF_HOME": "/root/.cache/huggingface",
        "A": "sk-learn", "B": "https://example.org/a:b@c", "C": "task-force-of-twenty-four-words",
        "KEYBOARD": "us", "D": "e2b_code",
    }  # fmt: skip
    lines = "".join(f"{name} = {value!r}\n" for name, value in harmless.items())
    (project / "variants" / "leaf.toml").write_text(
        f"schema = 1\nname = 'leaf'\nextends = '_base'\n[env]\n{lines}"
    )
    assert command("validate", cwd=project).returncode == 0


def test_reason_with_a_secret_is_refused(project: Path, command: Command) -> None:
    """What is typed for the history is looked through before anybody can read it there."""
    assert command("adopt", "x", "abc", cwd=project).returncode == 0
    before = (project / "registry.json").read_bytes()
    for arguments in (["revoke", "x", "stable"], ["promote", "x", "stable", "--channel", "b"]):
        done = command(*arguments, "--reason", f"key {HIDDEN['an E2B key']} leaked", cwd=project)
        assert done.returncode == 5
        assert "--reason holds an E2B key" in done.stderr
        assert HIDDEN["an E2B key"] not in done.stderr
    assert (project / "registry.json").read_bytes() == before
