"""The transparency log over REST: everything is in it, in one order, and a rewritten past is noticed."""

import asyncio
from datetime import timedelta
from urllib.parse import urlencode

import httpx
import msgpack
import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from sqlalchemy import text

from tests.services.keys.parties import SITES, URL, Federation, finished
from undersong.services.keys.appending import append
from undersong.services.keys.log import backfill
from undersong.services.keys.wiring import Components
from undersong.shared.identity.authority import Subject
from undersong.shared.identity.enrol import enrol
from undersong.shared.ids import new_id
from undersong.shared.merkle import proofs as merkle
from undersong.shared.transparency.documents import (
    ConsistencyProof,
    InclusionProof,
    LogEntry,
    LoggedRecord,
    LoggedRecords,
    LogHead,
)
from undersong.shared.transparency.records import (
    LogInvalid,
    RecordInvalid,
    check_certified,
    check_consistency,
    check_head,
    check_inclusion,
    check_own_body,
    check_record,
    signers,
)

REASON = {"reason": "laptop stolen"}


@pytest.fixture
async def federation(http: httpx.AsyncClient, components: Components) -> Federation:
    return await Federation.enrolled(http, components)


def problem(response: httpx.Response) -> str:
    return str(response.json()["type"]).rpartition(":")[2]


async def head(http: httpx.AsyncClient) -> LogHead:
    found = LogHead.model_validate((await http.get("/v1/log/head")).json())
    check_head(found, bytes.fromhex((await http.get("/v1/witness")).json()["public_key"]))
    return found


async def entries(federation: Federation) -> list[LogEntry]:
    url = f"{URL}/v1/log/entries?start=0&end=500"
    response = await federation.http.get(url, auth=federation.auth("site_0"))
    return [LogEntry.model_validate(item) for item in response.json()["items"]]


async def consistency(http: httpx.AsyncClient, first: int, second: int) -> ConsistencyProof:
    response = await http.get(f"/v1/log/proofs/consistency?first={first}&second={second}")
    return ConsistencyProof.model_validate(response.json())


async def test_every_certificate_is_in_the_log_and_provable(federation: Federation, operator) -> None:
    http, lost = federation.http, federation.identities["site_3"].keyid
    before = await head(http)
    assert before.size == 8, "keys, two services, five sites"
    for _ in range(2):
        await http.post(f"/v1/certificates/{lost}/revocations", json=REASON, headers=operator)
    found, after = await entries(federation), await head(http)
    assert [entry.index for entry in found] == list(range(9))
    assert (found[-1].type, found[-1].subject) == ("certificate-revoked", lost)
    assert {entry.subject for entry in found} >= {each.keyid for each in federation.identities.values()}
    assert merkle.root([bytes.fromhex(entry.leaf()) for entry in found]).hex() == after.root
    for size, signed in ((8, before), (9, after)):
        for entry in found[:size]:
            url = f"/v1/log/proofs/inclusion?index={entry.index}&size={size}"
            check_inclusion(entry, InclusionProof.model_validate((await http.get(url)).json()), signed)
    check_consistency(before, after, await consistency(http, 8, 9))


@pytest.mark.both_databases
async def test_appending_at_once_makes_one_line(federation: Federation, components: Components) -> None:
    async def join(number: int) -> None:
        subject = Subject("site", f"more_{number}", "fed_x")
        token = await components.enrolments.create_token(subject, timedelta(days=1))
        assert (await enrol(federation.http, URL, token.token, Ed25519PrivateKey.generate())).subject == subject

    old = await head(federation.http)
    await asyncio.gather(*(join(number) for number in range(20)))
    found, new = await entries(federation), await head(federation.http)
    assert [entry.index for entry in found] == list(range(28))
    assert merkle.root([bytes.fromhex(entry.leaf()) for entry in found]).hex() == new.root
    for size in range(old.size, new.size):
        leaves = [bytes.fromhex(entry.leaf()) for entry in found[:size]]
        between = old.model_copy(update={"size": size, "root": merkle.root(leaves).hex()})
        check_consistency(between, new, await consistency(federation.http, size, new.size))


async def test_a_rewritten_entry_is_noticed(federation: Federation, database) -> None:
    old, kept = await head(federation.http), (await entries(federation))[2]

    async def rewrite(tx) -> None:
        await tx.session.execute(text("DELETE FROM log_nodes"))
        rows = (await tx.session.execute(text('SELECT document FROM log_entries ORDER BY "index"'))).scalars().all()
        await tx.session.execute(text("DELETE FROM log_entries"))

        for number, row in enumerate(rows):
            document = msgpack.unpackb(bytes(row), raw=False)
            if number == 2:
                document["public_key"] = "00" * 32
            await append(tx, document["type"], document["keyid"], document)
        await append(tx, "restored", "9", {"type": "restored", "epoch": 9})

    await database.run("test.rewrite", rewrite)
    new = await head(federation.http)
    proof = await consistency(federation.http, old.size, new.size)
    with pytest.raises(LogInvalid, match="rewritten"):
        check_consistency(old, new, proof)
    url = f"/v1/log/proofs/inclusion?index=2&size={new.size}"
    with pytest.raises(LogInvalid):
        check_inclusion(kept, InclusionProof.model_validate((await federation.http.get(url)).json()), new)
    with pytest.raises(LogInvalid, match="shorter"):
        check_consistency(new, old, None)
    with pytest.raises(LogInvalid, match="two roots"):
        check_consistency(old, old.model_copy(update={"root": new.root}), None)
    with pytest.raises(LogInvalid, match="signature"):
        check_head(new.model_copy(update={"size": new.size + 1}), bytes(32))


async def test_what_happened_before_there_was_a_log_is_put_into_it(federation: Federation, database, operator) -> None:
    keyid = federation.identities["site_3"].keyid
    await federation.http.post(f"/v1/certificates/{keyid}/revocations", json=REASON, headers=operator)

    async def forget(tx) -> None:
        await tx.session.execute(text("DELETE FROM log_nodes"))
        await tx.session.execute(text("DELETE FROM log_entries"))

    await database.run("test.forget", forget)
    assert await backfill(database) == 9
    assert await backfill(database) == 0
    assert len({entry.subject for entry in await entries(federation)}) == 8


async def test_proofs_of_what_is_not_there_are_refused(federation: Federation) -> None:
    http = federation.http
    for query in (
        "inclusion?index=0&size=99", "inclusion?index=8&size=8", "consistency?first=1&second=99",
        "consistency?first=5&second=3",
    ):  # fmt: skip
        assert problem(await http.get(f"/v1/log/proofs/{query}")) == "entry-unknown"
    assert (await http.get("/v1/log/proofs/inclusion?index=-1&size=0")).status_code == 422
    assert (await http.get("/v1/log/entries?start=0&end=9")).status_code == 401
    wide = await http.get(f"{URL}/v1/log/entries?start=0&end=501", auth=federation.auth("site_0"))
    assert problem(wide) == "range-invalid"


async def test_a_record_is_logged_once_and_checks_offline(federation: Federation) -> None:
    attempt = await federation.begin()
    record = await attempt.record()
    first, second = await attempt.post(record), await attempt.post(record)
    assert (first.status_code, second.status_code) == (201, 200), first.text
    other = finished(record.model_copy(update={"sum_digest": "7" * 64}))
    assert problem(await attempt.post(other)) == "record-differs"
    url = f"{URL}/v1/rounds/{attempt.round_id}/record"
    got = LoggedRecord.model_validate((await federation.http.get(url, auth=federation.auth("site_1"))).json())
    assert got.record == record
    check_inclusion(got.record, got.proof, got.head)
    check_head(got.head, attempt.witness_key)
    assert (await entries(federation))[got.index].document == got.record.leaf_document()
    pems = [(await federation.http.get(f"/v1/certificates/{got.head.keyid}")).json()["certificate_pem"]]
    certificates = [each.certificate for each in federation.identities.values()]
    ca = federation.identities["site_0"].ca_certificate
    everyone = [*certificates, *(x509.load_pem_x509_certificate(pem.encode()) for pem in pems)]
    keys = signers(got.record, ca, everyone)
    facts = check_record(got.record, keys.witness, keys.coordinator)
    check_certified(got.record, ca, everyone)
    assert (facts.sites, facts.threshold, facts.committed, len(facts.steps)) == (
        ("site_0", "site_1", "site_2", "site_4"), 4, 4, 5,
    )  # fmt: skip
    check_own_body(got.record, SITES[1], attempt.body(1).hex())
    with pytest.raises(RecordInvalid, match="another update"):
        check_own_body(got.record, SITES[3], attempt.body(3).hex())
    with pytest.raises(RecordInvalid, match="site_2 has no certificate"):
        check_certified(got.record, ca, [each for each in everyone if each != certificates[4]])
    with pytest.raises(RecordInvalid, match="keys"):
        signers(got.record, ca, certificates)


async def test_a_record_is_for_parties_of_its_federation(
    federation: Federation, components: Components, operator
) -> None:
    attempt = await federation.begin()
    url = f"{URL}/v1/rounds/{attempt.round_id}/record"
    assert problem(await federation.http.get(url, auth=federation.auth("site_1"))) == "record-unknown"
    record = await attempt.record()
    assert (await attempt.post(record, who="coordinator")).status_code == 403
    await attempt.post(record)
    assert (await federation.http.get(url)).status_code == 401
    assert (await federation.http.get(url, headers=operator)).status_code == 200
    assert (await federation.http.get(url, auth=federation.auth("coordinator"))).status_code == 200
    with pytest.raises(Exception, match="no record"):
        await federation_log(federation).record(attempt.round_id, "fed_other")


@pytest.mark.both_databases
async def test_records_come_together_under_one_head(federation: Federation) -> None:
    """The published ones, each proved under the same head, and the consistency proof from the reader's last head."""
    logged = []
    for number in range(1, 4):
        attempt = await federation.begin(new_id("rnd"), number=number)
        logged.append(LoggedRecord.model_validate((await attempt.post(await attempt.record())).json()))
    missing = new_id("rnd")
    wanted = [("round_id", one.record.round_id) for one in logged] + [("round_id", missing)]

    async def ask(*asked: tuple[str, str], who: str = "site_1") -> httpx.Response:
        return await federation.http.get(f"{URL}/v1/log/records?{urlencode(asked)}", auth=federation.auth(who))

    seen = logged[0].head
    found = LoggedRecords.model_validate((await ask(*wanted, ("since", str(seen.size)))).json())
    assert [one.record for one in found.items] == [one.record for one in logged]
    assert len({one.head.root for one in found.items}) == 1
    for one in found.items:
        check_inclusion(one.record, one.proof, one.head)
    check_consistency(seen, found.items[0].head, found.consistency)
    size = found.items[0].head.size
    for since in (0, size, size + 1):
        same = LoggedRecords.model_validate((await ask(*wanted, ("since", str(since)))).json())
        assert same.consistency is None
    assert (await federation_log(federation).records([wanted[0][1]], "fed_other")).items == ()
    assert (await federation.http.get(f"/v1/log/records?{urlencode(wanted)}")).status_code == 401
    for bad in ([], wanted * 5, [("round_id", "x")], [*wanted, ("since", "-1")]):
        assert (await ask(*bad)).status_code == 422, bad


def federation_log(federation: Federation):
    return federation.http._transport.app.state.log


BENT = {
    "fewer than the minimum": {"bodies": {"site_0": "0" * 64}, "contributors": 1, "commitments": {}},
    "contributors": {"contributors": 3},
    "transcript": {"transcript": "1" * 64},
    "committed to": {"commitments": {}},
    "needs its survivors": {"survivors": None},
    "needs its roster": {"roster": None},
    "another engine": {"engine": "sealed"},
    "sharers": {"sharers": "01"},
    "lead to the root": {"bodies": dict.fromkeys(("site_0", "site_1", "site_2", "site_4"), "0" * 64)},
    "those of the survivors": {"bodies": dict.fromkeys(("site_0", "site_1", "site_2", "site_3"), "0" * 64)},
    "outside the cohort": {"bodies": dict.fromkeys(("site_0", "site_1", "site_2", "site_9"), "0" * 64)},
    "the survivor set": {"survivors": lambda r: r.survivors.replace(r.survivors[-8:], "00000000")},
    "site_2 did not sign": {
        "upload_signatures": lambda r: {s: v for s, v in r.upload_signatures.items() if s != "site_2"}
    },
    "the update of site_0": {"upload_signatures": lambda r: r.upload_signatures | {"site_0": "00" * 64}},
    "commitment of site_0": {"commitments": lambda r: r.commitments | {"site_0": "00" * 64}},
}


async def test_a_bent_record_is_refused_with_its_reason(federation: Federation) -> None:
    attempt = await federation.begin()
    record = await attempt.record()
    for reason, changes in BENT.items():
        bent = {name: change(record) if callable(change) else change for name, change in changes.items()}
        response = await attempt.post(record.model_copy(update=bent))
        assert (response.status_code, problem(response)) == (403, "record-invalid"), reason
        assert reason in response.json()["detail"]
    assert problem(await attempt.post(record.model_copy(update={"manifest": attempt.signed.model_copy(
        update={"signature": "00" * 64})}))) == "record-invalid"  # fmt: skip
    assert (await attempt.post(record)).status_code == 201


async def test_a_round_without_a_roster_has_a_record_too(federation: Federation) -> None:
    attempt = await federation.begin(new_id("rnd"), engine="sealed", engine_params={})
    record = (await (await federation.begin()).record()).model_copy(
        update={
            "manifest": attempt.signed, "engine": "sealed", "roster": None, "sharers": None, "survivors": None,
            "commitments": {}, "upload_signatures": {},
        }
    )  # fmt: skip
    assert (await attempt.post(finished(record))).status_code == 201
    facts = check_record(
        finished(record),
        bytes(32),
        bytes(federation.identities["coordinator"].private_key.public_key().public_bytes_raw()),
    )
    assert (facts.witnessed, facts.threshold, len(facts.steps)) == (False, None, 3)
