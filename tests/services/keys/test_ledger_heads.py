"""Heads of sites' ledgers in the transparency log over REST: signed by their site, idempotent, never hidden."""

import asyncio
import shutil
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.services.agent.ledgers import Site, budget, gaussian, private
from tests.services.keys.parties import FEDERATION, URL, Federation
from undersong.services.agent.domain.rules import TaskFailure
from undersong.services.agent.ledger.accounts import checked, exported
from undersong.services.agent.ledger.adoption import adopt
from undersong.services.agent.ledger.book import Ledger
from undersong.services.agent.ledger.heads import HeadCommitter, LoggedHeads
from undersong.services.agent.peers.keys import Signatures
from undersong.services.agent.peers.link import Away, Call, Link
from undersong.services.agent.repository.alarms import Alarms
from undersong.services.agent.transparency.log_watch import LogWatch
from undersong.services.keys import ledger_heads
from undersong.services.keys.wiring import Components
from undersong.shared.identity.directory import CertificateDirectory
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
        told.check(federation.identities["site_0"].holder)
        with pytest.raises(LedgerHeadInvalid):
            told.check(federation.identities["site_1"].holder)
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
    sent = [
        head_of(federation, 3),
        head_of(federation, 7),
        head_of(federation, 5),
        head_of(federation, 5, secret=OTHER),
    ]
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


class Owner:
    """A site's real ledger, what commits its heads, and what compares them, against a real keys service."""

    def __init__(self, folder: Path, federation: Federation) -> None:
        self.folder, self.federation, self.identity = folder, federation, federation.identities["site_0"]
        folder.mkdir(parents=True, exist_ok=True)
        self.start()

    def start(self, http: httpx.AsyncClient | None = None) -> None:
        """Open everything as an agent does at its start."""
        http = http or self.federation.http
        self.site = Site(self.folder)
        self.link = Link(http, URL, "keys", lambda: self.identity)
        signatures = Signatures(CertificateDirectory(http, URL, self.identity.ca_certificate), self.link)
        self.committer = HeadCommitter(self.ledger, self.link, lambda: self.identity, 1.0)
        logged, party = LoggedHeads(self.ledger, signatures), self.identity.subject.uri
        self.watch = LogWatch(self.site.state, self.link, signatures, party, frozenset, ledger_heads=logged.check)

    @property
    def ledger(self) -> Ledger:
        return self.site.ledger

    @property
    def fault(self) -> str | None:
        return self.ledger.look()[1]

    async def charge(self, *numbers: int) -> None:
        for number in numbers:
            manifest = private(number, rounds=9)
            await asyncio.to_thread(self.ledger.charge, manifest, manifest.digest(), gaussian(), budget(9.0))

    def put_back(self, copy: Path) -> None:
        """Put a snapshot of the whole machine back: state and mark together."""
        self.site.stop()
        shutil.rmtree(self.folder)
        shutil.copytree(copy, self.folder)
        self.start()

    def snapshot(self, to: Path) -> Path:
        self.site.stop()
        shutil.copytree(self.folder, to)
        self.start()
        return to


@pytest.fixture
def owner(tmp_path: Path, federation: Federation) -> Iterator[Owner]:
    made = Owner(tmp_path / "site", federation)
    yield made
    made.site.stop()


async def lines_in_log(federation: Federation) -> list[int]:
    return [one["head"]["lines"] for one in (await heads(federation)).json()["items"]]


async def test_a_head_is_committed_after_charges_only_and_again_after_a_crash(owner: Owner) -> None:
    assert not await owner.committer.commit()
    await owner.charge(1, 2)
    await owner.link.once(Call.json("POST", "/v1/log/ledger-heads", _head_now(owner)))  # killed before it is noted
    owner.site.stop()
    owner.start()
    assert await owner.committer.commit()
    assert not await owner.committer.commit()
    await owner.charge(3)
    assert await owner.committer.commit()
    assert await lines_in_log(owner.federation) == [2, 3]
    await owner.watch.look()
    assert owner.fault is None
    shown = exported(owner.ledger.lines(), None, [], owner.ledger.secret())
    logged = [LoggedLedgerHead.model_validate(one).head for one in (await heads(owner.federation)).json()["items"]]
    assert list(unlike(logged, bytes.fromhex(shown["head_secret"]), checked(shown).hashes)) == []


def _head_now(owner: Owner) -> dict[str, object]:
    due = owner.ledger.uncommitted()
    assert due is not None
    return signed_head(owner.identity, *due).model_dump(mode="json")


async def test_a_snapshot_of_the_whole_machine_shows_by_the_heads_in_the_log(owner: Owner, tmp_path: Path) -> None:
    await owner.charge(1)
    assert await owner.committer.commit()
    copy = owner.snapshot(tmp_path / "copy")
    await owner.charge(2, 3)
    assert await owner.committer.commit()
    owner.put_back(copy)
    assert owner.fault is None, "database and mark agree"
    await owner.watch.look()
    assert owner.fault is not None
    assert "had 3 lines by a head in the log, and has 1" in owner.fault
    with pytest.raises(TaskFailure) as refused:
        await owner.charge(4)
    assert refused.value.code == "ledger-damaged"
    assert not await owner.committer.commit(), "a damaged ledger commits to nothing"
    (note,) = adopt(owner.ledger, "the machine was put back", tmp_path / "aside.json")[:1]
    assert "had 3 lines" in note.reason
    assert owner.fault is None
    await owner.charge(5, 6, 7)
    Alarms(owner.site.state).clear()  # reads the whole log again: the heads of before are explained
    await owner.watch.look()
    assert owner.fault is None
    assert await owner.committer.commit()
    assert list(backward([LoggedLedgerHead.model_validate(one).head
                          for one in (await heads(owner.federation)).json()["items"]])) == []  # fmt: skip


async def test_a_ledger_that_grew_past_the_logged_head_after_a_snapshot_is_seen_as_rewritten(
    owner: Owner, tmp_path: Path
) -> None:
    await owner.charge(1)
    assert await owner.committer.commit()
    copy = owner.snapshot(tmp_path / "copy")
    await owner.charge(2, 3)
    assert await owner.committer.commit()
    owner.put_back(copy)
    await owner.charge(4, 5, 6)  # before the log is read
    await owner.watch.look()
    assert owner.fault is not None
    assert "its first 3 lines are not those of a head in the log" in owner.fault


async def test_a_site_that_begins_anew_is_told_of_the_ledger_that_it_had(owner: Owner, tmp_path: Path) -> None:
    await owner.charge(1, 2)
    assert await owner.committer.commit()
    owner.put_back(_empty(tmp_path))
    assert owner.fault is None
    await owner.watch.look()
    assert owner.fault is not None
    assert "had 2 lines by a head in the log, and has 0" in owner.fault


def _empty(tmp_path: Path) -> Path:
    (tmp_path / "empty").mkdir()
    return tmp_path / "empty"


async def test_an_adoption_by_the_mark_explains_the_heads_that_the_log_shows_later(
    owner: Owner, tmp_path: Path
) -> None:
    await owner.charge(1)
    assert await owner.committer.commit()
    copy = owner.snapshot(tmp_path / "copy")
    await owner.charge(2, 3)
    assert await owner.committer.commit()
    mark = (owner.folder / "high-water.ledger").read_bytes()
    owner.put_back(copy)
    (owner.folder / "high-water.ledger").write_bytes(mark)  # the mark lies on another disk
    assert owner.fault is not None
    adopt(owner.ledger, "the state was put back", tmp_path / "aside.json")
    await owner.watch.look()
    assert owner.fault is None


async def test_a_head_that_this_site_never_signed_damages_nothing(owner: Owner, federation: Federation) -> None:
    await owner.charge(1)
    forged = head_of(federation, 9).model_copy(update={"signature": "00" * 64}).leaf_document()
    other = {**head_of(federation, 9, "site_1").leaf_document(), "site_id": "site_0"}
    checking = LoggedHeads(owner.ledger, Signatures(CertificateDirectory(federation.http, URL,
                           owner.identity.ca_certificate), owner.link))  # fmt: skip
    await checking.check([forged, other, {"type": "ledger-head"}, {**forged, "keyid": "0" * 64}])
    assert owner.fault is None


async def test_a_keys_service_that_is_away_holds_nothing_up(owner: Owner) -> None:
    async def away(request: httpx.Request) -> httpx.Response:
        raise httpx.ConnectError("away", request=request)

    await owner.charge(1)
    owner.site.stop()
    async with httpx.AsyncClient(transport=httpx.MockTransport(away)) as http:
        owner.start(http)
        running = asyncio.create_task(owner.committer.run())
        await owner.charge(2)
        with pytest.raises(Away):
            await owner.committer.commit()
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
    owner.site.stop()
    owner.start()
    assert await owner.committer.commit()
    assert await lines_in_log(owner.federation) == [2]
