"""Explain why a stage cannot be locked in terms of the specs: requirement, stage, what to change.

uv's own reasoning is quoted below our message.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from builder.errors import LockConflictError, Problem, SpecError, did_you_mean
from builder.spec import Stage, Variant, place_of
from builder.system.documents import parse_toml

_COMMON_IMAGES = ("debian", "e2bdev/code-interpreter", "python", "ubuntu")
_EXTRA = re.compile(r"The package `([^=`]+)==([^`]+)` does not have an extra named `([^`]+)`")
_BACKENDS = re.compile(r"'--torch-backend.*?possible values: ([^\]]+)\]", re.DOTALL)
_NOT_FOUND = re.compile(r"(\S+) was not found in the package registry")
_NO_FILES = re.compile(r"there are no versions of (\S+)")


def not_found(output: str) -> list[str]:
    """Return the packages that, according to uv, do not exist in the index."""
    return [canonicalize_name(name) for name in _NOT_FOUND.findall(output)]


def absent_packages(
    names: Sequence[str],
    chain: Sequence[Stage],
    folder: Path,
    *,
    known: Iterable[str],
    output: str,
) -> LockConflictError:
    """Return the error about packages that the index lacks; `known` are packages that it has."""
    places = {wish.name: wish.place for wish in _wishes(chain, folder)}
    others = sorted({*known, *places} - {*names})
    lines = []
    for name in names:
        subject = f"`{name}` ({places.get(name, 'needed by another package')})"
        near = did_you_mean(name, others)
        lines.append((subject, f"; {near}" if near else ""))
    if len(lines) == 1:
        subject, near = lines[0]
        message = f"stage `{chain[-1].stem}`: package {subject} does not exist in the package index"
        message, hint = message + near, "check the spelling of the package's name"
    else:
        title = f"{len(lines)} packages do not exist in the package index:"
        message = "\n".join([title, *(f"  {subject}{near}" for subject, near in lines)])
        hint = "check the spelling of the packages' names"
    return LockConflictError(f"{message}\n{_reasoning(output)}", hint=hint, absent=names)


def missing_extra(output: str, chain: Sequence[Stage], folder: Path) -> LockConflictError | None:
    """Return the error about a required extra that the package does not have, if uv reports one.

    uv itself only warns, and the packages of the extra would be missing in a sandbox.
    """
    for package, version, extra in _EXTRA.findall(output):
        for wish in _wishes(chain, folder):
            if wish.name == package and extra in Requirement(wish.text).extras:
                return LockConflictError(
                    f'stage `{wish.stage}`: "{wish.text}" at {wish.place} requires the extra'
                    f" `{extra}`, which {package}=={version} does not have",
                    hint="check the spelling of the extra, or leave it out",
                )
    return None


def explain(
    output: str, chain: Sequence[Stage], locked: Mapping[str, tuple[str, str]], folder: Path
) -> LockConflictError | SpecError:
    """Turn uv's `output` about the last stage of `chain` into an error.

    `locked` maps packages that parent stages lock to (version, stem of the stage).
    """
    stage = chain[-1]
    if backends := _BACKENDS.search(output):
        return _unknown_backend(chain, backends[1].split(", "), folder)
    reasoning = _reasoning(output)
    wishes = list(_wishes(chain, folder))
    if no_files := _NO_FILES.search(output):
        return LockConflictError(
            f"stage `{stage.stem}`: the package index has no files of `{no_files[1]}`\n{reasoning}",
            hint="check the package's name and the URL of uv's index: a login page or a filter may"
            " have answered instead",
        )
    mentioned = {canonicalize_name(word) for word in re.findall(r"[A-Za-z0-9][\w.-]*\w", output)}
    own = [wish for wish in wishes if wish.name in mentioned and wish.stage == stage.stem]
    own.sort(key=lambda wish: wish.name)
    if not own:
        return LockConflictError(f"stage `{stage.stem}` cannot be resolved\n{reasoning}")
    either = " or ".join(f'"{wish.text}"' for wish in own)
    title, hint = f"stage `{stage.stem}`: no versions meet all requirements:", f"loosen {either}"
    inherited = sorted(mentioned & set(locked))
    lines = []
    for name in inherited:
        version, stem = locked[name]
        because = "".join(
            f', required by "{wish.text}" at {wish.place}'
            for wish in wishes
            if wish.name == name and wish.stage != stage.stem
        )
        lines.append(f"  {name}=={version} is locked by stage `{stem}`{because}")
    lines += [f'  "{w.text}" is required by stage `{stage.stem}` at {w.place}' for w in own]
    if inherited:
        parents = " and ".join(f"`{s}`" for s in sorted({locked[name][1] for name in inherited}))
        title = f"stage `{stage.stem}` conflicts with the versions that {parents} locked:"
        hint += f" in {stage.source}, or require a version that both can use in stage {parents}"
    return LockConflictError("\n".join([title, *lines, reasoning]), hint=hint)


def _reasoning(output: str) -> str:
    return "uv's reasoning:\n" + re.sub(r"\s*cause: ", "\n", output).strip()


def _wishes(chain: Sequence[Stage], folder: Path) -> Iterable[_Wish]:
    return (
        _Wish(
            name=canonicalize_name(Requirement(text).name),
            text=text,
            stage=link.stem,
            place=place_of(folder, link.source, ("python", "packages", number)),
        )
        for link in chain
        for number, text in enumerate(link.requirements)
    )


def _unknown_backend(chain: Sequence[Stage], backends: Sequence[str], folder: Path) -> SpecError:
    backend = chain[-1].torch_backend or ""
    source = next(stage.source for stage in chain if stage.torch_backend == backend)
    hint = did_you_mean(backend, backends) or f"available: {', '.join(backends)}"
    place = place_of(folder, source, ("python", "torch-backend"))
    return _spec_error(
        place, "python.torch-backend", f"uv knows no PyTorch backend {backend!r}", hint
    )


def _spec_error(place: str, key: str, message: str, hint: str) -> SpecError:
    source, _, line = place.partition(":")
    return SpecError([Problem(source, message, line=int(line or 0), column=1, key=key, hint=hint)])


def unknown_image(variant: Variant, why: str, folder: Path) -> SpecError:
    """Return the error about a base image that cannot be had; `why` is a predicate."""
    image, place = variant.image, variant.source
    for stage in variant.stages:  # the last one that sets it wins
        if _names_image(folder / Path(stage.source).name):
            place = place_of(folder, stage.source, ("base", "image"))
    hint = did_you_mean(image.partition(":")[0], _COMMON_IMAGES) or (
        "check the spelling; for an image that needs credentials, pull it with Docker first, or"
        f" append its digest: {image}@sha256:…"
    )
    return _spec_error(place, "base.image", f"the image {image!r} {why}", hint)


def _names_image(path: Path) -> bool:
    try:
        document = parse_toml(path.read_text(encoding="utf-8-sig"))
        return "image" in document.get("base", {})
    except (OSError, ValueError):
        return False  # it was modified since it was loaded


@dataclass(frozen=True, kw_only=True, slots=True)
class _Wish:
    """A requirement, with the stage and the place that it comes from."""

    name: str
    text: str
    stage: str
    place: str
