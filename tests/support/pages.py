"""Pages of the documentation."""

from __future__ import annotations

import re
from pathlib import Path


def blocks(page: Path) -> list[tuple[str, str]]:
    return re.findall(r"^```(\w*)\n(.*?)^```$", page.read_text(), re.MULTILINE | re.DOTALL)
