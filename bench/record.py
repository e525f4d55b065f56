"""Write to one registry from one process and from many, in a file and in an object store."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

from bench.child import ROOT, ChildError, environment
from bench.options import Options
from bench.result import Result, Target, ratio
from bench.turns import spread, take_turns

__all__ = ["measure"]

_ROUNDS = 15
_WRITES = 20
_PROCESSES = (1, 8, 32)
_WRITER = ROOT / "bench" / "programs" / "writer.py"


def measure(options: Options) -> Result:
    """Measure writers of a file, then round trips to an S3 server on this machine."""
    rows = [_contended(options.workshop.folder, count) for count in _PROCESSES]
    measured = _round_trips(options.workshop.folder, options.rounds or _ROUNDS)
    raw = median(measured["obstore"])
    for label, side in (
        ("object store, `get` and `put` by obstore alone", "obstore"),
        ("object store, one change", "change"),
        ("object store, one look-up", "resolve"),
    ):
        rows.append((label, "1", *spread(measured[side]), "-", ratio(median(measured[side]) / raw)))
    value = median(measured["change"]) / raw
    return Result(
        title="record: writing to one registry",
        measured=f"How long one change takes: a file, to which 1 to 32 processes write {_WRITES}"
        " builds each at once; an object in a store on this machine (moto), read and replaced by"
        " obstore alone, changed by the program, and looked up in.",
        headings=(
            "what",
            "processes",
            "median",
            "fastest",
            "slowest",
            "changes in a second",
            "ratio",
        ),
        rows=tuple(rows),
        targets=(Target(what="a change to obstore alone", value=value, limit=2),),
    )


def _contended(folder: Path, processes: int) -> tuple[str, ...]:
    path = folder / f"contended-{processes}.json"
    start = time.perf_counter()
    writers = [
        subprocess.Popen(
            [sys.executable, str(_WRITER), str(path), f"t{number}", str(_WRITES)],
            stdout=subprocess.PIPE,
            text=True,
            cwd=ROOT,
            env=environment({"PYTHONPATH": str(ROOT)}),
        )
        for number in range(processes)
    ]
    answers = [writer.communicate()[0] for writer in writers]
    seconds = time.perf_counter() - start
    if any(writer.returncode for writer in writers):
        raise ChildError("a writer failed")
    times = [taken for printed in answers for taken in json.loads(printed)]
    kept = json.loads(path.read_text())["templates"].values()
    if sum(len(entry["e2b"]["builds"]) for entry in kept) != processes * _WRITES:
        raise ChildError("a write was lost")
    rate = f"{processes * _WRITES / seconds:.0f}"
    return ("a file", str(processes), *spread(times), rate, "-")


def _round_trips(folder: Path, rounds: int) -> dict[str, list[float]]:
    import httpx
    import obstore.store
    from moto.server import ThreadedMotoServer

    from builder import registry
    from builder.record import update
    from builder.registry.model import Contents

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    endpoint, url = f"http://{host}:{port}", "s3://bench/registry.json"
    variables = {
        "AWS_ENDPOINT_URL": endpoint,
        "AWS_ACCESS_KEY_ID": "bench",
        "AWS_SECRET_ACCESS_KEY": "bench",
        "AWS_REGION": "us-east-1",
        "TEMPLATE_BUILDER_CACHE_DIR": str(folder / "cache"),
    }
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        httpx.put(f"{endpoint}/bench").raise_for_status()
        text = (ROOT / "registry.json").read_text()
        templates = registry.parse(text, url).templates
        update(url, lambda recorded: recorded.templates.update(templates))
        store: Any = obstore.store.from_url("s3://bench", client_options={"allow_http": True})

        def changed(recorded: Contents) -> None:
            recorded.changes.append(str(time.time_ns()))

        def alone() -> None:
            got = store.get("registry.json")
            store.put("registry.json", bytes(got.bytes()), mode={"e_tag": got.meta["e_tag"]})

        sides: dict[str, Callable[[], object]] = {
            "obstore": alone,
            "change": lambda: update(
                url, lambda recorded: recorded.changes.append(str(time.time_ns()))
            ),
            "resolve": lambda: str(registry.resolve("tta-ml-minimal", target="e2b", path=url)),
        }
        return take_turns({name: _timed(side) for name, side in sides.items()}, rounds=rounds)
    finally:
        server.stop()
        for name, value in before.items():
            if value is None:
                os.environ.pop(name)
            else:
                os.environ[name] = value


def _timed(call: Callable[[], object]) -> Callable[[], float]:
    def taken() -> float:
        start = time.perf_counter()
        call()
        return time.perf_counter() - start

    return taken
