"""W3C trace context across REST and streams; spans go to OpenTelemetry only where an endpoint is configured.

The trace parent (``00-<trace id>-<span id>-<flags>``) is carried in a context variable, so outbox rows and outgoing
requests can take it along whether or not anybody records spans.
"""

import re
import secrets
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from opentelemetry.trace import Tracer

_PARENT: Final = re.compile(r"00-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}")
_current: ContextVar[str | None] = ContextVar("undersong_trace", default=None)
_tracers: "dict[str, Tracer]" = {}


def current_trace() -> str | None:
    """The present trace parent, or None outside of any trace."""
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
    """Export spans by OTLP over HTTP to `endpoint` (for example ``http://collector:4318``); None records nothing."""
    if endpoint is None:
        return
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor

    provider = TracerProvider(resource=Resource.create({"service.name": f"undersong-{service}"}))
    exporter = OTLPSpanExporter(endpoint=f"{endpoint.rstrip('/')}/v1/traces")
    provider.add_span_processor(BatchSpanProcessor(exporter))
    _tracers["tracer"] = provider.get_tracer("undersong")
