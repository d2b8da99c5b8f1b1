"""What the platform says about itself: `logs` (structlog), `metrics` (Prometheus), `traces` (W3C trace context).

`logs` and `traces` are light enough for an agent; `metrics` needs prometheus-client and belongs to the services.
"""

from undersong.shared.telemetry.traces import continue_trace, current_trace, within_trace

__all__ = ["continue_trace", "current_trace", "within_trace"]
