"""What comes out of flattening: values alone."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

StepKind = Literal["COPY", "RUN", "ENV", "WORKDIR", "USER"]


@dataclass(frozen=True, kw_only=True, slots=True)
class BaseConfig:
    """What a base image brings: what a step cannot see, and Docker's rules depend on."""

    env: Mapping[str, str] = field(default_factory=dict)
    user: str = "root"
    workdir: str = "/"
    entrypoint: tuple[str, ...] = ()
    command: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class Step:
    """One step, as E2B's build request carries it.

    `args` by kind: RUN (command, user); COPY (source, target, owner, mode or ""); ENV (name, value,
    name, value, …), each value written as E2B's evaluation reads it; WORKDIR (path); USER (name).
    `stage` and `lines` (first, last) say where it comes from; they are no part of its identity.
    """

    kind: StepKind
    args: tuple[str, ...]
    stage: str = field(compare=False)
    lines: tuple[int, int] = field(compare=False)

    def to_json(self) -> dict[str, Any]:
        """The step as plain values."""
        return {
            "type": self.kind,
            "args": list(self.args),
            "stage": self.stage,
            "lines": list(self.lines),
        }


@dataclass(frozen=True, kw_only=True, slots=True)
class Metadata:
    """An instruction that changes nothing in a sandbox, and so has no step."""

    instruction: str
    line: int
    why: str

    def __str__(self) -> str:
        return f"line {self.line}: {self.instruction}: {self.why}"


@dataclass(frozen=True, kw_only=True, slots=True)
class Program:
    """A machine as E2B builds it: a base image, steps on top, what starts and what says "ready".

    `steps_before` counts the steps of a translation line by line. `env`, `user` and `workdir` are
    the final ones. `assumptions` say what was taken for granted of a base image or a build
    context that nobody looked into.
    """

    base_image: str
    steps: tuple[Step, ...]
    start_command: str | None
    ready_command: str | None
    env: Mapping[str, str]
    user: str
    workdir: str
    metadata: tuple[Metadata, ...]
    assumptions: tuple[str, ...]
    steps_before: int

    def to_json(self) -> dict[str, Any]:
        """The program as plain values."""
        steps = [step.to_json() for step in self.steps]
        return asdict(self) | {"steps": steps, "steps_after": len(steps)}
