"""What the client does with jobs and their rounds."""

import asyncio
import math
import time
from collections.abc import AsyncGenerator, Iterable, Mapping
from contextlib import aclosing, suppress
from typing import Any

import httpx

from undersong.client import naming, wire
from undersong.client import types as t
from undersong.client.aio.federations import AsyncFederationMethods
from undersong.client.calls import jobs as calls
from undersong.client.showing import NotebookOutput
from undersong.errors import ApiError, UnreachableError


class AsyncJobMethods(AsyncFederationMethods):
    """Methods about jobs and their rounds."""

    async def results(self, job_id: str) -> t.StatisticsResults:
        """Return what a statistics job has found so far; ApiError for a job that trains."""
        return await self.send(calls.results(job_id))

    async def spent(self, job_id: str) -> t.JobSpent:
        """Return what a job's opened sums cost in privacy so far, by the platform's own account."""
        return await self.send(calls.spent(job_id))

    async def validate_job(self, spec: Mapping[str, Any], *, federation: str | None = None) -> t.Validation:
        """Check a job without starting it; ApiError lists every fault. `federation`: as in `submit_job`."""
        return await self.send(calls.validate_job(await self._placed(spec, federation)))

    async def privacy_plan(self, spec: Mapping[str, Any], *, federation: str | None = None) -> t.PrivacyPlan:
        """Return what a job's noise costs and what other noise would, without starting it; ApiError lists every fault.

        `federation`: as in `submit_job`.
        """
        return await self.send(calls.privacy_plan(await self._placed(spec, federation)))

    async def submit_job(self, spec: Mapping[str, Any], *, federation: str | None = None) -> t.Job:
        """Start a job and return it; ApiError lists every fault of the job document at once.

        The federation is `federation`, by id or name; else what the document says under `federation` (id or name) or
        `federation_id`; else the only one there is. Raises UndersongError where that is not exactly one.
        """
        return await self.send(calls.submit_job(await self._placed(spec, federation)))

    async def _placed(self, spec: Mapping[str, Any], federation: str | None) -> dict[str, Any]:
        """Return the job document with the federation's id."""
        if naming.placed_already(spec, federation):
            return dict(spec)
        document = dict(spec)
        stated = document.pop("federation", None) or document.get("federation_id")
        return {**document, "federation_id": (await self.federation(federation or stated)).id}

    async def jobs(
        self,
        federation_id: str | None = None,
        *,
        state: str | None = None,
        name: str | None = None,
        owner: str | None = None,
        tag: str | None = None,
        sort: str | None = None,
    ) -> list[t.Job]:
        """Return every job of one federation, or of all that the caller may see, newest first.

        name: a part of it. owner: who submitted the job. sort: created, name or state, with a minus from last to first.
        """
        return await self.all(
            lambda after: calls.jobs(federation_id, after, state=state, name=name, owner=owner, tag=tag, sort=sort)
        )

    async def clone_job(self, job_id: str, changes: Mapping[str, Any] | None = None) -> t.Job:
        """Start a job with the document of another one and return it; ApiError lists every fault at once.

        changes: a JSON merge patch (RFC 7396) of the job document: None takes a field out, lists are replaced.
        """
        return await self.send(calls.clone_job(job_id, changes or {}))

    async def compare_jobs(self, job_ids: Iterable[str]) -> t.JobComparison:
        """Return up to eight jobs side by side: settings that differ, newest metrics, and curves of all evaluations."""
        return await self.send(calls.compare_jobs(job_ids))

    async def job(self, job_id: str) -> t.Job:
        """Return one job."""
        return await self.send(calls.job(job_id))

    async def rounds(self, job_id: str) -> list[t.Round]:
        """Return a job's rounds, every attempt, oldest first; without their tasks."""
        return await self.all(lambda after: calls.job_rounds(job_id, after))

    async def participation(self, job_id: str) -> list[t.Participation]:
        """Return each site's part in a job, counted in tasks."""
        return (await self.send(calls.participation(job_id))).items

    async def round(self, round_id: str) -> t.Round:
        """Return one round with its tasks."""
        return await self.send(calls.round_(round_id))

    async def pause_job(self, job_id: str) -> t.Job:
        """Start no further round; the round in flight goes on."""
        return await self.send(calls.job_action(job_id, "pause"))

    async def resume_job(self, job_id: str) -> t.Job:
        """Continue a paused job from its last good version."""
        return await self.send(calls.job_action(job_id, "resume"))

    async def cancel_job(self, job_id: str) -> t.Job:
        """End a job and its round in flight. Idempotent."""
        return await self.send(calls.job_action(job_id, "cancel"))

    async def events(
        self, job_id: str, *, last_id: str = "", idle_s: float = wire.IDLE_S
    ) -> AsyncGenerator[t.Event, None]:
        """Yield the job's events behind `last_id` as they happen.

        Ends when the service ends the stream. Raises httpx.ReadTimeout after `idle_s` seconds of silence, ApiError for
        a refusal.
        """
        async with aclosing(self._events(job_id, last_id, idle_s, math.inf)) as events:
            async for event in events:
                yield event

    async def _events(self, job_id: str, last_id: str, idle_s: float, until: float) -> AsyncGenerator[t.Event, None]:
        """Yield events as `events` does; end at `until` (monotonic seconds) as well."""
        url, headers = wire.event_stream(self.profile, job_id, last_id)
        parser = wire.EventParser(last_id)
        timeout = wire.within(httpx.Timeout(idle_s, connect=wire.TIMEOUT.connect), until)
        async with self._http.stream("GET", url, headers=headers, timeout=timeout) as response:
            if not response.is_success:
                await response.aread()
                wire.raise_for_problem(response)
            async for line in response.aiter_lines():
                for event in parser.feed(line):
                    yield event
                if time.monotonic() > until:
                    return

    async def follow(
        self, job_id: str, *, poll_s: float = 1.0, timeout_s: float | None = None
    ) -> AsyncGenerator[t.Event, None]:
        """Yield every event of the job, to its end or to where the platform paused it, across lost connections.

        While the event stream is away, an event of type "job.polled" comes every `poll_s` seconds instead. When
        nothing answers, one of type "job.unheard" says so once. Raises UnreachableError when that lasts longer than
        `wire.PATIENCE_S`, and UndersongError when the job goes on for longer than `timeout_s`.
        """
        last_id, outage = "", wire.Outage(job_id, timeout_s)
        until = outage.until
        while True:
            try:
                async with aclosing(self._events(job_id, last_id, wire.IDLE_S, until)) as events:
                    async for event in events:
                        last_id = event.id
                        yield event
                        outage.ends()
                        if await self._is_last(job_id, event, until):
                            return
            except (httpx.RequestError, UnreachableError, ApiError) as error:
                if not wire.is_passing(error):
                    raise
                await asyncio.sleep(min(poll_s, max(until - time.monotonic(), 0.0)))
            try:
                job = await self.send(calls.job(job_id), until=until)
            except (UnreachableError, ApiError) as error:
                if outage.begins(error):
                    yield t.Event(id=last_id, type="job.unheard")
                continue
            outage.ends()
            yield t.Event(id=last_id, type="job.polled", data={"state": job.state, "reason": job.reason})
            if job.finished or job.stalled:
                return
            outage.check()

    async def _is_last(self, job_id: str, event: t.Event, until: float) -> bool:
        """Tell whether the job goes no further after this event."""
        if event.type != "job.paused":
            return event.type in t.LAST_EVENTS
        return (await self.send(calls.job(job_id), until=until)).stalled

    async def wait(self, job_id: str, *, timeout_s: float = 600.0) -> t.Job:
        """Wait until the job has ended or the platform paused it (`stalled`) and return it.

        A notebook shows meanwhile how far it is.
        Raises UndersongError when it takes longer than `timeout_s` seconds, also while the platform does not answer.
        """
        until, output = time.monotonic() + timeout_s, NotebookOutput()
        async with aclosing(self.follow(job_id, poll_s=0.2, timeout_s=timeout_s)) as events:
            async for event in events:
                if output.there and event.type in t.PROGRESS_EVENTS:
                    with suppress(ApiError, UnreachableError):  # what is shown ends no wait
                        job = await self.send(calls.job(job_id), until=until)
                        output.show(job)
        job = await self.send(calls.job(job_id), until=max(until, time.monotonic() + 1.0))
        output.show(job)
        return job
