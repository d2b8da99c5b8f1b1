"""Every request that the client can make, as a value: what to send, and what the answer becomes.

The sync and the async client differ only in how they send one; paths and shapes stand here once.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, Literal, TypeVar
from urllib.parse import quote

from pydantic import TypeAdapter

from undersong.client import types as t
from undersong.shared.transparency.datasheet import SignedDatasheet
from undersong.shared.transparency.documents import ConsistencyProof, InclusionProof, LogEntry, LoggedRecord, LogHead
from undersong.shared.transparency.evidence import Evidence
from undersong.shared.transparency.ledger_heads import LoggedLedgerHead
from undersong.shared.wire.manifest import SignedManifest

T = TypeVar("T")


@dataclass(frozen=True)
class Call(Generic[T]):
    """One request: service name, method, path under /v1, and the type of the answer (None: no body)."""

    service: str
    method: str
    path: str
    answer: type[T]
    body: Mapping[str, Any] | None = None
    query: Mapping[str, str | int] = field(default_factory=dict)

    def parse(self, document: object) -> T:
        """Return the answer's JSON as its type; raises ValidationError for an answer of another shape."""
        return TypeAdapter(self.answer).validate_python(document)


def _get(service: str, path: str, answer: type[T], **query: str | int | None) -> Call[T]:
    return Call(service, "GET", path, answer, query={key: value for key, value in query.items() if value is not None})


def _post(service: str, path: str, answer: type[T], body: Mapping[str, Any] | None = None) -> Call[T]:
    return Call(service, "POST", path, answer, body=body if body is not None else {})


def _id(value: str) -> str:
    return quote(value, safe="")


# coordinator: federations and sites


def create_federation(name: str) -> Call[t.Federation]:
    """Make a federation."""
    return _post("coordinator", "/federations", t.Federation, {"name": name})


def federations(after: str | None = None) -> Call[t.Page[t.Federation]]:
    """Return the federations that the caller may see."""
    return _get("coordinator", "/federations", t.Page[t.Federation], after=after)


def create_site(federation_id: str, name: str, owner: str) -> Call[t.Site]:
    """Add a member to a federation."""
    return _post("coordinator", f"/federations/{_id(federation_id)}/sites", t.Site, {"name": name, "owner": owner})


def sites(federation_id: str | None = None, after: str | None = None) -> Call[t.Page[t.Site]]:
    """Sites, of one federation or of all that the caller may see."""
    return _get("coordinator", "/sites", t.Page[t.Site], federation_id=federation_id, after=after)


def site(site_id: str) -> Call[t.Site]:
    """Return one site with its profile."""
    return _get("coordinator", f"/sites/{_id(site_id)}", t.Site)


def compare_data(federation_id: str, dataset: str) -> Call[t.Comparison]:
    """Return how the federation's sites declare a data set."""
    return _get("coordinator", f"/federations/{_id(federation_id)}/comparison", t.Comparison, dataset=dataset)


def suspend_site(site_id: str) -> Call[dict[str, Any]]:
    """Keep a site out of new rounds."""
    return _post("coordinator", f"/sites/{_id(site_id)}/suspension", dict[str, Any])


def unsuspend_site(site_id: str) -> Call[dict[str, Any]]:
    """Let a suspended site take part again."""
    return Call("coordinator", "DELETE", f"/sites/{_id(site_id)}/suspension", dict[str, Any])


def invite_site(site_id: str, expires_in_s: int) -> Call[t.SiteInvitation]:
    """Make a single-use enrolment token for a site."""
    return _post("coordinator", f"/sites/{_id(site_id)}/invitations", t.SiteInvitation, {"expires_in_s": expires_in_s})


def site_certificates(site_id: str) -> Call[t.Page[t.SiteCertificate]]:
    """Return a site's certificates."""
    return _get("coordinator", f"/sites/{_id(site_id)}/certificates", t.Page[t.SiteCertificate])


def set_roles(user_id: str, roles: Iterable[Mapping[str, Any]]) -> Call[t.User]:
    """Give a user exactly these roles."""
    body = {"roles": [dict(role) for role in roles]}
    return Call("coordinator", "PUT", f"/users/{_id(user_id)}/roles", t.User, body=body)


def revoke_user(user_id: str) -> Call[dict[str, Any]]:
    """Revoke a user with all tokens and roles."""
    return Call("coordinator", "DELETE", f"/users/{_id(user_id)}", dict[str, Any])


def request_action(action: str, subject: str, data: Mapping[str, Any], reason: str) -> Call[t.PendingAction]:
    """Ask for a change that another person confirms."""
    body = {"action": action, "subject": subject, "data": dict(data), "reason": reason}
    return _post("coordinator", "/pending-actions", t.PendingAction, body)


def pending_actions(after: str | None = None) -> Call[t.Page[t.PendingAction]]:
    """Return the changes that waited or wait for a second person."""
    return _get("coordinator", "/pending-actions", t.Page[t.PendingAction], after=after)


def confirm_action(action_id: str) -> Call[t.PendingAction]:
    """Confirm what another person asked for."""
    return _post("coordinator", f"/pending-actions/{_id(action_id)}/confirmation", t.PendingAction)


def withdraw_action(action_id: str) -> Call[t.PendingAction]:
    """Withdraw a change that waits, or refuse it."""
    return Call("coordinator", "DELETE", f"/pending-actions/{_id(action_id)}", t.PendingAction)


def audit_entries(after: str | None = None) -> Call[t.Page[t.AuditEntry]]:
    """Return what people changed, newest first."""
    return _get("coordinator", "/audit-entries", t.Page[t.AuditEntry], after=after)


# coordinator: webhooks


def create_webhook(federation_id: str, url: str, events: Sequence[str]) -> Call[t.Webhook]:
    """Make a webhook; the answer alone has its secret."""
    body = {"url": url, "events": list(events)}
    return _post("coordinator", f"/federations/{_id(federation_id)}/webhooks", t.Webhook, body)


def webhooks(federation_id: str, after: str | None = None) -> Call[t.Page[t.Webhook]]:
    """Return a federation's webhooks."""
    return _get("coordinator", f"/federations/{_id(federation_id)}/webhooks", t.Page[t.Webhook], after=after)


def delete_webhook(webhook_id: str) -> Call[dict[str, Any]]:
    """Delete a webhook with what is on its way to it."""
    return Call("coordinator", "DELETE", f"/webhooks/{_id(webhook_id)}", dict[str, Any])


def test_webhook(webhook_id: str) -> Call[t.WebhookDelivery]:
    """Send a test message to a webhook."""
    return _post("coordinator", f"/webhooks/{_id(webhook_id)}/tests", t.WebhookDelivery)


def deliveries(webhook_id: str, state: str | None = None, after: str | None = None) -> Call[t.Page[t.WebhookDelivery]]:
    """Return deliveries to a webhook, newest first."""
    path = f"/webhooks/{_id(webhook_id)}/deliveries"
    return _get("coordinator", path, t.Page[t.WebhookDelivery], state=state, after=after)


def requeue_delivery(delivery_id: str) -> Call[t.WebhookDelivery]:
    """Try again what was given up."""
    return _post("coordinator", f"/deliveries/{_id(delivery_id)}/requeue", t.WebhookDelivery)


# coordinator: schedules


def create_schedule(
    document: Mapping[str, Any], cron: str, timezone: str, name: str | None, overlap: bool
) -> Call[t.Schedule]:
    """Submit a job at the times of a cron expression."""
    body = {"document": dict(document), "cron": cron, "timezone": timezone, "name": name, "overlap": overlap}
    return _post("coordinator", "/schedules", t.Schedule, body)


def schedules(federation_id: str, after: str | None = None) -> Call[t.Page[t.Schedule]]:
    """Return a federation's schedules."""
    return _get("coordinator", f"/federations/{_id(federation_id)}/schedules", t.Page[t.Schedule], after=after)


def schedule(schedule_id: str) -> Call[t.Schedule]:
    """Return one schedule."""
    return _get("coordinator", f"/schedules/{_id(schedule_id)}", t.Schedule)


def steer_schedule(schedule_id: str, action: Literal["pause", "resume"]) -> Call[t.Schedule]:
    """Pause or resume a schedule."""
    return _post("coordinator", f"/schedules/{_id(schedule_id)}/{action}", t.Schedule)


def delete_schedule(schedule_id: str) -> Call[dict[str, Any]]:
    """Delete a schedule."""
    return Call("coordinator", "DELETE", f"/schedules/{_id(schedule_id)}", dict[str, Any])


# coordinator: sweeps


def plan_sweep(name: str, document: Mapping[str, Any], changes: Sequence[Mapping[str, Any]]) -> Call[t.SweepPlan]:
    """Judge a sweep without making it."""
    body = {"name": name, "document": dict(document), "changes": list(changes)}
    return _post("coordinator", "/sweeps/validations", t.SweepPlan, body)


def create_sweep(
    name: str, document: Mapping[str, Any], changes: Sequence[Mapping[str, Any]], parallel: int
) -> Call[t.Sweep]:
    """Make a sweep."""
    body = {"name": name, "document": dict(document), "changes": list(changes), "parallel": parallel}
    return _post("coordinator", "/sweeps", t.Sweep, body)


def sweeps(federation_id: str, after: str | None = None) -> Call[t.Page[t.SweepItem]]:
    """Return a federation's sweeps, newest first."""
    return _get("coordinator", f"/federations/{_id(federation_id)}/sweeps", t.Page[t.SweepItem], after=after)


def sweep(sweep_id: str) -> Call[t.Sweep]:
    """Return one sweep with its jobs."""
    return _get("coordinator", f"/sweeps/{_id(sweep_id)}", t.Sweep)


def cancel_sweep(sweep_id: str) -> Call[t.Sweep]:
    """Submit no further job of a sweep, and cancel those that have not ended."""
    return _post("coordinator", f"/sweeps/{_id(sweep_id)}/cancel", t.Sweep)


# coordinator: jobs


def validate_job(spec: Mapping[str, Any]) -> Call[t.Validation]:
    """Check a job without starting it; every fault at once."""
    return _post("coordinator", "/jobs/validations", t.Validation, spec)


def privacy_plan(spec: Mapping[str, Any]) -> Call[t.PrivacyPlan]:
    """Say what a job's noise costs, without starting it; every fault at once."""
    return _post("coordinator", "/jobs/privacy-plan", t.PrivacyPlan, spec)


def submit_job(spec: Mapping[str, Any]) -> Call[t.Job]:
    """Start a job."""
    return _post("coordinator", "/jobs", t.Job, spec)


def clone_job(job_id: str, changes: Mapping[str, Any]) -> Call[t.Job]:
    """Start a job like another one, with changes."""
    return _post("coordinator", f"/jobs/{_id(job_id)}/clones", t.Job, {"changes": dict(changes)})


def jobs(federation_id: str | None = None, after: str | None = None, **chosen: str | None) -> Call[t.Page[t.Job]]:
    """Jobs, newest first; `chosen` are the service's filters and `sort`."""
    return _get("coordinator", "/jobs", t.Page[t.Job], federation_id=federation_id, after=after, **chosen)


def job(job_id: str) -> Call[t.Job]:
    """Return one job."""
    return _get("coordinator", f"/jobs/{_id(job_id)}", t.Job)


def compare_jobs(job_ids: Iterable[str]) -> Call[t.JobComparison]:
    """Return jobs side by side."""
    return _get("coordinator", "/job-comparison", t.JobComparison, jobs=",".join(job_ids))


def results(job_id: str) -> Call[t.StatisticsResults]:
    """Return what a statistics job has found."""
    return _get("coordinator", f"/jobs/{_id(job_id)}/results", t.StatisticsResults)


def job_rounds(job_id: str, after: str | None = None) -> Call[t.Page[t.Round]]:
    """Return the rounds of a job, oldest first."""
    return _get("coordinator", f"/jobs/{_id(job_id)}/rounds", t.Page[t.Round], after=after)


def participation(job_id: str) -> Call[t.Page[t.Participation]]:
    """Return each site's part in a job."""
    return _get("coordinator", f"/jobs/{_id(job_id)}/participation", t.Page[t.Participation])


def job_action(job_id: str, action: str) -> Call[t.Job]:
    """Pause, resume or cancel a job."""
    return _post("coordinator", f"/jobs/{_id(job_id)}/{_id(action)}", t.Job)


def round_(round_id: str) -> Call[t.Round]:
    """Return one round with its tasks."""
    return _get("coordinator", f"/rounds/{_id(round_id)}", t.Round)


def evidence(subject: str) -> Call[Evidence]:
    """Everything that is needed to check a round or a version offline."""
    return _get("coordinator", f"/evidence/{_id(subject)}", Evidence)


def spent(job_id: str) -> Call[t.JobSpent]:
    """Return what a job cost in privacy so far."""
    return _get("coordinator", f"/jobs/{_id(job_id)}/privacy", t.JobSpent)


def datasheet(version_id: str) -> Call[SignedDatasheet]:
    """Return the privacy datasheet of a version, as the coordinator signed it."""
    return _get("coordinator", f"/versions/{_id(version_id)}/datasheet", SignedDatasheet)


def ledger_heads(site_id: str, after: str | None = None) -> Call[t.Page[LoggedLedgerHead]]:
    """Return heads of a site's privacy ledger in the transparency log, in its order."""
    return _get("coordinator", f"/sites/{_id(site_id)}/ledger-heads", t.Page[LoggedLedgerHead], after=after)


def manifest(round_id: str) -> Call[SignedManifest]:
    """Return a round's manifest, as the coordinator signed it."""
    return _get("coordinator", f"/rounds/{_id(round_id)}/manifest", SignedManifest)


# coordinator: people


def create_user(name: str, roles: list[Mapping[str, Any]]) -> Call[t.User]:
    """Add a user with roles [{role, federation_id | null}]."""
    return _post("coordinator", "/users", t.User, {"name": name, "roles": roles})


def users(after: str | None = None) -> Call[t.Page[t.User]]:
    """Return every user (administrator of all federations)."""
    return _get("coordinator", "/users", t.Page[t.User], after=after)


def tokens(user_id: str | None = None, after: str | None = None) -> Call[t.Page[t.Token]]:
    """Return the caller's tokens, or as an administrator another user's."""
    return _get("coordinator", "/tokens", t.Page[t.Token], user_id=user_id, after=after)


def revoke_token(token_id: str) -> Call[dict[str, Any]]:
    """Revoke a token."""
    return Call("coordinator", "DELETE", f"/tokens/{_id(token_id)}", dict[str, Any])


def create_token(body: Mapping[str, Any]) -> Call[t.Token]:
    """Make an API token; its secret is in this answer only."""
    return _post("coordinator", "/tokens", t.Token, body)


def sign_on() -> Call[t.SignOn]:
    """Return who signs people on."""
    return _get("coordinator", "/sign-on", t.SignOn)


def begin_sign_on() -> Call[t.DeviceSignOn]:
    """Begin a sign-on that a person confirms in a browser."""
    return _post("coordinator", "/sign-on/devices", t.DeviceSignOn)


def finish_sign_on(handle: str) -> Call[t.DeviceAnswer]:
    """Return the token of a sign-on once it is confirmed."""
    return _post("coordinator", "/sign-on/tokens", t.DeviceAnswer, {"handle": handle})


def end_sign_on() -> Call[dict[str, Any]]:
    """End the sign-on of the token that is shown."""
    return Call("coordinator", "DELETE", "/sign-on", dict[str, Any])


def me() -> Call[t.Me]:
    """Return who the token belongs to."""
    return _get("coordinator", "/me", t.Me)


# keys


def authority() -> Call[t.Authority]:
    """Return the federation's certificate authority."""
    return _get("keys", "/authority", t.Authority)


def certificates(name: str | None = None, after: str | None = None) -> Call[t.Page[dict[str, Any]]]:
    """Certificates of one site or service, or of all."""
    return _get("keys", "/certificates", t.Page[dict[str, Any]], name=name, after=after)


def revoke_certificate(keyid: str, reason: str) -> Call[dict[str, Any]]:
    """Revoke a certificate and every one that was rotated from it (operator)."""
    return _post("keys", f"/certificates/{_id(keyid)}/revocations", dict[str, Any], {"reason": reason})


def create_enrolment_token(
    kind: str, name: str, federation_id: str | None, expires_in_s: int
) -> Call[t.EnrolmentToken]:
    """Return a single-use token with which a site's agent or a service enrols (operator)."""
    body = {"kind": kind, "name": name, "federation_id": federation_id, "expires_in_s": expires_in_s}
    return _post("keys", "/enrolment-tokens", t.EnrolmentToken, {k: v for k, v in body.items() if v is not None})


def invitations(site_id: str | None = None, after: str | None = None) -> Call[t.Page[t.Invitation]]:
    """Return the invitations of a site or of all (operator)."""
    return _get("keys", "/invitations", t.Page[t.Invitation], site_id=site_id, after=after)


def approve_invitation(invitation_id: str, fingerprint: str) -> Call[t.Invitation]:
    """Approve the key that asked under an invitation (operator)."""
    return _post("keys", f"/invitations/{_id(invitation_id)}/approvals", t.Invitation, {"fingerprint": fingerprint})


def certificate(keyid: str) -> Call[dict[str, Any]]:
    """Return one certificate by its fingerprint."""
    return _get("keys", f"/certificates/{_id(keyid)}", dict[str, Any])


def log_head() -> Call[LogHead]:
    """Return the transparency log's size and root now, signed."""
    return _get("keys", "/log/head", LogHead)


def log_entries(start: int, end: int) -> Call[dict[str, list[LogEntry]]]:
    """Return the log's entries from `start` up to, not including, `end`, as {"items": […]} (operator)."""
    return _get("keys", "/log/entries", dict[str, list[LogEntry]], start=start, end=end)


def inclusion_proof(index: int, size: int) -> Call[InclusionProof]:
    """Fetch the proof that the log of `size` entries holds an entry."""
    return _get("keys", "/log/proofs/inclusion", InclusionProof, index=index, size=size)


def consistency_proof(first: int, second: int) -> Call[ConsistencyProof]:
    """Return the proof that the log of `first` entries is the beginning of the one of `second`."""
    return _get("keys", "/log/proofs/consistency", ConsistencyProof, first=first, second=second)


def round_record(round_id: str) -> Call[LoggedRecord]:
    """Return a round's record with its place in the log (operator)."""
    return _get("keys", f"/rounds/{_id(round_id)}/record", LoggedRecord)


# registry


def models(federation_id: str | None = None, after: str | None = None) -> Call[t.Page[t.Model]]:
    """Models."""
    return _get("registry", "/models", t.Page[t.Model], federation_id=federation_id, after=after)


def model(model_id: str) -> Call[t.Model]:
    """Return one model with its aliases."""
    return _get("registry", f"/models/{_id(model_id)}", t.Model)


def versions(model_id: str, after: str | None = None) -> Call[t.Page[t.Version]]:
    """Return the versions of a model, oldest first."""
    return _get("registry", f"/models/{_id(model_id)}/versions", t.Page[t.Version], after=after)


def version(version_id: str) -> Call[t.Version]:
    """Return one version with lineage and signatures."""
    return _get("registry", f"/versions/{_id(version_id)}", t.Version)


def add_audit(version_id: str, document: Mapping[str, Any]) -> Call[t.Version]:
    """Add what a privacy audit found to a version."""
    return _post("registry", f"/versions/{_id(version_id)}/audits", t.Version, document)


def stop_for_claim(job_id: str, version_id: str) -> Call[t.Job]:
    """Pause a job of which an audit refuted a version's privacy claim."""
    return _post("coordinator", f"/jobs/{_id(job_id)}/broken-claim", t.Job, {"version_id": version_id})


def alias_changes(model_id: str, after: str | None = None) -> Call[t.Page[t.AliasChange]]:
    """Return who moved a model's aliases, newest first."""
    return _get("registry", f"/models/{_id(model_id)}/alias-changes", t.Page[t.AliasChange], after=after)


def set_alias(model_id: str, alias: str, version_id: str, reason: str = "") -> Call[dict[str, Any]]:
    """Point a model's alias (champion, candidate, …) at a version."""
    path = f"/models/{_id(model_id)}/aliases/{_id(alias)}"
    return Call(
        "registry",
        "PUT",
        path,
        dict[str, Any],
        body={"version_id": version_id} | ({"reason": reason} if reason else {}),
    )
