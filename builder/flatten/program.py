"""The result of flattening: values only."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

StepKind = Literal["COPY", "RUN", "ENV", "WORKDIR", "USER"]


@dataclass(frozen=True, kw_only=True, slots=True)
class BaseConfig:
    """The configuration of a base image, which a step cannot see but Docker's rules depend on."""

    env: Mapping[str, str] = field(default_factory=dict)
    user: str = "root"
    workdir: str = "/"
    entrypoint: tuple[str, ...] = ()
    command: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class Step:
    """A step of a build request to E2B.

    `args` by kind: RUN (command, user); COPY (source, target, owner, mode or ""); ENV (name, value,
    name, value, …), each value escaped for E2B's evaluation; WORKDIR (path); USER (name). `stage`
    and `lines` (first, last) are its origin, which is not compared.
    """

    kind: StepKind
    args: tuple[str, ...]
    stage: str = field(compare=False)
    lines: tuple[int, int] = field(compare=False)

    def to_json(self) -> dict[str, Any]:
        """Return the step as plain values."""
        return {
            "type": self.kind,
            "args": list(self.args),
            "stage": self.stage,
            "lines": list(self.lines),
        }


@dataclass(frozen=True, kw_only=True, slots=True)
class Metadata:
    """An instruction without a step, since it has no effect in a sandbox."""

    instruction: str
    line: int
    why: str

    def __str__(self) -> str:
        return f"line {self.line}: {self.instruction}: {self.why}"


@dataclass(frozen=True, kw_only=True, slots=True)
class Program:
    """What E2B builds: a base image, steps, a start command and a ready command.

    `steps_before` is the number of steps of a translation line by line. `env`, `user` and `workdir`
    are the final ones. `assumptions` are about a base image or build context that was not examined.
    If `base_template` is set, the base is that template on E2B, and `base_image` the name that the
    Dockerfile has for it.
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
    base_template: str | None = None

    def to_json(self) -> dict[str, Any]:
        """Return the program as plain values."""
        steps = [step.to_json() for step in self.steps]
        plain = asdict(self) | {"steps": steps, "steps_after": len(steps)}
        if self.base_template is None:
            del plain["base_template"]
        return plain
