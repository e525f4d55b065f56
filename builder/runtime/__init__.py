"""Run code in a template: the interface for applications.

It loads nothing of the build side, and a target's libraries only when a sandbox is opened there.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from builder.runtime.files import Files as Files
    from builder.runtime.primitive import CodeExecutionPrimitive as CodeExecutionPrimitive
    from builder.runtime.primitive import E2BPrimitive as E2BPrimitive
    from builder.runtime.values import CodeInput as CodeInput
    from builder.runtime.values import CodeOutput as CodeOutput
    from builder.sandbox.execution import Result as Result
    from builder.sandbox.files import FileEntry as FileEntry
    from builder.webhooks.client import E2BWebhookPrimitive as E2BWebhookPrimitive
    from builder.webhooks.events import Event as Event
    from builder.webhooks.ledger import Ledger as Ledger
    from builder.webhooks.receiver import WebhookReceiver as WebhookReceiver

_PLACES = {
    "CodeExecutionPrimitive": "runtime.primitive",
    "CodeInput": "runtime.values",
    "CodeOutput": "runtime.values",
    "E2BPrimitive": "runtime.primitive",
    "E2BWebhookPrimitive": "webhooks.client",
    "Event": "webhooks.events",
    "FileEntry": "sandbox.files",
    "Files": "runtime.files",
    "Ledger": "webhooks.ledger",
    "Result": "sandbox.execution",
    "WebhookReceiver": "webhooks.receiver",
}
__all__ = list(_PLACES)


def __getattr__(name: str) -> Any:
    """Import a name when it is first used: an application that runs code loads no webhooks."""
    if name not in _PLACES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    import importlib

    return getattr(importlib.import_module(f"builder.{_PLACES[name]}"), name)
