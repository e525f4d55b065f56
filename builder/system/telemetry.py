"""Spans and metrics through the OpenTelemetry API, which does nothing unless an application sets
it up. The only owner of it. Where the extra `telemetry` is not installed there are none."""

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
# From handing out what is ready to a first import: the API's own bounds are for milliseconds.
_BOUNDS = (0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0, 300.0)
# Each build has another one, and a metric has a series for each value.
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
    """What can be said of an operation while it goes on."""

    span: trace.Span | None
    told: dict[str, str]

    def add(self, attributes: Mapping[str, str]) -> None:
        """Attributes that were not known when it began; `outcome` among them is how it ended."""
        if self.span:
            self.span.set_attributes(dict(attributes))
        self.told.update(_countable(attributes))

    def tell(self, key: str, value: str | bool) -> None:
        """An attribute of the span alone: there are too many of them to count."""
        if self.span:
            self.span.set_attribute(key, value)


@contextlib.contextmanager
def measured(operation: str, attributes: Mapping[str, str]) -> Iterator[Measured]:
    """A span and a duration for the `with` block; an exception is recorded in both."""
    start = time.perf_counter()
    outcome = "error"
    told = _countable(attributes)
    spanned = (
        _tracer.start_as_current_span(f"template.{operation}", attributes=dict(attributes))
        if _tracer
        else contextlib.nullcontext()
    )
    with spanned as span:
        try:
            yield Measured(span, told)
            outcome = told.pop("outcome", "ok")
        except asyncio.CancelledError:
            outcome = "cancelled"
            raise
        finally:
            told.pop("outcome", None)
            if _seconds:
                _seconds.record(
                    time.perf_counter() - start,
                    {**told, "operation": operation, "outcome": outcome},
                )


def count(event: str, attributes: Mapping[str, str]) -> None:
    """One more of an event."""
    if _counter:
        _counter.add(1, {**_countable(attributes), "event": event})


def _countable(attributes: Mapping[str, str]) -> dict[str, str]:
    return {key: value for key, value in attributes.items() if key not in _NOT_MEASURED}
