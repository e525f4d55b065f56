"""Targets of kind `local` by other names, builds of other machines, and odd places."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from builder import registry
from builder.errors import NotOnThisMachineError
from builder.runtime import CodeExecutionPrimitive
from tests.support.clouds import Place
from tests.support.program import run_program

pytestmark = pytest.mark.network
DEV = '[tool.template-builder.targets.dev]\nkind = "local"\n'


def run(
    folder: Path | bytes, cache: Path | bytes, *arguments: str, code: int = 0
) -> subprocess.CompletedProcess[str]:
    variables = {"TEMPLATE_BUILDER_CACHE_DIR": os.fsdecode(cache)}
    where = Path(os.fsdecode(folder))
    done = run_program(arguments, cwd=where, env=os.environ | variables)
    assert done.returncode == code, done.stderr
    return done


def answer(template: str, target: str) -> str:
    async def execute() -> str:
        async with CodeExecutionPrimitive(template_id=template, target=target) as executor:
            return (await executor.execute({"code": "print(6 * 7)"}))["output"]

    return asyncio.run(execute())


@pytest.mark.slow
def test_local_target_by_another_name(
    place: Place, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A target of kind `local` works by any name in every command and in the primitive; without its
    environment it is said not to be on this machine."""
    (place.folder / "pyproject.toml").write_text(DEV)
    folder, to = place.folder, ("--target", "dev")
    run(folder, cache, "build", "one", "--frozen", *to)
    (row,) = json.loads(run(folder, cache, "list", "--json").stdout)
    assert (row["target"], row["state"]) == ("dev", "here")
    assert row["ref"].startswith("local:one@sha256-")
    assert run(folder, cache, "resolve", "one", *to).stdout.strip() == row["ref"]
    shown = json.loads(run(folder, cache, "show", "one", *to, "--json").stdout)
    assert shown["verified"]["seconds"]["build"] > 0
    run(folder, cache, "plan", "one", "--frozen", "--exit-code", *to)
    run(folder, cache, "verify", "one", *to)
    run(folder, cache, "promote", "one", "stable", "--channel", "beta", *to)
    run(folder, cache, "doctor")
    assert json.loads(run(folder, cache, "gc", "--dry-run", "--json", *to).stdout)["found"] == []
    monkeypatch.chdir(folder)
    monkeypatch.setenv("TEMPLATE_BUILDER_CACHE_DIR", str(cache))
    assert answer("one", "dev") == "42\n"
    elsewhere = tmp_path / "elsewhere"
    (row, _) = json.loads(run(folder, elsewhere, "list", "--json").stdout)
    assert row["state"] == "not on this machine"
    planned = json.loads(run(folder, elsewhere, "plan", "one", "--frozen", "--json", *to).stdout)
    assert planned["variants"][0]["reasons"][0]["what"] == (
        "the environment is not on this machine"
    )
    done = run(folder, elsewhere, "verify", "one", *to, code=32)
    assert f"the environment of `{row['ref']}` is not on this machine" in done.stderr


@pytest.mark.slow
def test_build_of_another_machine_does_not_resolve_as_if_it_were_here(
    place: Place, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the registry of another machine `resolve` and the primitive say that the environment is
    not here, and what makes it; the plan makes it."""
    folder, elsewhere = place.folder, tmp_path / "elsewhere"
    run(folder, cache, "build", "one", "--frozen", "--target", "local")
    ref = registry.resolve("one", target="local", path=folder / "registry.json")
    message = f"the environment of `{ref}` is not on this machine"
    hint = "`template-builder build one --frozen --target local` makes it"
    done = run(folder, elsewhere, "resolve", "one", "--target", "local", code=32)
    assert done.stdout == ""
    assert done.stderr.endswith(f"error: {message}\n\nhint: {hint}\n")
    monkeypatch.chdir(folder)
    monkeypatch.setenv("TEMPLATE_BUILDER_CACHE_DIR", str(elsewhere))
    with pytest.raises(NotOnThisMachineError) as caught:
        answer("one", "local")
    assert str(caught.value) == f"{message}\n\nhint: {hint}"
    planned = json.loads(run(folder, elsewhere, "plan", "one", "--frozen", "--json").stdout)
    assert planned["variants"][0]["action"] == "build"
    done = run(folder, elsewhere, "promote", "one", "stable", "--channel", "beta", code=20)
    assert "is not on this machine" in done.stderr


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="names of other systems are Unicode")
def test_folders_that_are_not_unicode(
    places: Callable[[str], Place],
    tmp_path: Path,
    new_cache: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A project in a folder whose name is not UTF-8 works with every command, and JSON stays JSON;
    of a cache in such a folder it is said that uv makes no environments there."""
    plain = places("plain").folder
    folder, cache = os.fsencode(tmp_path) + b"/caf\xe9", new_cache
    os.rename(os.fsencode(plain), folder)
    build = ("build", "one", "--frozen", "--target", "local", "--json")
    (outcome,) = json.loads(run(folder, cache, *build).stdout)["outcomes"]
    assert outcome["action"] == "built"
    for arguments in (
        ("validate",),
        ("render", "--check"),
        ("plan", "one", "--frozen", "--json"),
        ("list", "--json"),
        ("show", "one", "--json"),
        ("verify", "one", "--target", "local", "--json"),
        ("promote", "one", "stable", "--channel", "beta", "--target", "local"),
        ("diff", "one", "spec", "--json"),
        ("logs", "one", "--path"),
        ("gc", "--dry-run", "--protect-days", "0", "--json", "--target", "local"),
        ("doctor", "--json"),
        ("registry", "repair"),
    ):
        done = run(folder, cache, *arguments)
        assert "Traceback" not in done.stderr
        if "--json" in arguments:
            json.loads(done.stdout)
    monkeypatch.chdir(os.fsdecode(folder))
    monkeypatch.setenv("TEMPLATE_BUILDER_CACHE_DIR", str(cache))
    assert answer("one", "local") == "42\n"
    odd = os.fsencode(tmp_path) + b"/cach\xe9"
    done = run(folder, odd, "build", "one", "--frozen", "--target", "local", code=22)
    assert done.stderr.endswith(
        f"error: environments cannot be kept in `{tmp_path}/cach\\xe9/environments`: its name is not"
        " UTF-8\n\nhint: set TEMPLATE_BUILDER_CACHE_DIR to a folder whose name is\n"
    )
