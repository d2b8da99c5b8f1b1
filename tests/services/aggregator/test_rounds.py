"""Whole rounds through the real application and worker, on both databases."""

from typing import Any

import numpy as np
import pytest

from tests.services.aggregator.conftest import JOB, MODEL, Stage, zeros
from undersong.services.aggregator.tables import Base
from undersong.shared.database.migrations import drift
from undersong.shared.identity.authority import verify_signature
from undersong.shared.ids import digest_of
from undersong.shared.learning.metrics import binary_sums
from undersong.shared.learning.safetensors import read
from undersong.shared.learning.tensors import load
from undersong.shared.wire.manifest import ENGINE_CONTEXT, EnginePublic, RoundKind, StrategyRef, version_statement
from undersong.shared.wire.updates import ReceiptDoc


def unit(length: int, at: int) -> "np.ndarray[Any, Any]":
    vector = np.zeros(length)
    vector[at] = 1
    return vector


async def test_one_hot_ledger(stage: Stage) -> None:
    """Agent i submits e_i: in the sum every acknowledged site is counted exactly once."""
    manifest = stage.manifest(RoundKind.STATISTICS, sites=5)
    opened = await stage.open(manifest)
    for at, site in enumerate(manifest.cohort):
        answer = await stage.send(manifest.round_id, site, stage.sums(manifest, opened, site, unit(5, at)))
        assert answer.status_code == 201, answer.text
    found = await stage.drive(manifest.round_id)
    assert found["state"] == "published", found
    assert found["result"]["values"] == [1.0] * 5
    assert found["result"]["count"] == found["got"] == 5
    assert found["accepted"] == list(manifest.cohort)


async def test_a_round_closed_early_sums_who_came(stage: Stage) -> None:
    manifest = stage.manifest(RoundKind.STATISTICS, sites=4)
    opened = await stage.open(manifest)
    for at in (0, 2):
        site = manifest.cohort[at]
        await stage.send(manifest.round_id, site, stage.sums(manifest, opened, site, unit(4, at)))
    assert (await stage.post(manifest.round_id, "close")).json()["state"] == "frozen"
    assert (await stage.drive(manifest.round_id))["result"]["values"] == [1.0, 0.0, 1.0, 0.0]


async def test_below_min_cohort_nothing_is_opened(stage: Stage) -> None:
    manifest = stage.manifest(RoundKind.STATISTICS)
    opened = await stage.open(manifest)
    site = manifest.cohort[0]
    await stage.send(manifest.round_id, site, stage.sums(manifest, opened, site, unit(3, 0)))
    closed = (await stage.post(manifest.round_id, "close")).json()
    assert (closed["state"], closed["reason"], closed["result"]) == ("failed", "quorum", None)


async def test_training_from_the_first_model_to_the_second(stage: Stage) -> None:
    """initialise publishes version 0; train moves it by the weighted mean, with lineage and a signature."""
    manifest = stage.manifest(RoundKind.INITIALISE, sites=1, min_cohort=1)
    opened = await stage.open(manifest)
    model, site = zeros(40), manifest.cohort[0]
    assert (await stage.send(manifest.round_id, site, stage.first(manifest, opened, site, model))).status_code == 201
    first = await stage.drive(manifest.round_id)
    assert first["state"] == "published", first
    assert first["result"]["digest"] == digest_of(model)
    assert first["result"]["vector_length"] == 40

    model_ref = {"version_id": first["result"]["version_id"], "digest": first["result"]["digest"]}
    manifest = stage.manifest(RoundKind.TRAIN, model=model_ref)
    opened = await stage.open(manifest)
    for at, site in enumerate(manifest.cohort):
        body = stage.update(manifest, opened, site, unit(40, at), examples=at + 1, loss=float(at))
        assert (await stage.send(manifest.round_id, site, body)).status_code == 201
    second = await stage.drive(manifest.round_id)
    assert second["state"] == "published", second
    result = second["result"]
    assert (result["weight"], result["count"], result["clipped"]) == (6, 3, 0)
    assert result["loss"] == pytest.approx((0 * 1 + 1 * 2 + 2 * 3) / 6, abs=1e-3)
    moved = load(stage.registry.blobs[result["digest"]]).tensors["w"]
    np.testing.assert_allclose(moved[:4], [1 / 6, 2 / 6, 3 / 6, 0], atol=1e-6)

    version = stage.registry.published()[-1]
    lineage = version["lineage"]
    assert (lineage["job_id"], lineage["round_id"], lineage["kind"]) == (JOB, manifest.round_id, "train")
    assert (lineage["parents"], lineage["contributors"]) == ([model_ref["version_id"]], 3)
    statement = version_statement(MODEL, result["digest"], lineage)
    assert version["publisher_keyid"] == stage.aggregator.keyid
    stage.aggregator.private_key.public_key().verify(bytes.fromhex(version["publisher_signature"]), statement)


async def test_evaluation_returns_its_layout(stage: Stage) -> None:
    manifest = stage.manifest(RoundKind.EVALUATE, model=stage.registry.seed(zeros(4)))
    opened = await stage.open(manifest)
    sums = binary_sums(np.array([0, 1, 1]), np.array([0.2, 0.9, 0.4]))
    for site in manifest.cohort:
        answer = await stage.send(manifest.round_id, site, stage.sums(manifest, opened, site, sums, "binary"))
        assert answer.status_code == 201, answer.text
    result = (await stage.drive(manifest.round_id))["result"]
    assert result["metrics_layout"] == "binary"
    np.testing.assert_allclose(result["values"], 3 * sums, atol=1e-5)


async def test_the_strategy_keeps_its_state_from_round_to_round(stage: Stage) -> None:
    """FedAvgM: the second step has the first one's momentum; the older state is forgotten."""
    strategy = StrategyRef(name="fedavgm", params={"momentum": 0.5})
    ref, positions = stage.registry.seed(zeros(3)), []
    for _ in range(3):
        manifest = stage.manifest(model=ref, strategy=strategy)
        opened = await stage.open(manifest)
        for site in manifest.cohort:
            body = stage.update(manifest, opened, site, unit(3, 0))
            assert (await stage.send(manifest.round_id, site, body)).status_code == 201
        found = await stage.drive(manifest.round_id)
        assert found["state"] == "published", found
        ref = {"version_id": found["result"]["version_id"], "digest": found["result"]["digest"]}
        positions.append(float(load(stage.registry.blobs[ref["digest"]]).tensors["w"][0]))
        stage.restart()
    np.testing.assert_allclose(positions, [1.0, 2.5, 4.25], atol=1e-5)
    await stage.maintenance.scrub()
    kept = list((stage.settings.data_dir / "blobs").glob("??/*"))
    states = [path for path in kept if "velocity" in read(path.read_bytes())]
    assert len(states) == 1
    assert len(kept) == 3  # the newest model and state, and the first model as it came from the registry


async def test_opening_again_gives_the_same_key_and_another_manifest_is_refused(stage: Stage) -> None:
    manifest = stage.manifest(RoundKind.STATISTICS)
    first = await stage.open(manifest)
    assert await stage.open(manifest) == first
    signed = first["engine_public"]
    document = EnginePublic.model_validate(signed["document"])
    verify_signature(
        stage.aggregator.private_key.public_key(),
        ENGINE_CONTEXT,
        bytes.fromhex(document.digest()),
        bytes.fromhex(signed["signature"]),
    )
    other = await stage.put_round(manifest.model_copy(update={"seed": 2}))
    assert other.status_code == 409
    assert other.json()["type"].endswith("round-differs")


async def test_a_manifest_of_another_signer_is_refused(stage: Stage) -> None:
    answer = await stage.put_round(stage.manifest(RoundKind.STATISTICS), signer=stage.aggregator)
    assert answer.status_code == 403
    assert answer.json()["type"].endswith("manifest-untrusted")


async def test_only_those_who_may_look_at_a_round(stage: Stage) -> None:
    manifest = stage.manifest(RoundKind.STATISTICS)
    await stage.open(manifest)
    path = f"/v1/rounds/{manifest.round_id}"
    async with stage.client(None) as http:
        assert (await http.get(path)).status_code == 401
        assert (await http.get(path, headers={"authorization": "Bearer scientist"})).status_code == 200
        assert (await http.get(path, headers={"authorization": "Bearer owner"})).status_code == 403
    async with stage.client(stage.site(manifest.cohort[0])) as http:
        assert (await http.get(path)).status_code == 403
        assert (await http.post(f"{path}/close")).status_code == 403
    async with stage.client(stage.coordinator) as http:
        unknown = await http.get("/v1/rounds/rnd_01k5z0000000000000000000aa")
    assert unknown.status_code == 404


async def test_a_cancelled_round_forgets_its_bodies_and_its_key(stage: Stage) -> None:
    manifest = stage.manifest(RoundKind.STATISTICS)
    opened = await stage.open(manifest)
    site = manifest.cohort[0]
    await stage.send(manifest.round_id, site, stage.sums(manifest, opened, site, unit(3, 0)))
    for _ in range(2):
        assert (await stage.post(manifest.round_id, "cancel")).json()["state"] == "cancelled"
    await stage.maintenance.scrub()
    assert not list((stage.settings.data_dir / "blobs").glob("??/*"))
    assert (await stage.components.rounds.view(manifest.round_id)).stored.engine_secret is None


async def test_a_published_round_cannot_be_cancelled(stage: Stage) -> None:
    manifest = stage.manifest(RoundKind.STATISTICS, sites=1)
    opened = await stage.open(manifest)
    site = manifest.cohort[0]
    await stage.send(manifest.round_id, site, stage.sums(manifest, opened, site, unit(1, 0)))
    assert (await stage.drive(manifest.round_id))["state"] == "published"
    assert (await stage.post(manifest.round_id, "cancel")).status_code == 409
    assert (await stage.post(manifest.round_id, "close")).json()["state"] == "published"


async def test_receipts_are_signed(stage: Stage) -> None:
    manifest = stage.manifest(RoundKind.STATISTICS)
    opened = await stage.open(manifest)
    site = manifest.cohort[0]
    body = stage.sums(manifest, opened, site, unit(3, 0))
    receipt = (await stage.send(manifest.round_id, site, body)).json()
    keyid, signature = receipt.pop("keyid"), bytes.fromhex(receipt.pop("signature"))
    document = ReceiptDoc.model_validate(receipt)
    assert (keyid, document.digest, document.size) == (stage.aggregator.keyid, digest_of(body), len(body))
    stage.aggregator.private_key.public_key().verify(signature, document.statement())


@pytest.mark.both_databases
def test_the_migration_makes_the_tables_of_the_code(database_url: str) -> None:
    from undersong.shared.database.migrations import migrate

    migrate(database_url, "aggregator")
    assert drift(database_url, "aggregator", Base.metadata) == []
