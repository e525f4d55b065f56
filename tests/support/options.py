"""The options that these tests add to pytest's.

Their values are known before a test module is imported, so that a module may size what it tries.
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
        help=f"fail instead of skip where one of these is missing: {','.join(PROGRAMS)}",
    )
    group.addoption("--base", metavar="IMAGE", help="base image of the tests with Docker")
    group.addoption(
        "--rounds",
        type=int,
        default=1,
        metavar="N",
        help="have tests of chance (marker `chance`) try N times as much",
    )
    group.addoption("--seed", type=int, help="repeat what a test of chance has tried")


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
    """Whether a test that needs a program must fail without it."""
    return program in _value("require", ())


def base() -> str | None:
    """The base image that the tests with Docker build on, where one was named."""
    image: str | None = _value("base", None)
    return image


def rounds(usual: int) -> int:
    """How often a test of chance tries that tries `usual` times where `--rounds` is not set."""
    return usual * int(_value("rounds", 1))


def seed() -> int:
    """The seed of a test of chance: that of `--seed`, or another one each time."""
    chosen = _value("seed", None)
    return random.randrange(1 << 32) if chosen is None else int(chosen)


def _value(name: str, default: object) -> Any:
    """The value of an option; its default in a process that a test has started."""
    return _config[0].getoption(name) if _config else default


def _programs(text: str) -> tuple[str, ...]:
    """The programs that `--require` names."""
    names = tuple(text.split(","))
    if unknown := sorted({*names} - {*PROGRAMS}):
        raise argparse.ArgumentTypeError(f"no test needs {', '.join(unknown)}")
    return names
