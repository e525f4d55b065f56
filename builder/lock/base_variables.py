"""Look up the variables of base images that specs refer to."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from pathlib import Path

from builder.errors import Problem, SpecError
from builder.lock.base_image import BaseImage
from builder.spec import Variant
from builder.spec.references import unset_problems, unset_variables

LookUp = Callable[[BaseImage], Mapping[str, str] | None]


def base_variables(
    variant: Variant, image: BaseImage, look_up: LookUp, folder: Path
) -> dict[str, str] | SpecError:
    """Return the variables of the base image that a variant refers to, expanded. `look_up` returns
    the variables of an image, or None if they are unknown."""
    names = unset_variables(variant)
    if not names:
        return {}
    values = look_up(image) if image.reference else None
    inherited = variant.parent.env if variant.parent else ()
    if problems := problems_of(variant, image.reference, values, folder, inherited=inherited):
        return SpecError(problems)
    assert values is not None
    return {name: values[name].replace("$", "$$") for name in sorted(names)}


def problems_of(
    variant: Variant,
    reference: str,
    values: Mapping[str, str] | None,
    folder: Path,
    *,
    inherited: Collection[str],
) -> list[Problem]:
    """Return a problem for each variable that an image lacks; `inherited` are the names of the
    parent's variables."""
    usable = {name for name, value in (values or {}).items() if value.isprintable()}
    if not reference:
        why = f"the variables of the template {variant.from_template!r} are not known"
    elif values is None:
        why = (
            f"the variables of the base image `{reference}` are not known: neither its registry"
            " nor a Docker engine of this machine gives them"
        )
    else:
        listed = f"only {', '.join(sorted(usable))}" if usable else "no variables"
        why = f"the base image `{reference}` sets {listed}"
    base = None if values is None else usable
    return list(unset_problems(variant, base, why, folder, inherited=inherited))
