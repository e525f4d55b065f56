"""An account of E2B: its key, and where its API and its sandboxes are. It loads no client."""

from __future__ import annotations

import atexit
import functools
import os
import re
import time
from dataclasses import dataclass, field
from typing import Any

from builder.errors import TargetUnavailableError
from builder.project import TargetSettings

__all__ = ["Account", "account_of"]

_LAST_SECONDS = 0.05
_KEYS = ("E2B_API_KEY", "E2B_KEY")


@dataclass(frozen=True, kw_only=True, slots=True)
class Account:
    """What has no address of its own is where the variables of E2B's SDK say, as it reads them."""

    api_key: str = field(repr=False)
    domain: str | None = None
    api_url: str | None = None
    sandbox_url: str | None = None

    @classmethod
    def of(cls, settings: TargetSettings, api_key: str) -> Account:
        """The account of a target."""
        return cls(
            api_key=api_key,
            domain=settings.domain,
            api_url=settings.api_url,
            sandbox_url=settings.sandbox_url,
        )

    @property
    def origin(self) -> str:
        """The address of its API."""
        if url := self.api_url or os.environ.get("E2B_API_URL"):
            return url.rstrip("/")
        if os.environ.get("E2B_DEBUG", "").lower() == "true":
            return "http://localhost:3000"
        return f"https://api.{self.domain or os.environ.get('E2B_DOMAIN') or 'e2b.app'}"

    @property
    def options(self) -> dict[str, Any]:
        """The options of each call of the SDK. It is not to retry: the caller does, and knows for
        how long; one within the other would multiply."""
        places = {
            "domain": self.domain,
            "api_url": self.api_url,
            "sandbox_url": self.sandbox_url,
        }
        given = {name: value for name, value in places.items() if value}
        _wait_at_exit()
        return {"api_key": self.api_key, "retries": 0, **given}


@functools.cache
def _wait_at_exit() -> None:
    """Give the SDK's threads a moment when the program ends. They run Python once more after a call
    has returned, and a thread of theirs that meets the end of Python there aborts the process."""
    atexit.register(time.sleep, _LAST_SECONDS)


def account_of(settings: TargetSettings, api_key: str | None) -> Account:
    """The account of a target, by `api_key` or the variables that may hold one. Raises
    `TargetUnavailableError` (also a `ValueError`) when there is no key, or no account at all."""
    if not settings.has_account:
        raise TargetUnavailableError(
            f"target `{settings.name}` is this machine, and has no account"
        )
    return Account.of(settings, _key(api_key, settings.api_key_env, settings.name))


class MissingKeyError(TargetUnavailableError, ValueError):
    """The key of an account is not set."""


def _key(given: str | None, variable: str | None, target: str) -> str:
    names = [variable] if variable and variable not in _KEYS else list(_KEYS)
    for key in (given, *(os.environ.get(name) for name in names)):
        if key and key.strip():
            if not re.fullmatch(r"[!-~]+", key.strip()):
                raise MissingKeyError(
                    f"the key for target `{target}` holds characters that no key has",
                    hint="was it copied whole, and nothing else with it?",
                )
            return key.strip()
    raise MissingKeyError(
        f"target `{target}` needs an account: no `api_key` is given, and {' and '.join(names)}"
        f" {'is' if len(names) == 1 else 'are'} not set",
        hint=f'set {names[0]} to a key of the account; target="local" runs code on this machine'
        " and needs none, but is no security boundary",
    )
