"""The client for ordinary programs and the command line."""

import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

import httpx

from shared.transparency.documents import ConsistencyProof, InclusionProof, LogEntry, LoggedRecord, LogHead
from shared.transparency.evidence import Evidence
from undersong.client import calls, wire
from undersong.client import types as t
from undersong.client.calls import Call
from undersong.client.download import download
from undersong.errors import ApiError, UndersongError, UnreachableError
from undersong.profile import Profile, load_profile

T = TypeVar("T")
LAST_EVENTS = frozenset(f"job.{state}" for state in t.TERMINAL_JOB_STATES)


class Client:
    """Speaks to all services of one platform; `with Client(profile) as client: …`.

    Requests are repeated with the same idempotency key while a service is away (about ten seconds in all).
    """

    def __init__(self, profile: Profile | None = None) -> None:
        self.profile = profile or load_profile()
        self._http = httpx.Client(**wire.client_options(self.profile))

    def __enter__(self) -> Self:
        """Nothing to open."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close the connections."""
        self.close()

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def send(self, call: Call[T]) -> T:
        """Make one call; ApiError for a refusal, UnreachableError when nothing answers."""
        options = wire.request_options(self.profile, call)
        for attempt in range(wire.ATTEMPTS):
            last = attempt == wire.ATTEMPTS - 1
            try:
                response = self._http.request(**options)
            except httpx.TransportError as error:
                if last or wire.distrusts(error):
                    raise wire.unreachable(str(options["url"]), error) from error
                time.sleep(wire.delay_s(attempt, None))
                continue
            if response.status_code not in wire.TRY_AGAIN or last:
                break
            time.sleep(wire.delay_s(attempt, response))
        return wire.parse(call, response)

    def all(self, page_of: Callable[[str | None], Call[t.Page[T]]]) -> Iterator[T]:
        """Every item of a paginated list, page by page."""
        after: str | None = None
        while True:
            page = self.send(page_of(after))
            yield from page.items
            if page.next is None:
                return
            after = page.next

    # federations and sites

    def create_federation(self, name: str) -> t.Federation:
        """Make a federation."""
        return self.send(calls.create_federation(name))

    def federations(self) -> list[t.Federation]:
        """Every federation that the caller may see."""
        return list(self.all(calls.federations))

    def create_site(self, federation_id: str, name: str, owner: str = "") -> t.Site:
        """Add a member to a federation."""
        return self.send(calls.create_site(federation_id, name, owner or name))

    def sites(self, federation_id: str | None = None) -> list[t.Site]:
        """Every site, of one federation or of all."""
        return list(self.all(lambda after: calls.sites(federation_id, after)))

    def site(self, site_id: str) -> t.Site:
        """One site with its profile."""
        return self.send(calls.site(site_id))

    def compare_data(self, federation_id: str, dataset: str) -> t.Comparison:
        """Compare how the federation's sites declare a data set."""
        return self.send(calls.compare_data(federation_id, dataset))

    def suspend_site(self, site_id: str) -> None:
        """Keep a site out of new rounds."""
        self.send(calls.suspend_site(site_id))

    def unsuspend_site(self, site_id: str) -> None:
        """Let a suspended site take part again."""
        self.send(calls.unsuspend_site(site_id))

    # jobs

    def results(self, job_id: str) -> t.StatisticsResults:
        """What a statistics job has found so far; ApiError for a job that trains."""
        return self.send(calls.results(job_id))

    def validate_job(self, spec: Mapping[str, Any]) -> t.Validation:
        """Check a job without starting it; ApiError lists every fault."""
        return self.send(calls.validate_job(spec))

    def submit_job(self, spec: Mapping[str, Any]) -> t.Job:
        """Start a job; ApiError lists every fault of the specification at once."""
        return self.send(calls.submit_job(spec))

    def jobs(self, federation_id: str | None = None) -> list[t.Job]:
        """Every job."""
        return list(self.all(lambda after: calls.jobs(federation_id, after)))

    def job(self, job_id: str) -> t.Job:
        """One job."""
        return self.send(calls.job(job_id))

    def rounds(self, job_id: str) -> list[t.Round]:
        """The rounds of a job, in order."""
        return list(self.all(lambda after: calls.job_rounds(job_id, after)))

    def participation(self, job_id: str) -> list[t.Participation]:
        """Each site's part in a job."""
        return self.send(calls.participation(job_id)).items

    def round(self, round_id: str) -> t.Round:
        """One round with its tasks."""
        return self.send(calls.round_(round_id))

    def pause_job(self, job_id: str) -> t.Job:
        """Start no further round."""
        return self.send(calls.job_action(job_id, "pause"))

    def resume_job(self, job_id: str) -> t.Job:
        """Go on with a paused job."""
        return self.send(calls.job_action(job_id, "resume"))

    def cancel_job(self, job_id: str) -> t.Job:
        """End a job now."""
        return self.send(calls.job_action(job_id, "cancel"))

    def events(self, job_id: str, *, last_id: str = "", idle_s: float = 20.0) -> Iterator[t.Event]:
        """The job's events as they happen; ends when the service ends the stream or stays silent for `idle_s`."""
        url = f"{wire.base_url(self.profile, 'coordinator')}/v1/jobs/{job_id}/events"
        parser = wire.EventParser(last_id)
        headers = {"accept": "text/event-stream", "authorization": f"Bearer {self.profile.token}"}
        if last_id:
            headers["last-event-id"] = last_id
        timeout = httpx.Timeout(idle_s, connect=5.0)
        with self._http.stream("GET", url, headers=headers, timeout=timeout) as response:
            if not response.is_success:
                response.read()
                wire.raise_for_problem(response)
            for line in response.iter_lines():
                yield from parser.feed(line)

    def follow(self, job_id: str, *, poll_s: float = 1.0) -> Iterator[t.Event]:
        """Yield every event of the job, to its end or to where the platform paused it, across lost connections.

        While the event stream is away, an event of type "job.polled" comes every `poll_s` instead.
        """
        last_id, heard = "", time.monotonic()
        while True:
            try:
                for event in self.events(job_id, last_id=last_id):
                    last_id = event.id
                    yield event
                    if event.type in LAST_EVENTS:
                        return
                    if event.type == "job.paused" and self.job(job_id).stalled:
                        return
            except (httpx.TransportError, ApiError) as error:
                if not wire.is_passing(error):
                    raise
                time.sleep(poll_s)
            try:
                job = self.job(job_id)
            except (UnreachableError, ApiError) as error:
                if not wire.is_passing(error) or time.monotonic() - heard > wire.PATIENCE_S:
                    raise
                continue
            heard = time.monotonic()
            yield t.Event(id=last_id, type="job.polled", data={"state": job.state, "reason": job.reason})
            if job.finished or job.stalled:
                return

    def wait(self, job_id: str, *, timeout_s: float = 600.0) -> t.Job:
        """Block until the job has ended or the platform paused it (`stalled`); UndersongError when it takes longer."""
        deadline = time.monotonic() + timeout_s
        for _ in self.follow(job_id, poll_s=0.2):
            if time.monotonic() > deadline:
                raise UndersongError(f"job {job_id} has not ended within {timeout_s:.0f} s")
        return self.job(job_id)

    # people and keys

    def me(self) -> t.Me:
        """Who the token belongs to."""
        return self.send(calls.me())

    def create_user(self, name: str, roles: list[Mapping[str, Any]]) -> t.User:
        """Add a user."""
        return self.send(calls.create_user(name, roles))

    def create_token(self, body: Mapping[str, Any]) -> t.Token:
        """Make an API token."""
        return self.send(calls.create_token(body))

    def users(self) -> list[t.User]:
        """Every user."""
        return list(self.all(calls.users))

    def tokens(self, user_id: str | None = None) -> list[t.Token]:
        """The caller's tokens, or as an administrator another user's."""
        return list(self.all(lambda after: calls.tokens(user_id, after)))

    def revoke_token(self, token_id: str) -> None:
        """Revoke a token; it is refused within seconds everywhere."""
        self.send(calls.revoke_token(token_id))

    def authority(self) -> t.Authority:
        """The federation's certificate authority."""
        return self.send(calls.authority())

    def certificates(self, name: str) -> list[dict[str, Any]]:
        """Certificates of one site or service."""
        return list(self.all(lambda after: calls.certificates(name, after)))

    def revoke_certificate(self, keyid: str, reason: str) -> None:
        """Revoke a certificate and every one that was rotated from it."""
        self.send(calls.revoke_certificate(keyid, reason))

    def create_enrolment_token(
        self, kind: str, name: str, federation_id: str | None = None, expires_in_s: int = 86_400
    ) -> t.EnrolmentToken:
        """A single-use token with which a site's agent or a service enrols."""
        return self.send(calls.create_enrolment_token(kind, name, federation_id, expires_in_s))

    # evidence

    def evidence(self, subject: str) -> Evidence:
        """Everything that is needed to check a round or a version offline."""
        return self.send(calls.evidence(subject))

    def log_head(self) -> LogHead:
        """The transparency log's size and root now, signed."""
        return self.send(calls.log_head())

    def log_entries(self, start: int, end: int) -> list[LogEntry]:
        """The log's entries from `start` up to, not including, `end` (operator)."""
        return self.send(calls.log_entries(start, end))["items"]

    def inclusion_proof(self, index: int, size: int) -> InclusionProof:
        """That an entry stands in the log of `size` entries."""
        return self.send(calls.inclusion_proof(index, size))

    def consistency_proof(self, first: int, second: int) -> ConsistencyProof:
        """That the log of `first` entries is the beginning of the one of `second`."""
        return self.send(calls.consistency_proof(first, second))

    def round_record(self, round_id: str) -> LoggedRecord:
        """A round's record with its place in the log (operator)."""
        return self.send(calls.round_record(round_id))

    # models

    def models(self, federation_id: str | None = None) -> list[t.Model]:
        """Every model."""
        return list(self.all(lambda after: calls.models(federation_id, after)))

    def model(self, model_id: str) -> t.Model:
        """One model with its aliases."""
        return self.send(calls.model(model_id))

    def versions(self, model_id: str) -> list[t.Version]:
        """The versions of a model, oldest first."""
        return list(self.all(lambda after: calls.versions(model_id, after)))

    def version(self, version_id: str) -> t.Version:
        """One version."""
        return self.send(calls.version(version_id))

    def set_alias(self, model_id: str, alias: str, version_id: str) -> None:
        """Point an alias at a version."""
        self.send(calls.set_alias(model_id, alias, version_id))

    def download(self, version_id: str, target: Path) -> str:
        """Stream a version's safetensors into a file and return its digest, which is checked before the file appears.

        A cut download goes on where it was, in this call or the next.
        """
        expected = self.version(version_id).content_digest
        url = f"{wire.base_url(self.profile, 'registry')}/v1/versions/{version_id}/content"
        download(self._http, url, self.profile.token, expected, target)
        return expected

    def health(self, service: str) -> t.Health:
        """What the service says at /health/ready; UnreachableError when it does not answer."""
        url = f"{wire.base_url(self.profile, service)}/health/ready"
        try:
            response = self._http.get(url, timeout=5.0)
            document = response.json()
        except httpx.TransportError as error:
            raise wire.unreachable(url, error) from error
        except ValueError:
            document = {}
        return t.Health(ready=response.is_success, status_code=response.status_code, document=document)
