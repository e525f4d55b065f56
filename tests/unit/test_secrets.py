from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from builder.spec import secret_in
from builder.spec.secret_names import assigned, names_a_secret
from tests.conftest import ROOT, Command

CANARY = "canary-4f1c9a77-of-the-environment"


@pytest.mark.slow
def test_spans_hold_no_secret(tmp_path: Path) -> None:
    """Spans of opening and running tell the template and the target, and no key."""
    code = """
import asyncio, dataclasses, sys
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import ConsoleSpanExporter, SimpleSpanProcessor
provider = TracerProvider()
provider.add_span_processor(SimpleSpanProcessor(ConsoleSpanExporter()))
trace.set_tracer_provider(provider)
from builder.runtime import CodeExecutionPrimitive
from builder.targets.e2b import creation, session
once = dataclasses.replace(session.OF_APPLICATIONS, attempts=1, slow_attempts=1)
creation.OF_APPLICATIONS = session.OF_APPLICATIONS = once
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
        cwd=ROOT,
        env={"PATH": "/usr/bin:/bin", "E2B_API_URL": "http://127.0.0.1:1", "HOME": str(tmp_path)},
    )
    assert '"name": ' in done.stdout, done.stderr
    assert CANARY not in done.stdout + done.stderr


HIDDEN = {
    "a GitHub token": "ghp_" + "a1" * 20,
    "an AWS access key": "AKIA" + "A1" * 8,
    "an E2B key": "e2b_" + "0a" * 20,
    "a private key": "-----BEGIN RSA PRIVATE KEY-----",
    "a model API key": "sk-proj-" + "a1" * 20,
    "a GitLab token": "glpat-" + "a1" * 10,
    "a JSON web token": "eyJ" + "a" * 12 + ".eyJ" + "b" * 12 + "." + "c" * 12,
    "a URL with a password": "https://user:hunter22@index.example/simple",
    "the value of `MY_PASSWORD` in this environment": CANARY,
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
    assert f"`{key}`: contains {kind}; everyone who can use a template can read" in done.stderr
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
    assert f"`{key}`: contains the value of `MY_PASSWORD` in this environment" in done.stderr
    assert CANARY not in done.stderr + done.stdout


def test_secret_in_a_copied_file_is_refused(project: Path, command: Command) -> None:
    """A file that would be copied into the template is looked through as well."""
    variants = project / "variants"
    (variants / "id_rsa").write_text(f"{HIDDEN['a private key']}\nabc\n")
    text = "[[files]]\nsource = 'id_rsa'\ntarget = '/opt/key'\n"
    (variants / "leaf.toml").write_text(f"schema = 1\nname = 'leaf'\nextends = '_base'\n{text}")
    done = command("validate", cwd=project)
    assert done.returncode == 4
    assert (
        "`files[0].source`: 'id_rsa' contains a private key; everyone who can use a template"
        in done.stderr
    )


@pytest.mark.parametrize(
    "name",
    [
        "PGPASSWORD", "MYSQL_PWD", "DB_PASS", "SMTP_PASS", "REDISCLI_AUTH", "SQLCMDPASSWORD",
        "RABBITMQ_DEFAULT_PASS", "ANSIBLE_BECOME_PASS", "SSHPASS", "DBPASS", "MYSQLPWD", "PASS",
        "SNOWSQL_PWD", "LDAP_BIND_PW", "BINDPW", "BORG_PASSPHRASE", "GPG_PASSPHRASE", "HTPASSWD",
        "dbPassword", "api_key", "apiKey", "accessToken", "OPENAI_APIKEY", "TS_AUTHKEY", "KEY",
        "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "HF_TOKEN", "SECRET_KEY_BASE", "API_KEYS",
        "API_KEY_2", "API_KEY2", "API_KEY_PROD", "DB_PASSWORD_OLD", "SSH_PRIVATE_KEY_B64",
        "DJANGO_SECRET_KEY", "CLIENT_SECRET", "AUTH_TOKENS", "UV_HTTP_BASIC_AUTH", "_AUTH",
        "DOCKER_AUTH_CONFIG", "STRIPE_SECRET_KEY_TEST", "CREDENTIALS_JSON", "KEYPASS", "SECRETS",
    ],
)  # fmt: skip
def test_name_of_a_secret(name: str) -> None:
    """A variable that tools and services keep a secret in is known by its name, in any case."""
    assert names_a_secret(name, "hunter22")
    assert names_a_secret(name.lower(), "hunter22")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("BYPASS", "corp.example"), ("COMPASS", "north"), ("FIRST_PASS", "fast"),
        ("LOW_PASS", "300 Hz"), ("PASSENGER_APP_ENV", "production"), ("AUTHOR", "Ann"),
        ("OAUTH_CALLBACK_URL", "https://example.org/back"), ("KEYBOARD", "us"), ("MONKEY", "tree"),
        ("TOKENIZERS_PARALLELISM", "false"), ("MAX_TOKENS", "4096"), ("PAD_TOKEN", "<pad>"),
        ("HF_HUB_DISABLE_IMPLICIT_TOKEN", "1"), ("MYSQL_ALLOW_EMPTY_PASSWORD", "yes"),
        ("ENABLE_AUTH", "true"), ("MLFLOW_AUTH", "basic"), ("API_KEY", ""), ("NO_AUTH", "x"),
        ("PWD", "hunter22"), ("OLDPWD", "/work"), ("START_PWD", "/home/user/project"),
        ("SSH_ASKPASS", "/usr/bin/ksshaskpass"), ("SSH_AUTH_SOCK", "/tmp/agent.1"),
        ("GOOGLE_APPLICATION_CREDENTIALS", "/home/user/key.json"), ("PGPASSFILE", "/x/.pgpass"),
        ("TOKEN_FILE", "/run/token"), ("PASSWORD_STORE_DIR", "/x"), ("KEY_PATH", "/x"),
        ("SSH_PUBLIC_KEY", "ssh-ed25519 AAAA"), ("SORT_KEY", "name"), ("CACHE_KEY", "v1"),
        ("AWS_ACCESS_KEY_ID_FILE", "x"), ("SECRET_NAME", "prod/db"), ("TOKEN_TYPE", "word"),
        ("PASSES", "3"), ("AUTH_URL", "https://example.org"), ("XAUTHORITY", "/x"), ("_", "x"),
    ],
)  # fmt: skip
def test_name_that_only_resembles_that_of_a_secret(name: str, value: str) -> None:
    """Ordinary variables are left alone: other words, what switches something, and places."""
    assert not names_a_secret(name, value)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("PGPASSWORD = 'hunter22'", "`env.PGPASSWORD`: is named like a secret"),
        ("REDISCLI_AUTH = 'hunter22'", "`env.REDISCLI_AUTH`: is named like a secret"),
        (
            "DATABASE_URL = 'postgresql://u:hunter22@db/x'",
            "`env.DATABASE_URL`: contains a URL with a password",
        ),
        ("CACHE = 'REDIS://:hunter22@h:6379/0'", "`env.CACHE`: contains a URL with a password"),
        ("DSN = 'host=db password=hunter22'", "`env.DSN`: contains a password or a key"),
        ("ODBC = 'Server=db;Uid=sa;Pwd=hunter22;'", "`env.ODBC`: contains a password or a key"),
        ("FEED = 'https://h/?a=b&api_key=hunter22'", "`env.FEED`: contains a password or a key"),
        (
            "OTEL_EXPORTER_OTLP_HEADERS = 'Authorization=Basic aHVudGVyMjI6aHVudGVyMjI='",
            "`env.OTEL_EXPORTER_OTLP_HEADERS`: contains a password or a key",
        ),
    ],
)
def test_secret_variable_is_refused(
    project: Path, command: Command, line: str, message: str
) -> None:
    """A variable that is named like a secret, or holds credentials, is refused with its key, and
    its value is not repeated."""
    text = f"schema = 1\nname = 'leaf'\nextends = '_base'\n[env]\n{line}\n"
    (project / "variants" / "leaf.toml").write_text(text)
    done = command("validate", cwd=project)
    assert done.returncode == 4
    assert "variants/leaf.toml:5:" in done.stderr
    assert f"{message}; everyone who can use a template can read" in done.stderr
    assert "unter22" not in done.stderr + done.stdout
    assert "aHVudGVy" not in done.stderr + done.stdout


def test_secret_that_a_command_sets_is_refused(project: Path, command: Command) -> None:
    """The command of a service may not set what `[env]` may not hold."""
    service = "[service]\ncommand = ['env', 'DB_PASS=hunter22', 'run']\n"
    (project / "variants" / "leaf.toml").write_text(
        f"schema = 1\nname = 'leaf'\nextends = '_base'\n{service}"
    )
    done = command("validate", cwd=project)
    assert done.returncode == 4
    assert "`service.command[1]`: sets `DB_PASS`, which is named like a secret; ever" in done.stderr
    assert "hunter22" not in done.stderr + done.stdout


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("export PGPASSWORD='hunter22'; run", ["PGPASSWORD"]),
        ("A=1 SMTP_PASS=x1 DB_PWD=y2 run", ["SMTP_PASS", "DB_PWD"]),
        ('API_KEY="$API_KEY" TOKEN=$(cat /run/t) run', []),
        ("ENABLE_AUTH=true run --ServerApp.token= --sort-key=name", []),
    ],
)
def test_names_that_a_command_sets(text: str, names: list[str]) -> None:
    """Assignments are seen in words and in a shell's text; what is taken from elsewhere is not."""
    assert list(assigned(text)) == names


def test_environment_is_searched_by_the_same_names() -> None:
    """The value of a variable here that is named like a secret may not stand in a text; the folder
    that a shell is in may."""
    kind = secret_in("run hunter22!", {"PGPASSWORD": "hunter22!"})
    assert kind == "the value of `PGPASSWORD` in this environment"
    assert secret_in("in /home/user/project", {"PWD": "/home/user/project"}) is None
    assert secret_in("in /home/user/project", {"START_PWD": "/home/user/project"}) is None


def test_what_only_resembles_a_secret_is_fine(project: Path, command: Command) -> None:
    """Ordinary values are not taken for secrets."""
    harmless = {
        "TOKENIZERS_PARALLELISM": "false", "HF_HOME": "/root/.cache/huggingface",
        "A": "sk-learn", "B": "https://example.org/a:b@c", "C": "task-force-of-twenty-four-words",
        "KEYBOARD": "us", "D": "e2b_code", "E": "forgot password? ask", "F": "redis://h:6379/0",
        "G": "http://user@example.org:80/", "PAD_TOKEN": "<pad>", "H": "basic internationalization",
    }  # fmt: skip
    lines = "".join(f"{name} = {value!r}\n" for name, value in harmless.items())
    (project / "variants" / "leaf.toml").write_text(
        f"schema = 1\nname = 'leaf'\nextends = '_base'\n[env]\n{lines}"
    )
    assert command("validate", cwd=project).returncode == 0


def test_reason_with_a_secret_is_refused(project: Path, command: Command) -> None:
    """What is typed for the history is looked through before anybody can read it there."""
    assert command("adopt", "x", "abc", "--unchecked", cwd=project).returncode == 0
    before = (project / "registry.json").read_bytes()
    for arguments in (["revoke", "x", "stable"], ["promote", "x", "stable", "--channel", "b"]):
        done = command(*arguments, "--reason", f"key {HIDDEN['an E2B key']} leaked", cwd=project)
        assert done.returncode == 5
        assert "--reason contains an E2B key" in done.stderr
        assert HIDDEN["an E2B key"] not in done.stderr
    assert (project / "registry.json").read_bytes() == before
