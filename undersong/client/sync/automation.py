"""What the client does with what runs by itself: webhooks, schedules and sweeps.

Generated from `aio/automation.py` by `make client`: change that file.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from undersong.client import types as t
from undersong.client.calls import automation as calls
from undersong.client.sync.jobs import JobMethods


class AutomationMethods(JobMethods):
    """Methods about what runs by itself: webhooks, schedules and sweeps."""

    def create_webhook(self, url: str, events: Sequence[str], federation: str | None = None) -> t.Webhook:
        """Make a webhook of a federation and return it with its secret, which is shown once (administrator)."""
        found = self.federation(federation)
        return self.send(calls.create_webhook(found.id, url, events))

    def webhooks(self, federation: str | None = None) -> list[t.Webhook]:
        """Return every webhook of a federation, oldest first (administrator)."""
        found = self.federation(federation)
        return self.all(lambda after: calls.webhooks(found.id, after))

    def delete_webhook(self, webhook_id: str) -> None:
        """Delete a webhook with what is on its way to it (administrator). Idempotent."""
        self.send(calls.delete_webhook(webhook_id))

    def test_webhook(self, webhook_id: str) -> t.WebhookDelivery:
        """Send a test message to a webhook (administrator)."""
        return self.send(calls.test_webhook(webhook_id))

    def deliveries(self, webhook_id: str, state: str | None = None) -> list[t.WebhookDelivery]:
        """Return what was, is, or was not delivered to a webhook in the last 30 days, newest first (administrator)."""
        return self.all(lambda after: calls.deliveries(webhook_id, state, after))

    def requeue_delivery(self, delivery_id: str) -> t.WebhookDelivery:
        """Try again to deliver what was given up (administrator)."""
        return self.send(calls.requeue_delivery(delivery_id))

    def create_schedule(
        self,
        spec: Mapping[str, Any],
        cron: str,
        timezone: str = "UTC",
        *,
        name: str | None = None,
        overlap: bool = False,
        federation: str | None = None,
    ) -> t.Schedule:
        """Submit a job document at the times of a cron expression; it is judged now, and again each time."""
        document = self._placed(spec, federation)
        return self.send(calls.create_schedule(document, cron, timezone, name, overlap))

    def schedules(self, federation: str | None = None) -> list[t.Schedule]:
        """Return every schedule of a federation, oldest first."""
        found = self.federation(federation)
        return self.all(lambda after: calls.schedules(found.id, after))

    def schedule(self, schedule_id: str) -> t.Schedule:
        """Return a schedule, its next times, and what came of the last."""
        return self.send(calls.schedule(schedule_id))

    def pause_schedule(self, schedule_id: str) -> t.Schedule:
        """Submit no further job; one that runs goes on. Idempotent."""
        return self.send(calls.steer_schedule(schedule_id, "pause"))

    def resume_schedule(self, schedule_id: str) -> t.Schedule:
        """Submit jobs again from the next time on. Idempotent."""
        return self.send(calls.steer_schedule(schedule_id, "resume"))

    def delete_schedule(self, schedule_id: str) -> None:
        """Delete a schedule; its jobs stay. Idempotent."""
        self.send(calls.delete_schedule(schedule_id))

    def plan_sweep(
        self,
        name: str,
        spec: Mapping[str, Any],
        changes: Sequence[Mapping[str, Any]],
        *,
        federation: str | None = None,
    ) -> t.SweepPlan:
        """Judge a sweep without making it; ApiError lists every fault of every job."""
        return self.send(calls.plan_sweep(name, self._placed(spec, federation), changes))

    def create_sweep(
        self,
        name: str,
        spec: Mapping[str, Any],
        changes: Sequence[Mapping[str, Any]],
        *,
        parallel: int = 2,
        federation: str | None = None,
    ) -> t.Sweep:
        """Make a sweep: for each change, a JSON merge patch, a job; `parallel` of them run at a time.

        `undersong.sweeping` makes changes of grids and of random values.
        """
        return self.send(calls.create_sweep(name, self._placed(spec, federation), changes, parallel))

    def sweeps(self, federation: str | None = None) -> list[t.SweepItem]:
        """Return every sweep of a federation, newest first."""
        found = self.federation(federation)
        return self.all(lambda after: calls.sweeps(found.id, after))

    def sweep(self, sweep_id: str) -> t.Sweep:
        """Return a sweep with its jobs, what each varies, and its newest metrics."""
        return self.send(calls.sweep(sweep_id))

    def cancel_sweep(self, sweep_id: str) -> t.Sweep:
        """Submit no further job of a sweep, and cancel those that have not ended. Idempotent."""
        return self.send(calls.cancel_sweep(sweep_id))
