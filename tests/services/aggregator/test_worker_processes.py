"""Real processes: one api, and workers that are killed with updates half folded."""

# ruff: noqa: F811  (fixtures are imported by their names)

import asyncio
import os
import secrets
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sqlalchemy import select

from tests.services.aggregator.conftest import make_manifest, make_update, zeros
from tests.services.aggregator.processes import (  # noqa: F401  (fixtures)
    Enrolled,
    Outside,
    Start,
    enrolled,
    process,
    registry,
    until,
)
from undersong.services.aggregator.settings import AggregatorSettings
from undersong.services.aggregator.tables import PartRow
from undersong.services.aggregator.wiring import open_database
from undersong.shared.database import Transaction
from undersong.shared.learning.tensors import load
from undersong.shared.secagg.quantise import decode, encode
from undersong.shared.wire.manifest import RoundManifest

pytestmark = [pytest.mark.process, pytest.mark.slow]
LENGTH = 200_000


@pytest.mark.timeout(300)
async def test_workers_killed_in_the_middle(sqlite_url: str, enrolled: Enrolled, process: Start) -> None:
    """kill -9 of the worker between updates: each acknowledged update is in the model exactly once."""
    fake, environment, outside = enrolled(sqlite_url)
    with process("api", environment):
        await outside.ready()
        manifest = make_manifest(sites=6, model=fake.seed(zeros(LENGTH)))
        opened = await outside.open(manifest)
        for start in (0, 2, 4):  # a worker for every two updates; none but the last is asked nicely to end
            with process("worker", environment) as worker:
                for at in range(start, start + 2):
                    vector = np.zeros(LENGTH, np.float32)
                    vector[at] = 1
                    site, key = manifest.cohort[at], secrets.token_bytes(32)
                    body = make_update(manifest, opened, site, vector, key=key)
                    await outside.send(manifest.round_id, site, body)
                if start < 4:
                    await asyncio.sleep(1.0)
                    os.kill(worker.pid, signal.SIGKILL)
                    worker.wait(10)
                    continue
                found = await outside.ended(manifest.round_id)
                worker.terminate()
                assert worker.wait(15) == 0
    assert (found["state"], found["result"]["count"]) == ("published", 6), found
    moved = load(fake.blobs[found["result"]["digest"]]).tensors["w"]
    np.testing.assert_allclose(moved[:7], [1 / 6] * 6 + [0], atol=1e-6)
    assert len(fake.published()) == 1


@pytest.mark.timeout(300)
async def test_two_workers_give_the_sum_that_one_gives(
    postgres_url: str, enrolled: Enrolled, process: Start, tmp_path: Path
) -> None:
    """Two workers on one database and Redis, two rounds at once; who has folded three updates first is killed there.

    Then one round of forty whose updates wait for a worker: a second one folds a part of them, hands it in, and is
    killed in the middle of the next. Each published model is, to the bit, the one of the sum of exactly the
    acknowledged updates.
    """
    fake, environment, outside = enrolled(postgres_url)
    order = tmp_path / "faults" / "aggregator.worker" / "aggregator.update.folded"
    order.parent.mkdir(parents=True)
    order.write_text("kill@3")
    armed = {**environment, "UNDERSONG_FAULTS": str(tmp_path / "faults")}
    sums: dict[str, np.ndarray[Any, Any]] = {}
    with process("api", environment):
        await outside.ready()
        with process("worker", armed) as one, process("worker", armed) as other:
            model = fake.seed(zeros(LENGTH))
            manifests = [make_manifest(sites=6, model=model, number=number) for number in (1, 2)]
            opened = [await outside.open(manifest) for manifest in manifests]
            for at in range(6):
                for manifest, public in zip(manifests, opened, strict=True):
                    vector = np.zeros(LENGTH, np.float32)
                    vector[at] = 1
                    await give(outside, manifest, public, at, vector, sums)
            found = [await outside.ended(manifest.round_id) for manifest in manifests]
            assert {one.poll(), other.poll()} == {-signal.SIGKILL, None}, "one of them folded some, and one the rest"
        manifests.append(make_manifest(sites=40, model=fake.seed(zeros(500)), number=3))
        public, rng = await outside.open(manifests[-1]), np.random.default_rng(3)
        vectors = rng.uniform(-1, 1, (40, 500)).astype(np.float32)
        await asyncio.gather(*(give(outside, manifests[-1], public, at, v, sums) for at, v in enumerate(vectors)))
        found.append(await shared(process, outside, manifests[-1], {**armed, "AGGREGATOR_SHARE_BYTES": "0"}, tmp_path))
    for manifest, result in zip(manifests, found, strict=True):
        assert (result["state"], result["result"]["count"]) == ("published", len(manifest.cohort)), result
        assert manifest.encoding is not None
        mean = decode(sums[manifest.round_id], manifest.encoding, len(manifest.cohort)).mean
        np.testing.assert_array_equal(load(fake.blobs[result["result"]["digest"]]).tensors["w"], mean)
    assert len(fake.published()) == 3


async def give(
    outside: Outside,
    manifest: RoundManifest,
    public: dict[str, Any],
    at: int,
    vector: np.ndarray[Any, Any],
    sums: dict[str, np.ndarray[Any, Any]],
) -> None:
    """Send a site's update, and add what is in it to the sum that is expected."""
    key = secrets.token_bytes(32)
    body = make_update(manifest, public, manifest.cohort[at], vector, key=key)
    await outside.send(manifest.round_id, manifest.cohort[at], body)
    assert manifest.encoding is not None
    ring = encode(vector, 1, manifest.encoding, key=key, loss=0.5).ring
    sums[manifest.round_id] = ring + sums.get(manifest.round_id, np.zeros_like(ring))


async def shared(
    process: Start, outside: Outside, manifest: RoundManifest, environment: dict[str, str], folder: Path
) -> dict[str, Any]:
    """Hold the first worker with its parts on offer; the second folds one of them, and dies with half another.

    How the round ends.
    """
    faults = folder / "faults" / "aggregator.worker"
    (faults / "aggregator.parts.offered").write_text("hold")
    (faults / "aggregator.part.folded").write_text("kill@11")  # parts of eight
    offered = faults / "aggregator.parts.offered.reached"
    database = open_database(settings_of(environment))
    try:
        with process("worker", {**environment, "AGGREGATOR_WORKER_LEASE_S": "60"}):
            await until(offered.exists)
            with process("worker", environment) as second:
                await until(lambda: second.poll() is not None)
            assert second.poll() == -signal.SIGKILL
            rows = await database.read("parts", lambda tx: parts_of(tx, manifest.round_id))
            assert [len(row.folded or ()) for row in rows] == [8, 0, 0, 0, 0], "the second worker folded a part"
            assert len({row.worker_id for row in rows[:2]}) == 1
            assert rows[1].claim is not None, "and had begun another"
            offered.unlink()
            found = await outside.ended(manifest.round_id)
            assert await database.read("parts", lambda tx: parts_of(tx, manifest.round_id)) == []
    finally:
        await database.close()
    return found


def settings_of(environment: dict[str, str]) -> AggregatorSettings:
    return AggregatorSettings(
        database_url=environment["AGGREGATOR_DATABASE_URL"], data_dir=Path(environment["AGGREGATOR_DATA_DIR"])
    )


async def parts_of(tx: Transaction, round_id: str) -> list[PartRow]:
    rows = await tx.session.scalars(select(PartRow).where(PartRow.round_id == round_id).order_by(PartRow.id))
    return list(rows)
