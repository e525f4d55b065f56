from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from builder.errors import RegistryError
from builder.record.store import dump
from builder.registry import Ref, history
from builder.registry.model import Build, Check, Entry, Warmup, contents
from builder.registry.tables import explicit
from tests.conftest import ROOT

ODD: dict[str, Any] = {
    "changes": [],
    "later": {"a": [1, None]},
    "templates": {
        "t": {
            "e2b": {
                "builds": {
                    "r": {
                        "checks": [
                            {"code": "1", "name": "n", "source": "s", "stdout": None, "timeout": 1},
                            {"code": "1", "later": 1.0, "name": "n", "source": "s", "timeout": 1},
                        ],
                        "env": {},
                        "later": None,
                        "origin": "built",
                        "packages": {},
                        "steps": [],
                        "verified": {"seconds": {"build": None, "sandbox": 1}},
                        "warmup": {},
                    }
                },
                "channels": {},
                "history": [
                    {"action": "build", "channel": None, "from": None, "to": "r"},
                    {"action": "later", "later": "x"},
                ],
                "holds": {},
                "later": False,
            },
            "local": {},
        }
    },
    "version": 1,
}


@pytest.mark.parametrize(
    "data", [json.loads((ROOT / "registry.json").read_text()), ODD], ids=["recorded", "odd"]
)
def test_what_is_read_is_written_as_it_was(data: dict[str, Any]) -> None:
    """Keys that no class names, nulls and empty tables come back byte for byte."""
    assert dump(contents(data, path="x")) == (
        json.dumps(data, indent=2, sort_keys=True, ensure_ascii=False) + "\n"
    )


def test_emptied_table_of_an_entry_stays() -> None:
    """Channels, builds and history are written still when all that was in them is taken out; a
    hold's table goes with the last hold."""
    data = {
        "channels": {"stable": "r"},
        "builds": {"r": {}},
        "history": [{"action": "build"}],
        "holds": {"stable": {"at": "x", "by": "y"}},
    }
    entry = Entry.from_json(data)
    for part in (entry.channels, entry.builds, entry.holds, entry.history):
        part.clear()
    assert entry.to_json() == {"channels": {}, "builds": {}, "history": []}


def test_explicit_table_writes_what_says_nothing() -> None:
    """Of a table that is made, what is given is written, also where it is what absence means."""
    assert explicit(Warmup, level="none", imports=()).to_json() == {"level": "none", "imports": []}
    check = explicit(Check, source="s", name="n", code="c", stdout=None, timeout=1)
    assert check.to_json()["stdout"] is None
    assert Build(packages={}).to_json() == {}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"changes": "x"}, '`changes` is "x", expected a list'),
        ({"changes": ["a", 5]}, "`changes[2]` is 5, expected text"),
        ({"revocations": [{"reason": "r", "at": "x"}]}, "`revocations[1].what` is missing, expected text"),
        ({"templates": {"t": 5}}, "the entry of template `t` is not a table of targets"),
        ({"templates": {"t": {"e2b": []}}}, "the entry of template `t` is not a table of targets"),
        ({"channels": {"stable": None}}, "channel `stable` of template `t` on `e2b` is null, expected text"),
        ({"builds": {"r": 1}}, "build `r` of template `t` on `e2b` is 1, expected a table"),
        ({"builds": []}, "`builds` of template `t` on `e2b` is [], expected a table"),
        ({"history": [{}, {"by": 1}]}, "`by` of event 2 of the history of template `t` on `e2b` is 1, expected text"),
        ({"history": [5]}, "event 1 of the history of template `t` on `e2b` is 5, expected a table"),
        ({"holds": {"stable": {"at": "x"}}}, "`by` of the hold on channel `stable` of template `t` on `e2b` is missing, expected text"),
        ({"holds": {"stable": 1}}, "the hold on channel `stable` of template `t` on `e2b` is 1, expected a table"),
    ],
)  # fmt: skip
def test_wrong_value_is_told_with_its_place(change: dict[str, Any], message: str) -> None:
    """Each part of the file has its own words for the place of a value that it cannot be."""
    top = change.keys() & {"changes", "revocations", "templates"}
    data = change if top else {"templates": {"t": {"e2b": change}}}
    with pytest.raises(RegistryError) as caught:
        contents({"version": 1, "templates": {}, **data}, path="x")
    assert caught.value.message == f"x: {message}"


@pytest.mark.parametrize(("edited", "loaded"), [(False, "False"), (True, "True")])
def test_recorded_build_is_looked_up_without_the_model(
    tmp_path: Path, edited: bool, loaded: str
) -> None:
    """A look-up of a build that fits to its checksum loads neither the model nor `dataclasses`;
    of one that was edited every value is checked."""
    entry = Entry(builds={"r": Build(template_id="t")})
    history.append(entry, "adopt", "x", build="r", channel="stable", to="r")
    plain = entry.to_json()
    if edited:
        plain["builds"]["r"]["note"] = "by hand"
    path = tmp_path / "registry.json"
    path.write_text(json.dumps({"version": 1, "templates": {"t": {"e2b": plain}}}))
    code = (
        "import sys; from builder import registry\n"
        f"registry.resolve('t', path={str(path)!r})\n"
        "print('builder.registry.model' in sys.modules, 'dataclasses' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-S", "-c", code], capture_output=True, text=True, cwd=ROOT, check=True
    )
    assert done.stdout.split() == [loaded, loaded]


def test_event_of_a_removed_channel_says_where_it_pointed() -> None:
    """An event that moves a channel has `from` and `to`, also where one of them is nothing."""
    entry = Entry(channels={"stable": Ref("r")})
    history.append(entry, "remove", "x", channel="stable", to=None)
    (event,) = entry.history
    assert event.to_json() == {
        "action": "remove",
        "at": event.at,
        "by": "x",
        "channel": "stable",
        "chain": event.chain,
        "from": "r",
        "to": None,
    }
    assert entry.channels == {}
