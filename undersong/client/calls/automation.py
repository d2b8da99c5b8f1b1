"""Requests about what runs by itself: webhooks, schedules and sweeps."""

from collections.abc import Mapping, Sequence
from typing import Any, Literal

from undersong.client import types as t
from undersong.client.calls.call import Call, get, post, quoted


def create_webhook(federation_id: str, url: str, events: Sequence[str]) -> Call[t.Webhook]:
    """Make a webhook; the answer alone has its secret."""
    body = {"url": url, "events": list(events)}
    return post("coordinator", f"/federations/{quoted(federation_id)}/webhooks", t.Webhook, body)


def webhooks(federation_id: str, after: str | None = None) -> Call[t.Page[t.Webhook]]:
    """Return a federation's webhooks."""
    return get("coordinator", f"/federations/{quoted(federation_id)}/webhooks", t.Page[t.Webhook], after=after)


def delete_webhook(webhook_id: str) -> Call[dict[str, Any]]:
    """Delete a webhook with what is on its way to it."""
    return Call("coordinator", "DELETE", f"/webhooks/{quoted(webhook_id)}", dict[str, Any])


def test_webhook(webhook_id: str) -> Call[t.WebhookDelivery]:
    """Send a test message to a webhook."""
    return post("coordinator", f"/webhooks/{quoted(webhook_id)}/tests", t.WebhookDelivery)


def deliveries(webhook_id: str, state: str | None = None, after: str | None = None) -> Call[t.Page[t.WebhookDelivery]]:
    """Return deliveries to a webhook, newest first."""
    path = f"/webhooks/{quoted(webhook_id)}/deliveries"
    return get("coordinator", path, t.Page[t.WebhookDelivery], state=state, after=after)


def requeue_delivery(delivery_id: str) -> Call[t.WebhookDelivery]:
    """Try again what was given up."""
    return post("coordinator", f"/deliveries/{quoted(delivery_id)}/requeue", t.WebhookDelivery)


def create_schedule(
    document: Mapping[str, Any], cron: str, timezone: str, name: str | None, overlap: bool
) -> Call[t.Schedule]:
    """Submit a job at the times of a cron expression."""
    body = {"document": dict(document), "cron": cron, "timezone": timezone, "name": name, "overlap": overlap}
    return post("coordinator", "/schedules", t.Schedule, body)


def schedules(federation_id: str, after: str | None = None) -> Call[t.Page[t.Schedule]]:
    """Return a federation's schedules."""
    return get("coordinator", f"/federations/{quoted(federation_id)}/schedules", t.Page[t.Schedule], after=after)


def schedule(schedule_id: str) -> Call[t.Schedule]:
    """Return one schedule."""
    return get("coordinator", f"/schedules/{quoted(schedule_id)}", t.Schedule)


def steer_schedule(schedule_id: str, action: Literal["pause", "resume"]) -> Call[t.Schedule]:
    """Pause or resume a schedule."""
    return post("coordinator", f"/schedules/{quoted(schedule_id)}/{action}", t.Schedule)


def delete_schedule(schedule_id: str) -> Call[dict[str, Any]]:
    """Delete a schedule."""
    return Call("coordinator", "DELETE", f"/schedules/{quoted(schedule_id)}", dict[str, Any])


def plan_sweep(name: str, document: Mapping[str, Any], changes: Sequence[Mapping[str, Any]]) -> Call[t.SweepPlan]:
    """Judge a sweep without making it."""
    body = {"name": name, "document": dict(document), "changes": list(changes)}
    return post("coordinator", "/sweeps/validations", t.SweepPlan, body)


def create_sweep(
    name: str, document: Mapping[str, Any], changes: Sequence[Mapping[str, Any]], parallel: int
) -> Call[t.Sweep]:
    """Make a sweep."""
    body = {"name": name, "document": dict(document), "changes": list(changes), "parallel": parallel}
    return post("coordinator", "/sweeps", t.Sweep, body)


def sweeps(federation_id: str, after: str | None = None) -> Call[t.Page[t.SweepItem]]:
    """Return a federation's sweeps, newest first."""
    return get("coordinator", f"/federations/{quoted(federation_id)}/sweeps", t.Page[t.SweepItem], after=after)


def sweep(sweep_id: str) -> Call[t.Sweep]:
    """Return one sweep with its jobs."""
    return get("coordinator", f"/sweeps/{quoted(sweep_id)}", t.Sweep)


def cancel_sweep(sweep_id: str) -> Call[t.Sweep]:
    """Submit no further job of a sweep, and cancel those that have not ended."""
    return post("coordinator", f"/sweeps/{quoted(sweep_id)}/cancel", t.Sweep)
