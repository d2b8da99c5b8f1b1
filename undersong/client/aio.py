"""The same client for asyncio programs: the same names, awaited."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Mapping
from types import TracebackType
from typing import Any, Self, TypeVar

import httpx

from shared.transparency.documents import ConsistencyProof, InclusionProof, LogEntry, LoggedRecord, LogHead
from shared.transparency.evidence import Evidence
from undersong.client import calls, wire
from undersong.client import types as t
from undersong.client.calls import Call
from undersong.client.sync import LAST_EVENTS
from undersong.errors import ApiError, UndersongError, UnreachableError
from undersong.profile import Profile, load_profile

T = TypeVar("T")


class AsyncClient:
    """Speaks to all services of one platform; `async with AsyncClient(profile) as client: …`."""

    def __init__(self, profile: Profile | None = None) -> None:
        self.profile = profile or load_profile()
        self._http = httpx.AsyncClient(**wire.client_options(self.profile))

    async def __aenter__(self) -> Self:
        """Nothing to open."""
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close the connections."""
        await self._http.aclose()

    async def send(self, call: Call[T]) -> T:
        """Make one call; ApiError for a refusal, UnreachableError when nothing answers."""
        options = wire.request_options(self.profile, call)
        for attempt in range(wire.ATTEMPTS):
            last = attempt == wire.ATTEMPTS - 1
            try:
                response = await self._http.request(**options)
            except httpx.TransportError as error:
                if last or wire.distrusts(error):
                    raise wire.unreachable(str(options["url"]), error) from error
                await asyncio.sleep(wire.delay_s(attempt, None))
                continue
            if response.status_code not in wire.TRY_AGAIN or last:
                break
            await asyncio.sleep(wire.delay_s(attempt, response))
        return wire.parse(call, response)

    async def all(self, page_of: Callable[[str | None], Call[t.Page[T]]]) -> list[T]:
        """Every item of a paginated list."""
        found: list[T] = []
        after: str | None = None
        while True:
            page = await self.send(page_of(after))
            found += page.items
            if page.next is None:
                return found
            after = page.next

    async def create_federation(self, name: str) -> t.Federation:
        """Make a federation."""
        return await self.send(calls.create_federation(name))

    async def federations(self) -> list[t.Federation]:
        """Every federation that the caller may see."""
        return await self.all(calls.federations)

    async def create_site(self, federation_id: str, name: str, owner: str = "") -> t.Site:
        """Add a member to a federation."""
        return await self.send(calls.create_site(federation_id, name, owner or name))

    async def sites(self, federation_id: str | None = None) -> list[t.Site]:
        """Every site, of one federation or of all."""
        return await self.all(lambda after: calls.sites(federation_id, after))

    async def site(self, site_id: str) -> t.Site:
        """One site with its profile."""
        return await self.send(calls.site(site_id))

    async def compare_data(self, federation_id: str, dataset: str) -> t.Comparison:
        """Compare how the federation's sites declare a data set."""
        return await self.send(calls.compare_data(federation_id, dataset))

    async def results(self, job_id: str) -> t.StatisticsResults:
        """What a statistics job has found so far; ApiError for a job that trains."""
        return await self.send(calls.results(job_id))

    async def validate_job(self, spec: Mapping[str, Any]) -> t.Validation:
        """Check a job without starting it; ApiError lists every fault."""
        return await self.send(calls.validate_job(spec))

    async def submit_job(self, spec: Mapping[str, Any]) -> t.Job:
        """Start a job; ApiError lists every fault of the specification at once."""
        return await self.send(calls.submit_job(spec))

    async def jobs(self, federation_id: str | None = None) -> list[t.Job]:
        """Every job."""
        return await self.all(lambda after: calls.jobs(federation_id, after))

    async def job(self, job_id: str) -> t.Job:
        """One job."""
        return await self.send(calls.job(job_id))

    async def rounds(self, job_id: str) -> list[t.Round]:
        """The rounds of a job, in order."""
        return await self.all(lambda after: calls.job_rounds(job_id, after))

    async def participation(self, job_id: str) -> list[t.Participation]:
        """Each site's part in a job."""
        return (await self.send(calls.participation(job_id))).items

    async def round(self, round_id: str) -> t.Round:
        """One round with its tasks."""
        return await self.send(calls.round_(round_id))

    async def pause_job(self, job_id: str) -> t.Job:
        """Start no further round."""
        return await self.send(calls.job_action(job_id, "pause"))

    async def resume_job(self, job_id: str) -> t.Job:
        """Go on with a paused job."""
        return await self.send(calls.job_action(job_id, "resume"))

    async def cancel_job(self, job_id: str) -> t.Job:
        """End a job now."""
        return await self.send(calls.job_action(job_id, "cancel"))

    async def events(self, job_id: str, *, last_id: str = "", idle_s: float = 20.0) -> AsyncIterator[t.Event]:
        """The job's events as they happen; ends when the service ends the stream or stays silent for `idle_s`."""
        url = f"{wire.base_url(self.profile, 'coordinator')}/v1/jobs/{job_id}/events"
        parser = wire.EventParser(last_id)
        headers = {"accept": "text/event-stream", "authorization": f"Bearer {self.profile.token}"}
        if last_id:
            headers["last-event-id"] = last_id
        timeout = httpx.Timeout(idle_s, connect=5.0)
        async with self._http.stream("GET", url, headers=headers, timeout=timeout) as response:
            if not response.is_success:
                await response.aread()
                wire.raise_for_problem(response)
            async for line in response.aiter_lines():
                for event in parser.feed(line):
                    yield event

    async def follow(self, job_id: str, *, poll_s: float = 1.0) -> AsyncIterator[t.Event]:
        """Every event of the job, from its first to its end, across lost connections; see `Client.follow`."""
        last_id, heard = "", time.monotonic()
        while True:
            try:
                async for event in self.events(job_id, last_id=last_id):
                    last_id = event.id
                    yield event
                    if event.type in LAST_EVENTS:
                        return
                    if event.type == "job.paused" and (await self.job(job_id)).stalled:
                        return
            except (httpx.TransportError, ApiError) as error:
                if not wire.is_passing(error):
                    raise
                await asyncio.sleep(poll_s)
            try:
                job = await self.job(job_id)
            except (UnreachableError, ApiError) as error:
                if not wire.is_passing(error) or time.monotonic() - heard > wire.PATIENCE_S:
                    raise
                continue
            heard = time.monotonic()
            yield t.Event(id=last_id, type="job.polled", data={"state": job.state, "reason": job.reason})
            if job.finished or job.stalled:
                return

    async def wait(self, job_id: str, *, timeout_s: float = 600.0) -> t.Job:
        """Wait until the job has ended or the platform paused it (`stalled`); UndersongError when it takes longer."""
        try:
            async with asyncio.timeout(timeout_s):
                async for _ in self.follow(job_id, poll_s=0.2):
                    pass
        except TimeoutError:
            raise UndersongError(f"job {job_id} has not ended within {timeout_s:.0f} s") from None
        return await self.job(job_id)

    async def evidence(self, subject: str) -> Evidence:
        """Everything that is needed to check a round or a version offline."""
        return await self.send(calls.evidence(subject))

    async def log_head(self) -> LogHead:
        """The transparency log's size and root now, signed."""
        return await self.send(calls.log_head())

    async def log_entries(self, start: int, end: int) -> list[LogEntry]:
        """The log's entries from `start` up to, not including, `end` (operator)."""
        return (await self.send(calls.log_entries(start, end)))["items"]

    async def inclusion_proof(self, index: int, size: int) -> InclusionProof:
        """That an entry stands in the log of `size` entries."""
        return await self.send(calls.inclusion_proof(index, size))

    async def consistency_proof(self, first: int, second: int) -> ConsistencyProof:
        """That the log of `first` entries is the beginning of the one of `second`."""
        return await self.send(calls.consistency_proof(first, second))

    async def round_record(self, round_id: str) -> LoggedRecord:
        """A round's record with its place in the log (operator)."""
        return await self.send(calls.round_record(round_id))

    async def models(self, federation_id: str | None = None) -> list[t.Model]:
        """Every model."""
        return await self.all(lambda after: calls.models(federation_id, after))

    async def versions(self, model_id: str) -> list[t.Version]:
        """The versions of a model, oldest first."""
        return await self.all(lambda after: calls.versions(model_id, after))

    async def version(self, version_id: str) -> t.Version:
        """One version."""
        return await self.send(calls.version(version_id))

    async def set_alias(self, model_id: str, alias: str, version_id: str) -> None:
        """Point an alias at a version."""
        await self.send(calls.set_alias(model_id, alias, version_id))
