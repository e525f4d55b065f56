"""Recognize secrets by their form, to keep them out of files, layers and registries."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from typing import Any

from builder.spec.secret_names import assigned, names_a_secret

NO_SECRETS = (
    "everyone who can use a template can read its content. Pass secrets to a sandbox when you open"
    " it"
)
# The forms that the services document for secret scanners. Every repetition is bounded, so that a
# hostile text does not slow down the search.
_SHAPES = {
    "a private key": r"-----BEGIN [A-Z ]{0,40}PRIVATE KEY-----",
    "an AWS access key": r"\b(?:AKIA|ASIA)[0-9A-Z]{16}\b",
    "a GitHub token": r"\bgh[pousr]_[A-Za-z0-9]{20,}|\bgithub_pat_[A-Za-z0-9_]{22,}",
    "a GitLab token": r"\bglpat-[A-Za-z0-9_-]{20,}",
    "an E2B key": r"\be2b_[A-Za-z0-9]{16,}\b",
    "a model API key": r"\bsk-[A-Za-z0-9_-]{16,}|\bAIza[0-9A-Za-z_-]{35}",
    "a Hugging Face token": r"\bhf_[A-Za-z0-9]{16,}\b",
    "a Slack token": r"\bxox[abeprs]-[A-Za-z0-9-]{10,}",
    "a Stripe key": r"\b[rs]k_live_[0-9A-Za-z]{16,}",
    "a package registry token": r"\bnpm_[A-Za-z0-9]{36}\b|\bpypi-AgE[A-Za-z0-9_-]{40,}",
    "a JSON web token": r"\beyJ[\w-]{10,400}\.eyJ[\w-]{10,}\.[\w-]{10,}",
    "a URL with a password": (r"\b[A-Za-z][A-Za-z0-9+-]{0,20}://[^/\s:@]{0,200}:[^/\s@]{1,200}@"),
}
_SHAPE = re.compile("|".join(f"({shape})" for shape in _SHAPES.values()))
# Only in the values of variables: code may look like this.
_CONNECTION = re.compile(
    r"(?i)(?:^|[;,?&\s])(?:password|passwd|pwd|accountkey|sharedaccesskey|access_token|api[-_]?key)"
    r"\s{0,5}=\s{0,5}[^;,&\s$]|\b(?:basic|bearer)\s+(?=[A-Za-z+/._~-]{0,64}[0-9=])[A-Za-z0-9+/=._~-]{16}"
)
_SHORTEST = 8


def secret_in(text: str, environment: Mapping[str, str] = os.environ) -> str | None:
    """Return the kind of secret in `text`, without repeating it; None if there is none.

    A secret is recognized by its form, or as the value of a local variable named like a secret.
    """
    if match := _SHAPE.search(text):
        return list(_SHAPES)[(match.lastindex or 1) - 1]
    return local_secret_in(text, environment)


def local_secret_in(text: str, environment: Mapping[str, str] = os.environ) -> str | None:
    """Return the variable named like a secret whose value is in `text`; None if there is none."""
    for name, value in environment.items():
        if len(value) >= _SHORTEST and value in text and names_a_secret(name, value):
            return f"the value of `{name}` in this environment"
    return None


def secrets_of(document: Mapping[str, Any]) -> Iterator[tuple[tuple[str | int, ...], str]]:
    """Yield the key of every secret in a spec, with a description of the problem."""
    for key, value in texts_of(document, ()):
        if kind := secret_in(value):
            yield key, f"contains {kind}"
        elif key[0] == "env" and names_a_secret(str(key[-1]), value):
            yield key, "is named like a secret"
        elif key[0] == "env" and _CONNECTION.search(value):
            yield key, "contains a password or a key"
        elif "command" in key and (name := next(assigned(value), None)):
            yield key, f"sets `{name}`, which is named like a secret"


def texts_of(value: Any, key: tuple[str | int, ...]) -> Iterator[tuple[tuple[str | int, ...], str]]:
    """Yield every text in a value at `key`, with its own key."""
    if isinstance(value, str):
        yield key, value
    elif isinstance(value, dict):
        for name, item in value.items():
            yield from texts_of(item, (*key, name))
    elif isinstance(value, list):
        for number, item in enumerate(value):
            yield from texts_of(item, (*key, number))
