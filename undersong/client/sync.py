"""The client for ordinary programs and the command line.

Generated from `aio.py` by `make client`: change that file.
"""

import math
import time
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from tempfile import TemporaryDirectory
from types import TracebackType
from typing import Any, Self, TypeVar
from urllib.parse import quote

import httpx

from undersong.client import calls, naming, wire
from undersong.client import types as t
from undersong.client.calls import Call
from undersong.client.loaded import LoadedModel, loaded
from undersong.client.showing import NotebookOutput
from undersong.client.sync_download import download
from undersong.errors import ApiError, UnreachableError
from undersong.profile import Profile, load_profile
from undersong.shared.transparency.datasheet import SignedDatasheet
from undersong.shared.transparency.documents import ConsistencyProof, InclusionProof, LogEntry, LoggedRecord, LogHead
from undersong.shared.transparency.evidence import Evidence
from undersong.shared.transparency.ledger_heads import LoggedLedgerHead
from undersong.shared.wire.manifest import SignedManifest

T = TypeVar("T")


class Client:
    """Speaks to all services of one platform; `with Client(profile) as client: …`.

    Requests are repeated with the same idempotency key while a service is away (about ten seconds in all).

    `timeout` is in seconds, for each wait of a request (httpx.Timeout names them one by one); by default 5 to connect
    and 30 otherwise. `transport` is an httpx transport that sends the requests in place of the network: to an
    application in this process, to a test's own answers, or through a proxy; trust in certificates is then its matter.
    """

    def __init__(
        self,
        profile: Profile | None = None,
        *,
        transport: httpx.BaseTransport | None = None,
        timeout: float | httpx.Timeout = wire.TIMEOUT,
    ) -> None:
        self.profile = profile or load_profile()
        options = wire.client_options(self.profile, timeout, own_transport=transport is not None)
        self._http = httpx.Client(transport=transport, **options)

    def __enter__(self) -> Self:
        """Return the client; `with` closes it at the end."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close the connections."""
        self.close()

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def send(self, call: Call[T], *, until: float = math.inf) -> T:
        """Make one call; ApiError for a refusal, UnreachableError when nothing answers.

        It is repeated, and waited for, no longer than to `until` (monotonic seconds).
        """
        options = wire.request_options(self.profile, call)
        for attempt in range(wire.ATTEMPTS):
            last = attempt == wire.ATTEMPTS - 1
            try:
                response = self._http.request(**options, timeout=wire.within(self._http.timeout, until))
            except httpx.RequestError as error:
                pause_s = wire.delay_s(attempt, None)
                if last or wire.distrusts(error) or time.monotonic() + pause_s > until:
                    raise wire.unreachable(str(options["url"]), error) from error
                time.sleep(pause_s)
                continue
            pause_s = wire.delay_s(attempt, response)
            if response.status_code not in wire.TRY_AGAIN or last or time.monotonic() + pause_s > until:
                break
            time.sleep(pause_s)
        answer = wire.parse(call, response)
        return answer.asked_by(self) if isinstance(answer, t.Answer) else answer

    def all(self, page_of: Callable[[str | None], Call[t.Page[T]]]) -> list[T]:
        """Return every item of a paginated list; ApiError where the service names a page that was read before."""
        found: list[T] = []
        after: str | None = None
        seen: set[str] = set()
        while True:
            call = page_of(after)
            page = self.send(call)
            found += [each.asked_by(self) if isinstance(each, t.Answer) else each for each in page.items]
            if page.next is None:
                return found
            after = wire.further(call, page.next, seen)

    # federations and sites

    def create_federation(self, name: str) -> t.Federation:
        """Create a federation and return it (administrator of all federations)."""
        return self.send(calls.create_federation(name))

    def federations(self) -> list[t.Federation]:
        """Return every federation that the caller may see, oldest first."""
        return self.all(calls.federations)

    def federation(self, name: str | None = None) -> t.Federation:
        """Return the federation with this id or name, without one the only federation.

        Raises UndersongError with the near matches where no federation, or not exactly one, fits.
        """
        return naming.one_federation(self.federations(), name)

    def create_site(self, federation_id: str, name: str, owner: str = "") -> t.Site:
        """Add a site to a federation; `owner` is the organisation, by default called as the site (administrator)."""
        return self.send(calls.create_site(federation_id, name, owner or name))

    def sites(self, federation_id: str | None = None) -> list[t.Site]:
        """Return every site of one federation, or of all that the caller may see, oldest first."""
        return self.all(lambda after: calls.sites(federation_id, after))

    def site(self, site_id: str) -> t.Site:
        """Return one site with its profile."""
        return self.send(calls.site(site_id))

    def compare_data(self, federation_id: str, dataset: str) -> t.Comparison:
        """Compare how the federation's sites declare a data set."""
        return self.send(calls.compare_data(federation_id, dataset))

    def suspend_site(self, site_id: str) -> None:
        """Keep a site out of new rounds. Idempotent."""
        self.send(calls.suspend_site(site_id))

    def unsuspend_site(self, site_id: str) -> None:
        """Let a suspended site take part again. Idempotent."""
        self.send(calls.unsuspend_site(site_id))

    # jobs

    def results(self, job_id: str) -> t.StatisticsResults:
        """Return what a statistics job has found so far; ApiError for a job that trains."""
        return self.send(calls.results(job_id))

    def spent(self, job_id: str) -> t.JobSpent:
        """Return what a job's opened sums cost in privacy so far, by the platform's own account."""
        return self.send(calls.spent(job_id))

    def validate_job(self, spec: Mapping[str, Any], *, federation: str | None = None) -> t.Validation:
        """Check a job without starting it; ApiError lists every fault. `federation`: as in `submit_job`."""
        return self.send(calls.validate_job(self._placed(spec, federation)))

    def privacy_plan(self, spec: Mapping[str, Any], *, federation: str | None = None) -> t.PrivacyPlan:
        """Return what a job's noise costs and what other noise would, without starting it; ApiError lists every fault.

        `federation`: as in `submit_job`.
        """
        return self.send(calls.privacy_plan(self._placed(spec, federation)))

    def submit_job(self, spec: Mapping[str, Any], *, federation: str | None = None) -> t.Job:
        """Start a job and return it; ApiError lists every fault of the job document at once.

        The federation is `federation`, by id or name; else what the document says under `federation` (id or name) or
        `federation_id`; else the only one there is. Raises UndersongError where that is not exactly one.
        """
        return self.send(calls.submit_job(self._placed(spec, federation)))

    def _placed(self, spec: Mapping[str, Any], federation: str | None) -> dict[str, Any]:
        """Return the job document with the federation's id."""
        if naming.placed_already(spec, federation):
            return dict(spec)
        document = dict(spec)
        stated = document.pop("federation", None) or document.get("federation_id")
        return {**document, "federation_id": self.federation(federation or stated).id}

    def jobs(
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
        return self.all(
            lambda after: calls.jobs(federation_id, after, state=state, name=name, owner=owner, tag=tag, sort=sort)
        )

    def clone_job(self, job_id: str, changes: Mapping[str, Any] | None = None) -> t.Job:
        """Start a job with the document of another one and return it; ApiError lists every fault at once.

        changes: a JSON merge patch (RFC 7396) of the job document: None takes a field out, lists are replaced.
        """
        return self.send(calls.clone_job(job_id, changes or {}))

    def compare_jobs(self, job_ids: Iterable[str]) -> t.JobComparison:
        """Return up to eight jobs side by side: settings that differ, newest metrics, and curves of all evaluations."""
        return self.send(calls.compare_jobs(job_ids))

    def job(self, job_id: str) -> t.Job:
        """Return one job."""
        return self.send(calls.job(job_id))

    def rounds(self, job_id: str) -> list[t.Round]:
        """Return a job's rounds, every attempt, oldest first; without their tasks."""
        return self.all(lambda after: calls.job_rounds(job_id, after))

    def participation(self, job_id: str) -> list[t.Participation]:
        """Return each site's part in a job, counted in tasks."""
        return self.send(calls.participation(job_id)).items

    def round(self, round_id: str) -> t.Round:
        """Return one round with its tasks."""
        return self.send(calls.round_(round_id))

    def pause_job(self, job_id: str) -> t.Job:
        """Start no further round; the round in flight goes on."""
        return self.send(calls.job_action(job_id, "pause"))

    def resume_job(self, job_id: str) -> t.Job:
        """Continue a paused job from its last good version."""
        return self.send(calls.job_action(job_id, "resume"))

    def cancel_job(self, job_id: str) -> t.Job:
        """End a job and its round in flight. Idempotent."""
        return self.send(calls.job_action(job_id, "cancel"))

    def events(self, job_id: str, *, last_id: str = "", idle_s: float = wire.IDLE_S) -> Generator[t.Event, None, None]:
        """Yield the job's events behind `last_id` as they happen.

        Ends when the service ends the stream. Raises httpx.ReadTimeout after `idle_s` seconds of silence, ApiError for
        a refusal.
        """
        with closing(self._events(job_id, last_id, idle_s, math.inf)) as events:
            yield from events

    def _events(self, job_id: str, last_id: str, idle_s: float, until: float) -> Generator[t.Event, None, None]:
        """Yield events as `events` does; end at `until` (monotonic seconds) as well."""
        url, headers = wire.event_stream(self.profile, job_id, last_id)
        parser = wire.EventParser(last_id)
        timeout = wire.within(httpx.Timeout(idle_s, connect=wire.TIMEOUT.connect), until)
        with self._http.stream("GET", url, headers=headers, timeout=timeout) as response:
            if not response.is_success:
                response.read()
                wire.raise_for_problem(response)
            for line in response.iter_lines():
                yield from parser.feed(line)
                if time.monotonic() > until:
                    return

    def follow(
        self, job_id: str, *, poll_s: float = 1.0, timeout_s: float | None = None
    ) -> Generator[t.Event, None, None]:
        """Yield every event of the job, to its end or to where the platform paused it, across lost connections.

        While the event stream is away, an event of type "job.polled" comes every `poll_s` seconds instead. When
        nothing answers, one of type "job.unheard" says so once. Raises UnreachableError when that lasts longer than
        `wire.PATIENCE_S`, and UndersongError when the job goes on for longer than `timeout_s`.
        """
        last_id, outage = "", wire.Outage(job_id, timeout_s)
        until = outage.until
        while True:
            try:
                with closing(self._events(job_id, last_id, wire.IDLE_S, until)) as events:
                    for event in events:
                        last_id = event.id
                        yield event
                        outage.ends()
                        if self._is_last(job_id, event, until):
                            return
            except (httpx.RequestError, UnreachableError, ApiError) as error:
                if not wire.is_passing(error):
                    raise
                time.sleep(min(poll_s, max(until - time.monotonic(), 0.0)))
            try:
                job = self.send(calls.job(job_id), until=until)
            except (UnreachableError, ApiError) as error:
                if outage.begins(error):
                    yield t.Event(id=last_id, type="job.unheard")
                continue
            outage.ends()
            yield t.Event(id=last_id, type="job.polled", data={"state": job.state, "reason": job.reason})
            if job.finished or job.stalled:
                return
            outage.check()

    def _is_last(self, job_id: str, event: t.Event, until: float) -> bool:
        """Tell whether the job goes no further after this event."""
        if event.type != "job.paused":
            return event.type in t.LAST_EVENTS
        return self.send(calls.job(job_id), until=until).stalled

    def wait(self, job_id: str, *, timeout_s: float = 600.0) -> t.Job:
        """Wait until the job has ended or the platform paused it (`stalled`) and return it.

        A notebook shows meanwhile how far it is.
        Raises UndersongError when it takes longer than `timeout_s` seconds, also while the platform does not answer.
        """
        until, output = time.monotonic() + timeout_s, NotebookOutput()
        with closing(self.follow(job_id, poll_s=0.2, timeout_s=timeout_s)) as events:
            for event in events:
                if output.there and event.type in t.PROGRESS_EVENTS:
                    job = self.send(calls.job(job_id), until=until)
                    output.show(job)
        job = self.send(calls.job(job_id), until=max(until, time.monotonic() + 1.0))
        output.show(job)
        return job

    # people and keys

    def me(self) -> t.Me:
        """Return the user to whom the token belongs, with the roles."""
        return self.send(calls.me())

    def create_user(self, name: str, roles: list[Mapping[str, Any]]) -> t.User:
        """Add a user with roles [{role, federation_id | null}] (administrator of all federations)."""
        return self.send(calls.create_user(name, roles))

    def sign_on(self) -> t.SignOn:
        """Return who signs people on at this platform; needs no token."""
        return self.send(calls.sign_on())

    def begin_sign_on(self) -> t.DeviceSignOn:
        """Begin a sign-on: show `verification_uri` and `user_code` to a person; needs no token."""
        return self.send(calls.begin_sign_on())

    def finish_sign_on(self, handle: str) -> t.DeviceAnswer:
        """Return how a sign-on stands, and the token once the person has confirmed it; needs no token."""
        return self.send(calls.finish_sign_on(handle))

    def end_sign_on(self) -> None:
        """End the sign-on whose token this client shows; a token made by hand stays as it is. Idempotent."""
        self.send(calls.end_sign_on())

    def create_token(self, body: Mapping[str, Any]) -> t.Token:
        """Create an API token {name, user_id, expires_in_s, scopes}; only this answer holds its secret."""
        return self.send(calls.create_token(body))

    def users(self) -> list[t.User]:
        """Return every user, oldest first (administrator of all federations)."""
        return self.all(calls.users)

    def tokens(self, user_id: str | None = None) -> list[t.Token]:
        """Return the caller's tokens, or as an administrator another user's, oldest first."""
        return self.all(lambda after: calls.tokens(user_id, after))

    def revoke_token(self, token_id: str) -> None:
        """Revoke a token; every service refuses it within seconds. Idempotent."""
        self.send(calls.revoke_token(token_id))

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

    def authority(self) -> t.Authority:
        """Return the federation's certificate authority."""
        return self.send(calls.authority())

    def certificates(self, name: str | None = None) -> list[dict[str, Any]]:
        """Return the certificates of one site or service by its id or name, or all (operator)."""
        return self.all(lambda after: calls.certificates(name, after))

    def certificate(self, keyid: str) -> dict[str, Any]:
        """Return one certificate by its fingerprint: what it names, and its PEM."""
        return self.send(calls.certificate(keyid))

    def revoke_certificate(self, keyid: str, reason: str) -> None:
        """Revoke a certificate and every one that was rotated from it (operator)."""
        self.send(calls.revoke_certificate(keyid, reason))

    def create_enrolment_token(
        self, kind: str, name: str, federation_id: str | None = None, expires_in_s: int = 86_400
    ) -> t.EnrolmentToken:
        """Create a single-use token with which a site's agent or a service enrols (operator)."""
        return self.send(calls.create_enrolment_token(kind, name, federation_id, expires_in_s))

    def invite_site(self, site_id: str, expires_in_s: int = 86_400) -> t.SiteInvitation:
        """Make a single-use enrolment token for a site, also for one that lost its key (admin).

        The coordinator asks the keys service for it; where `needs_approval`, an operator approves the site's key.
        """
        return self.send(calls.invite_site(site_id, expires_in_s))

    def invitations(self, site_id: str | None = None) -> list[t.Invitation]:
        """Return the invitations of a site or of all, with the keys that wait for approval (operator)."""
        return self.all(lambda after: calls.invitations(site_id, after))

    def approve_invitation(self, invitation_id: str, fingerprint: str) -> t.Invitation:
        """Approve the key with this fingerprint, which was compared with the site's own (operator). Idempotent."""
        return self.send(calls.approve_invitation(invitation_id, fingerprint))

    def site_certificates(self, site_id: str) -> list[t.SiteCertificate]:
        """Return a site's certificates with their ends, the last first."""
        return self.send(calls.site_certificates(site_id)).items

    def set_roles(self, user_id: str, roles: Iterable[Mapping[str, Any]]) -> t.User:
        """Give another user exactly these roles (admin of all federations). Idempotent."""
        return self.send(calls.set_roles(user_id, roles))

    def revoke_user(self, user_id: str) -> None:
        """Revoke another user with all tokens and roles (admin of all federations). Idempotent."""
        self.send(calls.revoke_user(user_id))

    def request_action(
        self, action: str, subject: str, data: Mapping[str, Any] | None = None, reason: str = ""
    ) -> t.PendingAction:
        """Ask for a change that another person confirms, where the two-person rule is on.

        action: site.suspend, user.revoke, user.roles (`data` has the roles) or token.revoke; `subject` is the id.
        """
        return self.send(calls.request_action(action, subject, data or {}, reason))

    def pending_actions(self) -> list[t.PendingAction]:
        """Return the changes that waited or wait for a second person, newest first (admin, owner)."""
        return self.all(calls.pending_actions)

    def confirm_action(self, action_id: str) -> t.PendingAction:
        """Confirm what another person asked for: it is done at once. Idempotent."""
        return self.send(calls.confirm_action(action_id))

    def withdraw_action(self, action_id: str) -> t.PendingAction:
        """Withdraw a change that waits, or refuse it. Idempotent."""
        return self.send(calls.withdraw_action(action_id))

    def audit_entries(self, most: int = 100) -> list[t.AuditEntry]:
        """Return the newest changes to sites, people and their rights, at most `most` (admin, auditor)."""
        found: list[t.AuditEntry] = []
        after = None
        while len(found) < most:
            page = self.send(calls.audit_entries(after))
            found += page.items
            after = page.next
            if after is None:
                break
        return found[:most]

    # evidence

    def evidence(self, subject: str) -> Evidence:
        """Return everything that is needed to check a round or a model version offline."""
        return self.send(calls.evidence(subject))

    def ledger_heads(self, site_id: str) -> list[LoggedLedgerHead]:
        """Return all heads of a site's privacy ledger in the transparency log, in its order, as the site signed them.

        Who holds the ledger, or an export of it, compares them with it: `undersong ledger verify --against`.
        """
        return self.all(lambda after: calls.ledger_heads(site_id, after))

    def datasheet(self, version_id: str, *, ca: str | None = None) -> SignedDatasheet:
        """Return a version's privacy datasheet, after a check that the federation's coordinator signed it.

        ca: SHA-256 fingerprint of the federation's authority, from elsewhere; without it, the authority that the keys
        service names is trusted. Raises UndersongError for a signature that does not hold.
        """
        signed = self.send(calls.datasheet(version_id))
        return wire.checked_datasheet(signed, version_id, ca or self.authority().fingerprint)

    def manifest(self, round_id: str) -> SignedManifest:
        """Return a round's manifest with the coordinator's signature, which is not checked here."""
        return self.send(calls.manifest(round_id))

    def log_head(self) -> LogHead:
        """Return the transparency log's present size and root, signed."""
        return self.send(calls.log_head())

    def log_entries(self, start: int, end: int) -> list[LogEntry]:
        """Return the log's entries from `start` up to, not including, `end` (operator)."""
        return self.send(calls.log_entries(start, end))["items"]

    def inclusion_proof(self, index: int, size: int) -> InclusionProof:
        """Return the proof that the log of `size` entries holds entry `index`."""
        return self.send(calls.inclusion_proof(index, size))

    def consistency_proof(self, first: int, second: int) -> ConsistencyProof:
        """Return the proof that the log of `second` entries continues the log of `first`."""
        return self.send(calls.consistency_proof(first, second))

    def round_record(self, round_id: str) -> LoggedRecord:
        """Return a round's record with its place in the log (operator)."""
        return self.send(calls.round_record(round_id))

    # models

    def models(self, federation_id: str | None = None) -> list[t.Model]:
        """Return every model of one federation, or of all that the caller may see, oldest first."""
        return self.all(lambda after: calls.models(federation_id, after))

    def model(self, name: str) -> t.Model:
        """Return one model with its aliases, by id or name; UndersongError with near matches where no one fits."""
        if name.startswith(naming.MODEL_PREFIX):
            return self.send(calls.model(name))
        return naming.one_named(self.models(), name, "model", "undersong model list")

    def find_version(self, name: str) -> t.Version:
        """Return a version by its id, or by its model's: "heart@champion", "heart:3"; "heart" is the newest."""
        if name.startswith(naming.VERSION_PREFIX):
            return self.version(name)
        model_name, wanted = naming.parts_of(name)
        model = self.model(model_name)
        return naming.one_version(model, self.versions(model.id), wanted)

    def load_model(self, name: str, *, ca: str | None = None, recipes: Sequence[Path] = ()) -> LoadedModel:
        """Return a version ready to predict; `name` as in `find_version`.

        The version's evidence must verify, and its file must be the one that was signed. ca: SHA-256 fingerprint of the
        federation's authority, from elsewhere; without it, the authority that the keys service names is trusted.
        recipes: files of own recipes, which are imported, and so run. Raises UndersongError.
        """
        version = self.find_version(name)
        evidence = self.evidence(version.id)
        pinned = ca or self.authority().fingerprint
        with TemporaryDirectory(prefix="undersong-load-") as folder:
            target = Path(folder) / "model"
            self.download(version.id, target)
            content = target.read_bytes()
        return loaded(content, evidence, version, pinned, recipes)

    def versions(self, model_id: str) -> list[t.Version]:
        """Return the versions of a model, oldest first."""
        return self.all(lambda after: calls.versions(model_id, after))

    def version(self, version_id: str) -> t.Version:
        """Return one version with its lineage and metrics."""
        return self.send(calls.version(version_id))

    def add_audit(self, version_id: str, document: Mapping[str, Any]) -> t.Version:
        """Add what a privacy audit found to a version, and return it (scientist, owner or auditor)."""
        return self.send(calls.add_audit(version_id, document))

    def stop_for_claim(self, job_id: str, version_id: str) -> t.Job:
        """Pause a job of which an audit refuted this version's privacy claim (scientist, owner or auditor)."""
        return self.send(calls.stop_for_claim(job_id, version_id))

    def alias_changes(self, model_id: str) -> list[t.AliasChange]:
        """Return who moved a model's aliases, when and why, newest first."""
        return self.all(lambda after: calls.alias_changes(model_id, after))

    def set_alias(self, model_id: str, alias: str, version_id: str, reason: str = "") -> None:
        """Point a model's alias at a version; the reason goes to the audit trail. Idempotent."""
        self.send(calls.set_alias(model_id, alias, version_id, reason))

    def download(self, version_id: str, target: Path) -> str:
        """Stream a version's safetensors into a file and return its digest, which is checked before the file appears.

        A cut download continues where it stopped, in this call or the next.
        """
        expected = self.version(version_id).content_digest
        url = f"{wire.base_url(self.profile, 'registry')}/v1/versions/{quote(version_id, safe='')}/content"
        download(self._http, url, self.profile.token, expected, target)
        return expected

    def good_version(self, version_id: str) -> t.Version:
        """Return the version, or where its stored file is damaged, the latest earlier one of the model that is good."""
        url = f"{wire.base_url(self.profile, 'registry')}/v1/versions/{quote(version_id, safe='')}/content"
        headers = {"authorization": f"Bearer {self.profile.token}", "range": "bytes=0-0"}  # only its name is asked
        try:
            response = self._http.get(url, params={"fallback": "last-good"}, headers=headers)
        except httpx.TransportError as error:
            raise wire.unreachable(url, error) from error
        wire.raise_for_problem(response)
        return self.version(response.headers.get("undersong-version", version_id))

    def health(self, service: str) -> t.Health:
        """Return what the service says at /health/ready; UnreachableError when it does not answer."""
        url = f"{wire.base_url(self.profile, service)}/health/ready"
        try:
            response = self._http.get(url, timeout=5.0)
            document = response.json()
        except httpx.TransportError as error:
            raise wire.unreachable(url, error) from error
        except ValueError:
            document = {}
        return t.Health(ready=response.is_success, status_code=response.status_code, document=document)
