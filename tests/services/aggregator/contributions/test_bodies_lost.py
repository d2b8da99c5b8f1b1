"""A stored update that rots after its receipt was given does not count, its site is told, and may send it again."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.services.aggregator.conftest import Stage, zeros
from tests.services.aggregator.contributions.test_updates import reason
from undersong.shared.ids import digest_of
from undersong.shared.wire.manifest import RoundKind


def stored(stage: Stage, body: bytes) -> Path:
    digest = digest_of(body)
    return Path(stage.settings.data_dir) / "blobs" / digest[:2] / digest


def damage(path: Path, how: str) -> None:
    data = bytearray(path.read_bytes())
    match how:
        case "payload":
            data[-3] ^= 0x10
        case "header":
            data[20] ^= 0x10
        case "cut":
            data = data[:-5]
        case "gone":
            path.unlink()
            return
    path.write_bytes(data)


async def until_lost(stage: Stage, round_id: str, site: str) -> None:
    """Look after the round until the damage is found."""
    hold = await stage.driver.claim(round_id)  # type: ignore[arg-type]
    assert hold is not None
    view = await stage.driver._rounds.view(round_id)  # type: ignore[arg-type]
    with stage.notifier.listen(round_id) as subscription:
        await stage.driver._know_form(hold, view)
        assert await stage.driver.fold(hold, await stage.driver._rounds.view(round_id), subscription)  # type: ignore[arg-type]
    await stage.driver._release(hold, 0.0, failed=False)
    told = await stage.state(round_id)
    assert (told["state"], [(one["site_id"], one["code"]) for one in told["rejections"]]) == (
        "collecting",
        [(site, "body-lost")],
    )


async def stages(stage: Stage) -> tuple[Any, dict[str, bytes]]:
    """A round of four sites whose first two have sent."""
    manifest = stage.manifest(RoundKind.STATISTICS, sites=4, min_cohort=2, length=20)
    opened = await stage.open(manifest)
    bodies = {site: stage.sums(manifest, opened, site, np.ones(10) * (n + 1)) for n, site in enumerate(manifest.cohort)}
    for site in manifest.cohort[:2]:
        assert (await stage.send(manifest.round_id, site, bodies[site])).status_code == 201
    return manifest, bodies


@pytest.mark.parametrize("how", ["payload", "header", "cut", "gone"])
async def test_the_same_bytes_again_count_again(quick_stage: Stage, how: str) -> None:
    stage = quick_stage
    manifest, bodies = await stages(stage)
    unlucky, body = manifest.cohort[0], bodies[manifest.cohort[0]]
    first = await stage.send(manifest.round_id, unlucky, body)
    damage(stored(stage, body), how)
    await until_lost(stage, manifest.round_id, unlucky)
    other = await stage.send(manifest.round_id, unlucky, bodies[manifest.cohort[2]])
    assert not other.is_success
    again = await stage.send(manifest.round_id, unlucky, body)
    assert (again.status_code, again.json()) == (201, first.json())
    assert (await stage.state(manifest.round_id))["rejections"] == []
    for site in manifest.cohort[2:]:
        assert (await stage.send(manifest.round_id, site, bodies[site])).status_code == 201
    ended = await stage.drive(manifest.round_id)
    assert (ended["state"], ended["got"], ended["result"]["values"]) == ("published", 4, [10.0] * 10)


@pytest.mark.parametrize("how", ["payload", "gone"])
async def test_a_loss_that_is_noticed_when_all_are_in_opens_the_round_again(quick_stage: Stage, how: str) -> None:
    stage = quick_stage
    manifest, bodies = await stages(stage)
    unlucky = manifest.cohort[0]
    for site in manifest.cohort[2:]:
        assert (await stage.send(manifest.round_id, site, bodies[site])).status_code == 201
    await stage.post(manifest.round_id, "close")
    assert (await stage.state(manifest.round_id))["state"] == "frozen"
    damage(stored(stage, bodies[unlucky]), how)
    await until_lost(stage, manifest.round_id, unlucky)
    assert (await stage.send(manifest.round_id, unlucky, bodies[unlucky])).is_success
    ended = await stage.drive(manifest.round_id)
    assert (ended["state"], ended["got"], ended["result"]["values"]) == ("published", 4, [10.0] * 10)


@pytest.mark.parametrize("frozen", [True, False])
async def test_a_close_that_was_decided_before_the_loss_is_not_heeded(quick_stage: Stage, frozen: bool) -> None:
    """It arrives when the round waits for the unlucky site again, and must not end that."""
    stage = quick_stage
    manifest, bodies = await stages(stage)
    unlucky = manifest.cohort[0]
    sent = manifest.cohort[2:] if frozen else manifest.cohort[2:3]
    for site in sent:
        assert (await stage.send(manifest.round_id, site, bodies[site])).status_code == 201
    decided = f"close?moves={(await stage.state(manifest.round_id))['moves']}"
    if frozen:
        assert (await stage.post(manifest.round_id, decided)).json()["state"] == "frozen"
        decided = f"close?moves={(await stage.state(manifest.round_id))['moves']}"
    damage(stored(stage, bodies[unlucky]), "payload")
    await until_lost(stage, manifest.round_id, unlucky)
    assert (await stage.post(manifest.round_id, decided)).json()["state"] == "collecting"
    assert (await stage.send(manifest.round_id, unlucky, bodies[unlucky])).is_success
    now = await stage.state(manifest.round_id)
    assert (await stage.post(manifest.round_id, f"close?moves={now['moves']}")).json()["state"] == "frozen"
    assert (await stage.drive(manifest.round_id))["got"] == len(sent) + 2


async def test_without_them_the_round_goes_on_and_the_site_hears_why(quick_stage: Stage) -> None:
    stage = quick_stage
    manifest, bodies = await stages(stage)
    unlucky, body = manifest.cohort[0], bodies[manifest.cohort[0]]
    damage(stored(stage, body), "payload")
    await until_lost(stage, manifest.round_id, unlucky)
    for site in manifest.cohort[2:]:
        assert (await stage.send(manifest.round_id, site, bodies[site])).status_code == 201
    await stage.post(manifest.round_id, "close")
    ended = await stage.drive(manifest.round_id)
    assert (ended["state"], ended["got"], ended["result"]["values"]) == ("published", 3, [9.0] * 10)
    late = await stage.send(manifest.round_id, unlucky, body)
    assert reason(late) == (422, "update-rejected")
    assert "body-lost" in late.json()["detail"]


async def test_our_own_damaged_model_is_fetched_again(quick_stage: Stage) -> None:
    """The aggregator's copy of the model rots: the registry's is fetched, and the round ends as if nothing had been."""
    stage = quick_stage
    model = stage.registry.seed(zeros(5))
    results = []
    for _ in range(2):
        manifest = stage.manifest(RoundKind.TRAIN, sites=2, min_cohort=2, model=model)
        opened = await stage.open(manifest)
        for site in manifest.cohort:
            body = stage.update(manifest, opened, site, np.zeros(5))
            assert (await stage.send(manifest.round_id, site, body)).status_code == 201
        results.append(await stage.drive(manifest.round_id))
        own = Path(stage.settings.data_dir) / "blobs" / model.digest[:2] / model.digest
        damage(own, "payload")
    assert [one["state"] for one in results] == ["published", "published"]


async def test_the_registrys_damaged_model_is_healed_with_ours(quick_stage: Stage) -> None:
    stage = quick_stage
    data = zeros(5)
    model = stage.registry.seed(data)
    for damaged in (False, True):
        manifest = stage.manifest(RoundKind.TRAIN, sites=2, min_cohort=2, model=model)
        opened = await stage.open(manifest)
        if damaged:
            stage.registry.damaged.add(model.digest)
        for site in manifest.cohort:
            body = stage.update(manifest, opened, site, np.zeros(5))
            assert (await stage.send(manifest.round_id, site, body)).status_code == 201
        assert (await stage.drive(manifest.round_id))["state"] == "published"
    assert stage.registry.damaged == set()
