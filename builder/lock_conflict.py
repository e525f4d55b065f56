"""Why a stage has no lock, in terms of the specs: which requirement, which stage, what to change.

uv's own reasoning is kept below our sentence, word for word.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from builder.errors import LockConflictError, Problem, SpecError, did_you_mean
from builder.spec import Stage, place_of

__all__ = ["explain", "missing_extra", "says_not_found"]

_EXTRA = re.compile(r"The package `([^=`]+)==([^`]+)` does not have an extra named `([^`]+)`")
_BACKENDS = re.compile(r"'--torch-backend.*?possible values: ([^\]]+)\]", re.DOTALL)
_NOT_FOUND = re.compile(r"Because (\S+) was not found in the package registry")


def says_not_found(output: str) -> bool:
    """Whether uv says that an index does not have a package at all."""
    return _NOT_FOUND.search(output) is not None


def missing_extra(output: str, chain: Sequence[Stage], folder: Path) -> LockConflictError | None:
    """The error about an extra of a requirement that the package does not have, if uv says so.

    uv itself only warns, and then what the extra was meant to bring is missing in a sandbox.
    """
    for package, version, extra in _EXTRA.findall(output):
        for link in chain:
            for number, text in enumerate(link.requirements):
                wish = Requirement(text)
                if canonicalize_name(wish.name) == package and extra in wish.extras:
                    place = place_of(folder, link.source, ("python", "packages", number))
                    return LockConflictError(
                        f'stage `{link.stem}`: "{text}" at {place} asks for the extra `{extra}`,'
                        f" which {package}=={version} does not have",
                        hint="check the spelling of the extra, or leave it out",
                    )
    return None


def explain(
    output: str, chain: Sequence[Stage], locked: Mapping[str, tuple[str, str]], folder: Path
) -> LockConflictError | SpecError:
    """Turn uv's `output` about the last stage of `chain` into an error.

    `locked` maps a package that a parent stage locks to (version, that stage's stem).
    """
    stage = chain[-1]
    if backends := _BACKENDS.search(output):
        return _unknown_backend(chain, backends[1].split(", "), folder)
    said = re.sub(r"\s*cause: ", "\n", output).strip()
    reasoning = f"uv's reasoning:\n{said}"
    wishes = [
        _Wish(
            name=canonicalize_name(Requirement(text).name),
            text=text,
            stage=link.stem,
            place=place_of(folder, link.source, ("python", "packages", number)),
        )
        for link in chain
        for number, text in enumerate(link.requirements)
    ]
    absent = _NOT_FOUND.search(output)
    if absent:
        name = canonicalize_name(absent[1])
        places = [wish.place for wish in wishes if wish.name == name]
        where = f" ({places[-1]})" if places else ", which a package of it needs,"
        return LockConflictError(
            f"stage `{stage.stem}`: package `{name}`{where} does not exist in the package index\n"
            f"{reasoning}",
            hint="check the spelling of the package's name",
        )
    mentioned = {canonicalize_name(word) for word in re.findall(r"[A-Za-z0-9][\w.-]*\w", output)}
    own = [wish for wish in wishes if wish.name in mentioned and wish.stage == stage.stem]
    own.sort(key=lambda wish: wish.name)
    inherited = sorted(mentioned & set(locked))
    if inherited and own:
        lines = []
        for name in inherited:
            version, stem = locked[name]
            because = "".join(
                f', asked for by "{wish.text}" at {wish.place}'
                for wish in wishes
                if wish.name == name and wish.stage != stage.stem
            )
            lines.append(f"  {name}=={version} is locked by stage `{stem}`{because}")
        lines += [f'  "{w.text}" is asked for by stage `{stage.stem}` at {w.place}' for w in own]
        parents = " and ".join(f"`{s}`" for s in sorted({locked[name][1] for name in inherited}))
        return LockConflictError(
            f"stage `{stage.stem}` cannot live with the versions that {parents} locked:\n"
            + "\n".join(lines)
            + f"\n{reasoning}",
            hint=f"loosen {_either(own)} in {stage.source},"
            f" or ask for a version that both can use in the stage {parents}",
        )
    if own:
        lines = [f'  "{wish.text}" at {wish.place}' for wish in own]
        return LockConflictError(
            f"stage `{stage.stem}`: no versions meet all requirements:\n"
            + "\n".join(lines)
            + f"\n{reasoning}",
            hint=f"loosen {_either(own)}",
        )
    return LockConflictError(f"stage `{stage.stem}` cannot be resolved\n{reasoning}")


def _unknown_backend(chain: Sequence[Stage], known: Sequence[str], folder: Path) -> SpecError:
    wanted = chain[-1].torch_backend or ""
    file = next(s for s in chain if s.torch_backend == wanted)
    line = int(place_of(folder, file.source, ("python", "torch-backend")).rpartition(":")[2])
    message = f"uv knows no PyTorch backend {wanted!r}"
    hint = did_you_mean(wanted, known) or f"it knows {', '.join(known)}"
    problem = Problem(
        file.source, message, line=line, column=1, key="python.torch-backend", hint=hint
    )
    return SpecError([problem])


@dataclass(frozen=True, kw_only=True, slots=True)
class _Wish:
    """A requirement, who asks for it, and where."""

    name: str
    text: str
    stage: str
    place: str


def _either(wishes: Iterable[_Wish]) -> str:
    return " or ".join(f'"{wish.text}"' for wish in wishes)
