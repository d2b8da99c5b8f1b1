"""Workers that share a round give the sum that one gives, whichever folds what, is late, dies, or comes twice."""

import asyncio
import secrets
import shutil
from collections.abc import Awaitable, Callable, Iterator
from contextlib import nullcontext, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import func, select

from tests.databases import prepare
from tests.effort import examples
from tests.services.aggregator.conftest import Stage, make_manifest, make_update, zeros
from tests.simulation.points import PARTS
from undersong.services.aggregator.contributions.bodies import local_file
from undersong.services.aggregator.contributions.folding import Folding
from undersong.services.aggregator.contributions.part_worker import PartWorker
from undersong.services.aggregator.contributions.partial_sum import PartialSumBroken, new_key, seal, sealed_size, unseal
from undersong.services.aggregator.contributions.parts import RoundHolder, RoundParts, Shared, cut_into_parts
from undersong.services.aggregator.domain.rounds import Form
from undersong.services.aggregator.driver.maintenance import RoundMaintenance
from undersong.services.aggregator.repository.contributions import Contribution, ContributionRepository, NewContribution
from undersong.services.aggregator.repository.parts import Part, PartRepository
from undersong.services.aggregator.repository.rounds import RoundRepository
from undersong.services.aggregator.repository.rows import NewRound
from undersong.services.aggregator.tables import PartRow, common
from undersong.shared import faults
from undersong.shared.blobs import BlobStore
from undersong.shared.database import Database, Transaction
from undersong.shared.errors import Refusal
from undersong.shared.identity.sealing import Sealer
from undersong.shared.ids import Digest, RoundId, SiteId
from undersong.shared.queues import Notifier, Streams
from undersong.shared.secagg.engine import ClientRound
from undersong.shared.secagg.engines import engine_named
from undersong.shared.secagg.fold import BLOCK
from undersong.shared.secagg.payload import train_payload
from undersong.shared.secagg.quantise import TAIL_LENGTH, unpack
from undersong.shared.wire.manifest import ModelRef, SignedManifest

LENGTH, SITES = 40, 24
ANY = Digest("0" * 64)
LEASE_S = 10.0
WORKERS = 2


@dataclass
class SharedRound:
    """One round whose bodies are stored, a worker that holds it, and others; a clock that the test moves."""

    folder: Path
    now: datetime = datetime(2026, 1, 1, tzinfo=UTC)
    claimed: list[tuple[Part, Folding | None]] = field(default_factory=list)
    holder: int = 0

    def __post_init__(self) -> None:
        self.database = Database(f"sqlite+aiosqlite:///{self.folder / 'db'}", common, clock=lambda: self.now)
        self.blobs = BlobStore.open(f"file://{self.folder / 'blobs'}")
        self.sealer = Sealer.ensure(self.folder / "seal.key")
        notifier = Notifier(Streams("redis://127.0.0.1:1"), [])
        self.workers = [
            PartWorker(
                self.database, self.blobs, self.sealer, notifier, worker_id=f"w{at}", lease_s=LEASE_S, look_every_s=1
            )
            for at in range(WORKERS)
        ]
        self.manifest = make_manifest(sites=SITES, model=ModelRef(version_id="ver_a", digest=ANY))
        self.round_id = self.manifest.round_id
        self.good: set[SiteId] = set()
        self.expected = np.zeros(LENGTH + TAIL_LENGTH, np.uint32)
        self.shared: Shared

    async def fill(self, bad: set[int]) -> None:
        """Store a body of each site; those of `bad` cannot be opened."""
        engine = engine_named("sealed")
        opened = engine.server.open(self.manifest)
        secret = self.sealer.seal(opened.secret, "rounds", self.round_id, "engine_secret")
        form, signed = Form(self.expected.size, None), SignedManifest(manifest=self.manifest, keyid=ANY, signature="00")
        until = self.now + timedelta(days=1)
        new = NewRound(signed, self.manifest.digest(), {}, secret, form.length, self.now, until, until)
        await self.database.run("open", lambda tx: RoundRepository(tx).add(new))
        rng = np.random.default_rng(1)
        for at, site in enumerate(self.manifest.cohort):
            delta = rng.normal(size=LENGTH).astype(np.float32)
            payload = train_payload(self.manifest, delta, examples=1, loss=1.0, key=secrets.token_bytes(32))
            words = unpack(bytes(payload.data), 32)
            client_round = ClientRound(self.manifest, site, opened.public)
            body = bytearray(b"".join(bytes(p) for p in engine.client.upload(client_round, b"", None, payload)[1]))
            if at in bad:
                body[-3] ^= 1
            else:
                self.good.add(site)
                self.expected = self.expected + words
            blob = await self.blobs.put(bytes(body))
            await self._accept(NewContribution(self.round_id, site, blob.digest, blob.size, self.now, {}, form))

    async def _accept(self, new: NewContribution) -> None:
        async def work(tx: Transaction) -> None:
            given = ContributionRepository(tx)
            assert await given.add(new)
            assert new.form is not None
            assert await given.count(new.round_id, new.form)

        await self.database.run("add", work)

    async def hold(self) -> None:
        """A new holder claims the round, with nothing in memory, and offers parts of all that is accepted."""
        self.holder += 1
        lease, name = timedelta(seconds=LEASE_S), f"holder{self.holder}"
        self.now += 2 * lease
        stored = await self.database.run("claim", lambda tx: RoundRepository(tx).claim(self.round_id, name, lease))
        assert stored is not None
        assert stored.engine_secret is not None
        self.components = RoundParts(
            self.database, self.blobs, self.sealer, worker_id=name, lease_s=LEASE_S, min_updates=2, min_bytes=0
        )
        secret = self.sealer.open(stored.engine_secret, "rounds", self.round_id, "engine_secret")
        folding = Folding(self.manifest, secret, length=stored.length)
        self.contributions = await self.database.read("c", lambda tx: ContributionRepository(tx).of(self.round_id))
        waiting = folding.missing(self.contributions)
        assert self.components.worth(stored, folding, waiting)
        holder = RoundHolder(stored.fence, folding, self.fold_body, self.renew)
        self.shared = await self.components.offer(stored, holder, waiting)

    async def fold_body(self, contribution: Contribution) -> None:
        async with local_file(self.blobs, contribution.digest) as path:
            self.shared.holder.folding.add(contribution, path)

    async def renew(self) -> None:
        fence = self.shared.holder.fence
        lease = timedelta(seconds=LEASE_S)
        assert await self.database.run("renew", lambda tx: RoundRepository(tx).renew(self.round_id, fence, lease, 0))

    async def pass_lease(self) -> None:
        """Every claim on a part runs out; the holder renews its own."""
        self.now += timedelta(seconds=LEASE_S + 1)
        await self.renew()

    async def claim(self, worker: int) -> None:
        part = await self.workers[worker].claim()
        if part is not None:
            self.claimed.append((part, None))

    async def fold(self, worker: int) -> None:
        self.claimed = [(part, folding or await self.workers[worker].fold(part)) for part, folding in self.claimed]

    async def hand_in(self, worker: int) -> None:
        """All that was folded, also what was submitted before or was claimed from a holder long gone."""
        for part, folding in self.claimed:
            if folding is not None:
                await self.workers[worker].hand_in(part, folding)

    async def give_back(self, worker: int) -> None:
        for part, _ in self.claimed[:1]:
            await self.workers[worker]._give_back(part)

    async def forget(self, _worker: int) -> None:
        self.claimed = self.claimed[1:]

    async def gather(self, _worker: int = 0) -> bool:
        return await self.components.gather(self.shared)

    async def finish(self) -> None:
        """As the holder does: until there are no parts any more, then what is missing from its body."""
        while await self.gather():
            if not self.shared.done:
                await self.pass_lease()
        await self.hand_in(0)  # too late
        for contribution in self.shared.holder.folding.missing(self.contributions):
            with nullcontext() if contribution.site_id in self.good else pytest.raises(Refusal):
                await self.fold_body(contribution)

    async def verify(self) -> None:
        folding = self.shared.holder.folding
        assert {c.site_id for c in self.contributions if c.id in folding.folded} == self.good
        if self.good:
            assert folding.total is not None
            count = folding.total.count
            np.testing.assert_array_equal(folding.opened(), self.expected)
            assert count == len(self.good)
        await self.components.collect()
        assert await self.database.read("n", lambda tx: tx.session.scalar(select(func.count(PartRow.id)))) == 0
        bodies = {c.digest for c in self.contributions}
        assert {blob.digest async for blob in self.blobs.list(timedelta(seconds=-1))} == bodies


@pytest.fixture(scope="module")
def empty(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A migrated database, to be copied."""
    path = tmp_path_factory.mktemp("parts") / "db"
    prepare(f"sqlite+aiosqlite:///{path}", "aggregator")
    return path


def in_a_shared_round(
    empty: Path, story: Callable[[SharedRound], Awaitable[None]], bad: frozenset[int] = frozenset()
) -> None:
    async def run(folder: Path) -> None:
        shared_round = SharedRound(folder)
        try:
            await shared_round.fill(set(bad))
            await shared_round.hold()
            await story(shared_round)
        finally:
            await shared_round.database.close()

    with TemporaryDirectory() as folder:
        shutil.copy(empty, Path(folder) / "db")
        asyncio.run(run(Path(folder)))


STEPS = ("claim", "fold", "hand_in", "give_back", "forget", "gather")


@settings(max_examples=examples(15), deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    steps=st.lists(
        st.tuples(st.sampled_from([*STEPS, "claim", "fold", "hand_in", "pass_lease", "hold"]), st.integers(0, 1)),
        max_size=25,
    ),
    bad=st.frozensets(st.integers(0, SITES - 1), max_size=3),
)
def test_any_split_gives_the_sum_that_one_worker_gives(
    empty: Path, steps: list[tuple[str, int]], bad: frozenset[int]
) -> None:
    """Claims, partial sums that are late or come twice, workers and holders that die, updates that cannot be used."""

    async def story(shared_round: SharedRound) -> None:
        for step, worker in steps:
            await (getattr(shared_round, step)(worker) if step in STEPS else getattr(shared_round, step)())
        await shared_round.finish()
        await shared_round.verify()

    in_a_shared_round(empty, story, bad)


class Killed(BaseException):
    """The process is no more."""


@pytest.mark.parametrize("where", PARTS)
def test_a_death_at_any_step(empty: Path, monkeypatch: pytest.MonkeyPatch, where: str) -> None:
    """The first process at this step dies there, the holder or a worker; what it had claimed stays claimed."""
    died = list[str]()

    def reach(name: str) -> None:
        if name == where and not died:
            died.append(name)
            raise Killed

    async def nothing(*_: Any) -> None:
        return None

    async def story(shared_round: SharedRound) -> None:
        faults.watch(reach)
        with suppress(Killed):
            await shared_round.workers[0].fold_next()
            await shared_round.workers[0].fold_next()
        try:
            await shared_round.gather()
            await shared_round.hold()
        except Killed:
            await shared_round.hold()
        assert died, "the step was never reached"
        await shared_round.finish()
        maintenance = RoundMaintenance(shared_round.database, shared_round.blobs, None, None, None, None)  # type: ignore[arg-type]
        assert await maintenance.clear(timedelta(seconds=-1)) == (where == "aggregator.part.stored")
        await shared_round.verify()

    monkeypatch.setattr(PartWorker, "_give_back", nothing)
    try:
        in_a_shared_round(empty, story)
    finally:
        faults.watch(None)


@pytest.fixture
def counts_one_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    """A holder that forgets what it has added, and does not look."""

    def take_in(self: Folding, ids: set[int], partial: Any) -> None:
        assert self.total is None or partial.shape == self.total.total.shape
        self.total = self.total or self._empty_sum(32, partial.size)
        self.total.merge(partial, len(ids))
        self.folded.update(ids)

    drop, dropped = PartRepository.drop, list[int]()

    async def late(self: PartRepository, ids: tuple[int, ...]) -> None:
        await drop(self, dropped)
        dropped[:] = ids

    async def keep(self: BlobStore, digest: Digest) -> None:
        return None

    monkeypatch.setattr(Folding, "take_in", take_in)
    monkeypatch.setattr(PartRepository, "drop", late)
    monkeypatch.setattr(BlobStore, "delete", keep)


async def one_part_by_another(shared_round: SharedRound) -> None:
    for step in ("claim", "fold", "hand_in"):
        await getattr(shared_round, step)(0)
    await shared_round.finish()
    await shared_round.verify()


def test_one_part_is_folded_by_another(empty: Path) -> None:
    async def story(shared_round: SharedRound) -> None:
        await one_part_by_another(shared_round)
        assert shared_round.shared.by_others == len(cut_into_parts(range(SITES))[0])

    in_a_shared_round(empty, story)


@pytest.mark.usefixtures("counts_one_twice")
def test_a_bug_that_counts_a_part_twice_is_caught(empty: Path) -> None:
    with pytest.raises(AssertionError, match="Arrays are not equal"):
        in_a_shared_round(empty, one_part_by_another)


def test_a_partial_sum_that_was_changed_is_left_and_the_bodies_are_folded(empty: Path) -> None:
    async def story(shared_round: SharedRound) -> None:
        for step in ("claim", "fold", "hand_in"):
            await getattr(shared_round, step)(0)
        bodies = {c.digest for c in shared_round.contributions}
        [digest] = [
            blob.digest async for blob in shared_round.blobs.list(timedelta(seconds=-1)) if blob.digest not in bodies
        ]
        path = shared_round.blobs.path(digest)
        assert path is not None
        data = bytearray(path.read_bytes())
        data[5] ^= 1
        path.write_bytes(data)
        await shared_round.finish()
        await shared_round.verify()
        assert shared_round.shared.by_others == 0

    in_a_shared_round(empty, story)


@pytest.mark.parametrize("bits", [24, 64])
async def test_a_partial_sum_is_sealed_for_one_claim(tmp_path: Path, bits: int) -> None:
    total = np.arange(BLOCK // 4 + 5).astype(np.uint64 if bits == 64 else np.uint32)
    key, path = new_key(), tmp_path / "blob"
    with path.open("wb") as file:
        async for block in seal(total, key, "claim"):
            file.write(block)
    assert path.stat().st_size == sealed_size(total)
    assert total[1000:1100].tobytes() not in path.read_bytes()
    np.testing.assert_array_equal(unseal(path, key, "claim", bits, total.size), total)
    for other in ((new_key(), "claim", total.size), (key, "other", total.size), (key, "claim", total.size - 1)):
        with pytest.raises(PartialSumBroken):
            unseal(path, other[0], other[1], bits, other[2])
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(PartialSumBroken):
        unseal(path, key, "claim", bits, total.size)


@pytest.mark.parametrize("count", [2, 15, 16, 17, 40, 63, 64, 1000])
def test_parts_are_disjoint_and_together_everything(count: int) -> None:
    parts = cut_into_parts(range(count))
    assert [i for part in parts for i in part] == list(range(count))
    assert len(parts) == max(1, min(8, count // 8))
    assert max(map(len, parts)) - min(map(len, parts)) <= 1


@pytest.fixture
def statements() -> Iterator[list[str]]:
    from sqlalchemy import event
    from sqlalchemy.engine import Engine

    seen: list[str] = []

    def look(_connection: Any, _cursor: Any, statement: str, *_rest: Any) -> None:
        seen.append(statement)

    event.listen(Engine, "before_cursor_execute", look)
    yield seen
    event.remove(Engine, "before_cursor_execute", look)


async def test_a_small_round_pays_nothing(quick_stage: Stage, statements: list[str]) -> None:
    """Below the threshold no statement is about parts."""
    stage = quick_stage
    manifest = make_manifest(sites=3, model=stage.registry.seed(zeros(LENGTH)))
    opened = await stage.open(manifest)
    for site in manifest.cohort:
        body = make_update(manifest, opened, site, np.ones(LENGTH))
        assert (await stage.send(manifest.round_id, site, body)).status_code == 201
    statements.clear()
    assert (await stage.drive(RoundId(manifest.round_id)))["state"] == "published"
    assert statements
    assert not [s for s in statements if "parts" in s and "report" not in s]
