"""Flatten a Dockerfile of a thousand instructions, beside its parser alone."""

from __future__ import annotations

import time
from collections.abc import Callable
from statistics import median

from e2b_dockerfile_utils import parse_dockerfile_ast

from bench.options import Options
from bench.result import Result, Target, ratio
from bench.turns import spread, take_turns
from builder.flatten import flatten

__all__ = ["measure"]

_ROUNDS = 31
_GROUPS = 250


def measure(options: Options) -> Result:
    """Flatten and parse the same text repeatedly in this process."""
    lines = ["FROM image", "USER root"]
    for number in range(_GROUPS):
        lines += [
            f"ENV NAME_{number}=value-{number}",
            f"WORKDIR /work/{number}",
            f'RUN echo {number} && \\\n    echo "$NAME_{number}" > /made-{number}',
            f"COPY file-{number} /copied-{number}",
        ]
    text = "\n".join(lines)
    measured = take_turns(
        {
            "flatten": _timer(lambda: flatten(text)),
            "parse": _timer(lambda: parse_dockerfile_ast(text)),
        },
        rounds=options.rounds or _ROUNDS,
    )
    value = median(measured["flatten"]) / median(measured["parse"])
    return Result(
        title="flatten: a Dockerfile of 1,000 instructions",
        measured="ENV, WORKDIR, RUN and COPY in turn, the worst order for joining RUNs, flattened"
        " into steps of E2B, compared with a call of the parser that flattening begins with.",
        headings=("call", "median", "fastest", "slowest", "ratio"),
        rows=(
            ("`flatten`", *spread(measured["flatten"]), ratio(value)),
            ("`parse_dockerfile_ast`", *spread(measured["parse"]), "1"),
        ),
        targets=(Target(what="flatten to parser", value=value, limit=3),),
    )


def _timer(call: Callable[[], object]) -> Callable[[], float]:
    def timed() -> float:
        start = time.perf_counter()
        call()
        return time.perf_counter() - start

    return timed
