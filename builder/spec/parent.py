"""The build that a template is from, if its spec has `from-template`."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from builder.spec.variant import Stage, Variant

_WORD = re.compile(r"[A-Za-z0-9_.:@-]+")


@dataclass(frozen=True, kw_only=True, slots=True)
class Parent:
    """A recorded build of another template, with what the templates from it inherit.

    `reference` is the key of the spec. Of a template on E2B that this project did not build only
    the `ref` is known: it has neither `name` nor `digest`. `level` is its warm-up level, `packages`
    are distribution → version.
    """

    reference: str
    target: str
    ref: str
    name: str | None = None
    digest: str | None = None
    image: str = ""
    python: str = ""
    level: str = "none"
    env: Mapping[str, str] = field(default_factory=dict)
    packages: Mapping[str, str] = field(default_factory=dict)
    stages: Mapping[str, str] = field(default_factory=dict)

    @property
    def title(self) -> str:
        """Return its name, or its ref if it has none."""
        return self.name or self.ref

    @property
    def pins(self) -> dict[str, str]:
        """Return distribution → version of the packages that have the same version everywhere."""
        return {name: version for name, version in self.packages.items() if " " not in version}

    @property
    def torch_backend(self) -> str | None:
        """Return the backend of its PyTorch, which the version names: `cpu` of `2.14.0+cpu`."""
        return self.packages.get("torch", "").partition("+")[2] or None

    def to_toml(self) -> dict[str, Any]:
        """Return it as a table of template.toml."""
        table = dataclasses.asdict(self)
        return {key: value for key, value in table.items() if value not in (None, "", {})}

    @classmethod
    def of_toml(cls, table: Mapping[str, Any]) -> Parent:
        """Read a table of template.toml. Raise `ValueError`, `TypeError`."""
        parent = cls(**table)
        for name in ("reference", "target", "ref", "name", "level"):
            text = getattr(parent, name)
            if text is not None and not _WORD.fullmatch(text):
                raise ValueError(f"`lock.parent.{name}` is {text!r}")
        return parent


def inherit(variant: Variant, parent: Parent) -> Variant:
    """Return the variant with its parent, and with what it inherits of it."""
    from builder.spec.python import python_floor
    from builder.spec.references import bind

    def stage_of(stage: Stage) -> Stage:
        return dataclasses.replace(stage, torch_backend=stage.torch_backend or parent.torch_backend)

    bound = bind(variant, parent.env)
    python = parent.python or variant.python
    return dataclasses.replace(
        bound,
        parent=parent,
        image=parent.image,
        python=python,
        python_floor=python_floor(python),
        env={**parent.env, **bound.env},
        stages=tuple(map(stage_of, bound.stages)),
    )


def template_of(reference: str) -> str:
    """Return the name of the template that `from-template` means, if it is the name of one."""
    return reference.partition("@")[0]
