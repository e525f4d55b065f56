"""Text that is not Unicode: bytes of another encoding, and half a surrogate pair."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from builder import record, registry
from builder.errors import SelectionError
from builder.registry import history
from builder.registry.chain import checksum
from tests.conftest import Command
from tests.support.records import entry_of, environment, made

LATIN_1 = "caf\udce9"  # how Python receives the byte E9 as an argument
HALF = "cut off \ud83d"  # what is left of an emoji that was cut in two


def with_half_a_pair(path: Path) -> None:
    """Write half a surrogate pair into a record, as JSON: programs that cut text off do so."""
    data = json.loads(path.read_text())
    for fields in data["templates"]["leaf"]["local"]["builds"].values():
        fields["warnings"] = [HALF]
        fields["checksum"] = checksum(fields)
    path.write_text(json.dumps(data, indent=2, sort_keys=True) + "\n")


def with_environments(folder: Path, refs: list[str]) -> dict[str, str]:
    """The builds' environments in a cache of their own; the variable that names it."""
    for ref in refs:
        environment(folder / "cache", ref)
    return {"TEMPLATE_BUILDER_CACHE_DIR": str(folder / "cache")}


@pytest.mark.slow
def test_reason_in_latin_1_is_kept_as_text(tmp_path: Path, command: Command) -> None:
    """A reason whose bytes are not UTF-8 is recorded, by every command that takes one."""
    path, refs = made(tmp_path, "1.0", "1.1")
    cache = with_environments(tmp_path, refs)
    for arguments in (
        ["rollback", "leaf"],
        ["revoke", "leaf", refs[1]],
        ["restore", "leaf", refs[1]],
        ["promote", "leaf", refs[1]],
        ["revoke", "--package", "idna==9"],
        ["adopt", "other", "abc", "--unchecked"],
    ):
        done = command(*arguments, "--reason", LATIN_1, "--json", cwd=tmp_path, **cache)
        assert (done.returncode, done.stderr) == (0, ""), arguments
        json.loads(done.stdout)
    reasons = [event.get("reason") for event in entry_of(path)["history"]]
    assert reasons == [None, None, *["caf\ufffd"] * 4]
    assert not list(history.faults(registry.load(path).templates))


WRITING = {
    "revoke": ["revoke", "leaf", "stable", "--reason", "r"],
    "rollback": ["rollback", "leaf"],
    "promote": ["promote", "leaf", "--channel", "next"],
    "adopt": ["adopt", "other", "abc", "--unchecked"],
    "repair": ["registry", "repair"],
}


@pytest.mark.parametrize("name", WRITING)
def test_half_a_surrogate_pair_survives_every_writer(
    tmp_path: Path, command: Command, name: str
) -> None:
    """What another program wrote as an escape that is no character is kept as that escape."""
    path, refs = made(tmp_path, "1.0", "1.1")
    with_half_a_pair(path)
    done = command(*WRITING[name], "--json", cwd=tmp_path, **with_environments(tmp_path, refs))
    assert done.returncode == 0, done.stderr
    json.loads(done.stdout)
    assert path.read_text().count(r'"cut off \ud83d"') == 2
    records = entry_of(path)["builds"].values()
    assert [fields["warnings"] for fields in records] == [[HALF], [HALF]]
    assert command("registry", "repair", cwd=tmp_path).returncode == 0
    assert not list(history.faults(registry.load(path).templates))


@pytest.mark.parametrize(
    "arguments",
    [
        ["show", "leaf"], ["show", "leaf", "--sbom"], ["show", "leaf", "--json"], ["list"],
        ["diff", "leaf", "leaf", "--json"], ["doctor", "--json"], ["plan", "--frozen", "--json"],
    ],
)  # fmt: skip
def test_half_a_surrogate_pair_is_shown(
    tmp_path: Path, command: Command, arguments: list[str]
) -> None:
    """A command that reads tells what it has to tell, for people and for programs."""
    path, _ = made(tmp_path, "1.0")
    data = json.loads(path.read_text())
    fields = next(iter(data["templates"]["leaf"]["local"]["builds"].values()))
    fields |= {"warnings": [HALF], "base_image": HALF, "env": {"A": HALF}}
    fields["packages"] |= {HALF: HALF}
    path.write_text(json.dumps(data))
    done = command(*arguments, cwd=tmp_path)
    assert "Traceback" not in done.stderr
    if arguments[-1] in ("--json", "--sbom"):
        json.loads(done.stdout)


@pytest.mark.parametrize(
    ("kind", "value"),
    [
        ("base", f"image:{LATIN_1}"),
        ("base", "image\x1b[2J"),
        ("stage", f"{LATIN_1}@sha256:01234567"),
        ("stage", "_base@sha256:not-hex-digits"),
    ],
)
def test_content_that_no_build_can_have_is_refused(kind: str, value: str) -> None:
    """A name in bytes that are not UTF-8, or in control characters, is refused at the door."""
    with pytest.raises(SelectionError):
        record.Content.parse(kind, value)
