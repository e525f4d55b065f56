"""An account on E2B: its key and its addresses. This module loads no client."""

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
    """The key of an account is missing or malformed."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Account:
    """An account on E2B.

    A domain or addresses set here override the variables of E2B's SDK, which apply otherwise.
    `key_variable` is the environment variable for the key.
    """

    api_key: str = field(repr=False)
    key_variable: str = _KEYS[0]
    target: str = "e2b"
    domain: str | None = None
    api_url: str | None = None
    sandbox_url: str | None = None

    @classmethod
    def of(cls, settings: TargetSettings, api_key: str) -> Account:
        """Return the account of a target.

        Raises `TargetUnavailableError` for a malformed key, or address in a variable.
        """
        if not re.fullmatch(r"[!-~]+", api_key.strip()):
            raise MissingKeyError(
                f"the key for target `{settings.name}` contains characters that no key has",
                hint="copy the whole key, and nothing else",
            )
        account = cls(
            api_key=api_key.strip(),
            key_variable=settings.api_key_env or _KEYS[0],
            target=settings.name,
            domain=settings.domain,
            api_url=settings.api_url,
            sandbox_url=settings.sandbox_url,
        )
        for variable, check in _VARIABLES.items() if not account._has_place else ():
            value = os.environ.get(variable)
            if value and (problem := check(value)):
                raise TargetUnavailableError(f"`{variable}` {problem}")
        return account

    @property
    def origin(self) -> str:
        """Return the address of the API."""
        if self._has_place:
            return self.api_url or f"https://api.{self.domain}"
        if url := os.environ.get("E2B_API_URL"):
            return url.rstrip("/")
        if os.environ.get("E2B_DEBUG", "").lower() == "true":
            return "http://localhost:3000"
        return f"https://api.{os.environ.get('E2B_DOMAIN') or 'e2b.app'}"

    @property
    def options(self) -> dict[str, Any]:
        """Return the options for every call of the SDK, with its own retries turned off."""
        places: dict[str, Any] = {}
        if self._has_place:
            places = {"domain": self.domain, "sandbox_url": self.sandbox_url, "debug": False}
            if self.api_url or os.environ.get("E2B_API_URL"):
                places["api_url"] = self.origin
        _wait_at_exit()
        options = {"api_key": self.api_key, "retries": 0, **places}
        return {name: value for name, value in options.items() if value is not None}

    @property
    def sandboxes_by_domain(self) -> bool:
        """Return True if sandboxes are at the domain, and a variable sends the SDK elsewhere."""
        return self._has_place and not self.sandbox_url and "E2B_SANDBOX_URL" in os.environ

    def redacted(self, text: str) -> str:
        """Return `text` without the key."""
        return text.replace(self.api_key, f"<{self.key_variable}>")

    @property
    def _has_place(self) -> bool:
        return bool(self.domain or self.api_url)


@functools.cache
def _wait_at_exit() -> None:
    """Give the SDK's threads a moment when the program ends.

    They run Python once more after a call has returned; if Python ends meanwhile, the process
    aborts.
    """
    atexit.register(time.sleep, _LAST_SECONDS)


def account_of(settings: TargetSettings, api_key: str | None) -> Account:
    """Return the account of a target, with `api_key` or the key of a variable.

    Raises `TargetUnavailableError` if the target has no account, and `MissingKeyError` without a
    key.
    """
    if not settings.has_account:
        raise TargetUnavailableError(f"target `{settings.name}` is this machine: it has no account")
    variable = settings.api_key_env
    names = [variable] if variable and variable not in _KEYS else list(_KEYS)
    for key in (api_key, *(os.environ.get(name) for name in names)):
        if key and key.strip():
            return Account.of(settings, key)
    raise MissingKeyError(
        f"target `{settings.name}` needs an account: no `api_key` is given, and"
        f" {' and '.join(names)} {'is' if len(names) == 1 else 'are'} not set",
        hint=f'set {names[0]} to a key of the account; target="local" needs none: it runs code on'
        " this machine",
    )
