from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from builder import errors
from tests.conftest import OTHER, Command


@pytest.mark.network
def test_the_main_job_end_to_end(project: Path, command: Command) -> None:
    """One command locks, renders, builds, verifies and records; then there is nothing to do; then a
    changed spec is built, because of that change, and the registry points at the new build."""
    built = command("build", cwd=project)
    assert built.returncode == 0, built.stderr
    assert built.stderr.startswith("target local: the default without E2B_API_KEY\n")
    lines = built.stdout.splitlines()
    assert re.fullmatch(r"template  result  ref +packages  size +duration +first import", lines[0])
    assert re.fullmatch(
        r"light     built   local:light@sha256-[0-9a-f]{64}  1         [\d,]+ MiB"
        r"  \d+\.\d s +cold [\d.]+ (s|ms) → disk [\d.]+ (s|ms|µs)",
        lines[1],
    )
    assert lines[2].startswith("other     built   local:other@sha256-")
    resolved = command("resolve", "light", cwd=project).stdout.strip()
    assert resolved.startswith("local:light@sha256-")

    assert command("plan", "--frozen", "--exit-code", cwd=project).returncode == 0
    again = command("build", "--frozen", cwd=project)
    assert [line.split()[1] for line in again.stdout.splitlines()[1:]] == ["skipped", "skipped"]

    spec = project / "variants" / "light.toml"
    spec.write_text(spec.read_text() + "[resources]\ncpu = 4\n")
    plan = command("plan", "--frozen", "--exit-code", cwd=project)
    assert plan.returncode == errors.SOMETHING_TO_DO
    assert "`resources.cpu` changed: 2 → 4" in plan.stdout
    changed = command("build", "light", "--json", cwd=project)
    outcome = json.loads(changed.stdout)["outcomes"][0]
    assert (outcome["name"], outcome["action"], outcome["error"]) == ("light", "built", None)
    assert outcome["record"]["resources"] == {"cpu": 4, "memory_mb": 1024}
    now = command("resolve", "light", cwd=project).stdout.strip()
    assert now == outcome["ref"] != resolved
    assert (
        len(
            json.loads((project / "registry.json").read_text())["templates"]["light"]["local"][
                "builds"
            ]
        )
        == 2
    )

    verified = command("verify", "light", cwd=project)
    assert verified.returncode == 0, verified.stderr
    assert verified.stdout.splitlines()[0] == f"light: 2 checks passed ({now})"
    log = command("logs", "light", cwd=project)
    assert "verify" in log.stderr + log.stdout or "a name is encoded" in log.stdout
    shown = json.loads(command("show", "light", "--json", cwd=project).stdout)
    assert shown["verified"]["checks"] == ["import idna", "a name is encoded"]
    listed = json.loads(command("list", "--json", cwd=project).stdout)
    assert [(row["name"], row["state"]) for row in listed] == [("light", "here"), ("other", "here")]


@pytest.mark.network
def test_failed_verification_records_nothing(project: Path, command: Command) -> None:
    """A variant that fails its check is not recorded, the others are, and the exit code says why."""
    spec = project / "variants" / "light.toml"
    spec.write_text(spec.read_text().replace("xn--strae-oqa", "strasse"))
    found = command("build", cwd=project)
    assert found.returncode == errors.VerifyError.exit_code
    assert (
        "error: `light` was built on `local` but failed verification:\n"
        "  variants/light.toml:10: check `a name is encoded` failed:"
        " expected 'strasse', got 'xn--strae-oqa'\n\n"
        "hint: nothing was recorded; `template-builder logs light` shows the details\n"
    ) in found.stderr
    assert list(json.loads((project / "registry.json").read_text())["templates"]) == ["other"]


@pytest.mark.network
def test_several_failures_are_all_told(project: Path, command: Command) -> None:
    """Variants that fail in different ways are all named, under a code of its own."""
    (project / "variants" / "other.toml").write_text(OTHER.replace("'six'", "'six==0'"))
    spec = project / "variants" / "light.toml"
    spec.write_text(spec.read_text().replace("xn--strae-oqa", "strasse"))
    found = command("build", "--json", cwd=project)
    assert found.returncode == errors.SeveralFailuresError.exit_code
    answer, end = json.JSONDecoder().raw_decode(found.stdout)
    assert found.stdout[end:].strip() == ""
    assert {o["name"]: o["error"]["kind"] for o in answer["outcomes"]} == {
        "light": "VerifyError",
        "other": "LockConflictError",
    }


def test_key_that_is_set_is_not_printed(project: Path, command: Command) -> None:
    """With a key, e2b is the target, and where that does not answer, the key is not in the error."""
    assert command("lock", cwd=project).returncode == 0
    nobody = {"E2B_API_KEY": "canary-key", "E2B_API_URL": "http://127.0.0.1:1"}
    found = command("plan", "--frozen", cwd=project, **nobody)
    assert found.returncode == errors.NetworkError.exit_code
    assert found.stderr.splitlines()[0] == (
        "target e2b: E2B_API_KEY is set, at http://127.0.0.1:1 (from E2B_API_URL)"
    )
    assert "error: asking for the tags of `light` failed: " in found.stderr
    assert "canary" not in found.stderr + found.stdout
    looked = command("doctor", cwd=project, **nobody)
    assert "canary" not in looked.stderr + looked.stdout
