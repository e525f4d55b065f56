"""Open confined sandboxes on this machine, beside unconfined ones and what else isolates code."""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from statistics import median, quantiles
from typing import Any

import psutil

from bench import engine
from bench.child import ChildError, answer, timed
from bench.options import Options
from bench.result import Result, Target, seconds
from bench.turns import take_turns
from builder.system import guard
from builder.targets.local import kept
from builder.targets.local.confine import bubblewrap

__all__ = ["measure"]

_ROUNDS = 3
_OTHERS = 21
_NAME = "tta-ml-minimal"


def measure(options: Options) -> Result:
    """Build the template with PyTorch, then open sandboxes of it side by side."""
    workshop, rounds = options.workshop, options.rounds or _ROUNDS
    workshop.build(_NAME)
    variables = workshop.variables(workshop.cache)
    variables["TEMPLATE_REGISTRY"] = str(workshop.project / "registry.json")
    program = [sys.executable, "-m", "bench.programs.confined", _NAME]
    measured = take_turns(
        {
            isolation: partial(answer, [*program, isolation, "further", "pool"], extra=variables)
            for isolation in ("confined", "none")
        },
        rounds=rounds,
    )
    keep = variables | {"TEMPLATE_ZYGOTE": "keep"}
    try:
        first, *second = (
            answer([*program, "confined"], extra=keep)["first"] for _ in range(1 + _OTHERS)
        )
    finally:
        _end_kept(workshop.cache)
    at_once = answer([*program, "confined", "at-once"], extra=variables)["at_once"]
    others = take_turns(_others(), rounds=_OTHERS)
    waiting = median(figures["prepared"] for figures in measured["confined"])
    confined, unconfined = (_joined(measured[isolation]) for isolation in ("confined", "none"))
    return Result(
        title="confined: a sandbox on this machine",
        measured=f"The wait from the call to the answer of `print(1)` in a sandbox of {_NAME},"
        " whose modules are in memory, and for its end; beside processes that only start Python.",
        headings=("way", "median", "95 % within", "end, median"),
        rows=(
            _row("confined, a further one", confined["answer"], confined["end"]),
            _row('`isolation="none"`, a further one', unconfined["answer"], unconfined["end"]),
            _row("confined, from a pool", confined["pool"]),
            _row('`isolation="none"`, from a pool', unconfined["pool"]),
            _row('confined, first of a program, `zygote = "keep"`', second),
            ("confined, first of the first program", seconds(first), "", ""),
            *(_row(f"`{command}`", times) for command, times in others.items()),
        ),
        targets=_targets(confined, unconfined, second, at_once["own"]),
        notes=(
            f"A hundred at once have all answered after {seconds(at_once['seconds'])}.",
            f"The sandbox that is prepared in advance uses {waiting:.0f} MiB of its own.",
            f"A kept process ends after {kept.IDLE_SECONDS / 60:.0f} minutes without sandboxes.",
        ),
    )  # fmt: skip


def _end_kept(cache: Path) -> None:
    """End the process that the programs have kept, of an environment in `cache`."""
    for process in psutil.process_iter(["cmdline"]):
        command = process.info["cmdline"] or []
        if guard.__file__ in command and any(word.startswith(f"{cache}/") for word in command):
            process.terminate()  # upon which it ends the process that it guards
            process.wait()


def _targets(
    confined: dict[str, list[float]],
    unconfined: dict[str, list[float]],
    second: list[float],
    own: float,
) -> tuple[Target, ...]:
    middle, slow = _percentiles(confined["answer"])
    above = middle - median(unconfined["answer"])
    limits = (
        ("confined, a further one, median", middle, 80),
        ("confined, a further one, 95 % within", slow, 150),
        ("confined above unconfined, median", above, 30),
        ("confined, end, median", median(confined["end"]), 30),
        ("confined, first of the second program, median", median(second), 200),
    )
    times = [
        Target(what=name, value=1e3 * value, limit=limit, unit=" ms")
        for name, value, limit in limits
    ]
    memory = Target(what="memory that each of 100 has for itself", value=own, limit=45, unit=" MiB")
    return (*times, memory)


def _others() -> dict[str, Callable[[], float]]:
    """Return what else isolates a process of Python, as far as this machine has it."""
    walls = ["--ro-bind", "/", "/", "--dev", "/dev", "--proc", "/proc", "--unshare-all"]
    program = bubblewrap.working().path
    sides = {
        "bwrap python -c pass": partial(timed, [program, *walls, sys.executable, "-c", "pass"])
    }
    try:
        engine.connect()
    except ChildError:
        return dict(sides)
    command = ["docker", "run", "--rm", "--entrypoint", "python3", engine.BASE, "-c", "pass"]
    return {**sides, "docker run python -c pass": partial(timed, command)}


def _joined(rounds: list[Any]) -> dict[str, list[float]]:
    return {
        key: [value for figures in rounds for value in figures[key]]
        for key in ("answer", "end", "pool")
    }


def _percentiles(times: list[float]) -> tuple[float, float]:
    return median(times), quantiles(times, n=20)[-1]


def _row(way: str, times: list[float], ends: list[float] | None = None) -> tuple[str, ...]:
    end = seconds(median(ends)) if ends else ""
    return (way, *map(seconds, _percentiles(times)), end)
