"""Heads of sites' ledgers in the transparency log over REST: signed by their site, idempotent, never hidden."""

import httpx
import pytest

from tests.services.keys.parties import FEDERATION, URL, Federation
from undersong.services.keys import ledger_heads
from undersong.services.keys.wiring import Components
from undersong.shared.ids import Digest
from undersong.shared.transparency.documents import LogEntry
from undersong.shared.transparency.ledger_heads import (
    LedgerHead,
    LedgerHeadInvalid,
    LoggedLedgerHead,
    backward,
    commitment,
    signed_head,
    unlike,
)

SECRET, OTHER = bytes(range(32)), bytes(32)
HASHES = ["0" * 64, *(f"{number:064x}" for number in range(1, 10))]


@pytest.fixture
async def federation(http: httpx.AsyncClient, components: Components) -> Federation:
    return await Federation.enrolled(http, components)


def head_of(federation: Federation, lines: int, who: str = "site_0", secret: bytes = SECRET) -> LedgerHead:
    return signed_head(federation.identities[who], lines, commitment(secret, lines, HASHES[lines]))


async def send(federation: Federation, head: LedgerHead, who: str = "site_0") -> httpx.Response:
    content, headers = head.model_dump_json(), {"content-type": "application/json"}
    auth = federation.auth(who)
    return await federation.http.post(f"{URL}/v1/log/ledger-heads", content=content, headers=headers, auth=auth)


async def heads(federation: Federation, who: str = "site_1", site: str = "site_0", start: int = 0) -> httpx.Response:
    query = f"federation_id={FEDERATION}&site_id={site}&start={start}"
    return await federation.http.get(f"{URL}/v1/log/ledger-heads?{query}", auth=federation.auth(who))


def slug(response: httpx.Response) -> str:
    return str(response.json()["type"]).rpartition(":")[2]


@pytest.mark.both_databases
async def test_a_head_is_logged_once_and_its_signature_can_be_checked_from_the_leaf(federation: Federation) -> None:
    first, second = head_of(federation, 3), head_of(federation, 5)
    answers = [await send(federation, head) for head in (first, first, second, first)]
    assert [answer.status_code for answer in answers] == [201, 200, 201, 200]
    found = [LoggedLedgerHead.model_validate(answer.json()) for answer in answers]
    assert [one.index for one in found] == [8, 8, 9, 8]
    entries = await federation.http.get(f"{URL}/v1/log/entries?start=8&end=10", auth=federation.auth("site_2"))
    for item, head in zip(entries.json()["items"], (first, second), strict=True):
        entry = LogEntry.model_validate(item)
        assert (entry.type, entry.document) == ("ledger-head", head.leaf_document())
        told = LedgerHead.model_validate({name: entry.document[name] for name in LedgerHead.model_fields})
        told.check(federation.identities["site_0"].holder.public_key)
        with pytest.raises(LedgerHeadInvalid):
            told.check(federation.identities["site_1"].holder.public_key)
    listed = (await heads(federation)).json()["items"]
    assert [LoggedLedgerHead.model_validate(one).head for one in listed] == [first, second]
    assert [one["index"] for one in (await heads(federation, start=9)).json()["items"]] == [9]
    assert (await heads(federation, site="site_1")).json()["items"] == []


async def test_what_a_site_did_not_sign_or_says_of_another_is_refused_and_not_logged(federation: Federation) -> None:
    mine = head_of(federation, 3)
    bent = [
        (mine, "site_1", "head-of-another"),
        (mine.model_copy(update={"site_id": "site_1"}), "site_0", "head-of-another"),
        (mine.model_copy(update={"federation_id": "fed_y"}), "site_0", "head-of-another"),
        (mine.model_copy(update={"keyid": Digest("1" * 64)}), "site_0", "head-of-another"),
        (mine.model_copy(update={"lines": 4}), "site_0", "ledger-head-invalid"),
        (mine.model_copy(update={"commitment": Digest("1" * 64)}), "site_0", "ledger-head-invalid"),
        (mine.model_copy(update={"signature": "00" * 64}), "site_0", "ledger-head-invalid"),
        (mine.model_copy(update={"lines": 0}), "site_0", "request-invalid"),
        (mine, "aggregator", "forbidden"),
    ]
    for head, who, code in bent:
        assert slug(await send(federation, head, who)) == code, (head, who)
    assert (await heads(federation)).json()["items"] == []
    assert slug(await federation.http.get(f"{URL}/v1/log/ledger-heads?federation_id=fed_y&site_id=s",
                                          auth=federation.auth("site_0"))) == "forbidden"  # fmt: skip


async def test_a_site_cannot_fill_the_log_with_heads(federation: Federation, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ledger_heads, "MOST_AN_HOUR", 2)
    answers = [await send(federation, head_of(federation, lines)) for lines in (1, 2, 3, 2)]
    assert [answer.status_code for answer in answers] == [201, 201, 429, 200]
    assert (await send(federation, head_of(federation, 3, "site_1"), "site_1")).status_code == 201


async def test_a_ledger_that_went_back_is_shown_to_everyone_and_a_rewritten_one_to_its_holders(
    federation: Federation,
) -> None:
    sent = [head_of(federation, 3), head_of(federation, 7), head_of(federation, 5), head_of(federation, 5, secret=OTHER)]
    for head in sent:
        assert (await send(federation, head)).status_code == 201
    listed = [LoggedLedgerHead.model_validate(one).head for one in (await heads(federation)).json()["items"]]
    assert listed == sent
    back, differ = backward(listed)
    assert "5 lines follows one of 7" in back
    assert "two heads of 5 lines differ" in differ
    assert list(backward(sent[:2])) == []
    assert list(unlike(sent[:3], SECRET, HASHES)) == []
    (short,) = unlike(sent[:2], SECRET, HASHES[:5])
    assert "had 7 lines" in short
    assert "has 4" in short
    edited = [*HASHES[:3], "f" * 64, *HASHES[4:]]
    (rewritten,) = unlike(sent[:1], SECRET, edited)
    assert "first 3 lines are not those" in rewritten
