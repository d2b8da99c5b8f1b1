"""JSON log lines to stdout; secrets, payloads and arrays refuse to be rendered.

Event names are ``noun.verb``, facts are fields, ids are bound once at the edge with
``structlog.contextvars.bound_contextvars``. Redaction goes by type (bytes, arrays, SecretStr), by field name, and by
the form of our own tokens wherever they turn up, tracebacks included.
"""

import logging
import re
import sys
from collections.abc import Mapping, MutableMapping
from typing import Any, Final, TextIO

import structlog

from undersong.shared.telemetry.traces import current_trace

REDACTED: Final = "[redacted]"
_SECRET_NAMES: Final = re.compile(r"(?i)(?:^|_)(?:token|secret|password|authorization|private_key|proof|cookie)$")
_TOKENS: Final = re.compile(r"\bus[a-z]_[A-Za-z0-9_-]{20,}|-----BEGIN [A-Z ]*PRIVATE KEY-----[^-]*-----END")
_URL_PASSWORD: Final = re.compile(r"(?<=://)([^:/@\s]*):[^@/\s]+(?=@)")
_DEEPEST: Final = 6


def configure_logging(service: str, level: str = "INFO", *, json: bool = True, stream: TextIO | None = None) -> None:
    """Send structlog's events and the standard library's records, as one JSON line each, to stdout."""
    before: list[Any] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True, key="ts"),
        _Service(service),
        _add_trace,
    ]
    last: list[Any] = [structlog.processors.format_exc_info, redact]
    renderer: Any = structlog.processors.JSONRenderer() if json else structlog.dev.ConsoleRenderer()
    structlog.configure(
        processors=[*before, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.make_filtering_bound_logger(logging.getLevelName(level.upper())),
        cache_logger_on_first_use=False,
    )
    handler = logging.StreamHandler(stream or sys.stdout)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[*before, structlog.stdlib.ExtraAdder()],
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *last, renderer],
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())
    for chatty in ("httpx", "httpcore", "uvicorn.access", "alembic", "asyncio"):
        logging.getLogger(chatty).setLevel(logging.WARNING)


def redact(_logger: object, _method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """Return a structlog processor: nothing secret and no payload leaves in a log line."""
    for name, value in event.items():
        event[name] = REDACTED if _SECRET_NAMES.search(name) and value is not None else _harmless(value)
    return event


def scrub(text: str) -> str:
    """Return the text without our tokens, private keys and passwords in URLs."""
    return _URL_PASSWORD.sub(rf"\1:{REDACTED}", _TOKENS.sub(REDACTED, text))


def _harmless(value: object, depth: int = 0) -> object:
    """Return the value in a form that may be logged: sizes in place of payloads, scrubbed text, plain containers."""
    if value is None or isinstance(value, bool | int | float):
        return value
    if isinstance(value, str):
        return scrub(value)
    if isinstance(value, bytes | bytearray | memoryview):
        return f"[{len(value)} bytes]"
    if hasattr(value, "get_secret_value"):
        return REDACTED
    if hasattr(value, "__array__"):
        return f"[array {getattr(value, 'shape', '')} {getattr(value, 'dtype', '')}]"
    if depth >= _DEEPEST:
        return "[deep]"
    if isinstance(value, Mapping):
        return {
            str(key): REDACTED if _SECRET_NAMES.search(str(key)) else _harmless(item, depth + 1)
            for key, item in value.items()
        }
    if isinstance(value, list | tuple | set | frozenset):
        return [_harmless(item, depth + 1) for item in value]
    return scrub(str(value))


class _Service:
    """Adds the service's name to each line."""

    def __init__(self, service: str) -> None:
        self._service = service

    def __call__(self, _logger: object, _method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
        event.setdefault("service", self._service)
        return event


def _add_trace(_logger: object, _method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    trace = current_trace()
    if trace is not None:
        event.setdefault("trace_id", trace[3:35])
    return event
