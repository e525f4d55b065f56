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
from builder.project import TargetSettings, address_error, domain_error

_LAST_SECONDS = 0.05
_KEYS = ("E2B_API_KEY", "E2B_KEY")
_VARIABLES = {
    "E2B_API_URL": address_error,
    "E2B_SANDBOX_URL": address_error,
    "E2B_DOMAIN": domain_error,
}


class MissingKeyError(TargetUnavailableError, ValueError):
    """The key of an account is not set, or is none."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Account:
    """With a domain or addresses of its own it is there, whatever the variables of E2B's SDK say;
    without, it is where they say, as it reads them."""

    api_key: str = field(repr=False)
    target: str = "e2b"
    domain: str | None = None
    api_url: str | None = None
    sandbox_url: str | None = None

    @classmethod
    def of(cls, settings: TargetSettings, api_key: str) -> Account:
        """The account of a target. Raises `TargetUnavailableError` for a key, or an address in a
        variable, that no request can be made with."""
        if not re.fullmatch(r"[!-~]+", api_key.strip()):
            raise MissingKeyError(
                f"the key for target `{settings.name}` holds characters that no key has",
                hint="was it copied whole, and nothing else with it?",
            )
        account = cls(
            api_key=api_key.strip(),
            target=settings.name,
            domain=settings.domain,
            api_url=settings.api_url,
            sandbox_url=settings.sandbox_url,
        )
        for variable, check in _VARIABLES.items() if not account._has_place else ():
            value = os.environ.get(variable)
            if value and (wrong := check(value)):
                raise TargetUnavailableError(f"`{variable}` {wrong}")
        return account

    @property
    def origin(self) -> str:
        """The address of its API."""
        if self._has_place:
            return self.api_url or f"https://api.{self.domain}"
        if url := os.environ.get("E2B_API_URL"):
            return url.rstrip("/")
        if os.environ.get("E2B_DEBUG", "").lower() == "true":
            return "http://localhost:3000"
        return f"https://api.{os.environ.get('E2B_DOMAIN') or 'e2b.app'}"

    @property
    def options(self) -> dict[str, Any]:
        """The options of each call of the SDK. It is not to retry: the caller does, and knows for
        how long; one within the other would multiply."""
        places: dict[str, Any] = {}
        if self._has_place:
            places = {"domain": self.domain, "sandbox_url": self.sandbox_url, "debug": False}
            if self.api_url or os.environ.get("E2B_API_URL"):
                places["api_url"] = self.origin
        given = {name: value for name, value in places.items() if value is not None}
        _wait_at_exit()
        return {"api_key": self.api_key, "retries": 0, **given}

    @property
    def sandboxes_by_domain(self) -> bool:
        """Whether its sandboxes are at its domain, and a variable leads the SDK elsewhere."""
        return self._has_place and not self.sandbox_url and "E2B_SANDBOX_URL" in os.environ

    @property
    def _has_place(self) -> bool:
        return bool(self.domain or self.api_url)


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


def _key(given: str | None, variable: str | None, target: str) -> str:
    names = [variable] if variable and variable not in _KEYS else list(_KEYS)
    for key in (given, *(os.environ.get(name) for name in names)):
        if key and key.strip():
            return key
    raise MissingKeyError(
        f"target `{target}` needs an account: no `api_key` is given, and {' and '.join(names)}"
        f" {'is' if len(names) == 1 else 'are'} not set",
        hint=f'set {names[0]} to a key of the account; target="local" runs code on this machine'
        " and needs none, but is no security boundary",
    )
