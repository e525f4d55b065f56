"""A step of an image's build, and the error if it fails."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from builder.errors import NetworkError, PrecheckError, StorageError, TemplateError
from builder.render import Rendered
from builder.system.logs import Log

_KILLED = 137  # 128 + SIGKILL, with which the kernel ends processes that need too much memory
_UNREACHABLE = re.compile(
    r"pull access denied|manifest|not found|dial tcp|no such host|x509|timeout|EOF|denied",
    re.IGNORECASE,
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Step:
    """A step of a build, and its output."""

    number: int
    count: str
    text: str
    output: list[str] = field(default_factory=list)

    def failure(self, line: Mapping[str, Any], rendered: Rendered, log: Log) -> TemplateError:
        """Return the error for a `line` in which the engine reports one in this step."""
        error, code = line["error"], line.get("errorDetail", {}).get("code")
        log.line(error)
        place = f"step {self.number} of {self.count}"
        if any("no space left on device" in text.lower() for text in (error, *self.output[-20:])):
            return StorageError(
                f"the disk is full: the engine needed more space in {place}\nlog: {log.path}",
                hint="free some space where the engine keeps images: `docker system df` shows it",
            )
        if self.text.startswith("FROM ") and _UNREACHABLE.search(error):
            return not_pulled(rendered.docker_base, error)
        last = [line for block in self.output for line in block.splitlines() if line.strip()]
        last = [line for line in last if not line.startswith("Removing intermediate container")]
        wrong_python = [line for line in last if line.startswith("base.python: ")]
        if wrong_python:
            message, hint = (
                wrong_python[-1],
                "correct `base.python`, or choose another `base.image`",
            )
        elif code == _KILLED:
            message = (
                f"{place} was killed: it needed more than the spec's"
                f" {rendered.variant.memory_mb} MiB of memory"
            )
            hint = "raise `resources.memory-mb`, or make the step use less"
        else:
            message = f"{place} failed" + (f" with code {code}" if code else "")
            hint = "the end of the step's output is below its lines; the log has all of it"
        parts = [
            message,
            f"generated/{rendered.variant.name}/Dockerfile:",
            _around(rendered.content("Dockerfile").decode(), self.number),
            *(last[-12:] if code else [error]),
            f"log: {log.path}",
        ]
        return PrecheckError("\n".join(parts), hint=hint)


def _around(dockerfile: str, step: int) -> str:
    """Return the numbered lines of a step, with two lines of context."""
    from builder.flatten import instruction_lines

    places = instruction_lines(dockerfile)
    first, last = places[step - 1] if 0 < step <= len(places) else (1, 1)
    lines = dockerfile.splitlines()
    shown = range(max(1, first - 2), min(len(lines), last + 2) + 1)
    return "\n".join(
        f"{'>' if first <= number <= last else ' '} {number:4d} | {lines[number - 1]}"
        for number in shown
    )


def not_pulled(reference: str, reason: str) -> NetworkError:
    """Return the error for a base image that an engine neither has nor gets."""
    return NetworkError(
        f"the base image {reference} is not on the engine and cannot be pulled\n{reason.strip()}",
        hint="check the name and the engine's network, or load the image: docker load",
    )
