"""Variants, locks and builds for tests of pure code, made without a network."""

from __future__ import annotations

import dataclasses
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from builder.errors import SpecError
from builder.lock import Lock, StageLock
from builder.lock.base_image import BaseImage
from builder.lock.content import LockedDownload, LockedModel
from builder.registry import Ref
from builder.render import Rendered, render
from builder.spec import Variant, load_variants
from builder.spec.variant import Download, Model
from builder.targets.protocol import BuildInput, Built
from builder.verify import Verified
from builder.verify.checks import CheckResult

HASH = "0" * 64


def pins(*names_and_versions: str) -> str:
    """Return a lock of pins, as uv writes it."""
    return "".join(f"{pin} \\\n    --hash=sha256:{HASH}\n" for pin in names_and_versions)


def load(folder: Path, **files: str) -> dict[str, Variant]:
    """Write specs below `folder`, load them, and return name → variant."""
    variants = folder / "variants"
    variants.mkdir(parents=True, exist_ok=True)
    for stem, text in files.items():
        (variants / f"{stem}.toml").write_text(textwrap.dedent(text), encoding="utf-8")
    return {variant.name: variant for variant in load_variants(variants)}


def lock_of(
    variant: Variant,
    *,
    version: str = "1.0",
    digest: str | None = "sha256:" + "a" * 64,
    torch_backend: str | None = None,
    extra: Sequence[str] = (),
) -> Lock:
    """Return a lock in which every requirement has the same version."""
    stages = tuple(
        StageLock(
            stem=stage.stem,
            requirements=stage.requirements,
            text=pins(*(f"{name}=={version}" for name in stage.requirements), *extra)
            if stage.requirements
            else "",
            torch_wanted=stage.torch_backend,
            torch_backend=torch_backend,
            downloads=tuple(map(_locked_download, stage.downloads)),
            models=tuple(map(_locked_model, stage.models)),
        )
        for stage in variant.stages
    )
    image = BaseImage(reference=variant.image, digest=digest)
    return Lock(image=image, python=variant.python, stages=stages)


def _locked_download(download: Download) -> LockedDownload:
    unpacked = 1 if download.extract else None
    sha256 = download.sha256 or HASH
    return LockedDownload(url=download.url, sha256=sha256, size=1, unpacked_size=unpacked)


def _locked_model(model: Model) -> LockedModel:
    return LockedModel(
        kind=model.kind,
        location=model.location,
        revision=model.revision,
        patterns=model.files,
        hashes=(("config.json", HASH, 1),),
    )


def rendered_of(variant: Variant, **options: Any) -> Rendered:
    """Render the variant with the lock of `lock_of`."""
    return render(variant, lock_of(variant, **options))


def order_of(rendered: Rendered, **options: Any) -> BuildInput:
    """Return the build input of a rendered variant."""
    return BuildInput(rendered=rendered, folder=Path(), **options)


def verified_of(rendered: Rendered, *, target: str = "local", **changes: Any) -> Verified:
    """Return a verified build of a rendered variant, with made-up figures."""
    name, build_id = rendered.variant.name, rendered.digest.tag
    built = Built(
        name=name,
        target=target,
        ref=Ref(f"{target}:{name}@{build_id}"),
        template_id=name,
        build_id=build_id,
        digest=rendered.digest,
        seconds=1.5,
        reused=False,
        size=1 << 20,
    )
    verified = Verified(
        built=built,
        checks=(CheckResult(name="import idna", seconds=0.1),),
        packages={"idna": "1.0"},
        sandbox_seconds=0.7,
        warm_sandbox_seconds=None,
    )
    return dataclasses.replace(verified, **changes)


def problems(folder: Path) -> list[str]:
    with pytest.raises(SpecError) as caught:
        load_variants(folder)
    return [str(problem) for problem in caught.value.problems]
