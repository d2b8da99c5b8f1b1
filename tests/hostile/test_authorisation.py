"""Every operation of every service, asked by everybody: who is let in, who is not, and who learns that it exists."""

import json
import re
import secrets
from collections.abc import Iterator
from itertools import product
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.hostile.fuzzing import OPENAPI, check_problem
from tests.hostile.matrix import render
from tests.hostile.policy import ANYONE, POLICY, allowed
from tests.hostile.stage import BINARY, HOOK, SERVICES, Stage, invitation, job, profile, staged, sweep
from undersong.local.forks import Forks
from undersong.shared.identity.digests import content_digest

pytestmark = [pytest.mark.process, pytest.mark.timeout(300)]
REFUSED = {401, 403, 404}
HERE = Path(__file__).parents[2] / "docs" / "authorisation.md"
LAST = (
    "POST /v1/sites/{site_id}/suspension",
    "POST /v1/jobs/{job_id}/cancel",
    "POST /v1/rounds/{round_id}/cancel",
    "POST /v1/tasks/{task_id}/failures",
    "DELETE /v1/versions/{version_id}",
    "DELETE /v1/webhooks/{webhook_id}",
    "DELETE /v1/schedules/{schedule_id}",
    "POST /v1/sweeps/{sweep_id}/cancel",
    "DELETE /v1/users/{user_id}",
    "DELETE /v1/models/{model_id}/aliases/{alias}",
)
"""What spoils the stage for others."""


def operations(service: str) -> list[str]:
    paths = json.loads((OPENAPI / f"{service}.json").read_text())["paths"]
    return [f"{method.upper()} {path}" for path, found in paths.items() for method in found]


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory, forks: Forks) -> Iterator[Stage]:
    with staged(tmp_path_factory.mktemp("platform"), forks) as made:
        yield made


def body_of(stage: Stage, operation: str) -> dict[str, Any]:
    """Return a request body that would be accepted from a permitted caller, as far as that does no harm."""
    ids = stage.ids
    lease = {"lease_token": ids["lease_token"]}
    bodies: dict[str, Any] = {
        "POST /v1/federations": {"name": "third"},
        "POST /v1/federations/{federation_id}/sites": {"name": "one more", "owner": "x"},
        "PUT /v1/sites/self/profile": profile(),
        "POST /v1/jobs/validations": job(ids["federation_id"], "fine"),
        "POST /v1/jobs/privacy-plan": job(ids["federation_id"], "fine"),
        "POST /v1/jobs": job(ids["federation_id"], "one more"),
        "POST /v1/jobs/{job_id}/clones": {"changes": {"name": "once more"}},
        "POST /v1/sweeps/validations": sweep(ids["federation_id"], "fine"),
        "POST /v1/sweeps": sweep(ids["federation_id"], secrets.token_hex(4)),
        "POST /v1/schedules": {"document": job(ids["federation_id"], "yearly"), "cron": "0 0 1 1 *"},
        "POST /v1/sites/{site_id}/invitations": {"expires_in_s": 600},
        "POST /v1/invitations": invitation(ids),
        "POST /v1/invitations/{invitation_id}/approvals": {"fingerprint": "0" * 64},
        "POST /v1/users": {"name": "eve", "roles": [{"role": "auditor", "federation_id": ids["federation_id"]}]},
        "PUT /v1/users/{user_id}/roles": {"roles": []},
        "POST /v1/pending-actions": {"action": "site.suspend", "subject": ids["site_id"]},
        "POST /v1/tokens": {"name": "mine"},
        "POST /v1/sign-on/tokens": {"handle": "00"},
        "POST /v1/federations/{federation_id}/webhooks": {"url": HOOK, "events": ["job.failed"]},
        "POST /v1/introspections": {"token": stage.tokens["revoked-token"]},
        "POST /v1/tasks/leases": {"wait_s": 0},
        "POST /v1/tasks/{task_id}/heartbeats": lease,
        "POST /v1/tasks/{task_id}/completions": lease | {"digest": "0" * 64},
        "PUT /v1/tasks/{task_id}/metrics": lease | {"metrics": {"examples": 20.0}},
        "POST /v1/tasks/{task_id}/failures": lease | {"code": "odd", "message": "", "retryable": True},
        "PUT /v1/rounds/{round_id}": {"manifest": {}, "keyid": "0" * 64, "signature": "00"},
        "POST /v1/rounds/{round_id}/lost": {"sites": []},
        "POST /v1/enrolment-tokens": {"kind": "service", "name": "unknown"},
        "POST /v1/enrolment-challenges": {"public_key": "0" * 64},
        "POST /v1/enrolments": {"token": "x", "challenge_id": "x", "public_key": "0" * 64, "proof": "0" * 128},
        "POST /v1/certificates/rotations": {"public_key": "0" * 64, "proof": "0" * 128},
        "POST /v1/certificates/{keyid}/revocations": {"reason": "lost"},
        "POST /v1/rounds/{round_id}/records": {},
        "POST /v1/models": {"federation_id": ids["federation_id"], "name": "third"},
        "POST /v1/models/{model_id}/versions": {
            "content_digest": ids["digest"], "lineage": {"kind": "import"}, "publisher_keyid": "0" * 64,
            "publisher_signature": "0" * 128,
        },
        "PUT /v1/models/{model_id}/aliases/{alias}": {"version_id": ids["version_id"]},
        "POST /v1/versions/{version_id}/metrics": {"metrics": {"auc": 0.5}},
        "POST /v1/versions/{version_id}/audits": {"kind": "loss-threshold", "confidence": 0.95},
        "POST /v1/jobs/{job_id}/broken-claim": {"version_id": ids["version_id"]},
    }  # fmt: skip
    if operation in bodies:
        return {"json": bodies[operation]}
    if operation.startswith("PUT ") or operation.endswith("/witness"):
        return {"content": b"USU1", "headers": BINARY | {"content-digest": content_digest(b"USU1")}}
    return {}


QUERY = {
    "GET /v1/job-comparison": {"jobs": "{job_id}"},
    "GET /v1/federations/{federation_id}/comparison": {"dataset": "nothing"},
    "GET /v1/log/records": {"round_id": "rnd_" + "0" * 26},
    "PUT /v1/blobs/{digest}": {"federation_id": "{federation_id}"},
    "GET /v1/log/ledger-heads": {"federation_id": "{federation_id}", "site_id": "{site_id}"},
    "GET /v1/log/entries": {"start": 0, "end": 1},
    "GET /v1/log/proofs/inclusion": {"index": 0, "size": 1},
    "GET /v1/log/proofs/consistency": {"first": 1, "second": 1},
}


def ask(stage: Stage, service: str, operation: str, caller: str) -> httpx.Response:
    method, path = operation.split(" ")
    known = {**stage.ids, "subject": stage.ids["version_id"], "step": "advertise"}
    if path.endswith("/events"):
        known["job_id"] = stage.ids["ended_job_id"]
    query = query_of(operation, known)
    return stage.ask(caller, service, method, path.format(**known), params=query, **body_of(stage, operation))


def query_of(operation: str, ids: dict[str, str]) -> dict[str, Any]:
    return {name: str(value).format(**ids) for name, value in QUERY.get(operation, {}).items()}


def let_in(operation: str, answer: httpx.Response) -> bool:
    """Whether the caller was allowed to, even if what he asked for was then refused for what it says."""
    if answer.status_code not in REFUSED or "trains a model, and has no results" in answer.text:
        return True
    return answer.status_code != 401 and check_problem(answer).type.rsplit(":", 1)[-1] in {
        "no-evidence", "record-unknown", "nonce-unknown", "token-unknown", "challenge-unknown", "step-unknown",
        "manifest-untrusted", "publisher-unproven", "alias-unknown", "certificate-unknown", "entry-unknown",
        "datasheet-missing", "proof-invalid",
        *(["round-unknown"] if operation.endswith(("/reports", "/set", "/share")) else []),
    }  # fmt: skip


def test_the_policy_names_every_operation() -> None:
    for service in SERVICES:
        assert set(operations(service)) == set(POLICY[service]), (
            f"{service}: say in tests/hostile/policy.py who may, then python -m tests.hostile.matrix"
        )


def test_the_documentation_is_the_policy() -> None:
    assert HERE.read_text() == render(), "write it anew: python -m tests.hostile.matrix"


@pytest.mark.parametrize("service", SERVICES)
def test_everybody_at_every_door(stage: Stage, service: str) -> None:
    wrong: list[str] = []
    firsts = {value for name, value in stage.ids.items() if name.endswith("_id") and not name.startswith("other-")}
    for operation in sorted(POLICY[service], key=lambda name: (name in LAST, name.startswith("POST"), name)):
        may = allowed(service, operation, stage.callers)
        for caller in sorted(
            stage.callers, key=lambda name: name in may
        ):  # who may not comes first: he changes nothing
            answer = ask(stage, service, operation, caller)
            what = f"{operation} by {caller}: {answer.status_code} {answer.text[:200]}"
            held = let_in(operation, answer) if caller in may else answer.status_code in REFUSED
            if answer.status_code >= 500 or not held:
                wrong.append(what)
            if answer.status_code >= 400:
                check_problem(answer)
            strange = caller.startswith("other-") and "{" in operation and POLICY[service][operation] != ANYONE
            if strange and not answer.is_success and answer.status_code == 403 and caller.removeprefix("other-") in may:
                wrong.append(f"403 tells that it exists: {what}")
            told = {one for one in firsts if one in answer.text and one not in str(answer.request.url)}
            if caller.startswith("other-") and answer.is_success and told and service != "keys":
                wrong.append(f"tells of {told}: {what}")
    assert not wrong, "\n".join(wrong)


def missing(value: str) -> str:
    """An id of the same form that names nothing."""
    if re.fullmatch(r"[0-9a-f]{64}", value):
        return value[:-1] + ("0" if value[-1] != "0" else "1")
    return value[:-2] + ("00" if not value.endswith("00") else "11")


def said(answer: httpx.Response, ids: dict[str, str]) -> tuple[int, dict[str, str], dict[str, Any]]:
    """All that an answer tells: status, headers and document, without the request's own id and the ids in it."""
    text = answer.text
    for name, value in ids.items():
        text = text.replace(value, f"<{name}>")
    document = json.loads(text) if text else {}
    document.pop("request_id", None)
    headers = {name: value for name, value in answer.headers.items() if name not in {"date", "x-request-id"}}
    headers.pop("content-length", None)  # of the request's id and the ids in it, which differ in length
    return answer.status_code, headers, document


def with_ids(body: dict[str, Any], ids: dict[str, str]) -> dict[str, Any]:
    """The request's body with other ids in its JSON."""
    text = json.dumps(body.get("json"))
    for real, other in ids.items():
        text = text.replace(real, other)
    return {**body, "json": json.loads(text)} if "json" in body else body


IDS = (
    "federation_id", "site_id", "job_id", "round_id", "task_id", "model_id", "version_id", "token_id", "keyid",
    "digest", "webhook_id", "delivery_id", "schedule_id", "sweep_id", "invitation_id", "user_id", "action_id",
)  # fmt: skip


def naming_others(stage: Stage, operation: str) -> Iterator[dict[str, Any]]:
    """The operation's body, and bodies that name things of the first federation where they may be named."""
    yield body_of(stage, operation)
    ids = stage.ids
    if operation == "POST /v1/models/{model_id}/versions":
        yield {"json": {"content_digest": ids["digest"], "lineage": {"kind": "import"}}}
        yield {"json": {"content_digest": "0" * 64, "lineage": {"kind": "train", "parents": [ids["version_id"]]}}}
    if operation in ("POST /v1/jobs", "POST /v1/jobs/validations", "POST /v1/jobs/privacy-plan"):
        continued = job(ids["federation_id"], "continued")
        yield {"json": {**continued, "model": {"name": "continued", "version_id": ids["version_id"]}}}
    if operation == "PUT /v1/blobs/{digest}":
        yield {"content": b"", "headers": BINARY}
        yield {"content": b"USU1", "headers": BINARY}


@pytest.mark.parametrize("service", SERVICES)
@pytest.mark.parametrize("own", [False, True], ids=["all theirs", "within one's own"])
def test_what_is_anothers_and_what_is_nowhere_are_answered_alike(stage: Stage, service: str, own: bool) -> None:
    """A party that may not see a thing cannot tell whether it exists, by status, type, text or header of any operation.

    Within one's own federation and model too, where a request names what is another's.
    """
    real = {name: stage.ids[name] for name in IDS} | {"subject": stage.ids["version_id"]}
    mine = {name: stage.ids[f"other-{name}"] for name in IDS if own and f"other-{name}" in stage.ids}
    told: list[str] = []
    strangers = [
        caller for caller in stage.callers if caller.startswith("other-") or caller in ("anonymous", "wrong-token")
    ]
    compared = 0
    for operation in sorted(POLICY[service]):
        method, path = operation.split(" ")
        query = query_of(operation, stage.ids | mine)
        if "round_id" in query:
            query = {"round_id": real["round_id"]}
        subjects = (
            [real["version_id"], real["round_id"], real["job_id"]] if "{subject}" in path else [real["version_id"]]
        )
        for subject, given in product(subjects, naming_others(stage, operation)):
            body = with_ids(given, {real[name]: value for name, value in mine.items()})
            here = {**stage.ids, **real, **mine, "subject": subject, "step": "advertise"}
            swap = {value: missing(value) for value in ({*real.values(), subject} - {real[name] for name in mine})}
            nowhere = {name: swap.get(value, value) for name, value in here.items()}
            other_body = with_ids(body, swap)
            other_query = {name: swap.get(value, value) for name, value in query.items()}
            same = (path.format(**here), query, body) == (path.format(**nowhere), other_query, other_body)
            if same or POLICY[service][operation] == ANYONE:
                continue
            for caller in strangers:
                foreign = stage.ask(caller, service, method, path.format(**here), params=query, **body)
                if foreign.is_success and not own:
                    continue  # it is not about one thing, or open to this caller
                none = stage.ask(caller, service, method, path.format(**nowhere), params=other_query, **other_body)
                compared += 1
                one, two = said(foreign, here), said(none, nowhere)
                if one != two and not (foreign.is_success and none.is_success):
                    told.append(f"{operation} by {caller}:\n  it is: {foreign.text}\n  is not: {none.text}")
    assert compared or service == "helper"
    assert not told, "\n".join(told)
