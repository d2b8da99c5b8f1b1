"""Sites that deal or send useless shares, through HTTP: who is named, who goes on, and what the record says."""

import json
import os
from collections.abc import Sequence
from typing import Any

import msgpack
import pytest
from sqlalchemy import text

from tests.services.aggregator.conftest import Stage
from tests.services.aggregator.pairwise import AFTER, BEFORE, Sites
from tests.services.aggregator.test_steps import trained
from undersong.shared.secagg.engine import UPLOAD
from undersong.shared.secagg.pairwise import client as client_module
from undersong.shared.secagg.pairwise import messages
from undersong.shared.secagg.pairwise.complaints import pack_complaints
from undersong.shared.transparency.records import RecordInvalid, check_record
from undersong.shared.transparency.steps import complainers

STEPS = (*BEFORE, UPLOAD, *AFTER)


def noise(count: int) -> bytes:
    return b"".join(os.urandom(7).ljust(8, b"\0") for _ in range(5 * count))


async def until(sites: Sites, last: str) -> None:
    for step in STEPS[: STEPS.index(last)]:
        await sites.step(step)


def spoil_envelopes(sites: Sites, dealer: str, victims: int) -> None:
    """The dealer's message of step share, with noise in place of the first envelopes."""
    sites.states[dealer], said = sites.engine.message(
        sites.client_rounds[dealer], sites.states[dealer], "share", sites.answers[dealer]
    )
    envelopes, dealing = messages.unpack_list(said)
    size = messages.ENVELOPE_BYTES * victims
    sites.said[dealer, "share"] = messages.pack_list([os.urandom(size) + envelopes[size:], dealing])


def spoil_dealing(sites: Sites, dealer: str, holders: Sequence[int], patch: pytest.MonkeyPatch) -> None:
    """The dealer deals noise to these holders, and commits to it."""
    real = client_module.split

    def split(*arguments: Any) -> list[list[bytes]]:
        return [[noise(1), noise(1)] if i in holders else row for i, row in enumerate(real(*arguments))]

    patch.setattr(client_module, "split", split)
    sites.states[dealer], sites.said[dealer, "share"] = sites.engine.message(
        sites.client_rounds[dealer], sites.states[dealer], "share", sites.answers[dealer]
    )
    patch.setattr(client_module, "split", real)


async def test_one_victim_of_a_bad_dealer_does_without(quick_stage: Stage) -> None:
    sites = await Sites.open(quick_stage)
    everyone = list(sites.manifest.cohort)
    await until(sites, "share")
    spoil_envelopes(sites, everyone[2], 1)
    for step in STEPS[1:]:
        await sites.step(step)
    found = await quick_stage.state(sites.id)
    assert (found["state"], found["accepted"]) == ("published", everyone)
    assert [(each["site_id"], each["code"]) for each in found["faults"]] == [(everyone[2], "shares-disputed")]
    assert found["faults"][0]["message"].startswith(f"1 of at most 1 tolerated: {everyone[0]} cannot use the shares")
    assert trained(quick_stage, found) == pytest.approx(sites.expected(everyone), abs=1e-4)
    record = sites.keys.records[sites.id]
    assert list(record.complaints) == [everyone[0]]
    assert {site: complainers(record, site) for site in everyone} == {
        site: ((everyone[0],) if site == everyone[2] else ()) for site in everyone
    }
    notes = await quick_stage.database.read(
        "test.notes", lambda tx: tx.session.execute(text("SELECT detail FROM round_events WHERE type = 'step.closed'"))
    )
    (noted,) = [found for (detail,) in notes if (found := json.loads(detail).get("complaints"))]
    assert noted == {everyone[0]: [everyone[2]]}, "the operator sees who complains about whom"
    assert record.faults == {}


async def test_a_dealer_that_many_complain_about_is_left_out_and_told(quick_stage: Stage) -> None:
    """The others get their sum; the witness and the auditor see why it is not among them."""
    sites = await Sites.open(quick_stage)
    everyone = list(sites.manifest.cohort)
    bad = everyone[2]
    await until(sites, "share")
    spoil_envelopes(sites, bad, 4)
    for step in STEPS[1:]:
        await sites.step(step, without=(bad,) if step == UPLOAD else ())
    told = await sites.get(bad, "check")
    assert (told.status_code, told.json()["type"].rpartition(":")[2]) == (410, "dealer-at-fault")
    assert "4 sites could not use the shares" in told.json()["detail"]
    refused = await quick_stage.send(sites.id, bad, b"x" * 100)
    assert refused.status_code == 410
    found = await quick_stage.state(sites.id)
    assert (found["state"], found["accepted"]) == ("published", [site for site in everyone if site != bad])
    assert [(each["site_id"], each["code"]) for each in found["faults"]] == [(bad, "dealer-at-fault")]
    record = sites.keys.records[sites.id]
    assert (record.faults, len(record.complaints)) == ({bad: "dealer-at-fault"}, 4)
    assert msgpack.unpackb(sites.keys.asked[-1])["complaints"]
    coordinator = quick_stage.coordinator.private_key.public_key().public_bytes_raw()
    for bent in (
        {"sharers": "1f"},  # as if the dealer had been kept
        {"complaints": {**record.complaints, everyone[0]: record.complaints[everyone[1]]}},
        {"complaints": {**record.complaints, "site_99": record.complaints[everyone[1]]}},
        {"faults": {"site_99": "dealer-at-fault"}},
    ):
        with pytest.raises(RecordInvalid):
            check_record(record.model_copy(update=bent), sites.keys.public, coordinator)


async def test_too_few_without_the_bad_dealers_end_the_round_by_name(quick_stage: Stage) -> None:
    sites = await Sites.open(quick_stage)
    bad = sites.manifest.cohort[:2]
    await until(sites, "share")
    for each in bad:
        spoil_envelopes(sites, each, 4)
    await sites.step("share")
    await sites.step("check")
    found = await quick_stage.state(sites.id)
    assert (found["state"], found["reason"], found["opening"]) == ("failed", "dealer-at-fault", False)
    assert {each["site_id"] for each in found["faults"]} == set(bad)


async def test_a_sender_of_wrong_shares_is_named_and_the_sum_is_exact(quick_stage: Stage) -> None:
    sites = await Sites.open(quick_stage)
    everyone = list(sites.manifest.cohort)
    liar = everyone[0]
    await until(sites, "unmask")
    sites.said[liar, "unmask"] = messages.OpeningShares(noise(5), b"").pack()
    await sites.step("unmask")
    found = await quick_stage.state(sites.id)
    assert (found["state"], found["accepted"]) == ("published", everyone)
    assert [(each["site_id"], each["code"]) for each in found["faults"]] == [(liar, "wrong-share")]
    assert trained(quick_stage, found) == pytest.approx(sites.expected(everyone), abs=1e-4)
    assert sites.keys.records[sites.id].faults == {liar: "wrong-share"}


async def test_a_dealer_found_out_when_the_sum_is_opened_costs_one_round(
    quick_stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It alone is named, and the round is spent: its work is done under the next number."""
    sites = await Sites.open(quick_stage)
    bad = sites.manifest.cohort[3]
    await until(sites, "share")
    spoil_dealing(sites, bad, range(5), monkeypatch)
    for step in STEPS[1:]:
        await sites.step(step)
    found = await quick_stage.state(sites.id)
    assert (found["state"], found["reason"], found["opening"]) == ("failed", "dealer-at-fault", True)
    assert [(each["site_id"], each["code"]) for each in found["faults"]] == [(bad, "dealer-at-fault")]
    assert sites.keys.records == {}


async def test_garbage_and_false_complaints_remove_no_other_site(quick_stage: Stage) -> None:
    sites = await Sites.open(quick_stage, sites=7)
    everyone = list(sites.manifest.cohort)
    liar, bad = everyone[1], everyone[6]
    await until(sites, "check")
    sites.said[bad, "check"] = msgpack.packb([[i, "envelope", bytes(64)] for i in range(6)])
    engine_state = sites.states[liar]
    sites.states[liar], _ = sites.engine.message(sites.client_rounds[liar], engine_state, "check", sites.answers[liar])
    false = client_module.ClientState.load(sites.terms(), liar, sites.states[liar])
    false.failed = dict.fromkeys((0, 2, 3, 4, 5, 6), "envelope")
    sites.said[liar, "check"] = pack_complaints(false.complain(sites.stage.site(liar).private_key.sign))
    await sites.step("check")
    assert (await sites.get(bad, "check")).json()["type"].endswith("site-fell-out"), "forged complaints are no answer"
    for step in (UPLOAD, *AFTER):
        await sites.step(step, without=(bad,) if step == UPLOAD else ())
    found = await quick_stage.state(sites.id)
    assert (found["state"], found["accepted"]) == ("published", everyone[:6])
    assert {each["code"] for each in found["faults"]} == {"shares-disputed"}
    assert all(f": {liar} cannot use" in each["message"] for each in found["faults"]), "the operator sees who says so"
    assert trained(quick_stage, found) == pytest.approx(sites.expected(everyone[:6]), abs=1e-4)
