"""Evidence out of the real witness and log: what the keys service signs and logs passes the auditor's checks."""

import httpx
from fastapi import FastAPI

from tests.services.keys.parties import FEDERATION, URL, Federation, finished
from undersong.services.coordinator.auditing import Auditing
from undersong.services.coordinator.peers.keys import KeysDirectory
from undersong.services.coordinator.peers.registry import Registry
from undersong.services.keys.wiring import Components
from undersong.shared.identity.authority import keyid_of
from undersong.shared.transparency.audit import audit_file
from undersong.shared.transparency.documents import RoundResult
from undersong.shared.web.access import Grant, Principal, Role

PERSON = Principal("usr_1", "ada", (Grant(Role.AUDITOR, FEDERATION),))


def _no_version(_request: httpx.Request) -> httpx.Response:
    return httpx.Response(404, json={"type": "urn:undersong:problem:not-found", "detail": "no such version"})


async def test_a_logged_round_verifies(app: FastAPI, http: httpx.AsyncClient, components: Components) -> None:
    federation = await Federation.enrolled(http, components)
    attempt = await federation.begin(kind="statistics", model=None)
    values = RoundResult.model_validate({"values_digest": "7" * 64})
    record = finished((await attempt.record()).model_copy(update={"result": values}))
    assert (await attempt.post(record)).status_code == 201
    coordinator = federation.identities["coordinator"]
    transport = httpx.ASGITransport(app)
    async with (
        httpx.AsyncClient(transport=transport, base_url=URL, auth=federation.auth("coordinator")) as keys,
        httpx.AsyncClient(transport=httpx.MockTransport(_no_version), base_url="http://registry") as registry,
    ):
        auditing = Auditing(KeysDirectory(keys), Registry(registry), lambda: coordinator)
        evidence = await auditing.evidence(PERSON, attempt.round_id)
        verdict = await auditing.verdict(PERSON, attempt.round_id)
    pinned = keyid_of(coordinator.ca_certificate)
    failed = [each for each in audit_file(evidence.pack(), pinned, attempt.round_id) if not each.passed]
    assert failed == []
    assert all(each.passed for each in verdict.findings)
