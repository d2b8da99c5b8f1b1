"""W3C trace context across REST and streams; spans go to OpenTelemetry only where an endpoint is configured.

The trace parent (``00-<trace id>-<span id>-<flags>``) is carried in a context variable, so outbox rows and outgoing
requests can take it along whether or not anybody records spans.
"""

import os
import re
import secrets
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import SpanProcessor
    from opentelemetry.trace import Tracer

_PARENT: Final = re.compile(r"00-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}")
_current: ContextVar[str | None] = ContextVar("undersong_trace", default=None)
_tracers: "dict[str, Tracer]" = {}


def current_trace() -> str | None:
    """Return the present trace parent, or None outside of any trace."""
    return _current.get()


@contextmanager
def continue_trace(
    parent: str | None, name: str = "work", attributes: Mapping[str, str | int] | None = None
) -> Iterator[str]:
    """Work under a new span of the parent's trace, or of a new trace when there is none or it is malformed."""
    if parent is not None and not _PARENT.fullmatch(parent):
        parent = None
    tracer = _tracers.get("tracer")
    if tracer is not None:
        with _recorded(tracer, parent, name, attributes) as trace:
            yield trace
        return
    trace_id, flags = (parent[3:35], parent[-2:]) if parent else (secrets.token_hex(16), "00")
    with _set(f"00-{trace_id}-{secrets.token_hex(8)}-{flags}") as trace:
        yield trace


@contextmanager
def _set(trace: str) -> Iterator[str]:
    reset = _current.set(trace)
    try:
        yield trace
    finally:
        _current.reset(reset)


@contextmanager
def _recorded(
    tracer: "Tracer", parent: str | None, name: str, attributes: Mapping[str, str | int] | None
) -> Iterator[str]:
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

    context = TraceContextTextMapPropagator().extract({"traceparent": parent}) if parent else None
    with tracer.start_as_current_span(name, context=context, attributes=dict(attributes or {})) as span:
        ids = span.get_span_context()
        with _set(f"00-{ids.trace_id:032x}-{ids.span_id:016x}-{ids.trace_flags:02x}") as trace:
            yield trace


def configure_tracing(service: str, endpoint: str | None) -> None:
    """Record spans; None records nothing.

    `endpoint`: ``http://collector:4318`` for OTLP over HTTP, or ``file:/folder`` for one JSON object a span and line in
    ``<folder>/<service>-<process id>.jsonl``, where there is no collector.
    """
    if endpoint is None:
        return
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import TracerProvider

    provider = TracerProvider(resource=Resource.create({"service.name": f"undersong-{service}"}))
    provider.add_span_processor(_processor(service, endpoint))
    _tracers["tracer"] = provider.get_tracer("undersong")


def _processor(service: str, endpoint: str) -> "SpanProcessor":
    from opentelemetry.sdk.trace.export import BatchSpanProcessor, ConsoleSpanExporter, SimpleSpanProcessor

    if endpoint.startswith("file:"):
        folder = Path(endpoint.removeprefix("file:"))
        folder.mkdir(parents=True, exist_ok=True)
        out = (folder / f"{service}-{os.getpid()}.jsonl").open("a", buffering=1)
        return SimpleSpanProcessor(
            ConsoleSpanExporter(out=out, formatter=lambda span: f"{span.to_json(indent=None)}\n")
        )
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter

    return BatchSpanProcessor(OTLPSpanExporter(endpoint=f"{endpoint.rstrip('/')}/v1/traces"))


@contextmanager
def within_trace(
    parent: str | None, name: str, attributes: Mapping[str, str | int] | None = None
) -> Iterator[str | None]:
    """Work under a new span of the parent's trace, unless there is no parent or this is that trace already."""
    present = _current.get()
    if parent is None or (present is not None and present[3:35] == parent[3:35]):
        yield present
        return
    with continue_trace(parent, name, attributes) as trace:
        yield trace
