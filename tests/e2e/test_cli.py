from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from builder import errors, record
from builder.project import Project
from tests.conftest import OTHER, Command


@pytest.mark.network
def test_the_main_job_end_to_end(project: Path, command: Command) -> None:
    """One command locks, renders, builds, verifies and records; then there is nothing to do; then a
    changed spec is built, because of that change, and the registry points at the new build."""
    built = command("build", cwd=project)
    assert built.returncode == 0, built.stderr
    assert built.stderr.startswith(
        "target local: the default without E2B_API_KEY; its sandboxes are "
    )
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


@pytest.mark.slow
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


@pytest.mark.slow
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


@pytest.mark.slow
@pytest.mark.network
def test_plan_ends_by_what_there_is_to_do(project: Path, command: Command) -> None:
    """0 when there is nothing to do, 2 when there is, 31 when a variant is blocked, whatever the
    reason; also with --quiet, which keeps the one line that says why."""
    quiet = ["plan", "--exit-code", "--quiet"]
    command("lock", cwd=project)
    done = command(*quiet, "--frozen", cwd=project)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == (
        "to do: build light (never built on local), build other (never built on local)\n"
    )
    done = command("outdated", "light", "--quiet", cwd=project)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "outdated: light (never built on local)\n"
    assert command("build", "--frozen", cwd=project).returncode == 0
    done = command(*quiet, "--frozen", cwd=project)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")

    def blocked(*arguments: str, **variables: str) -> str:
        done = command(*quiet, *arguments, cwd=project, **variables)
        assert (done.returncode, done.stdout) == (31, "")
        return done.stderr

    assert blocked("--frozen", "--target", "e2b").startswith(
        "error: 2 of 2 templates cannot be built on e2b:\n"
        "  light: target `e2b` needs an account: `E2B_API_KEY` is not set\n"
    )
    place = Project.find(project)
    content = record.Content.parse("package", "six>=1")
    record.revoke(place.registry, content, reason="a hole", by="x")
    spec = project / "variants" / "light.toml"
    before = spec.read_text()
    spec.write_text(before.replace("'light'", "'light'\ndescription = 'x'", 1))
    command("render", cwd=project)
    # Something to do for one, and another one that is blocked: blocked goes first.
    assert (
        "1 of 2 templates cannot be built on local:\n  other: `other` contains package six>=1"
        in (blocked("--frozen"))
    )
    record.restore(place.registry, content, by="x")
    spec.write_text(before.replace("packages = ['idna']", "packages = ['idna==0.0.1']"))
    assert "1 of 2 templates cannot be built on local:\n  light: " in blocked()


@pytest.mark.network
def test_an_error_in_a_plan_is_told_once(project: Path, command: Command) -> None:
    """The plan's table has the first line of an error, and standard error all of it, once."""
    (project / "variants" / "other.toml").write_text(OTHER.replace("'six'", "'six==0'"))
    planned = command("plan", "other", cwd=project)
    assert planned.returncode == errors.LockConflictError.exit_code
    rows = planned.stdout.splitlines()
    assert len(rows) == 2
    assert re.match(r"other     blocked  -       \S", rows[1])
    assert not rows[1].endswith(":")
    assert planned.stderr.count("error: ") == 1


@pytest.mark.network
def test_a_cache_folder_that_is_not_utf_8(project: Path, command: Command) -> None:
    """An environment is not made where uv cannot, and the error says why and what to set."""
    odd = project / "caf\udce9"
    built = command("build", "light", cwd=project, TEMPLATE_BUILDER_CACHE_DIR=str(odd))
    assert built.returncode == errors.StorageError.exit_code
    assert built.stderr.endswith(
        f"error: environments cannot be kept in `{project}/caf\\xe9/environments`: its name is not"
        " UTF-8\n\nhint: set TEMPLATE_BUILDER_CACHE_DIR to a folder whose name is\n"
    )


@pytest.mark.slow
@pytest.mark.network
def test_registry_behind_a_link_stays_there(
    project: Path, command: Command, tmp_path: Path
) -> None:
    """What registry.json links to is written, and the link stays a link."""
    shared = tmp_path / "shared.json"
    shared.write_text('{"version": 1, "templates": {}}')
    (project / "registry.json").symlink_to(shared)
    assert command("build", "light", cwd=project).returncode == 0
    assert (project / "registry.json").is_symlink()
    assert "light" in json.loads(shared.read_text())["templates"]


@pytest.mark.network
def test_extra_that_a_package_does_not_have(project: Path, command: Command) -> None:
    """A misspelt extra, which uv lets pass with a warning, is an error with file and line."""
    spec = project / "variants" / "light.toml"
    spec.write_text(
        "schema = 1\nname = 'light'\nextends = '_base'\n[python]\npackages = ['idna[sokcs]']\n"
    )
    found = command("lock", "light", cwd=project)
    assert found.returncode == errors.LockConflictError.exit_code
    first = found.stderr.splitlines()[-3]
    assert first.startswith('error: stage `light`: "idna[sokcs]" at variants/light.toml:5 requires')


@pytest.mark.network
def test_backend_that_nobody_has_heard_of(project: Path, command: Command) -> None:
    """A PyTorch backend that uv does not know is an error with file, line and near match."""
    spec = project / "variants" / "light.toml"
    spec.write_text(
        "schema = 1\nname = 'light'\nextends = '_base'\n"
        "[python]\npackages = ['idna']\ntorch-backend = 'cu999'\n"
    )
    found = command("lock", "light", cwd=project)
    assert found.returncode == errors.SpecError.exit_code
    assert (
        "variants/light.toml:6:1: `python.torch-backend`: uv knows no PyTorch backend 'cu999'"
        in found.stderr
    )


@pytest.mark.slow
@pytest.mark.network
def test_every_command_obeys_the_variable(project: Path, command: Command) -> None:
    """Commands that build, look and clean up take the target that TEMPLATE_TARGET names."""
    cloud = {"TEMPLATE_TARGET": "e2b"}
    local = {"TEMPLATE_TARGET": "local", "E2B_API_KEY": "e2b_x"}
    first = "target local: set by TEMPLATE_TARGET"
    command("lock", cwd=project)
    for arguments in (["build", "light", "--frozen"], ["plan"], ["verify", "light"], ["outdated"]):
        done = command(*arguments, cwd=project, **local)
        assert first in done.stderr.splitlines()[0], done.stderr
        assert (
            command(*arguments, cwd=project, **cloud)
            .stderr.splitlines()[0]
            .endswith("target e2b: set by TEMPLATE_TARGET")
        )
    for arguments in (["resolve", "light"], ["show", "light"], ["promote", "light"]):
        done = command(*arguments, cwd=project, **cloud)
        assert done.stderr.startswith(
            "error: template `light` is not built for target `e2b`, which TEMPLATE_TARGET names;"
        )
        assert command(*arguments, cwd=project, **local).returncode == 0
    assert first in command("gc", "--dry-run", cwd=project, **local).stderr
    assert command("adopt", "x", "abc", cwd=project, **local).returncode == 5


@pytest.mark.slow
@pytest.mark.network
def test_plan_on_this_machine_says_nothing_of_e2b(project: Path, command: Command) -> None:
    """Steps on E2B are in a plan for E2B, and in JSON; a plan for this machine leaves them out."""
    for target, there in (("local", False), ("e2b", True)):
        done = command("plan", "--target", target, cwd=project)
        assert done.returncode == 0, done.stderr
        assert ("steps on E2B: light: " in done.stdout) is there


@pytest.mark.slow
@pytest.mark.network
def test_hold_from_the_command_line(project: Path, command: Command) -> None:
    """rollback, build, list, outdated, show, unhold: each says what is held, since when and why."""

    def run(*arguments: str, code: int = 0) -> str:
        done = command(*arguments, cwd=project)
        assert done.returncode == code, done.stderr
        return done.stdout

    run("build", "light")
    spec = project / "variants" / "light.toml"
    spec.write_text(spec.read_text().replace("'light'", "'light'\ndescription = 'x'", 1))
    run("build", "light")
    told = run("rollback", "light", "--reason", "slower")
    assert told.splitlines()[1] == (
        "it is on hold: builds do not move it until `template-builder unhold light --channel"
        " stable --target local`, `build --release` or `promote`"
    )
    (row,) = json.loads(run("list", "--json"))
    why = f"held since {row['held']['at']} by {row['held']['by']}: slower"
    assert f"  here; {why}  " in run("list")
    assert f"\nChannel stable is {why}\n" in run("show", "light")
    assert f"channel stable is {why}" in run("plan", "light", "--frozen", "--exit-code")
    assert (
        f"channel stable of light is {why}; it does not point at this build until `template-builder"
        " promote light --channel stable --target local` or `build --release`\n"
    ) in run("build", "light")
    assert "light     held   0 days  nothing would change" in run("outdated", "light")
    assert run("resolve", "light").strip() == row["ref"]
    assert run("unhold", "light") == (
        f"channel stable of light on local is no longer on hold (it was {why})\n"
    )
    assert run("unhold", "light") == "channel stable of light on local is not on hold\n"
    run("build", "light")
    assert run("resolve", "light").strip() != row["ref"]
    run("rollback", "light")
    run("build", "light", "--release")
    assert run("resolve", "light").strip() != row["ref"]
    assert json.loads(run("list", "--json"))[0]["held"] is None
