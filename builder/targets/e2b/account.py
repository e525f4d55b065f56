"""An account of E2B: its key, and where its API and its sandboxes are. It loads no client."""

from __future__ import annotations

import atexit
import functools
import os
import time
from dataclasses import dataclass, field
from typing import Any

from builder.project import TargetSettings

__all__ = ["Account"]

_LAST_SECONDS = 0.05


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
