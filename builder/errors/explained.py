"""The meaning of every exit code, from exit_codes.toml: for `explain` and the reference page."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from importlib import resources

from builder import errors


@dataclass(frozen=True, kw_only=True, slots=True)
class Explanation:
    """An exit code, the name of its error, its cause and what to do about it."""

    code: int
    name: str
    cause: str
    remedy: str


def explanations() -> tuple[Explanation, ...]:
    """Return the explanation of every exit code, in the order of the codes."""
    codes = {"Done": 0, "SomethingToDo": errors.SOMETHING_TO_DO, "UsageError": errors.USAGE}
    codes |= {
        name: kind.exit_code
        for name, kind in vars(errors).items()
        if isinstance(kind, type) and issubclass(kind, errors.TemplateError)
    }
    texts = resources.files(__package__).joinpath("exit_codes.toml").read_text("utf-8")
    entries = tomllib.loads(texts).items()
    explained = [Explanation(code=codes[name], name=name, **texts) for name, texts in entries]
    return tuple(sorted(explained, key=lambda explanation: explanation.code))


def explanation_of(wanted: str) -> Explanation:
    """Return the explanation of a code or of the name of an error. Raises `SelectionError`."""
    known = explanations()
    for explanation in known:
        if wanted.lower() in (str(explanation.code), explanation.name.lower()):
            return explanation
    if wanted.isdecimal():
        nearest = sorted(known, key=lambda explanation: abs(explanation.code - int(wanted)))
        hint = f"the nearest are {', '.join(str(near.code) for near in nearest[:3])}"
    else:
        hint = errors.did_you_mean(wanted, [explanation.name for explanation in known]) or ""
    raise errors.SelectionError(
        f"there is no exit code or error `{wanted}`",
        hint=hint or "`template-builder explain` lists all",
    )
