"""Who may do what: one line for each operation of each service. `docs/authorisation.md` is written from this.

Columns of people are roles in the federation that the thing asked for belongs to. ``root`` is an administrator of all
federations; `sites` are those of the same federation. A caller that is not named is refused: with 401 when its kind of
credential does not count here, with 403 for the wrong role, and with 404 when the thing is another federation's.
``narrow`` is root by a token of the scopes `NARROW`: what root may, as far as they go.
"""

from typing import Final

from undersong.shared.web.scopes import covers, scope_of

NARROW: Final = ("jobs:read", "models:write")
READERS: Final = "root admin scientist owner auditor"
ANYONE: Final = "anyone"
SELF: Final = "anybody with a token"
EVERY_PARTY: Final = "site coordinator aggregator registry"

POLICY: Final[dict[str, dict[str, str]]] = {
    "coordinator": {
        "GET /health/live": ANYONE,
        "GET /health/ready": ANYONE,
        "GET /v1/me": SELF,
        "GET /v1/sign-on": ANYONE,
        "DELETE /v1/sign-on": SELF,
        "POST /v1/sign-on/devices": ANYONE,
        "POST /v1/sign-on/tokens": ANYONE,
        "POST /v1/federations": "root",
        "GET /v1/federations": SELF,
        "GET /v1/federations/{federation_id}": READERS,
        "GET /v1/federations/{federation_id}/comparison": READERS,
        "POST /v1/federations/{federation_id}/sites": "root admin",
        "GET /v1/sites": SELF,
        "GET /v1/sites/{site_id}": READERS,
        "PUT /v1/sites/self/profile": "site other-site",
        "GET /v1/sites/self/exclusions": "site other-site",
        "POST /v1/sites/{site_id}/suspension": "root admin owner",
        "DELETE /v1/sites/{site_id}/suspension": "root admin owner",
        "POST /v1/sites/{site_id}/invitations": "root admin",
        "GET /v1/sites/{site_id}/certificates": READERS,
        "GET /v1/audit-entries": "root admin auditor other-admin other-auditor",
        "POST /v1/jobs/validations": "root admin scientist",
        "POST /v1/jobs/privacy-plan": "root admin scientist",
        "POST /v1/jobs": "root admin scientist",
        "GET /v1/jobs": SELF,
        "GET /v1/jobs/{job_id}": READERS,
        "GET /v1/job-comparison": READERS,
        "GET /v1/jobs/{job_id}/rounds": READERS,
        "GET /v1/jobs/{job_id}/events": READERS,
        "GET /v1/jobs/{job_id}/results": READERS,
        "GET /v1/jobs/{job_id}/participation": READERS,
        "POST /v1/jobs/{job_id}/clones": "root admin scientist",
        "POST /v1/jobs/{job_id}/pause": "root admin scientist",
        "POST /v1/jobs/{job_id}/broken-claim": READERS,
        "POST /v1/jobs/{job_id}/resume": "root admin scientist",
        "POST /v1/jobs/{job_id}/cancel": "root admin scientist",
        "GET /v1/dead-tasks": SELF,
        "POST /v1/dead-tasks/{task_id}/requeue": "root admin scientist",
        "POST /v1/dead-tasks/{task_id}/discard": "root admin scientist",
        "GET /v1/rounds/{round_id}": READERS,
        "GET /v1/rounds/{round_id}/manifest": f"{READERS} {EVERY_PARTY}",
        "GET /v1/evidence/{subject}": READERS,
        "GET /v1/versions/{version_id}/datasheet": READERS,
        "GET /v1/jobs/{job_id}/privacy": READERS,
        "GET /v1/sites/{site_id}/ledger-heads": READERS,
        "POST /v1/tasks/leases": "site other-site",
        "POST /v1/tasks/{task_id}/heartbeats": "site",
        "POST /v1/tasks/{task_id}/completions": "site",
        "POST /v1/tasks/{task_id}/failures": "site",
        "PUT /v1/tasks/{task_id}/metrics": "site",
        "POST /v1/sweeps/validations": "root admin scientist",
        "POST /v1/sweeps": "root admin scientist",
        "GET /v1/federations/{federation_id}/sweeps": READERS,
        "GET /v1/sweeps/{sweep_id}": READERS,
        "POST /v1/sweeps/{sweep_id}/cancel": "root admin scientist",
        "POST /v1/schedules": "root admin scientist",
        "GET /v1/federations/{federation_id}/schedules": READERS,
        "GET /v1/schedules/{schedule_id}": READERS,
        "POST /v1/schedules/{schedule_id}/pause": "root admin scientist",
        "POST /v1/schedules/{schedule_id}/resume": "root admin scientist",
        "DELETE /v1/schedules/{schedule_id}": "root admin scientist",
        "POST /v1/federations/{federation_id}/webhooks": "root admin",
        "GET /v1/federations/{federation_id}/webhooks": "root admin",
        "DELETE /v1/webhooks/{webhook_id}": "root admin",
        "POST /v1/webhooks/{webhook_id}/tests": "root admin",
        "GET /v1/webhooks/{webhook_id}/deliveries": "root admin",
        "POST /v1/deliveries/{delivery_id}/requeue": "root admin",
        "POST /v1/users": "root admin",
        "GET /v1/users": "root",
        "PUT /v1/users/{user_id}/roles": "root",
        "DELETE /v1/users/{user_id}": "root",
        "POST /v1/pending-actions": "root admin owner other-admin other-owner",
        "GET /v1/pending-actions": "root admin owner other-admin other-owner",
        "POST /v1/pending-actions/{action_id}/confirmation": "root admin owner",
        "DELETE /v1/pending-actions/{action_id}": "root admin owner",
        "POST /v1/tokens": SELF,
        "GET /v1/tokens": SELF,
        "DELETE /v1/tokens/{token_id}": "root scientist",
        "POST /v1/introspections": "aggregator registry",
    },
    "aggregator": {
        "GET /health/live": ANYONE,
        "GET /health/ready": ANYONE,
        "PUT /v1/rounds/{round_id}": "coordinator",
        "GET /v1/rounds/{round_id}": "root admin scientist auditor coordinator",
        "PUT /v1/rounds/{round_id}/updates": "site",
        "PUT /v1/rounds/{round_id}/steps/{step}": "site",
        "GET /v1/rounds/{round_id}/steps/{step}/answer": "site",
        "POST /v1/rounds/{round_id}/close": "coordinator",
        "POST /v1/rounds/{round_id}/lost": "coordinator",
        "POST /v1/rounds/{round_id}/cancel": "coordinator",
    },
    "keys": {
        "GET /health/live": ANYONE,
        "GET /health/ready": ANYONE,
        "GET /v1/authority": ANYONE,
        "GET /v1/witness": ANYONE,
        "GET /v1/log/head": ANYONE,
        "GET /v1/log/proofs/inclusion": ANYONE,
        "GET /v1/log/proofs/consistency": ANYONE,
        "GET /v1/log/entries": f"operator {EVERY_PARTY} other-site",
        "GET /v1/log/ledger-heads": f"operator {EVERY_PARTY}",
        "POST /v1/log/ledger-heads": "site other-site",
        "GET /v1/log/records": f"operator {EVERY_PARTY} other-site",
        "GET /v1/revocations": ANYONE,
        "POST /v1/enrolment-tokens": "operator",
        "POST /v1/invitations": "coordinator",
        "GET /v1/invitations": "operator",
        "POST /v1/invitations/{invitation_id}/approvals": "operator",
        "POST /v1/enrolment-challenges": ANYONE,
        "POST /v1/enrolments": ANYONE,
        "GET /v1/certificates": f"operator {EVERY_PARTY} other-site",
        "GET /v1/certificates/{keyid}": ANYONE,
        "POST /v1/certificates/rotations": f"{EVERY_PARTY} other-site",
        "POST /v1/certificates/{keyid}/revocations": "operator",
        "POST /v1/rounds/{round_id}/nonce-commitments": "coordinator",
        "POST /v1/rounds/{round_id}/witness": "aggregator",
        "POST /v1/rounds/{round_id}/records": "aggregator",
        "GET /v1/rounds/{round_id}/record": f"operator {EVERY_PARTY}",
    },
    "registry": {
        "GET /health/live": ANYONE,
        "GET /health/ready": ANYONE,
        "POST /v1/models": "root admin scientist coordinator aggregator",
        "GET /v1/models": f"{SELF} or a certificate",
        "GET /v1/models/{model_id}": f"{READERS} {EVERY_PARTY}",
        "GET /v1/models/{model_id}/versions": f"{READERS} {EVERY_PARTY}",
        "POST /v1/models/{model_id}/versions": "root admin scientist coordinator aggregator",
        "GET /v1/models/{model_id}/alias-changes": f"{READERS} {EVERY_PARTY}",
        "PUT /v1/models/{model_id}/aliases/{alias}": "root admin scientist coordinator aggregator",
        "GET /v1/models/{model_id}/aliases/{alias}": f"{READERS} {EVERY_PARTY}",
        "DELETE /v1/models/{model_id}/aliases/{alias}": "root admin scientist coordinator aggregator",
        "PUT /v1/blobs/{digest}": "root admin scientist coordinator aggregator",
        "GET /v1/versions/{version_id}": f"{READERS} {EVERY_PARTY}",
        "POST /v1/versions/{version_id}/metrics": "root admin scientist coordinator aggregator",
        "POST /v1/versions/{version_id}/audits": READERS,
        "GET /v1/versions/{version_id}/datasheet": f"{READERS} {EVERY_PARTY}",
        "PUT /v1/versions/{version_id}/datasheet": "coordinator",
        "GET /v1/datasheets/stale": "coordinator",
        "GET /v1/versions/{version_id}/content": f"{READERS} {EVERY_PARTY}",
        "DELETE /v1/versions/{version_id}": "root admin scientist coordinator aggregator",
    },
    "helper": {
        "GET /health/live": ANYONE,
        "GET /health/ready": ANYONE,
        "GET /v1/alive": "aggregator",
        "PUT /v1/rounds/{round_id}": "aggregator",
        "POST /v1/rounds/{round_id}/reports": "aggregator",
        "POST /v1/rounds/{round_id}/set": "aggregator",
        "POST /v1/rounds/{round_id}/share": "aggregator",
    },
}

NOTES: Final[dict[str, str]] = {
    "GET /v1/audit-entries": "of the caller's federations",
    "GET /v1/pending-actions": "of the caller's federations",
    "POST /v1/pending-actions": "what the caller may do; roles, users and tokens: root",
    "POST /v1/pending-actions/{action_id}/confirmation": "never the person who asked",
    "GET /v1/me": "the caller's own account",
    "DELETE /v1/sign-on": "the caller's own token, where a sign-on made it",
    "POST /v1/sign-on/tokens": "for who has the handle, once the person has confirmed the code at the issuer",
    "GET /v1/federations": "only those in which the caller has a role",
    "GET /v1/sites": "only those of the caller's federations",
    "GET /v1/jobs": "only those of the caller's federations",
    "GET /v1/dead-tasks": "only those of the caller's federations",
    "GET /v1/models": "only those of the caller's federations; services see all",
    "POST /v1/users": "an administrator of one federation gives roles in that one only",
    "POST /v1/tokens": "for oneself; root for anybody",
    "GET /v1/tokens": "one's own; root anybody's",
    "DELETE /v1/tokens/{token_id}": "one's own (here a scientist's); root anybody's",
    "PUT /v1/sites/self/profile": "each site its own",
    "GET /v1/sites/self/exclusions": "each site its own",
    "POST /v1/tasks/leases": "each site its own tasks",
    "POST /v1/tasks/{task_id}/heartbeats": "the site whose task it is",
    "POST /v1/tasks/{task_id}/completions": "the site whose task it is",
    "POST /v1/tasks/{task_id}/failures": "the site whose task it is",
    "PUT /v1/tasks/{task_id}/metrics": "the site whose task it is",
    "PUT /v1/rounds/{round_id}/updates": "a site of the round's cohort",
    "PUT /v1/rounds/{round_id}/steps/{step}": "a site of the round's cohort",
    "GET /v1/rounds/{round_id}/steps/{step}/answer": "a site of the round's cohort",
    "PUT /v1/blobs/{digest}": "for the federation that the upload names",
    "GET /v1/rounds/{round_id}/record": "a site those of its own federation",
    "GET /v1/log/records": "a site sees those of its own federation",
}


def allowed(service: str, operation: str, callers: tuple[str, ...]) -> frozenset[str]:
    """The callers that may."""
    may = _by_role(service, operation, callers)
    if POLICY[service][operation] == ANYONE or "narrow" not in callers:
        return may
    return may | {"narrow"} if "root" in may and within(NARROW, operation) else may - {"narrow"}


def within(scopes: tuple[str, ...], operation: str) -> bool:
    """Whether a token of these scopes is for the operation."""
    wanted = scope_of(*operation.split(" "))
    return wanted is None or covers(scopes, wanted)


def _by_role(service: str, operation: str, callers: tuple[str, ...]) -> frozenset[str]:
    rule = POLICY[service][operation]
    if rule == ANYONE:
        return frozenset(callers)
    people = {
        caller
        for caller in callers
        if caller.removeprefix("other-") in ("root", "admin", "scientist", "owner", "auditor")
    }
    if rule.startswith(SELF):
        signers = {
            caller for caller in callers if "site" in caller or caller in ("coordinator", "aggregator", "registry")
        }
        return frozenset(people | (signers if rule != SELF else set()))
    named = set(rule.split())
    # "site" is the one whose task it is; the others of its federation may do what is not about one site
    one = any(part in operation for part in ("{task_id}", "/updates", "/steps/"))
    peers = {"site-1", "site-2"} if "site" in named and not one else set()
    others = {"other-site-1", "other-site-2"} if "other-site" in named else set()
    return frozenset(named | peers | others) & frozenset(callers)
