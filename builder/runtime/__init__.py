"""Running code in a template: what an application imports.

Nothing of the build side is loaded, and a target's own libraries only when a sandbox is opened
there.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from builder.runtime.files import Files
    from builder.runtime.primitive import CodeExecutionPrimitive, E2BPrimitive
    from builder.runtime.values import CodeInput, CodeOutput
    from builder.sandbox.execution import Result
    from builder.sandbox.files import FileEntry
    from builder.webhooks.client import E2BWebhookPrimitive
    from builder.webhooks.events import Event
    from builder.webhooks.ledger import Ledger
    from builder.webhooks.receiver import WebhookReceiver

__all__ = [
    "CodeExecutionPrimitive",
    "CodeInput",
    "CodeOutput",
    "E2BPrimitive",
    "E2BWebhookPrimitive",
    "Event",
    "FileEntry",
    "Files",
    "Ledger",
    "Result",
    "WebhookReceiver",
]

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


def __getattr__(name: str) -> Any:
    """Load what is asked for: who runs code does not pay for webhooks."""
    if name not in _PLACES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    import importlib

    return getattr(importlib.import_module(f"builder.{_PLACES[name]}"), name)
