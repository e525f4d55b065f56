"""A large registry, of which a look-up reads one entry: it agrees with those who read all of it."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from builder import record, registry
from builder.errors import RegistryError
from builder.registry import cached, files
from builder.registry.model import contents
from builder.registry.search import mark_of

COUNT = 400


def entry_of(ref: str) -> dict[str, Any]:
    fields = {
        "template_id": ref,
        "origin": "adopted",
        "packages": {f"p{n}": "1" for n in range(20)},
    }
    return {"e2b": {"channels": {"stable": ref}, "builds": {ref: fields}}}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A registry that this program wrote, of a size at which one entry is searched for."""
    path = tmp_path / "registry.json"
    templates = {f"t{number:03}": entry_of(f"ref{number}") for number in range(COUNT)}
    templates |= {"builds": entry_of("odd1"), "e2b": entry_of("odd2"), "stable": entry_of("odd3")}
    typed = contents({"version": 1, "templates": templates}, path="").templates
    record.update(path, lambda recorded: recorded.templates.update(typed))
    assert path.stat().st_size >= files._LARGE_BYTES
    return path


def elsewhere(path: Path) -> None:
    """The same bytes in a file that this program has not written."""
    text = path.read_bytes()
    path.unlink()
    path.write_bytes(text)


def answers(name: str, path: Path) -> list[str]:
    """What a look-up of one template, one in the whole registry, and all commands say."""
    readers: list[Callable[[], str]] = [
        lambda: registry.resolve(name, path=path),
        lambda: registry.load(path).lookup(name).ref,
        lambda: registry.load(path).checked().lookup(name).ref,
    ]
    found = []
    for read in readers:
        try:
            found.append(read())
        except RegistryError as error:
            found.append(error.message)
    return found


@pytest.mark.parametrize("change", [lambda _path: None, elsewhere])
def test_every_template_is_found_alone(
    path: Path, change: Callable[[Path], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each template is found without reading the rest, also one that has the name of a key, and
    whoever wrote the file."""
    change(path)
    templates = registry.load(path).templates
    monkeypatch.setattr(registry, "load", None)
    for name, targets in templates.items():
        assert registry.resolve(name, path=path) == targets["e2b"].channels["stable"]


def before_another(text: str, block: str) -> str:
    """The text with a further entry in its middle."""
    return text.replace('    "t200": {', f'{block},\n    "t200": {{')


def at_the_end(text: str, block: str) -> str:
    end = text.rindex("\n  },\n")
    return f"{text[:end]},\n{block}{text[end:]}"


def under_another_table(text: str, block: str) -> str:
    end = text.rindex('\n  "version"')
    return f'{text[:end]}\n  "templates": {{\n{block}\n  }},{text[end:]}'


TWICE: dict[str, Callable[[str, str], str]] = {
    "beside it": lambda text, block: text.replace(block, f"{block},\n{block}"),
    "first": lambda text, block: text.replace('"templates": {\n', f'"templates": {{\n{block},\n'),
    "last": at_the_end,
    "in the middle": before_another,
    "with less of an indent": lambda text, block: before_another(
        text, re.sub(r"(?m)^  ", "", block)
    ),
    "on one line": lambda text, block: before_another(text, re.sub(r" *\n *", "", block)),
    "under another table of templates": under_another_table,
}


@pytest.mark.parametrize("place", TWICE)
@pytest.mark.parametrize("name", ["t000", "t123", "t399"])
def test_template_that_is_there_twice_is_refused_by_all(path: Path, place: str, name: str) -> None:
    """Wherever a merge has left a second entry of a template, no reader takes one of the two."""
    text = path.read_text()
    begin = text.index(f'    "{name}": {{\n')
    block = text[begin : text.index("\n    }", begin) + len("\n    }")]
    other = block.replace(f"ref{int(name[1:])}", "other")
    path.write_text(TWICE[place](text, block).replace(block, other, 1))
    assert json.loads(path.read_text())
    key = "templates" if place.startswith("under") else name
    message = f"{path} is not a registry: `{key}` appears twice in one table, as after a merge"
    assert answers(name, path) == [message] * 3


def test_key_twice_within_an_entry_is_refused_by_all(path: Path) -> None:
    """A channel that a merge has left twice is an error for a look-up of that template, too."""
    text = path.read_text()
    line = '"stable": "ref123"'
    path.write_text(text.replace(line, f'{line},\n          "stable": "other"'))
    message = f"{path} is not a registry: `stable` appears twice in one table, as after a merge"
    assert answers("t123", path) == [message] * 3


def test_small_registry_with_a_key_twice_is_refused_by_all(tmp_path: Path) -> None:
    """The rule is the same for a file that is read as a whole."""
    path = tmp_path / "registry.json"
    block = f'"a": {json.dumps(entry_of("x"))}'
    path.write_text(f'{{"version": 1, "templates": {{{block}, {block}}}}}')
    message = f"{path} is not a registry: `a` appears twice in one table, as after a merge"
    assert answers("a", path) == [message] * 3


def test_mark_is_that_of_what_was_written_last(path: Path) -> None:
    """The mark beside a registry holds for the very file that this program wrote, through a link
    too, and for no other."""
    place, said = mark_of(str(path), path.stat())
    assert Path(place).read_text() == said
    link = path.parent / "link.json"
    link.symlink_to(path)
    assert mark_of(str(link), link.stat()) == (place, said)
    elsewhere(path)
    assert mark_of(str(path), path.stat()) != (place, said)


def refs_and_names() -> list[str]:
    return ["t000", "ref123", "builds", "ref399", "p7", "elsewhere", "code-interpreter-v1"]


@pytest.mark.parametrize("change", [lambda _path: None, elsewhere])
def test_application_reads_the_entries_it_needs(
    path: Path, change: Callable[[Path], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a large registry, what an application asks for by a name or a ref is parsed alone, and is
    what the whole file says; of what nobody has heard of, it learns that there is nothing."""
    change(path)
    whole = registry.load(path).templates
    monkeypatch.setattr(cached, "load", None)
    for word in refs_and_names():
        entries = cached.about(word, str(path)).templates
        holders = [name for name, targets in whole.items() if word in targets["e2b"].builds]
        assert set(entries) == {word} & set(whole) | set(holders)
        assert all(whole[name] == entry for name, entry in entries.items())


@pytest.mark.parametrize("change", [lambda _path: None, elsewhere])
def test_application_reads_the_build_it_checks(
    path: Path, change: Callable[[Path], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a large registry, the one build that is checked before a sandbox is handed out is what
    the whole file says of it; of a target or build that it does not have, there is nothing."""
    change(path)
    whole = registry.load(path).templates
    monkeypatch.setattr(cached, "load", None)

    def read(ref: str, target: str) -> list[Any]:
        known = cached.about_build(ref, str(path), name="t123", target=target)
        return [each.build for each in known.records(ref=ref, target=target)]

    assert read("ref123", "e2b") == [whole["t123"]["e2b"].builds["ref123"]]
    assert (read("ref123", "local"), read("ref124", "e2b"), read("p7", "e2b")) == ([], [], [])


ODD: dict[str, Callable[[str], str]] = {
    "on few lines": lambda text: json.dumps(json.loads(text)),
    "a ref with an escape": lambda text: text.replace('"ref123"', '"re\\u0066123"'),
    "another order": lambda text: text.replace('    "t123": {', '    "t999": {'),
    "an entry out of line": lambda text: before_another(
        text, '  "extra": {"e2b": {"builds": {"ref123": {"revoked": "bad"}}}}'
    ),
}


@pytest.mark.parametrize("change", ODD.values(), ids=list(ODD))
@pytest.mark.parametrize("word", ["t123", "ref123", "t999"])
def test_oddly_written_registry_is_read_as_a_whole(
    path: Path, change: Callable[[str], str], word: str
) -> None:
    """A registry that this program did not write says the same to an application, whatever its
    form: all that the whole file has about a name or a ref."""
    path.write_text(change(path.read_text()))
    whole, entries = registry.load(path).templates, cached.about(word, str(path)).templates
    for name, targets in whole.items():
        if name == word or word in targets["e2b"].builds:
            assert entries[name] == targets


def test_write_is_seen_at_once(path: Path) -> None:
    """What an application has read of a registry is read anew when another file takes its place,
    also one of the same size and time."""
    assert cached.about("t123", str(path)).lookup("t123").ref == "ref123"
    before, other = path.stat(), path.with_suffix(".other")
    other.write_text(path.read_text().replace('"stable": "ref123"', '"stable": "ref124"', 1))
    os.utime(other, ns=(before.st_atime_ns, before.st_mtime_ns))
    other.replace(path)
    channels = cached.about("t123", str(path)).templates["t123"]["e2b"].channels
    assert (channels, path.stat().st_size) == ({"stable": "ref124"}, before.st_size)
