"""Every value that a command reads out of the registry may be of any type that JSON has."""

from __future__ import annotations

import copy
import functools
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.main import get_command

from builder import record, registry
from builder.cli import app
from builder.errors import RegistryError, TemplateError
from builder.registry.chain import checksum
from tests.conftest import BASE
from tests.support.samples import load, rendered_of, verified_of

LEAF = "schema = 1\nname = 'leaf'\nextends = '_base'\n[python]\npackages = ['idna']\n"
VALUES: list[Any] = [None, True, -0.5, "abc", ["x"], [1], {"x": 1}, 10**400]
READING = [
    ["resolve", "leaf"],
    ["list"],
    ["show", "leaf"],
    ["show", "leaf", "--json"],
    ["show", "leaf", "--sbom"],
    ["diff", "leaf@1111", "leaf@2222", "--json"],
    ["gc", "--dry-run"],
]
WRITING = [
    ["promote", "leaf", "2222", "--channel", "next"],
    ["rollback", "leaf"],
    ["revoke", "leaf", "1111", "--reason", "r"],
    ["revoke", "--package", "idna==1.0", "--reason", "r"],
    ["restore", "--package", "idna==1.0"],
    ["unhold", "leaf", "--channel", "next"],
    ["remove", "leaf", "--channel", "next"],
    ["registry", "repair"],
]


def a_registry(folder: Path) -> dict[str, Any]:
    """A registry that has every field that a command reads, with two builds of one template."""
    path = folder / "registry.json"
    variant = load(folder, _base=BASE, leaf=LEAF)["leaf"]
    for version in ("1.0", "1.1"):
        rendered = rendered_of(variant, version=version)
        verified = verified_of(
            rendered,
            packages={"idna": version},
            other_packages={"pip": "9"},
            first_use={"memory": {"idna": 0.1}},
            timings={"created": 0.1},
        )
        record.record(path, verified, rendered, by="x", source={"commit": "c0ffee", "dirty": False})
    record.revoke(path, record.Content.parse("package", "idna==1.0"), reason="r", by="x")
    data: dict[str, Any] = json.loads(path.read_text())
    entry = data["templates"]["leaf"]["local"]
    for number, ref in enumerate(sorted(entry["builds"]), 1):
        fields = entry["builds"].pop(ref)
        fields |= {"build_id": f"{number}" * 8, "steps": ["a"], "warnings": ["w"]}
        fields["checksum"] = checksum(fields)
        entry["builds"][f"{number}" * 8] = fields
        entry["channels"] |= {"stable": f"{number}" * 8, "next": f"{number}" * 8}
    entry["holds"] = {"next": {"at": "2026-01-01T00:00:00Z", "by": "x", "reason": "r"}}
    return data


def places(value: Any, keys: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The keys that lead to each value, tables and lists included."""
    if keys:
        yield keys
    if isinstance(value, dict | list):
        for key in value if isinstance(value, dict) else range(len(value)):
            yield from places(value[key], (*keys, key))


def spoilt(data: dict[str, Any], keys: tuple[Any, ...], value: Any) -> dict[str, Any]:
    """The registry with another value at one place."""
    data = copy.deepcopy(data)
    table = data
    for key in keys[:-1]:
        table = table[key]
    table[keys[-1]] = value
    return data


def is_refused(path: Path) -> bool:
    """Whether the file as a whole is refused."""
    try:
        registry.load(path).checked()
    except RegistryError:
        return True
    return False


@pytest.mark.slow
def test_no_value_of_another_type_is_a_traceback(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Whatever value of a build, an event, a channel or a revocation is replaced by whatever JSON
    can hold: a command works, or refuses the file with the key that is wrong, and all of them
    agree on that."""
    data = a_registry(tmp_path)
    path = tmp_path / "registry.json"
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TEMPLATE_ACTOR", "x")
    monkeypatch.setenv(
        "DOCKER_HOST", "unix:///nowhere"
    )  # other tests' images are none of this one's
    monkeypatch.setenv("TEMPLATE_BUILDER_CACHE_DIR", str(tmp_path / "cache"))
    # Putting the commands together takes as long as running them.
    program = app.program
    monkeypatch.setattr(app, "program", functools.cache(lambda first: get_command(program(first))))
    entry = ("templates", "leaf", "local")
    first = (*entry, "builds", "11111111")
    tried = refused = 0
    wrong: dict[str, Any] = {}
    for keys in places(data):
        others = (*entry, "builds", "22222222"), (*entry, "history", 1), (*first, "inputs", "files")
        if keys[: len(others[0])] in others or (keys[:6] == others[2] and len(keys) > 6):
            continue  # they are as the first
        for value in VALUES:
            text = json.dumps(spoilt(data, keys, value))
            path.write_text(text)
            tried += 1
            commands = READING + (WRITING if value in (None, "abc") else [])
            if is_refused(path):
                refused += 1
                commands = [["diff", "leaf@1111", "leaf@2222"]]
            for arguments in commands:
                path.write_text(text)
                try:
                    app.run(arguments)
                except TemplateError:
                    continue
                except Exception as error:  # noqa: BLE001 - a person would see a traceback
                    wrong[repr(error)] = (arguments, keys, value)
            capsys.readouterr()
    assert wrong == {}
    assert refused > tried / 3


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"packages": None}, "`packages` of build `r` of template `t` on `e2b` is null, expected a table"),
        ({"inputs": {"spec": {"a": 5}}}, "`inputs.spec.a` of build `r` of template `t` on `e2b` is 5, expected text"),
        ({"warmup": {"imports": "abc"}}, '`warmup.imports` of build `r` of template `t` on `e2b` is "abc", expected a list'),
        ({"verified": {"checks": [1]}}, "`verified.checks[1]` of build `r` of template `t` on `e2b` is 1, expected text"),
        ({"verified": {"seconds": {"build": True}}}, "`verified.seconds.build` of build `r` of template `t` on `e2b` is true, expected a number"),
        ({"revocations": {"build": {}}}, "`revocations.build.reason` of build `r` of template `t` on `e2b` is missing, expected text"),
        ({"size_bytes": 10**30}, f"`size_bytes` of build `r` of template `t` on `e2b` is {10**30}, expected a whole number"),
    ],
)  # fmt: skip
def test_wrong_value_is_told_with_its_key(
    tmp_path: Path, change: dict[str, Any], message: str
) -> None:
    """The error has the path of keys to the value, the value, and what it should be, for code that
    looks up the template as for commands that read the whole file."""
    path = tmp_path / "registry.json"
    entry = {"channels": {"stable": "r"}, "builds": {"r": {"template_id": "t", **change}}}
    path.write_text(json.dumps({"version": 1, "templates": {"t": {"e2b": entry}}}))
    for read in (lambda: registry.load(path).checked(), lambda: registry.lookup("t", path=path)):
        with pytest.raises(RegistryError) as caught:
            read()
        assert caught.value.message == f"{path}: {message}"
