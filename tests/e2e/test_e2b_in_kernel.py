from __future__ import annotations

from importlib import resources
from pathlib import Path
from typing import Any

import pytest
from jupyter_client.manager import start_new_kernel


def test_first_code_prints_what_it_prints(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In an interpreter that keeps a history, as those of E2B do, the first code of a session has no
    output but its own."""
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path))
    source = resources.files("builder.targets.e2b").joinpath("in_kernel.py").read_text("utf-8")
    save = "get_ipython().history_manager.writeout_cache()"  # a thread does it, some time
    printed: list[str] = []

    def keep(message: dict[str, Any]) -> None:
        if message["msg_type"] in ("stream", "error"):
            printed.append(str(message["content"].get("text", message["content"])))

    manager, client = start_new_kernel()
    try:
        for code in (
            f"{source}\n{save}\ninstall(get_ipython(), mark='#')",
            f"print(1)\n{save}",
            "print(2)",
        ):
            client.execute_interactive(code, output_hook=keep, timeout=60)
    finally:
        client.stop_channels()
        manager.shutdown_kernel(now=True)
    assert printed == ["1\n", "2\n"]
