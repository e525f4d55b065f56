"""Look up the variables of base images that specs refer to."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Mapping, Sequence

from builder.errors import EngineUnavailableError, SpecError
from builder.lock.base_image import BaseImage, environment_of
from builder.lock.base_variables import problems_of
from builder.lock.committed import committed_variables
from builder.project import Project
from builder.spec import Variant, load_specs
from builder.spec.references import bind, unset_variables


def variables_of(image: BaseImage, project: Project) -> Mapping[str, str] | None:
    """Return the variables of an image from its registry, else from this machine's Docker engine,
    else None."""
    variables = environment_of(image)
    return _of_engine(image.reference, project) if variables is None else variables


def _of_engine(reference: str, project: Project) -> Mapping[str, str] | None:
    from builder.precheck import connect_engine

    try:
        engine = connect_engine(project.precheck)
    except EngineUnavailableError:
        return None
    with contextlib.closing(engine):
        return engine.image(reference).env if engine.has_image(reference) else None


def check_references(variants: Sequence[Variant], project: Project) -> None:
    """Check that the base image or parent of each variant sets the variables that the variant
    refers to, as far as the project knows. Raise `SpecError`."""
    if not any(unset_variables(variant) for variant in variants):
        return
    problems = []
    specs = {variant.name: variant for variant in load_specs(project.variants).variants}
    known = functools.cache(
        lambda reference: variables_of(BaseImage(reference=reference, digest=None), project)
    )
    for variant in variants:
        below, left, inherited = variant, variant, list[str]()
        while below.from_template and (parent := specs.get(below.parent_name or "")):
            left, below = bind(left, parent.env), parent
            inherited += parent.env
        # A parent that is no spec of the project: its variables are known once it is locked.
        if below.from_template or not unset_variables(left):
            continue
        values = committed_variables(variant, below.image, project.generated)
        if any(name not in values for name in unset_variables(left)):
            base = known(below.image)
            folder = project.variants
            problems += problems_of(left, below.image, base, folder, inherited=inherited)
    if problems:
        raise SpecError(problems)
