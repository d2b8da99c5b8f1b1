"""The length and layout of a round's updates never come from the update that came first: one site spoils no round."""

import asyncio
import random
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.services.aggregator.conftest import Stage, zeros
from tests.services.aggregator.contributions.test_updates import reason
from undersong.services.aggregator.domain.refusals import FormUndecided
from undersong.services.aggregator.domain.rounds import Form, settled_form
from undersong.shared.wire.manifest import RoundKind

FORMS = st.lists(st.sampled_from([Form(8), Form(2), Form(80), Form(16, "regression"), Form(14, "multiclass:2")]))


@given(FORMS, st.integers(1, 12), st.randoms())
def test_the_order_of_arrival_decides_nothing(forms: list[Form], cohort: int, order: random.Random) -> None:
    cohort = max(cohort, len(forms))
    shuffled = order.sample(forms, len(forms))

    def settled(given: list[Form], *, complete: bool) -> Form | str | None:
        try:
            return settled_form(given, cohort, complete=complete)
        except FormUndecided:
            return "undecided"

    for complete in (False, True):
        assert settled(forms, complete=complete) == settled(shuffled, complete=complete)
    early = settled_form(forms, cohort, complete=False)
    if early is not None:  # whatever the rest of the cohort sends
        rest = [Form(999)] * (cohort - len(forms))
        assert settled([*forms, *rest], complete=True) == early


@given(st.integers(3, 12), st.data())
def test_a_minority_never_wins(cohort: int, data: st.DataObject) -> None:
    hostile = data.draw(st.integers(0, (cohort - 1) // 2))
    lies = data.draw(st.lists(st.integers(1, 100).filter(lambda n: n != 40), min_size=hostile, max_size=hostile))
    forms = [*map(Form, lies), *[Form(40)] * (cohort - hostile)]
    assert settled_form(forms, cohort, complete=True) == Form(40)


async def finished(stage: Stage, round_id: str) -> dict[str, Any]:
    await stage.post(round_id, "close")
    return dict(await stage.drive(round_id))


@pytest.mark.parametrize("first", [True, False])
async def test_one_hostile_site_is_refused_alone_in_a_statistics_round(quick_stage: Stage, first: bool) -> None:
    """Neither manifest nor model says the length: what most sites sent counts, whichever came first."""
    stage = quick_stage
    manifest = stage.manifest(RoundKind.STATISTICS, sites=6, min_cohort=2)
    opened = await stage.open(manifest)
    *honest, hostile = manifest.cohort
    lie = stage.sums(manifest, opened, hostile, np.ones(1))
    if first:
        assert (await stage.send(manifest.round_id, hostile, lie)).status_code == 201
    for site in honest:
        body = stage.sums(manifest, opened, site, np.ones(40))
        assert (await stage.send(manifest.round_id, site, body)).status_code == 201
    if not first:
        assert (await stage.send(manifest.round_id, hostile, lie)).status_code == 201
    ended = await finished(stage, manifest.round_id)
    assert (ended["state"], ended["got"], ended["result"]["values"]) == ("published", 5, [5.0] * 40)
    assert [(one["site_id"], one["code"]) for one in ended["rejections"]] == [(hostile, "wrong-length")]
    again = await stage.send(manifest.round_id, hostile, lie)
    assert reason(again) == (422, "update-rejected")


async def test_an_even_split_fails_and_says_why(quick_stage: Stage) -> None:
    stage = quick_stage
    manifest = stage.manifest(RoundKind.STATISTICS, sites=4, min_cohort=2)
    opened = await stage.open(manifest)
    for site, size in zip(manifest.cohort, (3, 5, 3, 5), strict=True):
        assert (await stage.send(manifest.round_id, site, stage.sums(manifest, opened, site, np.ones(size)))).is_success
    ended = await finished(stage, manifest.round_id)
    assert (ended["state"], ended["reason"]) == ("failed", "form-undecided")


@pytest.mark.parametrize("named", [True, False])
async def test_one_hostile_layout_is_refused_alone_in_an_evaluation(quick_stage: Stage, named: bool) -> None:
    stage = quick_stage
    form = {"metrics_layout": "multiclass:2"} if named else {}
    manifest = stage.manifest(RoundKind.EVALUATE, sites=6, model=stage.registry.seed(zeros(4)), **form)
    opened = await stage.open(manifest)
    *honest, hostile = manifest.cohort
    answer = await stage.send(
        manifest.round_id, hostile, stage.sums(manifest, opened, hostile, np.ones(8), "regression")
    )
    assert answer.status_code == (422 if named else 201)
    for site in honest:
        body = stage.sums(manifest, opened, site, np.ones(7), "multiclass:2")
        assert (await stage.send(manifest.round_id, site, body)).status_code == 201
    ended = await finished(stage, manifest.round_id)
    assert (ended["state"], ended["got"], ended["result"]["metrics_layout"]) == ("published", 5, "multiclass:2")


@pytest.mark.parametrize("size", [3, 49, 51, 5000])
async def test_one_hostile_site_is_refused_alone_when_a_model_was_imported(quick_stage: Stage, size: int) -> None:
    """The model is not ours, so its length is not known when the first update comes; it decides all the same."""
    stage = quick_stage
    manifest = stage.manifest(RoundKind.TRAIN, sites=4, model=stage.registry.seed(zeros(50)))
    opened = await stage.open(manifest)
    *honest, hostile = manifest.cohort
    lie = stage.update(manifest, opened, hostile, np.zeros(size))
    assert (await stage.send(manifest.round_id, hostile, lie)).status_code == 201
    driving = asyncio.create_task(stage.driver.drive(manifest.round_id))
    while not (await stage.state(manifest.round_id))["rejections"]:  # noqa: ASYNC110  (another process says it)
        await asyncio.sleep(0.02)
    for site in honest:
        body = stage.update(manifest, opened, site, np.zeros(50))
        assert (await stage.send(manifest.round_id, site, body)).status_code == 201
    await driving
    ended = await stage.state(manifest.round_id)
    assert (ended["state"], ended["got"]) == ("published", 3)
    assert [(one["site_id"], one["code"]) for one in ended["rejections"]] == [(hostile, "wrong-length")]
