"""A site's agent watches a real keys service: certificates in its name, and logs that do not belong together."""

import json
import shutil
import sqlite3
from contextlib import asynccontextmanager, closing
from datetime import timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from fastapi import FastAPI

from tests.databases import prepare
from tests.services.keys.parties import FEDERATION, URL, Federation
from undersong.services.agent.peers.keys import Signatures
from undersong.services.agent.peers.link import Away, Link
from undersong.services.agent.repository.alarms import FOREIGN, FORK, Alarms
from undersong.services.agent.repository.state import AgentState
from undersong.services.agent.transparency import log_watch
from undersong.services.agent.transparency.log_watch import LogWatch, Seen
from undersong.services.keys.settings import KeysSettings
from undersong.services.keys.wiring import Components, assemble, build_app, open_database
from undersong.shared.identity.authority import Identity, Subject, public_bytes
from undersong.shared.identity.directory import CertificateDirectory
from undersong.shared.identity.enrol import enrol, own_keys, rotate
from undersong.shared.ids import Digest
from undersong.shared.merkle import proofs as merkle
from undersong.shared.wire.manifest import LogHead, head_statement

ME = "site_0"


class Site:
    """One site's state and what watches the log for it."""

    def __init__(self, folder: Path, federation: Federation, identity: Identity | None = None) -> None:
        self.folder, self.federation = folder, federation
        self.identity = identity or federation.identities[ME]
        self.identity.save(folder / "identity")
        self.state = AgentState(folder)
        self.watch = self.make_watch()

    def make_watch(self, http: httpx.AsyncClient | None = None) -> LogWatch:
        http = http or self.federation.http
        link = Link(http, URL, "keys", lambda: self.identity)
        signatures = Signatures(CertificateDirectory(http, URL, self.identity.ca_certificate), link)
        party = self.identity.subject.uri
        return LogWatch(self.state, link, signatures, party, lambda: own_keys(self.folder / "identity"))

    @property
    def alarms(self) -> list[str]:
        return [str(entry["kind"]) for entry in Alarms(self.state).listed()]

    @property
    def size(self) -> int:
        return Seen.read(self.state).size


@pytest.fixture
async def federation(http: httpx.AsyncClient, components: Components) -> Federation:
    return await Federation.enrolled(http, components)


@pytest.fixture
def site(tmp_path: Path, federation: Federation) -> Site:
    return Site(tmp_path / "site", federation)


async def certify(components: Components, http: httpx.AsyncClient, name: str) -> Identity:
    """The keys service certifies a fresh key in this site's name, as its operator, or an intruder there, can do."""
    token = await components.enrolments.create_token(Subject("site", name, FEDERATION), timedelta(days=1))
    return await enrol(http, URL, token.token, Ed25519PrivateKey.generate())


async def revoke(http: httpx.AsyncClient, operator: dict[str, str], keyid: str) -> None:
    path, reason = f"/v1/certificates/{keyid}/revocations", {"reason": "the machine was lost"}
    response = await http.post(path, json=reason, headers=operator)
    assert response.is_success, response.text


async def head_of(http: httpx.AsyncClient) -> LogHead:
    return LogHead.model_validate((await http.get("/v1/log/head")).json())


def signed(app: FastAPI, size: int, root: bytes) -> LogHead:
    """A head that the key of keys signed, whatever it says."""
    identity = app.state.witness.identity
    signature = identity.private_key.sign(head_statement(size, root, 1)).hex()
    return LogHead(size=size, root=Digest(root.hex()), timestamp_ms=1, keyid=identity.keyid, signature=signature)


async def test_an_honest_log_raises_nothing_however_its_heads_are_met(
    site: Site, components: Components, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Heads from before, from between and from after a look; page by page; after a restart of the agent."""
    monkeypatch.setattr(log_watch, "PAGE", 2)
    http = site.federation.http
    heads = [await head_of(http)]
    await site.watch.look()
    assert site.size == heads[0].size > 4
    for number in range(5):
        await certify(components, http, f"site_other{number}")
        heads.append(await head_of(http))
    site.watch.meet(heads[0])
    site.watch.meet(heads[2])
    site.watch.meet(None)
    site.watch = site.make_watch()  # what was met is not forgotten
    site.watch.meet(heads[4])
    await site.watch.look()
    site.watch.meet(heads[1])
    site.watch.meet(heads[3])
    await site.watch.look()
    assert site.size == heads[-1].size
    assert (site.alarms, site.state.heads_met()) == ([], [])


async def test_a_key_that_is_not_its_own_in_its_name_is_an_alarm(
    site: Site, components: Components, operator: dict[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    await site.watch.look()
    await certify(components, site.federation.http, "site_1")
    await site.watch.look()
    assert site.alarms == []
    foreign = await certify(components, site.federation.http, ME)
    for _ in range(2):
        await site.watch.look()
    (alarm,) = Alarms(site.state).listed()
    assert alarm["kind"] == FOREIGN
    assert foreign.keyid in alarm["detail"]
    assert Alarms(site.state).told()[0].kind == FOREIGN
    assert "".join(capsys.readouterr()).count("site.alarm") == 1
    assert Alarms(site.state).clear() == 1
    await site.watch.look()
    assert site.alarms == [FOREIGN], "it is still certified, so it is found again"
    await revoke(site.federation.http, operator, foreign.keyid)
    await site.watch.look()
    assert site.alarms == [FOREIGN], "it was there, and only a person can say why"
    Alarms(site.state).clear()
    await site.watch.look()
    assert site.alarms == []


async def test_accepting_the_log_while_it_is_read_ends_that_reading(
    site: Site, components: Components, app: FastAPI
) -> None:
    """The owner accepts in another process: what the running look read before then is stored nowhere."""
    http = site.federation.http
    await site.watch.look()
    foreign = signed(app, 1, b"\1" * 32)
    await certify(components, http, ME)
    await site.watch.look()
    site.watch.meet(foreign)
    await site.watch.look()
    assert site.alarms == [FOREIGN, FORK]

    async def accept(response: httpx.Response) -> None:
        if response.request.url.path == "/v1/log/head":
            Alarms(site.state).clear()

    http.event_hooks["response"] = [accept]
    await site.watch.look()
    assert (site.alarms, site.size, site.state.heads_met()) == ([], 0, [])
    await site.watch.look()
    assert (site.alarms, site.size) == ([], 0), "one that finds no fault keeps nothing either"
    http.event_hooks["response"] = []
    await site.watch.look()
    assert (site.alarms, site.size) == ([FOREIGN], (await head_of(http)).size)


async def test_its_own_new_keys_are_no_alarm(site: Site) -> None:
    await site.watch.look()
    for _ in range(3):  # more often than the watch looks
        site.identity = await rotate(site.federation.http, URL, site.identity, site.folder / "identity")
    await site.watch.look()
    assert site.alarms == []
    assert public_bytes(site.identity.private_key.public_key()).hex() in own_keys(site.folder / "identity")


@pytest.mark.parametrize("revoked", [True, False])
async def test_a_site_that_enrolled_anew_is_told_of_an_older_certificate_that_still_holds(
    site: Site, tmp_path: Path, components: Components, operator: dict[str, str], revoked: bool
) -> None:
    old = site.identity.keyid
    if revoked:
        await revoke(site.federation.http, operator, old)
    again = Site(tmp_path / "again", site.federation, await certify(components, site.federation.http, ME))
    await again.watch.look()
    assert again.alarms == ([] if revoked else [FOREIGN])


@pytest.mark.parametrize("change", ["root", "longer", "signature"])
async def test_a_manifests_head_of_another_log_is_an_alarm(site: Site, app: FastAPI, change: str) -> None:
    """The coordinator was shown another log than this site, or none that the keys service signed for."""
    await site.watch.look()
    head = await head_of(site.federation.http)
    other = merkle.root([merkle.leaf_hash(bytes([index])) for index in range(head.size)])
    shown = {
        "root": signed(app, head.size - 1, other),
        "longer": signed(app, head.size + 5, other),
        "signature": head.model_copy(update={"root": Digest(other.hex())}),
    }
    site.watch.meet(shown[change])
    for _ in range(2):
        await site.watch.look()
    assert site.alarms == [FORK]


@pytest.mark.parametrize("what", ["document", "missing", "order"])
async def test_entries_that_are_not_those_under_the_root_are_an_alarm(site: Site, app: FastAPI, what: str) -> None:
    """The keys service shows this site a certificate that is not in its log, or hides one."""

    class Bending(httpx.ASGITransport):
        async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
            response = await super().handle_async_request(request)
            if request.url.path != "/v1/log/entries":
                return response
            items: list[Any] = json.loads(await response.aread())["items"]
            if what == "document":
                items[3]["document"]["not_after"] = "2099-01-01T00:00:00+00:00"
            elif what == "missing":
                items.pop(2)
            else:
                items[2], items[3] = items[3], items[2]
            return httpx.Response(200, stream=httpx.ByteStream(json.dumps({"items": items}).encode()))

    async with httpx.AsyncClient(transport=Bending(app), base_url=URL) as http:
        await site.make_watch(http).look()
    assert site.alarms == [FORK]
    assert site.size == 0, "nothing of it is believed"


async def test_a_proof_that_keys_does_not_give_is_an_alarm_and_a_service_that_is_away_is_none(
    site: Site, app: FastAPI, components: Components
) -> None:
    old = await head_of(site.federation.http)
    await certify(components, site.federation.http, "site_other")
    await site.watch.look()
    status = 503

    class Refusing(httpx.ASGITransport):
        async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
            if request.url.path == "/v1/log/proofs/consistency":
                return httpx.Response(status, stream=httpx.ByteStream(b"{}"))
            return await super().handle_async_request(request)

    async with httpx.AsyncClient(transport=Refusing(app), base_url=URL) as http:
        watch = site.make_watch(http)
        watch.meet(old)
        with pytest.raises(Away):
            await watch.look()
        assert site.alarms == []
        status = 404
        await watch.look()
    assert site.alarms == [FORK]


@asynccontextmanager
async def running(settings: KeysSettings, identities: dict[str, Identity] | None = None):
    """The service from its start to its end."""
    app = build_app(settings)
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url=URL) as http,
    ):
        database = open_database(settings)
        components = await assemble(settings, database)
        found = Federation(http, identities) if identities else await Federation.enrolled(http, components)
        yield found, components
        await database.close()


@pytest.mark.parametrize("entries", [0, 1, 4])
async def test_a_log_that_was_put_back_and_went_on_otherwise_is_an_alarm_until_it_is_accepted(
    sqlite_url: str, tmp_path: Path, entries: int
) -> None:
    """Shorter, as long, and longer than what this site has read."""
    prepare(sqlite_url, "keys")
    settings = KeysSettings(database_url=sqlite_url, data_dir=tmp_path / "data")
    file, copy = tmp_path / "test.sqlite", tmp_path / "copy.sqlite"
    async with running(settings) as (federation, components):
        with closing(sqlite3.connect(file)) as source, closing(sqlite3.connect(copy)) as target:
            source.backup(target)
        await certify(components, federation.http, "site_later")
        await certify(components, federation.http, "site_latest")
        site = Site(tmp_path / "site", federation)
        await site.watch.look()
        read = site.size
    for part in ("test.sqlite-wal", "test.sqlite-shm"):
        (tmp_path / part).unlink(missing_ok=True)
    shutil.copy(copy, file)
    async with running(settings, federation.identities) as (again, components):
        for number in range(entries):
            await certify(components, again.http, f"site_else{number}")
        site.federation = again
        site.watch = site.make_watch()
        assert (await head_of(again.http)).size == read - 2 + entries + 1, "the log says that it was restored"
        for _ in range(2):
            await site.watch.look()
        assert site.alarms == [FORK]
        assert site.size == read
        assert Alarms(site.state).clear() == 1
        await site.watch.look()
        assert site.alarms == []
        assert site.size == (await head_of(again.http)).size
