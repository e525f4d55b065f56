from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from builder.targets.journal import Journal
from tests.conftest import ROOT


def test_entry_is_read_as_it_was_written(tmp_path: Path) -> None:
    """What is written of a build comes back, under its target and its name alone."""
    journal = Journal(tmp_path, target="e2b")
    assert journal.read("light") is None
    begun = journal.begin("light", "sha256:1")
    assert (begun.template_id, begun.build_id, begun.verifying) == (None, None, False)
    entry = journal.write(dataclasses.replace(begun, template_id="t", build_id="b"))
    assert journal.read("light") == entry
    assert journal.names() == ["light"]
    assert Journal(tmp_path, target="staging").read("light") is None
    journal.remove("light")
    journal.remove("light")
    assert journal.read("light") is None


@pytest.mark.slow
@settings(max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.binary(max_size=300) | st.dictionaries(st.text(), st.integers()).map(json.dumps))
def test_damaged_entry_is_no_entry(tmp_path: Path, content: bytes | str) -> None:
    """Whatever is in the file of an entry, reading it gives an entry or nothing, no exception."""
    journal = Journal(tmp_path, target="e2b")
    journal.begin("light", "sha256:1")
    path = tmp_path / "e2b" / "light.json"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    assert journal.read("light") is None


@pytest.mark.parametrize("field", ["digest", "started_at", "template_id", "build_id", "verifying"])
def test_entry_of_wrong_types_is_no_entry(tmp_path: Path, field: str) -> None:
    """A field that is not what it should be makes the whole entry void."""
    journal = Journal(tmp_path, target="e2b")
    entry = dataclasses.asdict(journal.begin("light", "sha256:1")) | {field: 7}
    (tmp_path / "e2b" / "light.json").write_text(json.dumps(entry))
    assert journal.read("light") is None


def test_owner_is_made_once(tmp_path: Path) -> None:
    """The ID of a journal is the same for everybody who asks, and made anew when it is damaged."""
    found = {Journal(tmp_path, target="e2b").owner for _ in range(3)}
    assert len(found) == 1
    (tmp_path / "e2b" / ".owner").write_text("what?")
    assert Journal(tmp_path, target="e2b").owner not in found


def test_claim_keeps_others_out(tmp_path: Path) -> None:
    """One thread or process at a time holds a name; a process that is killed lets go of it."""
    journal = Journal(tmp_path, target="e2b")
    code = (
        "import sys, time; sys.path.insert(0, sys.argv[1])\n"
        "from pathlib import Path\nfrom builder.targets.journal import Journal\n"
        "with Journal(Path(sys.argv[2]), target='e2b').claimed('light'):\n"
        "    print('held', flush=True); time.sleep(1000)\n"
    )
    holder = subprocess.Popen(
        [sys.executable, "-c", code, ROOT, tmp_path], stdout=subprocess.PIPE, text=True
    )
    assert holder.stdout
    assert holder.stdout.readline() == "held\n"
    with pytest.raises(BlockingIOError), journal.claimed("light", wait=False):
        pass
    with journal.claimed("other", wait=False):
        pass
    told = threading.Event()
    held = threading.Event()

    def wait() -> None:
        with journal.claimed("light", waiting=told.set):
            held.set()

    thread = threading.Thread(target=wait)
    thread.start()
    assert told.wait(10)
    assert not held.is_set()
    holder.kill()
    holder.wait()
    holder.stdout.close()
    assert held.wait(10)
    thread.join()
