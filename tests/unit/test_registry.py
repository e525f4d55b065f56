from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from builder import registry
from builder.errors import (
    NotBuiltError,
    RegistryError,
    RegistryVersionError,
    RevokedError,
    TemplateError,
    UnknownChannelError,
    UnknownTemplateError,
)
from builder.registry import history
from tests.conftest import ROOT, Command

E2B = {
    "channels": {"stable": "abc:one"},
    "builds": {"abc:one": {"template_id": "abc", "build_id": "one"}},
}
LOCAL = {
    "channels": {"stable": "local:x@sha256-1"},
    "builds": {"local:x@sha256-1": {"template_id": "x"}},
}


def written(path: Path, templates: Any, version: Any = 1) -> Path:
    path.write_text(json.dumps({"version": version, "templates": templates}))
    return path


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return written(
        tmp_path / "registry.json",
        {
            "both": {"e2b": E2B, "local": LOCAL},
            "here": {"local": LOCAL},
            "two": {"a": LOCAL, "b": LOCAL},
        },
    )


def test_resolve_prefers_e2b(file: Path) -> None:
    """Without a target, a template that is built on e2b resolves to that build."""
    assert registry.resolve("both", path=file) == "abc:one"


def test_resolve_takes_the_only_target(file: Path) -> None:
    """Without a target, a template with one target resolves to its build there."""
    assert registry.resolve("here", path=file) == "local:x@sha256-1"


def test_resolve_obeys_the_environment(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """TEMPLATE_TARGET decides where the call does not."""
    monkeypatch.setenv("TEMPLATE_TARGET", "local")
    assert registry.resolve("both", path=file) == "local:x@sha256-1"


def test_argument_beats_the_environment(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A target named in the call wins over TEMPLATE_TARGET."""
    monkeypatch.setenv("TEMPLATE_TARGET", "local")
    assert registry.resolve("both", target="e2b", path=file) == "abc:one"


def test_lookup_returns_the_record(file: Path) -> None:
    """Lookup gives the whole record of the build that the channel points at."""
    found = registry.lookup("both", path=file)
    assert (found.template_id, found.build_id, found.target) == ("abc", "one", "e2b")


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        (
            {"name": "bot"},
            UnknownTemplateError,
            "no template `bot` in {path}, which has 3 templates\n\nhint: did you mean `both`?",
        ),
        (
            {"name": "zzz"},
            UnknownTemplateError,
            "no template `zzz` in {path}, which has 3 templates\n\n"
            "hint: `template-builder list` shows all templates",
        ),
        (
            {"name": "here", "target": "e2b"},
            NotBuiltError,
            "template `here` is not built for target `e2b`; it is built for `local` (in {path})\n\n"
            "hint: `template-builder build here --target e2b` makes it",
        ),
        (
            {"name": "here", "target": "locl"},
            NotBuiltError,
            "template `here` is not built for target `locl`; it is built for `local` (in {path})\n\n"
            "hint: did you mean `local`? If not, `template-builder build here --target locl` makes it",
        ),
        (
            {"name": "two"},
            NotBuiltError,
            "template `two` needs a target; it is built for: `a`, `b` (in {path})\n\n"
            'hint: name one with `--target` (in Python `target="…"`) or TEMPLATE_TARGET',
        ),
        (
            {"name": "here", "channel": "stabel"},
            UnknownChannelError,
            "template `here` has no channel `stabel` on target `local`; its channels: `stable`"
            " (in {path})\n\nhint: did you mean `stable`?",
        ),
    ],
)
def test_failed_lookup_says_what_there_is(
    file: Path, arguments: dict[str, str], error: type[TemplateError], message: str
) -> None:
    """A look-up that fails is a LookupError that names what was tried and what is near."""
    with pytest.raises(error) as caught:
        registry.resolve(path=file, **arguments)
    assert isinstance(caught.value, LookupError)
    assert str(caught.value) == message.format(path=file)


def test_revoked_build_fails_closed(tmp_path: Path) -> None:
    """A revoked build is never resolved, and never replaced by another one."""
    builds = {"a:1": {"revoked": "CVE in torch"}, "a:0": {}}
    path = written(
        tmp_path / "r.json", {"t": {"e2b": {"channels": {"stable": "a:1"}, "builds": builds}}}
    )
    with pytest.raises(RevokedError) as caught:
        registry.resolve("t", path=path)
    assert caught.value.message == (
        "build `a:1` of template `t` on target `e2b` is revoked: CVE in torch; usable builds: `a:0`"
    )


def test_dangling_channel_is_an_error(tmp_path: Path) -> None:
    """A channel that points at no recorded build resolves to nothing."""
    path = written(
        tmp_path / "r.json", {"t": {"e2b": {"channels": {"stable": "gone"}, "builds": {}}}}
    )
    with pytest.raises(RegistryError, match="points at `gone`, which is not among its builds"):
        registry.resolve("t", path=path)


@pytest.mark.parametrize(
    ("text", "error", "message"),
    [
        ("", RegistryError, "is not a registry: Expecting value"),
        ('{"version": 1, "templ', RegistryError, "is not a registry: Unterminated string"),
        ("[]", RegistryError, "expected an object with `version` and `templates`"),
        ('{"version": "1", "templates": {}}', RegistryError, "`version` is '1', expected 1"),
        ('{"version": true, "templates": {}}', RegistryError, "`version` is True, expected 1"),
        (
            '{"version": 2, "templates": {}}',
            RegistryVersionError,
            "this version of template-builder reads up to version 1",
        ),
        ('{"version": 1, "templates": {"t": 5}}', RegistryError, "is not a table of targets"),
        (
            '{"version": 1, "templates": {"t": {"e2b": {"channels": 3}}}}',
            RegistryError,
            "is 3, expected a table",
        ),
        ("[" * 101, RegistryError, "is not a registry: it is nested deeper than 100 levels"),
        ("\udcff", RegistryError, "is not a registry"),
    ],
)
def test_unreadable_file_is_one_clear_error(
    tmp_path: Path, text: str, error: type[TemplateError], message: str
) -> None:
    """A file that is broken, foreign or from the future is refused in one paragraph."""
    path = tmp_path / "registry.json"
    path.write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(error) as caught:
        registry.resolve("t", target="e2b", path=path)
    assert message in str(caught.value)
    assert "Traceback" not in str(caught.value)


def test_missing_file_names_the_places_tried(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """TEMPLATE_REGISTRY that names no file is an error, not a reason to look elsewhere."""
    monkeypatch.setenv("TEMPLATE_REGISTRY", str(tmp_path / "absent.json"))
    with pytest.raises(RegistryError, match=r"absent\.json cannot be read: No such file"):
        registry.resolve("both")


def test_nearest_file_upwards_is_used(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The registry is looked for from the working directory upwards."""
    deep = file.parent / "a" / "b"
    deep.mkdir(parents=True)
    monkeypatch.chdir(deep)
    assert registry.resolve("both") == "abc:one"


def test_shipped_file_is_the_last_resort(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Outside any project, the file that comes with the package is read."""
    monkeypatch.chdir(tmp_path)
    assert registry.resolve("tta-ml-minimal", target="e2b") == "3xmp0rmfztawhlpysu4v"


def test_commands_say_that_the_shipped_file_is_read(tmp_path: Path, command: Command) -> None:
    """Outside any project, a command that reads the package's own file says so."""
    done = command("resolve", "tta-ml-minimal", cwd=tmp_path)
    assert done.stdout == "3xmp0rmfztawhlpysu4v\n"
    assert done.stderr == (
        "note: no registry.json here or above; using the package's own:"
        f" {ROOT / 'builder' / 'registry' / 'shipped.json'}\n"
    )


def test_adopted_template_of_this_repository_resolves() -> None:
    """The one template that is known to exist in the cloud resolves to its ID."""
    found = registry.lookup("tta-ml-minimal", target="e2b", path=ROOT / "registry.json")
    assert (found.ref, found.origin, found.digest) == ("3xmp0rmfztawhlpysu4v", "adopted", None)


def test_import_loads_the_standard_library_only() -> None:
    """A process that imports `builder.registry` and resolves loads no third-party module."""
    code = (
        "import sys; from builder import registry\n"
        "registry.resolve('tta-ml-minimal', target='e2b')\n"
        "print(*{m.partition('.')[0] for m in sys.modules} - set(sys.stdlib_module_names))"
    )
    environment = {k: v for k, v in os.environ.items() if not k.startswith("COV")}
    # -S: what .pth files of the test environment import at start-up is not ours.
    found = subprocess.run(
        [sys.executable, "-S", "-c", code],
        capture_output=True,
        text=True,
        cwd=ROOT,
        check=True,
        env=environment,
    )
    assert set(found.stdout.split()) - {"__main__", "sitecustomize", "usercustomize"} == {"builder"}


def test_shipped_file_is_the_adopted_part_of_the_registry() -> None:
    """The package ships what this repository's registry has adopted, and no build of a machine."""
    templates = json.loads((ROOT / "registry.json").read_text())["templates"]
    adopted = {
        name: {
            target: entry
            for target, entry in targets.items()
            if all(fields["origin"] == "adopted" for fields in entry["builds"].values())
        }
        for name, targets in templates.items()
    }
    expected = {name: targets for name, targets in adopted.items() if targets}
    shipped = ROOT / "builder" / "registry" / "shipped.json"
    assert expected == {"tta-ml-minimal": {"e2b": templates["tta-ml-minimal"]["e2b"]}}
    assert json.loads(shipped.read_text()) == {"templates": expected, "version": 1}
    assert list(history.faults(registry.load(shipped).checked().templates)) == []
