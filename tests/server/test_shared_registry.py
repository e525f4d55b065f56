from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from builder import record, registry
from builder.errors import NetworkError, RegistryError, RevokedError
from builder.registry import history
from builder.registry.model import Build, Contents
from builder.registry.object_store import StaleRegistryWarning
from tests.conftest import ROOT, Command
from tests.support.object_store import Store
from tests.support.records import WRITER, WRITERS, WRITES

URL = "s3://bucket/team/registry.json"


def adopt(name: str, ref: str) -> None:
    record.adopt(
        URL,
        record.Change(name=name, target="e2b", by="x", channel="stable"),
        ref,
        Build(template_id=ref),
    )


def adopt_elsewhere(name: str, ref: str, folder: Path) -> None:
    """Adopt on another machine: in a process that has a cache, and thus a lock, of its own."""
    code = f"from tests.server.test_shared_registry import adopt; adopt({name!r}, {ref!r})"
    subprocess.run(
        [sys.executable, "-c", code],
        check=True,
        env=os.environ | {"TEMPLATE_BUILDER_CACHE_DIR": str(folder / "elsewhere")},
        cwd=ROOT,
    )


def test_registry_in_a_store_is_read_and_written(store: Store) -> None:
    """What is recorded at a URL resolves from there, and the object is the file's own text."""
    adopt("a", "abc")
    adopt("b", "def")
    assert registry.resolve("a", path=URL) == "abc"
    assert registry.resolve("b", path=URL) == "def"
    text = store.text()
    assert text == json.dumps(json.loads(text), indent=2, sort_keys=True) + "\n"
    assert not list(history.faults(registry.parse(text, URL).templates))


@pytest.mark.slow
def test_project_names_its_registry(
    store: Store, project: Path, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With `registry` in the settings a build is recorded in the store, and code in the project
    resolves it from there without a registry.json."""
    (project / "pyproject.toml").write_text(f'[tool.template-builder]\nregistry = "{URL}"\n')
    variables = store.variables
    done = command("build", "other", "--target", "local", cwd=project, **variables)
    assert done.returncode == 0, done.stderr
    assert not (project / "registry.json").exists()
    ref = json.loads(store.text())["templates"]["other"]["local"]["channels"]["stable"]
    assert command("resolve", "other", cwd=project, **variables).stdout.strip() == ref
    planned = command("plan", "other", "--frozen", "--exit-code", "--target", "local", cwd=project)
    assert planned.returncode == 0, planned.stderr
    monkeypatch.chdir(project)
    assert registry.resolve("other") == ref
    examined = command("doctor", "--json", cwd=project, **variables)
    assert {"state": "ok", "what": "registry", "found": f"1 template in {URL}"} in json.loads(
        examined.stdout
    )


def test_plain_path_of_a_project_is_below_it(
    project: Path, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A path in the settings is that of a file, from the project's folder on."""
    (project / "pyproject.toml").write_text('[tool.template-builder]\nregistry = "a/b.json"\n')
    assert command("adopt", "x", "abc", "--unchecked", cwd=project).returncode == 0
    monkeypatch.chdir(project / "variants")
    assert registry.find() == str(project / "a" / "b.json")
    assert registry.resolve("x") == "abc"


@pytest.mark.slow
def test_readers_go_on_with_what_they_read(store: Store, command: Command, tmp_path: Path) -> None:
    """When the store is away, what was read last is used, with a warning that tells its age; a
    machine that never read it fails and says why."""
    adopt("a", "abc")
    assert registry.resolve("a", path=URL) == "abc"
    store.stop()
    with pytest.warns(StaleRegistryWarning, match=r"using a copy read \d+ s ago"):
        assert registry.resolve("a", path=URL) == "abc"
    told = command(
        "resolve", "a", cwd=tmp_path, TEMPLATE_REGISTRY=URL,
        TEMPLATE_BUILDER_CACHE_DIR=str(tmp_path / "cache"),
    )  # fmt: skip
    assert told.stdout == "abc\n"
    assert told.stderr.startswith(f"warning: the registry {URL} cannot be reached: ")
    assert "Traceback" not in told.stderr
    other = command(
        "resolve", "a", cwd=tmp_path, TEMPLATE_REGISTRY=URL,
        TEMPLATE_BUILDER_CACHE_DIR=str(tmp_path / "another"),
    )  # fmt: skip
    assert other.returncode == NetworkError.exit_code
    assert "canary-secret-of-s3" not in told.stderr + other.stderr
    with pytest.raises(NetworkError):
        adopt("b", "def")


def test_what_did_not_change_is_not_sent_again(store: Store, tmp_path: Path) -> None:
    """A second look asks with the ETag; a change by another machine is seen at once."""
    adopt("a", "abc")
    kept = next((tmp_path / "cache" / "registries").glob("*.txt"))
    before = kept.read_text().partition("\n")[2]
    kept.write_text(kept.read_text().replace('"abc"', '"xyz"'))  # to tell whether it is taken
    assert registry.resolve("a", path=URL) == "xyz"
    store.write(before.replace('"abc"', '"new"'))
    assert registry.resolve("a", path=URL) == "new"


def test_nothing_there_is_said(store: Store, command: Command, tmp_path: Path) -> None:
    """An address without an object is told as such, and the first record makes it."""
    with pytest.raises(RegistryError) as caught:
        registry.resolve("a", path=URL)
    assert caught.value.message == f"there is no registry at {URL}"
    adopt("a", "abc")
    assert registry.resolve("a", path=URL) == "abc"


@pytest.mark.parametrize(
    "url", ["s3://bucket", "ftp://host/registry.json", "s3://key:secret@bucket/r.json", "s3:///r"]
)
def test_address_that_is_none_is_told(url: str) -> None:
    """What is no address of an object is refused before anything is asked, without its secrets."""
    with pytest.raises(RegistryError, match="is not the address of a registry") as caught:
        registry.load(url)
    assert "secret" not in str(caught.value).replace("credentials", "")


def test_overtaken_writer_starts_over(store: Store, tmp_path: Path) -> None:
    """A change that another machine made between reading and writing is not lost."""
    adopt("a", "abc")
    seen = []

    def change(data: Contents) -> None:
        seen.append(sorted(data.templates))
        if len(seen) == 1:  # another machine, which shares no lock with this one
            adopt_elsewhere("other", "def", tmp_path)
        data.templates["mine"] = {}

    record.update(URL, change)
    assert seen == [["a"], ["a", "other"]]
    assert sorted(json.loads(store.text())["templates"]) == ["a", "mine", "other"]


@pytest.mark.slow
@pytest.mark.chance
def test_many_machines_lose_nothing(store: Store, tmp_path: Path) -> None:
    """Processes on 4 machines that write at once leave every build of every one of them."""
    code = WRITER.replace("Path(sys.argv[1])", "sys.argv[1]")
    writers = [
        subprocess.Popen(
            [sys.executable, "-c", code, URL, f"t{number}", str(WRITES)],
            stdout=subprocess.PIPE,
            text=True,
            cwd=ROOT,
            env=os.environ | {"TEMPLATE_BUILDER_CACHE_DIR": str(tmp_path / f"m{number % 4}")},
        )
        for number in range(WRITERS)
    ]
    assert [process.communicate()[0].count("\n") for process in writers] == [WRITES] * WRITERS
    templates = json.loads(store.text())["templates"]
    assert {name: len(found["local"]["builds"]) for name, found in templates.items()} == {
        f"t{number}": WRITES for number in range(WRITERS)
    }


def test_answer_that_got_lost_is_not_written_twice(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """When the store wrote and its answer did not arrive, the change is found to be there."""
    import obstore.exceptions as failures

    from builder.registry import object_store

    adopt("a", "abc")
    real = object_store._store

    class Forgetful:
        def __init__(self, found: Any) -> None:
            self._found = found

        def __getattr__(self, name: str) -> Any:
            return getattr(self._found, name)

        def put(self, *arguments: Any, **options: Any) -> Any:
            self._found.put(*arguments, **options)
            raise failures.GenericError("connection reset")

    def forgetful(url: str) -> tuple[Any, str]:
        found, key = real(url)
        return Forgetful(found), key

    monkeypatch.setattr(object_store, "_store", forgetful)
    adopt("b", "def")
    monkeypatch.undo()
    events = json.loads(store.text())["templates"]["b"]["e2b"]["history"]
    assert len(events) == 1


ONCE: dict[str, Callable[[], object]] = {
    "revoke": lambda: record.revoke(URL, ("a", "e2b", "abc"), reason="r", by="x"),
    "restore": lambda: record.restore(URL, ("a", "e2b", "old"), by="x"),
    "promote": lambda: record.move(
        URL, record.Change(name="a", target="e2b", by="x", channel="next"), "abc", action="promote"
    ),
    "adopt": lambda: adopt("a", "new"),
}


@pytest.mark.parametrize("count", [1, 99])
@pytest.mark.parametrize("how", ["500", "reset"])
@pytest.mark.parametrize("name", ONCE)
def test_change_whose_answer_was_lost_is_made_once(
    store: Store, name: str, how: str, count: int
) -> None:
    """A change that the store applied is there once and reported as made, whether its answer was
    an error or none, and whether the next one arrives."""
    adopt("a", "old")
    record.revoke(URL, ("a", "e2b", "old"), reason="r", by="x")
    adopt("a", "abc")
    before = json.loads(store.text())["templates"]["a"]["e2b"]["history"]
    store.lose_answers(how, count)
    ONCE[name]()
    entry = json.loads(store.text())["templates"]["a"]["e2b"]
    assert [event["action"] for event in entry["history"][len(before) :]] == [name]
    assert not list(history.faults(registry.parse(store.text(), URL).templates))


@pytest.mark.slow
def test_lost_answer_of_an_overtaken_change(
    store: Store, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A change whose answer was lost is recognised after another machine has changed the registry,
    even where it left nothing in a history."""
    from builder.registry import object_store

    content = record.Content.parse("package", "idna==9")
    record.revoke(URL, content, reason="r", by="x")
    real = object_store._put

    def put(url: str, text: str, before: Any) -> str:
        real(url, text, before)
        monkeypatch.setattr(object_store, "_put", real)
        adopt_elsewhere("b", "def", tmp_path)
        return real(url, text, before)  # as the client does that had no answer

    monkeypatch.setattr(object_store, "_put", put)
    assert record.restore(URL, content, by="x") == []
    data = json.loads(store.text())
    assert data["revocations"] == []
    assert registry.resolve("b", path=URL) == "def"


def test_change_that_cannot_be_looked_up_is_said(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the store is gone after a change was sent, nobody knows, and the error says that."""
    from builder.registry import object_store

    adopt("a", "abc")
    real = object_store._put

    def put(url: str, text: str, before: Any) -> str:
        store.stop()
        return real(url, text, before)

    monkeypatch.setattr(object_store, "_put", put)
    with pytest.raises(NetworkError, match="; it is unknown whether the change was made"):
        adopt("b", "def")


def test_revocation_reaches_an_open_primitive(store: Store, monkeypatch: Any) -> None:
    """An application that reads the registry from the store is told of a revocation."""
    adopt("a", "abc")
    record.revoke(URL, ("a", "e2b", "abc"), reason="bad", by="x")
    with pytest.raises(RevokedError, match="bad"):
        registry.resolve("a", path=URL)


def test_reader_is_never_half_way(store: Store) -> None:
    """Readers beside a writer see whole registries alone, each at least as new as the last."""
    adopt("a", "r0")
    stop, seen, errors = threading.Event(), [], []

    def read() -> None:
        while not stop.is_set():
            try:
                with warnings.catch_warnings():
                    warnings.simplefilter("error")
                    seen.append(int(registry.resolve("a", path=URL)[1:]))
            except Exception as error:  # noqa: BLE001 - all of it is a failure of this test
                errors.append(error)

    reader = threading.Thread(target=read)
    reader.start()
    for number in range(1, 20):
        adopt("a", f"r{number}")
    stop.set()
    reader.join()
    assert errors == []
    assert seen == sorted(seen)
