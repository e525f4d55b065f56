"""Warn about commands whose result may differ tomorrow."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from builder.spec.load import place_of
from builder.spec.variant import Stage, Variant

_INTERPRETERS = r"(?:sudo\s+(?:-\S+\s+)*)?(?:ba|da|z)?sh\b|python[0-9.]*\b|perl\b|node\b"
# What gets something else tomorrow, and what to write instead.
_CHANGING = (
    (
        re.compile(rf"\b(?:curl|wget)\b[^|\n]*\|\s*(?:{_INTERPRETERS})"),
        "runs what an address answers on that day; save it, and check its hash before running it",
    ),
    (
        re.compile(
            r"\bnpm\s+(?:install|i|add)\s+(?!ci\b)(?:-\S+\s+)*(?!-)(?:@[^@\s]+/)?[^@\s;&|]+(?=$|[\s;&|])",
            re.MULTILINE,
        ),
        "installs the newest version of that day; name it, as in `typescript@5.9.3`",
    ),
    (
        re.compile(r"\bpip3?\s+install\s+(?!.*(?:==|--require-hashes|-r\b|--requirement))\S+.*"),
        "installs the newest version of that day; list it in `python.packages`, which is locked",
    ),
    (
        re.compile(r"\bapt(?:-get)?\s+(?:-\S+\s+)*install\b[^)\n]*"),
        "installs the newest version of that day; list it in `system.packages`",
    ),
    (
        re.compile(
            r"\bgit\s+clone\b(?!.*--revision)[^;&|\n]*(?![\s\S]*\bgit\b[\s\S]*\b(?:checkout|reset)\b)"
        ),
        "gets the newest commit of that day; check out a commit after it",
    ),
)
_SHOWN = 60


def _changing(stage: Stage) -> Iterator[tuple[tuple[str | int, ...], str]]:
    """Yield a key and a warning for each command of a stage whose result may differ tomorrow."""
    for number, run in enumerate(stage.runs):
        text = run.command or next(
            entry.content.decode(errors="replace")
            for entry in run.inputs
            if entry.source == run.script
        )
        for pattern, why in _CHANGING:
            if match := pattern.search(text):
                shown = " ".join(match[0].split())
                shown = shown if len(shown) <= _SHOWN else f"{shown[:_SHOWN]}…"
                key = "command" if run.command else "script"
                yield ("run", number, key), f"`{shown}` {why}"


def warnings_of(variants: Sequence[Variant]) -> Iterator[tuple[str, str, list[str]]]:
    """Yield the place of each such command, its warning, and the templates that run it."""
    users: dict[tuple[str, str], list[str]] = {}
    for variant in variants:
        for stage in variant.stages:
            for key, text in _changing(stage):
                place = stage.source
                if stage.path:
                    place = place_of(stage.path.parent, stage.source, key)
                users.setdefault((place, text), []).append(variant.name)
    yield from ((place, text, names) for (place, text), names in users.items())
