from __future__ import annotations

import json
from pathlib import Path

import pytest

from builder import registry
from builder.errors import RevokedError, UnknownTemplateError
from builder.errors.visible import one_line, visible
from tests.conftest import Command

EVIL = "\x1b]0;PWNED\a\x1b[2J\nbuild ok\u202e"
SHOWN = "\\x1b]0;PWNED\\x07\\x1b[2J\\nbuild ok\\u202e"


@pytest.mark.parametrize(
    ("text", "line", "document"),
    [
        ("plain, ü € 日本 👩\u200d🚀", None, None),
        ("a\tb\nc", "a\\tb\\nc", "a\tb\nc"),
        ("a\r\nb", "a\\r\\nb", "a\\r\nb"),
        ("\x1b[31m\x7f\x9b", "\\x1b[31m\\x7f\\x9b", "\\x1b[31m\\x7f\\x9b"),
        (
            "\u202e\u2066\u200f\u061c",
            "\\u202e\\u2066\\u200f\\u061c",
            "\\u202e\\u2066\\u200f\\u061c",
        ),
        ("\ufeffa\u2028", "\\ufeffa\\u2028", "\\ufeffa\\u2028"),
        ("caf\udce9", "caf\\xe9", "caf\\xe9"),
        ("\ud83d", "\\ud83d", "\\ud83d"),
        ("\U000e0041", "\\U000e0041", "\\U000e0041"),
    ],
)
def test_hidden_characters(text: str, line: str | None, document: str | None) -> None:
    """What is hidden becomes an escape, letters of every script stay, and twice is as once."""
    assert one_line(text) == (text if line is None else line)
    assert visible(text) == (text if document is None else document)
    assert one_line(one_line(text)) == one_line(text)


def evil_registry(path: Path) -> Path:
    """A registry, as another person may have written it, with a revoked build."""
    build = {
        "template_id": "light",
        "origin": "built",
        "built_at": "2026-11-01T00:00:00Z",
        "revoked": EVIL,
        "description": EVIL,
        "packages": {"idna": EVIL},
        "provenance": {"commit": EVIL, "dirty": False},
        "env": {"A": EVIL},
    }
    event = {
        "action": "revoke",
        "at": "now",
        "by": EVIL,
        "chain": "",
        "reason": EVIL,
        "build": EVIL,
    }
    entry = {
        "channels": {"stable": "local:light@1", EVIL: "local:light@1"},
        "builds": {"local:light@1": build, f"local:light@{EVIL}": build},
        "history": [event],
    }
    path.write_text(json.dumps({"version": 1, "templates": {"light": {"local": entry}}}))
    return path


def test_lookup_errors_of_an_application(tmp_path: Path) -> None:
    """A reason, and a name in the list of those that exist, are one line of a LookupError."""
    path = evil_registry(tmp_path / "registry.json")
    with pytest.raises(RevokedError) as revoked:
        registry.resolve("light", path=path)
    assert str(revoked.value) == (
        "build `local:light@1` of template `light` on target `local` is revoked:"
        f" {SHOWN}; usable builds: none\n\n"
        "hint: `template-builder rollback light --target local` goes back to a usable build;"
        " a changed spec makes a new one"
    )
    with pytest.raises(LookupError, match="its channels") as unknown:
        registry.resolve("light", channel="next", path=path)
    assert f"`{SHOWN}`" in str(unknown.value)
    with pytest.raises(UnknownTemplateError) as template:
        registry.resolve(EVIL, path=path)
    assert str(template.value).startswith(f"no template `{SHOWN}` in ")


@pytest.mark.parametrize(
    "arguments",
    [
        ["resolve", "light"],
        ["show", "light"],
        ["show", "light", "local:light@x"],
        ["show", "light", "--json"],
        ["list"],
        ["list", "--json"],
        ["diff", "light@local:light@1", f"light@local:light@{EVIL}"],
        ["logs", "light"],
        ["doctor"],
        ["plan", "--frozen"],
        ["promote", "light", "local:light@1"],
        ["rollback", "light"],
        ["restore", "light", f"{EVIL}"],
        ["gc", "--dry-run"],
    ],
)
def test_no_command_shows_hidden_characters(
    project: Path, command: Command, arguments: list[str]
) -> None:
    """Whatever a shared registry or a log holds, no command passes on a hidden character."""
    evil_registry(project / "registry.json")
    log = project / ".builder" / "logs" / "light" / "20260101T000000.000000Z-local.log"
    log.parent.mkdir(parents=True)
    log.write_text(f"    0.000 {EVIL}\r progress\n", encoding="utf-8")
    shown = command(*arguments, cwd=project)
    assert "Traceback" not in shown.stderr
    output = shown.stdout + shown.stderr
    assert all(character.isprintable() or character == "\n" for character in output)
    if arguments[0] != "logs":
        assert not [line for line in output.splitlines() if line.startswith("build ok")]


def test_descriptions_in_a_dockerfile(project: Path, command: Command) -> None:
    """A bidirectional mark in a description does not reorder the Dockerfile's comment."""
    spec = project / "variants" / "other.toml"
    text = spec.read_text().replace("['six']", "[]")
    spec.write_text(text.replace("\nextends", '\ndescription = "a \\u202eb"\nextends'))
    rendered = command("render", "other", cwd=project)
    assert rendered.returncode == 0, rendered.stderr
    dockerfile = (project / "generated" / "other" / "Dockerfile").read_text()
    assert dockerfile.splitlines()[4] == "# other: a \\u202eb"
