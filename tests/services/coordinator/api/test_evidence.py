"""Evidence over REST: collected from keys and registry with signed requests, shown to whom the round belongs."""

from typing import Any

import httpx
import pytest
from cryptography.hazmat.primitives.serialization import Encoding

from tests.shared.transparency.bundles import Federation
from undersong.services.coordinator.auditing import Auditing
from undersong.services.coordinator.peers.keys import KeysDirectory
from undersong.services.coordinator.peers.registry import Registry
from undersong.shared.transparency.audit import audit_file, holds
from undersong.shared.transparency.evidence import Evidence
from undersong.shared.web.access import Grant, Principal, Role


class Others:
    """keys and registry by their contract."""

    def __init__(self) -> None:
        self.federation = Federation()
        self.bundle = self.federation.bundle()
        self.away = False
        self.asked: list[str] = []

    def pem(self, name: str) -> str:
        return self.federation.identities[name].certificate.public_bytes(Encoding.PEM).decode()

    def answer(self, request: httpx.Request) -> httpx.Response:
        path = request.url.path
        self.asked.append(path)
        if self.away:
            return httpx.Response(503)
        if path == "/v1/authority":
            pem = self.federation.ca.certificate.public_bytes(Encoding.PEM).decode()
            return httpx.Response(200, json={"certificate_pem": pem, "fingerprint": self.federation.fingerprint})
        if path == "/v1/rounds/rnd_train/record":
            return httpx.Response(200, json=self.bundle.logged.model_dump(mode="json"))
        if path == "/v1/certificates":
            items = [{"keyid": "", "certificate_pem": self.pem(request.url.params["name"])}]
            return httpx.Response(200, json={"items": items, "next": None})
        for name, identity in self.federation.identities.items():
            if path == f"/v1/certificates/{identity.keyid}":
                return httpx.Response(200, json={"certificate_pem": self.pem(name)})
        for version in self.bundle.versions:
            if path == f"/v1/versions/{version.id}":
                return httpx.Response(200, json={**version.model_dump(mode="json"), "federation_id": "fed_1"})
        return httpx.Response(404, json={"type": "urn:undersong:problem:not-found", "detail": "no such thing"})


@pytest.fixture
def others() -> Others:
    return Others()


@pytest.fixture
def auditing(others: Others) -> Auditing:
    http = httpx.AsyncClient(transport=httpx.MockTransport(others.answer), base_url="http://others")
    return Auditing(KeysDirectory(http), Registry(http), lambda: others.federation.identities["coordinator"])


@pytest.mark.parametrize("subject", ["rnd_train", "ver_2"])
async def test_the_evidence_is_a_file_that_verifies(
    small_world: Any, auditing: Auditing, others: Others, subject: str
) -> None:
    small_world.app.state.auditing = auditing
    answer = await small_world.admin.get(f"/v1/evidence/{subject}")
    assert answer.status_code == 200
    assert holds(audit_file(answer.content, others.federation.fingerprint, subject))


async def test_what_there_is_no_evidence_about(small_world: Any, auditing: Auditing, others: Others) -> None:
    assert (await small_world.admin.get("/v1/evidence/rnd_train")).status_code == 503  # starting
    small_world.app.state.auditing = auditing
    for subject, status in (("rnd_other", 404), ("ver_other", 404), ("job_1", 422)):
        assert (await small_world.admin.get(f"/v1/evidence/{subject}")).status_code == status
    assert (await small_world.client().get("/v1/evidence/rnd_train")).status_code == 401
    others.away = True
    assert (await small_world.admin.get("/v1/evidence/rnd_train")).status_code == 503


@pytest.mark.parametrize("subject", ["rnd_train", "ver_2"])
async def test_other_federations_do_not_see_it(auditing: Auditing, others: Others, subject: str) -> None:
    def person(federation: str) -> Principal:
        return Principal("usr_1", "eve", (Grant(Role.AUDITOR, federation),))

    with pytest.raises(Exception, match="no evidence about"):
        await auditing.evidence(person("fed_2"), subject)
    assert len(others.asked) == 1
    assert isinstance(await auditing.evidence(person("fed_1"), subject), Evidence)


async def test_the_page_pins_the_authority_that_the_coordinator_enrolled_with(
    auditing: Auditing, others: Others
) -> None:
    person = Principal("usr_1", "ada", (Grant(Role.AUDITOR, None),))
    verdict = await auditing.verdict(person, "ver_2")
    assert (verdict.round_id, verdict.version_id) == ("rnd_train", "ver_2")
    assert verdict.pinned == others.federation.fingerprint
    assert all(finding.passed for finding in verdict.findings)
    stranger = Federation()
    http = httpx.AsyncClient(transport=httpx.MockTransport(others.answer), base_url="http://others")
    doubtful = Auditing(KeysDirectory(http), Registry(http), lambda: stranger.identities["coordinator"])
    failed = [finding.check for finding in (await doubtful.verdict(person, "ver_2")).findings if not finding.passed]
    assert failed == ["authority"]
