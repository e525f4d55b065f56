"""Spans and metrics through the OpenTelemetry API, which does nothing unless an application sets
it up. The only owner of it. Without the extra `telemetry` there are none."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from opentelemetry import metrics, trace

_NAME = "template-builder"
# From handing out a warm sandbox to a first import; the default bounds are for milliseconds.
_BOUNDS = (0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0, 300.0)
# It differs by build, and a metric has a series for each value.
_NOT_MEASURED = ("template.ref",)
_tracer: trace.Tracer | None = None
_seconds: metrics.Histogram | None = None
_counter: metrics.Counter | None = None
with contextlib.suppress(ModuleNotFoundError):
    from opentelemetry import metrics, trace

    _tracer = trace.get_tracer(_NAME)
    _seconds = metrics.get_meter(_NAME).create_histogram(
        "template.operation.duration",
        unit="s",
        description="resolve, open, ready, execute",
        explicit_bucket_boundaries_advisory=_BOUNDS,
    )
    _counter = metrics.get_meter(_NAME).create_counter(
        "template.events", description="sandboxes rotated, replaced, cancelled; webhooks refused"
    )


@dataclass(frozen=True, slots=True)
class Measured:
    """A running operation."""

    span: trace.Span | None
    attributes: dict[str, str]

    def add(self, attributes: Mapping[str, str]) -> None:
        """Add attributes that were not known at the start; `outcome` is how it ended."""
        if self.span:
            self.span.set_attributes(dict(attributes))
        self.attributes.update(_countable(attributes))

    def tell(self, key: str, value: str | bool) -> None:
        """Add an attribute to the span alone, because it has too many values for a metric."""
        if self.span:
            self.span.set_attribute(key, value)


@contextlib.contextmanager
def measured(operation: str, attributes: Mapping[str, str]) -> Iterator[Measured]:
    """Record a span and a duration for the `with` block, with any exception."""
    start = time.perf_counter()
    outcome = "error"
    counted = _countable(attributes)
    spanned = (
        _tracer.start_as_current_span(f"template.{operation}", attributes=dict(attributes))
        if _tracer
        else contextlib.nullcontext()
    )
    with spanned as span:
        try:
            yield Measured(span, counted)
            outcome = counted.pop("outcome", "ok")
        except asyncio.CancelledError:
            outcome = "cancelled"
            raise
        finally:
            counted.pop("outcome", None)
            if _seconds:
                _seconds.record(
                    time.perf_counter() - start,
                    {**counted, "operation": operation, "outcome": outcome},
                )


def count(event: str, attributes: Mapping[str, str]) -> None:
    """Count an event."""
    if _counter:
        _counter.add(1, {**_countable(attributes), "event": event})


def _countable(attributes: Mapping[str, str]) -> dict[str, str]:
    return {key: value for key, value in attributes.items() if key not in _NOT_MEASURED}
