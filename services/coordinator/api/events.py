"""What happens to a job, as server-sent events that can be resumed."""

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Annotated, Final

from fastapi import APIRouter, Header, Query, Request
from fastapi.responses import StreamingResponse

from undersong.services.coordinator.api.access import Id, Reader, Use
from undersong.services.coordinator.domain.progress import JOB_ENDED
from undersong.services.coordinator.repository.jobs import JobEvent
from undersong.services.coordinator.use_cases import UseCases
from undersong.services.coordinator.views.jobs import event_view
from undersong.shared.clock import monotonic
from undersong.shared.errors import Forbidden, Invalid, NotFound, Unauthenticated
from undersong.shared.web.problems import problems

router = APIRouter(prefix="/v1")
LOOK_EVERY_S: Final = 1.0
"""Without a hint; this is what makes the stream work without Redis."""
KEEP_ALIVE_S: Final = 15.0
CHECK_TOKEN_S: Final = 5.0
_BATCH: Final = 200
_LAST: Final = frozenset(f"job.{state}" for state in JOB_ENDED)


@router.get(
    "/jobs/{job_id}/events",
    tags=["jobs"],
    response_class=StreamingResponse,
    responses=problems(Unauthenticated, Forbidden, NotFound, Invalid)
    | {
        200: {
            "description": "Events until the job ends. `id` is the event's number, `event` its type, `data` JSON.",
            "content": {
                "text/event-stream": {
                    "example": 'id: 7\nevent: round.published\ndata: {"number": 7, "type": "round.published"}\n\n',
                }
            },
        }
    },
)
async def job_events(
    job_id: Id,
    request: Request,
    person: Reader,
    use: Use,
    last_event_id: Annotated[str | None, Header(max_length=32, pattern=r"^[0-9]{1,9}$")] = None,
    after: Annotated[int, Query(ge=0, lt=2**31, description="Events beyond this number.")] = 0,
) -> StreamingResponse:
    """Follow a job. `Last-Event-ID` (or `after`) resumes behind that event; the stream ends with the job."""
    begin = int(last_event_id) if last_event_id is not None else after
    first = await use.jobs.events(person, job_id, begin, _BATCH)
    ended = (await use.jobs.get(person, job_id)).finished_at is not None
    token = request.headers.get("authorization", "").partition(" ")[2]
    stream = _Stream(use, job_id, token.strip(), request.app.state.stopping)
    return StreamingResponse(
        stream.run(list(first), begin, ended=ended),
        media_type="text/event-stream",
        headers={"cache-control": "no-store", "x-accel-buffering": "no"},
    )


class _Stream:
    """One listener."""

    def __init__(self, use: UseCases, job_id: str, token: str, stopping: asyncio.Event) -> None:
        self._use, self._job_id, self._token, self._stopping = use, job_id, token, stopping

    async def run(self, events: list[JobEvent], after: int, *, ended: bool) -> AsyncIterator[str]:
        """Yield the events as text. Ends with the job, with the process, and when the token is not valid any more."""
        spoke_at = checked_at = monotonic()
        yield ": open\n\n"
        with self._use.notifier.listen(self._job_id) as subscription:
            while True:
                for event in events:
                    after, spoke_at = event.number, monotonic()
                    yield _text(event)
                if any(event.type in _LAST for event in events) or (ended and len(events) < _BATCH):
                    return
                if not events:
                    await subscription.wait(LOOK_EVERY_S)
                if self._stopping.is_set():
                    return
                if monotonic() - checked_at > CHECK_TOKEN_S:
                    if await self._use.accounts.lookup(self._token) is None:
                        return
                    checked_at = monotonic()
                if monotonic() - spoke_at > KEEP_ALIVE_S:
                    spoke_at = monotonic()
                    yield ": still there\n\n"
                events = list(await self._use.jobs.more_events(self._job_id, after, _BATCH))


def _text(event: JobEvent) -> str:
    data = json.dumps(event_view(event).model_dump(mode="json"))
    return f"id: {event.number}\nevent: {event.type}\ndata: {data}\n\n"
