"""A crash at every boundary of a round: the next process ends it with the same bytes, once.

A crash is simulated at each outside effect (transaction, blob, registry call), before it and after it: from there on
everything of that process raises, a new process starts over the same database, disk and registry.
"""

import asyncio
import os
import time
from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import Any

import numpy as np
import pytest
from sqlalchemy import update

from tests.services.aggregator.conftest import Stage, committed, zeros
from undersong.services.aggregator.domain.rounds import Phase, Reason
from undersong.services.aggregator.driver.driver import MAX_FAILURES
from undersong.services.aggregator.driver.publication import RoundLost
from undersong.services.aggregator.tables import RoundRow
from undersong.shared.database import Transaction
from undersong.shared.ids import RoundId
from undersong.shared.learning.tensors import load
from undersong.shared.secagg.compression import Compressor
from undersong.shared.secagg.engine import Payload
from undersong.shared.secagg.quantise import pack, plan_encoding
from undersong.shared.wire.compression import Compression
from undersong.shared.wire.manifest import RoundKind, RoundManifest, StrategyRef

LENGTH = 50


class Killed(BaseException):
    """The process is no more."""


class Death:
    """Lets `after` outside effects happen, and then no other; `late`: dies when the last one has happened."""

    def __init__(self, after: int, *, late: bool) -> None:
        self.left, self.late, self.dead = after, late, False

    def stalk(self, owner: Any, name: str) -> None:
        """Watch over one method."""
        method: Callable[..., Awaitable[Any]] = getattr(owner, name)

        async def watched(*arguments: Any, **named: Any) -> Any:
            if self.dead or (self.left == 0 and not self.late):
                self.dead = True
                raise Killed
            result = await method(*arguments, **named)
            if self.left == 0 or self.dead:
                self.dead = True
                raise Killed
            self.left -= 1
            return result

        setattr(owner, name, watched)


class MortalDatabase:
    """The stage's database as one process sees it."""

    def __init__(self, real: Any) -> None:
        self._real = real

    async def run(self, name: str, work: Any) -> Any:
        return await self._real.run(name, work)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._real, name)


def mortal(stage: Stage, death: Death) -> None:
    """Make this process die as told."""
    database: Any = MortalDatabase(stage.database)
    driver: Any = stage.driver
    publication = driver._publication
    stage.components.updates._database = database
    for part in (driver, publication, stage.components.rounds):
        part._database = database
    death.stalk(database, "run")
    death.stalk(stage.components.blobs, "put")
    death.stalk(stage.components.blobs, "put_stream")
    death.stalk(publication._registry, "put_content")
    death.stalk(publication._registry, "post_version")


async def expire_leases(stage: Stage) -> None:
    """As if a dead worker's time had run out."""

    async def work(tx: Transaction) -> None:
        await tx.session.execute(update(RoundRow).values(worker_until=None))

    await stage.database.run("test.expire", work)


async def collected(stage: Stage, **changes: Any) -> RoundManifest:
    """A train round with all its updates in, always the same ones."""
    stage.registry.blobs.setdefault("model", zeros(LENGTH))
    model = stage.registry.seed(stage.registry.blobs["model"])
    manifest = stage.manifest(model=model, strategy=StrategyRef(name="fedadam"), **changes)
    opened = await stage.open(manifest)
    for at, site in enumerate(manifest.cohort):
        body = stage.update(manifest, opened, site, np.arange(LENGTH) / (at + 9), key=bytes([at]) * 32)
        assert (await stage.send(manifest.round_id, site, body)).status_code == 201
    return manifest


async def drive_to_death(stage: Stage, round_id: str) -> bool:
    """Whether it ended before it died."""
    try:
        await stage.driver.drive(RoundId(round_id))
    except Killed:
        return False
    return True


@pytest.mark.parametrize("late", [False, True], ids=["before", "after"])
async def test_a_worker_killed_at_every_boundary(quick_stage: Stage, *, late: bool) -> None:
    stage = quick_stage
    reference = await stage.drive((await collected(stage)).round_id)
    assert reference["state"] == "published"
    for boundary in range(40):
        stage.restart()
        versions = len(stage.registry.published())
        manifest = await collected(stage)
        mortal(stage, Death(boundary, late=late))
        finished = await drive_to_death(stage, manifest.round_id)
        stage.restart()
        await expire_leases(stage)
        found = await stage.drive(manifest.round_id)
        assert found["state"] == "published", (boundary, found)
        assert found["result"]["digest"] == reference["result"]["digest"], boundary
        assert len(stage.registry.published()) == versions + 1, boundary
        if finished:
            break
    assert boundary >= 7
    assert finished


@pytest.mark.parametrize("late", [False, True], ids=["before", "after"])
async def test_an_api_killed_at_every_boundary_of_an_upload(quick_stage: Stage, *, late: bool) -> None:
    """No acknowledged update is lost and none counts twice."""
    stage = quick_stage
    for boundary in range(2):
        manifest = stage.manifest(RoundKind.STATISTICS, sites=1)
        opened, site = await stage.open(manifest), manifest.cohort[0]
        body = stage.sums(manifest, opened, site, np.ones(3))
        stage.restart()
        mortal(stage, Death(boundary, late=late))
        with pytest.raises(Killed):
            await stage.send(manifest.round_id, site, body)
        stage.restart()
        assert (await stage.send(manifest.round_id, site, body)).status_code in (200, 201)
        found = await stage.drive(manifest.round_id)
        assert (found["got"], found["result"]["values"]) == (1, [1.0, 1.0, 1.0])


async def test_a_round_of_compressed_updates_moves_what_was_sent(stage: Stage) -> None:
    """Only the drawn parameters move, each by the mean of its changes; an update that is sent whole is rejected."""
    compression = Compression(keep=0.2, rotation=True, error_feedback=True)
    encoding = plan_encoding(summands=3, max_weight=1, clip_norm=60.0, bound_value=None, modulus_bits=32)
    model = stage.registry.seed(zeros(LENGTH))
    manifest = stage.manifest(model=model, compression=compression, encoding=encoding)
    opened, compressor = await stage.open(manifest), Compressor.of(manifest, LENGTH, LENGTH)
    changes = [np.arange(LENGTH, dtype=np.float32) / (at + 9) for at in range(2)]
    for site, change in zip(manifest.cohort, changes, strict=False):
        body = stage.update(manifest, opened, site, compressor.compress(change))
        assert (await stage.send(manifest.round_id, site, body)).status_code == 201
    whole = stage.update(manifest, opened, manifest.cohort[2], changes[0])
    assert (await stage.send(manifest.round_id, manifest.cohort[2], whole)).status_code == 201, "as long as none knows"
    found = await stage.drive(manifest.round_id)
    assert (found["state"], found["result"]["count"]) == ("published", 2)
    assert found["result"]["vector_length"] == LENGTH
    assert stage.registry.published()[-1]["lineage"]["compression"] == compression.model_dump(mode="json")
    (moved,) = load(stage.registry.blobs[found["result"]["digest"]]).tensors.values()
    assert compressor.chosen is not None
    expected = np.zeros(LENGTH)
    expected[compressor.chosen] = np.mean(changes, 0)[compressor.chosen]
    assert moved.reshape(-1) == pytest.approx(expected, abs=1e-4)


async def test_two_workers_never_both_finish(stage: Stage) -> None:
    """A worker that was paused past its lease finds another's fence and drops what it had."""
    manifest = await collected(stage)
    round_id = RoundId(manifest.round_id)
    first = await stage.driver.claim(round_id)
    assert first is not None
    slow_view = await stage.components.rounds.view(round_id)
    with stage.notifier.listen(round_id) as subscription:
        await stage.driver.fold(first, slow_view, subscription)
    slow: Any = stage.driver
    stage.restart()
    assert await stage.driver.claim(round_id) is None
    await expire_leases(stage)
    found = await stage.drive(round_id)
    assert found["state"] == "published"
    with pytest.raises(RoundLost):
        await slow.conclude(first, slow_view.stored)
    assert len(stage.registry.published()) == 1


async def test_a_lost_registry_answer_gives_one_version(stage: Stage) -> None:
    manifest = await collected(stage)
    stage.registry.lose_answers = 1
    found = await stage.drive(manifest.round_id)
    assert found["state"] == "published"
    assert [v["id"] for v in stage.registry.published()] == [found["result"]["version_id"]]


async def test_a_registry_that_comes_back(quick_stage: Stage) -> None:
    """While the registry is away the round stays checked; when it is back the round is published."""
    stage = quick_stage
    manifest = await collected(stage)
    round_id = RoundId(manifest.round_id)
    stage.registry.refuse_writes = True
    assert stage.driver.wake(round_id)
    while (await stage.state(round_id))["state"] != "checked":  # noqa: ASYNC110  (seen from outside)
        await asyncio.sleep(0.01)
    stage.registry.refuse_writes = False
    await asyncio.gather(*stage.driver._driving.values())
    assert (await stage.state(round_id))["state"] == "published"
    assert len(stage.registry.published()) == 1


async def test_a_registry_that_refuses_fails_the_round(stage: Stage) -> None:
    manifest = await collected(stage)
    stage.registry.refuses = True
    found = await stage.drive(manifest.round_id)
    assert (found["state"], found["reason"]) == ("failed", "registry-refused")


async def test_a_lost_model_file_is_made_again(quick_stage: Stage) -> None:
    stage = quick_stage
    reference = (await stage.drive((await collected(stage)).round_id))["result"]["digest"]
    manifest = await collected(stage)
    death = Death(0, late=False)
    driver: Any = stage.driver
    death.stalk(driver._publication._registry, "put_content")
    with pytest.raises(Killed):
        await stage.driver.drive(RoundId(manifest.round_id))
    stored = (await stage.components.rounds.view(manifest.round_id)).stored
    assert stored.round.phase is Phase.CHECKED
    await stage.components.blobs.delete(reference)
    stage.restart()
    await expire_leases(stage)
    assert (await stage.drive(manifest.round_id))["result"]["digest"] == reference


def spoiled(body: bytes) -> bytes:
    return body[:-1] + bytes([body[-1] ^ 1])


async def test_a_body_that_cannot_be_opened_is_named_and_does_not_count(stage: Stage) -> None:
    manifest = stage.manifest(RoundKind.STATISTICS)
    opened = await stage.open(manifest)
    for at, site in enumerate(manifest.cohort):
        body = stage.sums(manifest, opened, site, np.full(4, 10.0**at))
        body = spoiled(body) if at == 1 else body
        assert (await stage.send(manifest.round_id, site, body)).status_code == 201
    found = await stage.drive(manifest.round_id)
    assert (found["state"], found["got"], found["result"]["values"]) == ("published", 2, [101.0] * 4)
    assert [(r["site_id"], r["code"]) for r in found["rejections"]] == [(manifest.cohort[1], "update-unusable")]
    again = await stage.send(manifest.round_id, manifest.cohort[1], body := spoiled(body))
    assert again.status_code == 409


async def test_a_body_out_of_range_is_named(stage: Stage) -> None:
    """One site sends coordinates, another a weight, that its encoding does not allow."""
    manifest = stage.manifest(model=stage.registry.seed(zeros(4)), sites=4)
    opened = await stage.open(manifest)
    encoding = manifest.encoding
    assert encoding is not None
    for at, site in enumerate(manifest.cohort):
        ring = np.zeros(4 + 18, np.uint32)
        ring[4] = 200 if at == 1 else 1
        ring[0] = 2**31 - 5 if at == 2 else 0
        samples = committed(manifest, site)
        payload = Payload(RoundKind.TRAIN, ring.size, 32, pack(ring, 32), samples=samples)
        body = stage.body(manifest, opened, site, payload)
        if at in (0, 3):
            body = stage.update(manifest, opened, site, np.ones(4))
        assert (await stage.send(manifest.round_id, site, body)).status_code == 201
    found = await stage.drive(manifest.round_id)
    assert [r["code"] for r in found["rejections"]] == ["out-of-range", "out-of-range"]
    assert (found["state"], found["result"]["count"]) == ("published", 2)
    np.testing.assert_allclose(load(stage.registry.blobs[found["result"]["digest"]]).tensors["w"], 1, atol=1e-5)


async def test_when_too_few_bodies_open_the_round_fails(stage: Stage) -> None:
    manifest = stage.manifest(RoundKind.STATISTICS, sites=2)
    opened = await stage.open(manifest)
    for site in manifest.cohort:
        await stage.send(manifest.round_id, site, spoiled(stage.sums(manifest, opened, site, np.ones(4))))
    found = await stage.drive(manifest.round_id)
    assert (found["state"], found["reason"], found["result"]) == ("failed", "quorum", None)


async def test_updates_that_do_not_fit_the_model_are_rejected(stage: Stage) -> None:
    """The first update cannot say how long the others must be: the model does."""
    manifest = stage.manifest(model=stage.registry.seed(zeros(4)))
    opened = await stage.open(manifest)
    site = manifest.cohort[0]
    answer = await stage.send(manifest.round_id, site, stage.update(manifest, opened, site, np.ones(9)))
    assert answer.status_code == 201  # it was not known yet
    await stage.post(manifest.round_id, "close")
    found = await stage.state(manifest.round_id)
    assert (found["state"], found["reason"]) == ("failed", "quorum")


async def test_a_wiped_redis_and_a_deadline_are_swept_up(stage: Stage) -> None:
    """No hint at all arrives: the sweeper alone ends the round."""
    manifest = stage.manifest(RoundKind.STATISTICS, deadline_s=1.0)
    opened = await stage.open(manifest)
    for site in manifest.cohort[:2]:
        assert (await stage.send(manifest.round_id, site, stage.sums(manifest, opened, site, np.ones(2)))).is_success

    async def past(tx: Transaction) -> None:
        await tx.session.execute(update(RoundRow).values(deadline=RoundRow.opened_at))

    await stage.database.run("test.past", past)
    assert await stage.maintenance.enforce() == 1
    while stage.driver._driving:
        await next(iter(stage.driver._driving.values()))
    assert (await stage.state(manifest.round_id))["result"]["values"] == [2.0, 2.0]
    assert await stage.maintenance.attend() == 0


async def test_a_round_that_always_stumbles_is_given_up(quick_stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    stage = quick_stage
    manifest = await collected(stage)

    def stumble(*_: Any) -> None:
        raise RuntimeError("no")

    monkeypatch.setattr("undersong.services.aggregator.driver.driver.conclude", stumble)
    for _ in range(MAX_FAILURES):
        assert (await stage.drive(manifest.round_id))["state"] == "aggregating"
    found = await stage.drive(manifest.round_id)
    assert (found["state"], found["reason"]) == ("failed", Reason.GAVE_UP)


async def test_unused_blobs_are_cleared(stage: Stage) -> None:
    manifest = await collected(stage)
    orphan = (await stage.components.blobs.put(b"orphan")).digest
    assert await stage.maintenance.clear(timedelta(0)) == 1
    path = stage.components.blobs.path(orphan)
    assert path is not None
    assert not path.exists()
    assert (await stage.drive(manifest.round_id))["state"] == "published"


async def test_what_kills_left_is_cleared_at_every_start_of_a_worker(stage: Stage) -> None:
    """Half-written and unknown files go at once when a worker starts, however often it is killed in between."""
    orphan = stage.components.blobs.path((await stage.components.blobs.put(b"orphan")).digest)
    assert orphan is not None
    half = next(folder for folder in orphan.parents if (folder / "incoming").is_dir()) / "incoming" / "half"
    half.write_bytes(b"x")
    past = time.time() - 7200
    for path in (half, orphan):
        os.utime(path, (past, past))
    assert await stage.maintenance.tidy(timedelta(hours=1)) == 2
    assert not half.exists()
    assert not orphan.exists()
    assert await stage.maintenance.tidy(timedelta(hours=1)) == 0
