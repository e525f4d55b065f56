from __future__ import annotations

import json
from pathlib import Path

from builder.errors import BlockedError, LockConflictError, SeveralFailuresError, about, counted
from builder.runtime.values import output_of
from builder.sandbox.execution import Execution, seconds_in_words
from tests.conftest import Command


def test_numbers_agree_with_their_nouns() -> None:
    """One of a thing is in the singular."""
    assert [counted(n, "check") for n in (0, 1, 1.2, 2, 1234)] == [
        "0 checks",
        "1 check",
        "1 check",
        "2 checks",
        "1,234 checks",
    ]
    assert [seconds_in_words(n) for n in (0.5, 1, 1.0, 600)] == [
        "0.5 seconds",
        "1 second",
        "1 second",
        "600 seconds",
    ]


def test_a_name_is_said_once() -> None:
    """A message that says which variant it is about gets no name before it, and a hint is kept."""
    assert about("other", "`other` contains torch") == "`other` contains torch"
    assert about("other", "its lock is old") == "`other`: its lock is old"
    several = SeveralFailuresError(
        {
            "a": LockConflictError("`a` cannot be locked", hint="loosen it"),
            "b": BlockedError("not here"),
        }
    )
    assert str(several) == (
        "2 templates failed:\n`a` cannot be locked\n  hint: loosen it\n`b`: not here"
    )


def test_time_outs_in_words() -> None:
    """A time-out says what did not happen, and what is left."""
    kept = output_of(Execution(timed_out=True), sandbox_id="s", timeout=1)
    lost = output_of(Execution(timed_out=True, lost=True), sandbox_id="s", timeout=2.5)
    assert kept["error"] == (
        "TimeoutError: the code did not finish within 1 second and was interrupted;"
        " the session's state is kept"
    )
    assert lost["error"] == (
        "TimeoutError: the code did not finish within 2.5 seconds and was interrupted;"
        " the interpreter did not stop and was replaced: the session's state is lost"
    )


def test_show_is_for_people(project: Path, command: Command) -> None:
    """`show` says yes and no, and leaves out what is empty or was not measured."""
    build = {
        "template_id": "light",
        "origin": "built",
        "built_at": "2026-11-01T00:00:00Z",
        "provenance": {"commit": "abc", "dirty": False},
        "env": {},
        "warnings": [],
        "verified": {"checks": ["import idna"], "seconds": {"sandbox": 0.5, "warm_sandbox": None}},
        "files": [{"path": "/a", "mode": "0644"}],
        "size_bytes": 0,
    }
    entry = {"channels": {"stable": "local:light@1"}, "builds": {"local:light@1": build}}
    (project / "registry.json").write_text(
        json.dumps({"version": 1, "templates": {"light": {"local": entry}}})
    )
    assert command("show", "light", cwd=project).stdout == (
        "light on local, channel stable: local:light@1\n"
        "  template_id: light\n"
        "  origin: built\n"
        "  built_at: 2026-11-01T00:00:00Z\n"
        "  provenance:\n"
        "    commit: abc\n"
        "    dirty: no\n"
        "  size_bytes: 0\n"
        "  verified:\n"
        "    checks:\n"
        "      - import idna\n"
        "    seconds:\n"
        "      sandbox: 0.5\n"
        "  files:\n"
        "    - path: /a, mode: 0644\n"
        "builds, newest first:\n"
        "built at              state  channels  ref\n"
        "2026-11-01T00:00:00Z  built  stable    local:light@1\n"
    )
