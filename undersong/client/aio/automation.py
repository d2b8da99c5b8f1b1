"""What the client does with what runs by itself: webhooks, schedules and sweeps."""

from collections.abc import Mapping, Sequence
from typing import Any

from undersong.client import types as t
from undersong.client.aio.jobs import AsyncJobMethods
from undersong.client.calls import automation as calls


class AsyncAutomationMethods(AsyncJobMethods):
    """Methods about what runs by itself: webhooks, schedules and sweeps."""

    async def create_webhook(self, url: str, events: Sequence[str], federation: str | None = None) -> t.Webhook:
        """Make a webhook of a federation and return it with its secret, which is shown once (administrator)."""
        found = await self.federation(federation)
        return await self.send(calls.create_webhook(found.id, url, events))

    async def webhooks(self, federation: str | None = None) -> list[t.Webhook]:
        """Return every webhook of a federation, oldest first (administrator)."""
        found = await self.federation(federation)
        return await self.all(lambda after: calls.webhooks(found.id, after))

    async def delete_webhook(self, webhook_id: str) -> None:
        """Delete a webhook with what is on its way to it (administrator). Idempotent."""
        await self.send(calls.delete_webhook(webhook_id))

    async def test_webhook(self, webhook_id: str) -> t.WebhookDelivery:
        """Send a test message to a webhook (administrator)."""
        return await self.send(calls.test_webhook(webhook_id))

    async def deliveries(self, webhook_id: str, state: str | None = None) -> list[t.WebhookDelivery]:
        """Return what was, is, or was not delivered to a webhook in the last 30 days, newest first (administrator)."""
        return await self.all(lambda after: calls.deliveries(webhook_id, state, after))

    async def requeue_delivery(self, delivery_id: str) -> t.WebhookDelivery:
        """Try again to deliver what was given up (administrator)."""
        return await self.send(calls.requeue_delivery(delivery_id))

    async def create_schedule(
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
        document = await self._placed(spec, federation)
        return await self.send(calls.create_schedule(document, cron, timezone, name, overlap))

    async def schedules(self, federation: str | None = None) -> list[t.Schedule]:
        """Return every schedule of a federation, oldest first."""
        found = await self.federation(federation)
        return await self.all(lambda after: calls.schedules(found.id, after))

    async def schedule(self, schedule_id: str) -> t.Schedule:
        """Return a schedule, its next times, and what came of the last."""
        return await self.send(calls.schedule(schedule_id))

    async def pause_schedule(self, schedule_id: str) -> t.Schedule:
        """Submit no further job; one that runs goes on. Idempotent."""
        return await self.send(calls.steer_schedule(schedule_id, "pause"))

    async def resume_schedule(self, schedule_id: str) -> t.Schedule:
        """Submit jobs again from the next time on. Idempotent."""
        return await self.send(calls.steer_schedule(schedule_id, "resume"))

    async def delete_schedule(self, schedule_id: str) -> None:
        """Delete a schedule; its jobs stay. Idempotent."""
        await self.send(calls.delete_schedule(schedule_id))

    async def plan_sweep(
        self,
        name: str,
        spec: Mapping[str, Any],
        changes: Sequence[Mapping[str, Any]],
        *,
        federation: str | None = None,
    ) -> t.SweepPlan:
        """Judge a sweep without making it; ApiError lists every fault of every job."""
        return await self.send(calls.plan_sweep(name, await self._placed(spec, federation), changes))

    async def create_sweep(
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
        return await self.send(calls.create_sweep(name, await self._placed(spec, federation), changes, parallel))

    async def sweeps(self, federation: str | None = None) -> list[t.SweepItem]:
        """Return every sweep of a federation, newest first."""
        found = await self.federation(federation)
        return await self.all(lambda after: calls.sweeps(found.id, after))

    async def sweep(self, sweep_id: str) -> t.Sweep:
        """Return a sweep with its jobs, what each varies, and its newest metrics."""
        return await self.send(calls.sweep(sweep_id))

    async def cancel_sweep(self, sweep_id: str) -> t.Sweep:
        """Submit no further job of a sweep, and cancel those that have not ended. Idempotent."""
        return await self.send(calls.cancel_sweep(sweep_id))
