"""`python -m bench [NAME…]`: run benchmarks, print their tables, write docs/benchmarks.md and its
plots."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable

from bench import (
    build,
    cloud,
    confined,
    flatten,
    image,
    job,
    plan,
    plot,
    precheck,
    primitive,
    record,
    resolve,
    runtime,
    scale,
)
from bench.child import ROOT, ChildError
from bench.machine import describe, program
from bench.options import Options
from bench.report import page, text
from bench.result import Result
from bench.workshop import Workshop

BENCHMARKS: dict[str, Callable[[Options], Result]] = {
    "job": job.measure,
    "runtime": runtime.measure,
    "confined": confined.measure,
    "plan": plan.measure,
    "resolve": resolve.measure,
    "primitive": primitive.measure,
    "record": record.measure,
    "scale": scale.measure,
    "build": build.measure,
    "flatten": flatten.measure,
    "image": image.measure,
    "precheck": precheck.measure,
    "cloud": cloud.measure,
}


def main() -> None:
    """Run the named benchmarks, by default all of them; a missed target is not a failure."""
    parser = argparse.ArgumentParser(prog="python -m bench", description=main.__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(BENCHMARKS))
    parser.add_argument(
        "--write", action="store_true", help="write docs/benchmarks.md, or the sections of NAMEs"
    )
    parser.add_argument("--rounds", type=_positive, help="instead of each benchmark's own number")
    parser.add_argument(
        "--variant",
        action="append",
        metavar="STEM",
        help="of `job` and `runtime`; data by default; repeatable",
    )
    arguments = parser.parse_args()
    unknown = sorted(set(arguments.names) - set(BENCHMARKS))
    if unknown:
        parser.error(f"no benchmark is called {', '.join(unknown)}")
    results = []
    measured = program()
    try:
        with Workshop() as workshop:
            options = Options(
                workshop=workshop,
                rounds=arguments.rounds,
                variants=tuple(arguments.variant or ["data"]),
            )
            for name in arguments.names or BENCHMARKS:
                print(name, file=sys.stderr, flush=True)
                results.append(BENCHMARKS[name](options))
                print(text(results[-1]), flush=True)
    except ChildError as error:
        sys.exit(f"error: {error}")
    if program() != measured:
        sys.exit("error: the program was edited while it was measured; nothing is written")
    if arguments.write:
        path = ROOT / "docs" / "benchmarks.md"
        before = path.read_text(encoding="utf-8") if arguments.names else ""
        path.write_text(page(results, describe(), before), encoding="utf-8")
        plot.draw(path)


def _positive(value: str) -> int:
    number = int(value)
    if number < 1:
        raise argparse.ArgumentTypeError("must be at least 1")
    return number


if __name__ == "__main__":
    main()
