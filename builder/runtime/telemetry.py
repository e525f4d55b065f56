"""Spans and metrics through the OpenTelemetry API, which does nothing unless an application sets
it up. The only owner of it."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Mapping

from opentelemetry import metrics, trace

__all__ = ["count", "measured"]

_NAME = "template-builder"
_tracer = trace.get_tracer(_NAME)
_meter = metrics.get_meter(_NAME)
_seconds = _meter.create_histogram(
    "template.operation.duration", unit="s", description="resolve, open, ready, execute"
)
_counter = _meter.create_counter(
    "template.events", description="sandboxes rotated, replaced, cancelled; webhooks refused"
)


@contextlib.contextmanager
def measured(operation: str, attributes: Mapping[str, str]) -> Iterator[trace.Span]:
    """A span and a duration for the `with` block; an exception is recorded in both."""
    start = time.perf_counter()
    outcome = "error"
    with _tracer.start_as_current_span(
        f"template.{operation}", attributes=dict(attributes)
    ) as span:
        try:
            yield span
            outcome = "ok"
        finally:
            _seconds.record(
                time.perf_counter() - start,
                {**attributes, "operation": operation, "outcome": outcome},
            )


def count(event: str, attributes: Mapping[str, str]) -> None:
    """One more of an event."""
    _counter.add(1, {**attributes, "event": event})
