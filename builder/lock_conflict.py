"""Why a stage has no lock, in terms of the specs: which requirement, which stage, what to change.

uv's own reasoning is kept below our sentence, word for word.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from builder.errors import LockConflictError
from builder.spec import Stage, place_of

__all__ = ["explain"]


def explain(
    output: str, chain: Sequence[Stage], locked: Mapping[str, tuple[str, str]], folder: Path
) -> LockConflictError:
    """Turn uv's `output` about the last stage of `chain` into an error.

    `locked` maps a package that a parent stage locks to (version, that stage's stem).
    """
    stage = chain[-1]
    said = re.sub(r"\s*cause: ", "\n", output).strip()
    reasoning = f"uv's reasoning:\n{said}"
    asked: dict[str, tuple[str, tuple[Stage, int]]] = {
        canonicalize_name(Requirement(text).name): (text, place)
        for link in chain
        for number, text in enumerate(link.requirements)
        if (place := (link, number))
    }

    def at(name: str) -> str:
        link, number = asked[name][1]
        return place_of(folder, link.source, ("python", "packages", number))

    absent = re.search(r"Because (\S+) was not found in the package registry", output)
    if absent:
        name = canonicalize_name(absent[1])
        where = f" ({at(name)})" if name in asked else ", which a package of it needs,"
        return LockConflictError(
            f"stage `{stage.stem}`: package `{name}`{where} does not exist in the package index\n"
            f"{reasoning}",
            hint="check the spelling of the package's name",
        )
    mentioned = {canonicalize_name(word) for word in re.findall(r"[A-Za-z0-9][\w.-]*\w", output)}
    own = [n for n in mentioned if n in asked and asked[n][1][0] is stage]
    inherited = [n for n in mentioned if n in locked]
    if inherited and own:
        lines = []
        for name in sorted(inherited):
            version, stem = locked[name]
            because = f', asked for by "{asked[name][0]}" at {at(name)}' if name in asked else ""
            lines.append(f"  {name}=={version} is locked by stage `{stem}`{because}")
        lines += [f'  "{asked[n][0]}" is asked for by stage `{stage.stem}` at {at(n)}' for n in own]
        parents = " and ".join(f"`{s}`" for s in sorted({locked[n][1] for n in inherited}))
        return LockConflictError(
            f"stage `{stage.stem}` cannot live with the versions that {parents} locked:\n"
            + "\n".join(lines)
            + f"\n{reasoning}",
            hint=f"loosen {_either(asked[n][0] for n in sorted(own))} in {stage.source},"
            f" or ask for a version that both can use in the stage {parents}",
        )
    if len(own) >= 1:
        lines = [f'  "{asked[n][0]}" at {at(n)}' for n in sorted(own)]
        return LockConflictError(
            f"stage `{stage.stem}`: no versions meet all requirements:\n"
            + "\n".join(lines)
            + f"\n{reasoning}",
            hint=f"loosen {_either(asked[n][0] for n in sorted(own))}",
        )
    return LockConflictError(f"stage `{stage.stem}` cannot be resolved\n{reasoning}")


def _either(texts: Iterable[str]) -> str:
    return " or ".join(f'"{text}"' for text in texts)
