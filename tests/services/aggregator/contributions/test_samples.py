"""A site's committed sample count: there from its first round, in range, and the same ever after."""

import hashlib
from typing import Any

import numpy as np
import pytest

from tests.services.aggregator.conftest import Stage, committed, zeros
from tests.services.aggregator.contributions.test_updates import count, reason
from tests.services.aggregator.pairwise import LENGTH, Sites
from undersong.services.aggregator.tables import RoundEventRow, SampleRow
from undersong.shared.ids import SiteId
from undersong.shared.transparency.records import RecordInvalid
from undersong.shared.transparency.samples import check_own_samples, check_samples
from undersong.shared.wire.manifest import RoundManifest
from undersong.shared.zk.samples import Committed


async def opened(stage: Stage, **changes: Any) -> tuple[RoundManifest, dict[str, Any], str]:
    manifest = stage.manifest(model=stage.registry.seed(zeros(LENGTH)), **changes)
    return manifest, await stage.open(manifest), manifest.cohort[0]


def body(stage: Stage, place: tuple[RoundManifest, dict[str, Any], str], **facts: Any) -> bytes:
    return stage.update(*place, np.zeros(LENGTH), **facts)


async def test_a_changed_count_is_refused_by_the_sites_name(stage: Stage) -> None:
    first = await opened(stage)
    site = first[2]
    assert (await stage.send(first[0].round_id, site, body(stage, first))).status_code == 201
    second = await opened(stage, number=2)
    refused = await stage.send(second[0].round_id, site, body(stage, second, examples=2))
    assert reason(refused) == (409, "sample-count-changed")
    assert site in refused.json()["detail"]
    assert await count(stage, RoundEventRow, RoundEventRow.type == "samples.changed") == 1
    same_count_again = Committed.make(second[0], SiteId(site), 1).message
    refused = await stage.send(second[0].round_id, site, body(stage, second, samples=same_count_again))
    assert reason(refused) == (409, "sample-count-changed")
    assert (await stage.state(second[0].round_id))["got"] == 0
    assert (await stage.send(second[0].round_id, site, body(stage, second))).status_code == 201
    assert await count(stage, SampleRow) == 1
    shown = {site: committed(first[0], site)[:32].hex()}
    assert (await stage.state(first[0].round_id))["samples"] == shown
    assert (await stage.state(second[0].round_id))["samples"] == shown


async def test_what_is_missing_or_unproved_is_refused(quick_stage: Stage) -> None:
    place = await opened(quick_stage)
    manifest, _, site = place
    good = committed(manifest, site)
    assert reason(await quick_stage.send(manifest.round_id, site, body(quick_stage, place, samples=None))) == (
        422,
        "sample-count-missing",
    )
    for bad in (
        good[:-1],
        good[:40] + bytes([good[40] ^ 1]) + good[41:],
        committed(manifest, manifest.cohort[1]),
        bytes(32) + good[32:],
        b"\xff" * 32 + good[32:],
    ):
        refused = await quick_stage.send(manifest.round_id, site, body(quick_stage, place, samples=bad))
        assert reason(refused) == (422, "sample-count-unproved"), refused.text
        assert site in refused.json()["detail"]
    assert await count(quick_stage, SampleRow) == 0
    equal = await opened(quick_stage, encoding=manifest.encoding.model_copy(update={"max_weight": 1}), number=3)
    refused = await quick_stage.send(equal[0].round_id, site, body(quick_stage, equal, samples=good))
    assert reason(refused) == (422, "sample-count-unproved")
    assert (await quick_stage.send(equal[0].round_id, site, body(quick_stage, equal))).status_code == 201


async def test_the_record_carries_each_proof_once(stage: Stage) -> None:
    """The first record proves the ranges of who took part; a later one repeats the commitments and adds newcomers."""
    first = await Sites.open(stage)
    late = first.manifest.cohort[4]
    await first.run(lost={late: "advertise"})
    record = first.keys.records[first.id]
    assert set(record.samples) == set(record.bodies) == set(record.sample_proofs) == set(first.manifest.cohort[:4])
    assert check_samples(record) == 4
    second = await Sites.open(stage, number=2)
    await second.run()
    after = second.keys.records[second.id]
    assert {site: after.samples[site] for site in record.samples} == record.samples
    assert set(after.sample_proofs) == {late}
    assert check_samples(after) == 1
    check_own_samples(after, SiteId(late), committed(second.manifest, late)[:32].hex())
    with pytest.raises(RecordInvalid, match="another sample count"):
        check_own_samples(after, SiteId(late), hashlib.sha256(b"another").hexdigest())
    other = record.samples[first.manifest.cohort[0]]
    for changes in (
        {"samples": {**record.samples, first.manifest.cohort[1]: other}},
        {"samples": {**record.samples, first.manifest.cohort[1]: "00" * 32}},
        {"samples": {first.manifest.cohort[0]: other}},
        {"samples": {}, "sample_proofs": record.sample_proofs},
    ):
        with pytest.raises(RecordInvalid):
            check_samples(record.model_copy(update=changes))
