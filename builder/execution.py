"""What running code in a sandbox gives."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

__all__ = ["Execution", "plain"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Execution:
    """What running code gave. `results` are MIME bundles; `traceback` is plain text."""

    stdout: str = ""
    stderr: str = ""
    results: tuple[Mapping[str, Any], ...] = ()
    error: str | None = None
    traceback: str = ""
    timed_out: bool = False
    seconds: float = 0.0


def plain(text: str) -> str:
    """Text without the colours of a terminal."""
    return re.sub(r"\x1b\[[0-9;]*m", "", text)
