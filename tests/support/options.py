"""The options that these tests add to pytest.

They are read before test modules are imported, so that a module can use them at its top level.
"""

from __future__ import annotations

import argparse
import random
import shutil
from typing import Any

import pytest

__all__ = ["base", "required", "rounds", "seed"]

PROGRAMS = ("docker", "git", "npm")
_config: list[pytest.Config] = []


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("template-builder")
    group.addoption(
        "--require",
        type=_programs,
        default=(),
        metavar="NAMES",
        help=f"fail, do not skip, tests whose program is missing: {','.join(PROGRAMS)}",
    )
    group.addoption("--base", metavar="IMAGE", help="base image of the Docker tests")
    group.addoption(
        "--rounds",
        type=int,
        default=1,
        metavar="N",
        help="multiply the number of random trials (marker `chance`) by N",
    )
    group.addoption("--seed", type=int, help="repeat the random trials of a failed test")


def pytest_configure(config: pytest.Config) -> None:
    _config[:] = [config]


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip a test whose programs are missing, unless `--require` names them."""
    programs = [name for mark in item.iter_markers("needs") for name in mark.args]
    for name in (name for name in programs if not shutil.which(name)):
        if required(name):
            pytest.fail(f"{name} is not installed")
        pytest.skip(f"{name} is not installed")


def required(program: str) -> bool:
    """Return whether a test fails, rather than skips, without a program."""
    return program in _value("require", ())


def base() -> str | None:
    """Return the base image given with `--base`, or None."""
    image: str | None = _value("base", None)
    return image


def rounds(usual: int) -> int:
    """Return how many random trials a test makes: `usual` times the value of `--rounds`."""
    return usual * int(_value("rounds", 1))


def seed() -> int:
    """Return the seed given with `--seed`, or a new one."""
    chosen = _value("seed", None)
    return random.randrange(1 << 32) if chosen is None else int(chosen)


def _value(name: str, default: object) -> Any:
    """Return the value of an option, or `default` in a process that a test has started."""
    return _config[0].getoption(name) if _config else default


def _programs(text: str) -> tuple[str, ...]:
    """Parse the value of `--require`."""
    names = tuple(text.split(","))
    if unknown := sorted({*names} - {*PROGRAMS}):
        raise argparse.ArgumentTypeError(f"no test needs {', '.join(unknown)}")
    return names
