"""Whole pairwise rounds through HTTP: with sites lost at each step, crashes between steps, and everything twice."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import replace
from typing import Any

import httpx
import numpy as np
import pytest
from sqlalchemy import text, update

from tests.services.aggregator.conftest import Stage
from tests.services.aggregator.pairwise import AFTER, BEFORE, Sites
from undersong.services.aggregator.tables import Base, ContributionRow, RoundRow
from undersong.shared.clock import utc_now
from undersong.shared.database import Transaction
from undersong.shared.ids import digest_of
from undersong.shared.learning.tensors import load
from undersong.shared.queues import Relay, Streams, background
from undersong.shared.secagg.engine import UPLOAD
from undersong.shared.secagg.pairwise.uploads import MaskSignatures
from undersong.shared.wire.manifest import RoundKind
from undersong.shared.wire.updates import read_header, write_header

STEPS = (*BEFORE, UPLOAD, *AFTER)


def trained(stage: Stage, found: dict[str, Any]) -> np.ndarray[Any, Any]:
    model = load(stage.registry.blobs[found["result"]["digest"]])
    return np.asarray(model.tensors["w"])


async def test_a_whole_round_opens_the_sum_and_leaves_a_record(stage: Stage) -> None:
    sites = await Sites.open(stage)
    found = await sites.run()
    assert (found["state"], found["got"], found["opening"]) == ("published", 5, True)
    assert trained(stage, found) == pytest.approx(sites.expected(list(sites.manifest.cohort)), abs=1e-4)
    record = sites.keys.records[sites.id]  # the fake checked it whole
    assert (record.contributors, len(record.commitments)) == (5, 5)
    assert record.result.version_id == found["result"]["version_id"]


async def test_masked_updates_are_shared_among_workers(
    quick_stage: Stage, by_another: Callable[[Stage], list[int]]
) -> None:
    """A partial sum of masked updates opens with the others and not alone."""
    sites = await Sites.open(quick_stage)
    folded = by_another(quick_stage)
    found = await sites.run(lost={sites.manifest.cohort[2]: "commit"})
    assert found["state"] == "published", found
    assert folded
    assert min(folded) == 1
    assert trained(quick_stage, found) == pytest.approx(sites.expected(list(sites.manifest.cohort)), abs=1e-4)


async def test_an_update_is_taken_only_with_its_sites_signature_over_it(quick_stage: Stage) -> None:
    """For this body, this round and these sharers; the record then holds all of them."""
    sites = await Sites.open(quick_stage)
    for step in BEFORE:
        await sites.step(step)
    one, two, *_ = sites.manifest.cohort
    assert (await sites.upload(two)).status_code == 201
    sites.states[one], pieces = sites.engine.upload(
        sites.client_rounds[one], sites.states[one], sites.answers[one], sites.payload(one)
    )
    body = sites.said[one, UPLOAD] = b"".join(map(bytes, pieces))
    signing, digest = MaskSignatures(), bytes.fromhex(digest_of(body))
    good = signing.sign(sites.client_rounds[one], sites.states[one], digest)
    for signature, reason in (
        (None, "update-unsigned"),
        (bytes(64), "update-refused"),
        (sites.signatures[two], "update-refused"),
        (signing.sign(sites.client_rounds[one], sites.states[one], bytes(32)), "update-refused"),
        (signing.sign(sites.client_rounds[two], sites.states[two], digest), "update-refused"),
    ):
        headers = {} if signature is None else {"update-signature": signature.hex()}
        refused = await quick_stage.send(sites.id, one, body, **headers)
        assert (refused.status_code, refused.json()["type"].rpartition(":")[2]) == (422, reason)
    for text_ in ("", "00", "zz" * 64, good.hex() + "00"):
        assert (await quick_stage.send(sites.id, one, body, **{"update-signature": text_})).status_code == 422
    assert (await quick_stage.send(sites.id, one, body, **{"update-signature": good.hex()})).status_code == 201
    assert (await quick_stage.send(sites.id, one, body)).status_code == 200, "it is there: no signature is needed again"
    sites.signatures[one], sites.client_rounds[one] = good, replace(sites.client_rounds[one], body=digest)
    for step in (UPLOAD, *AFTER):
        await sites.step(step)
    record = sites.keys.records[sites.id]
    assert record.upload_signatures == {site: made.hex() for site, made in sites.signatures.items()}


async def test_an_invented_survivor_ends_the_round_at_the_witness(quick_stage: Stage) -> None:
    """An aggregator that records an update which its site never sent has no signature to show for it."""
    sites = await Sites.open(quick_stage)
    for step in BEFORE:
        await sites.step(step)
    *present, absent = sites.manifest.cohort
    for site in present:
        await sites.upload(site)
    header, start = read_header(sites.said[present[0], UPLOAD])
    body = write_header(replace(header, site_id=absent)) + sites.said[present[0], UPLOAD][start:]

    async def pieces() -> AsyncIterator[bytes]:
        yield body

    await quick_stage.components.blobs.put_stream(
        pieces(), limit=len(body), expect=digest_of(body), expect_size=len(body)
    )
    invented = {
        "round_id": sites.id, "site_id": absent, "digest": digest_of(body), "size": len(body), "accepted_at": utc_now(),
        "signature": sites.signatures[present[0]], "receipt": {},
    }  # fmt: skip

    async def write(tx: Transaction) -> None:
        tx.session.add(ContributionRow(**invented))
        await tx.session.execute(update(RoundRow).values(got=5, step_missing=0))

    await quick_stage.components.database.run("invent", write)
    await sites.close()
    found = await quick_stage.state(sites.id)
    assert (found["state"], found["reason"]) == ("failed", "witness-refused")
    assert sites.keys.records == {}


@pytest.mark.parametrize("step", STEPS)
async def test_a_site_lost_at_any_step_does_not_stop_the_round(quick_stage: Stage, step: str) -> None:
    sites = await Sites.open(quick_stage)
    lost = sites.manifest.cohort[2]
    found = await sites.run(lost={lost: step})
    assert found["state"] == "published", found
    counted = [s for s in sites.manifest.cohort if s != lost or STEPS.index(step) > STEPS.index(UPLOAD)]
    assert found["accepted"] == counted
    assert trained(quick_stage, found) == pytest.approx(sites.expected(counted), abs=1e-4)


@pytest.mark.parametrize("kind", [RoundKind.STATISTICS])
async def test_sums_in_the_64_bit_ring(quick_stage: Stage, kind: RoundKind) -> None:
    sites = await Sites.open(quick_stage, kind=kind)
    found = await sites.run(lost={sites.manifest.cohort[0]: UPLOAD})
    expected = np.sum([sites.vector(site) for site in sites.manifest.cohort[1:]], axis=0)
    assert found["result"]["values"] == pytest.approx(expected, abs=1e-5)
    assert sites.keys.records[sites.id].result.values_digest is not None


async def test_one_message_a_site_a_step(quick_stage: Stage) -> None:
    """The same bytes again are always accepted, other ones never; too early, too late and strangers are told so."""
    sites = await Sites.open(quick_stage)
    one = sites.manifest.cohort[0]
    assert (await sites.say(one, "advertise")).status_code == 202
    assert (await sites.say(one, "advertise")).status_code == 202
    other = await sites.put(one, "advertise", b"other")
    assert (other.status_code, other.json()["type"].rpartition(":")[2]) == (409, "step-differs")
    assert (await sites.put(one, "share", b"x")).json()["type"].endswith("step-not-open")
    assert (await sites.put(one, "nonsense", b"x")).status_code == 404
    assert (await sites.put(one, "upload", b"x")).status_code == 404
    assert (await sites.put("stranger", "advertise", b"x")).status_code == 403
    assert (await sites.get(one, "advertise")).status_code == 204
    late = sites.manifest.cohort[4]
    await sites.step("advertise", without=(late,))
    assert (await sites.say(one, "advertise")).status_code == 202, "the same bytes, after the step"
    closed = await sites.put(late, "advertise", b"late")
    assert (closed.status_code, closed.json()["type"].rpartition(":")[2]) == (410, "step-closed")
    fallen = await sites.get(late, "advertise")
    assert (fallen.status_code, fallen.json()["type"].rpartition(":")[2]) == (410, "site-fell-out")
    assert (await sites.put(late, "share", b"x")).json()["type"].endswith("site-fell-out")
    early = await quick_stage.send(sites.id, one, b"x" * 100)
    assert (early.status_code, early.json()["type"].rpartition(":")[2]) == (409, "step-not-open")


async def say_and_wait(sites: Sites, step: str, who: Sequence[str]) -> list[httpx.Response]:
    """These sites speak and wait for the answer, while a worker comes by every now and then."""
    told = asyncio.gather(*(sites.say(site, step, wait_s=30) for site in who))
    while not told.done():
        await sites.close()
        await asyncio.sleep(0.05)
    return await told


async def test_who_waits_is_answered_in_the_same_request(stage: Stage) -> None:
    """By the process that closes the step, with the stored answer; a site that dropped out is told so."""
    sites = await Sites.open(stage)
    lost = sites.manifest.cohort[1]
    assert (await sites.say(lost, "advertise", wait_s=0.01)).status_code == 202, "taken, and the step is open"
    others = [site for site in sites.manifest.cohort if site != lost]
    told = await say_and_wait(sites, "advertise", others)
    assert [answer.status_code for answer in told] == [200] * len(others)
    assert {answer.content for answer in told} == {(await sites.get(lost, "advertise")).content}
    assert (await sites.say(lost, "advertise", wait_s=30)).content == told[0].content, "the same bytes, afterwards"
    sites.answers = dict.fromkeys(sites.manifest.cohort, told[0].content)
    sites.said[lost, "share"] = b"garbage"
    told = await say_and_wait(sites, "share", sites.manifest.cohort)
    fallen = told[sites.manifest.cohort.index(lost)]
    assert (fallen.status_code, fallen.json()["type"].rpartition(":")[2]) == (410, "site-fell-out")
    assert sorted(answer.status_code for answer in told) == [200] * len(others) + [410]


async def test_who_fell_out_before_cannot_upload(quick_stage: Stage) -> None:
    sites = await Sites.open(quick_stage)
    gone = sites.manifest.cohort[1]
    await sites.step("advertise")
    await sites.step("share", without=(gone,))
    await sites.step("check")
    answer = await quick_stage.send(sites.id, gone, b"x" * 100)
    assert (answer.status_code, answer.json()["type"].rpartition(":")[2]) == (410, "site-fell-out")


async def test_garbage_counts_as_no_answer(quick_stage: Stage) -> None:
    sites = await Sites.open(quick_stage)
    bad = sites.manifest.cohort[3]
    for step in ("advertise", "share"):
        sites.said[bad, step] = b"garbage"
        for site in sites.answers:
            assert (await sites.say(site, step)).status_code in (202, 410)
        await sites.close()
        sites.present = [site for site in sites.answers if site != bad]
        await sites.hear(step)
        assert (await sites.get(bad, step)).status_code == 410
        sites.answers = {site: sites.answers[site] for site in sites.present}
        break
    for step in STEPS[1:]:
        await sites.step(step)
    found = await quick_stage.state(sites.id)
    assert (found["state"], found["got"]) == ("published", 4)


async def everything(stage: Stage) -> bytes:
    async def work(tx: Transaction) -> bytes:
        rows = []
        for table in Base.metadata.sorted_tables:
            for row in await tx.session.execute(text(f"SELECT * FROM {table.name}")):
                rows.append(b"|".join(v if isinstance(v, bytes) else str(v).encode() for v in row))
        return b"\n".join(rows)

    return await stage.database.read("test.everything", work)


async def test_nothing_secret_is_in_any_table(quick_stage: Stage) -> None:
    """While the round runs, no message of a site lies there open; at its end, no message, answer or state at all."""
    stage = quick_stage
    sites = await Sites.open(stage)
    for step in STEPS[:-1]:
        await sites.step(step)
    await sites.step("unmask", close=False)
    openings = [sites.said[site, "unmask"] for site in sites.present]
    during = await everything(stage)
    assert not any(opening[8:40] in during or opening.hex()[16:80].encode() in during for opening in openings)
    await sites.close()
    assert (await stage.state(sites.id))["state"] == "published"
    after = await everything(stage)
    for (site, step), said in sites.said.items():
        if step not in ("advertise", "check"):  # public keys, and complaints of which there are none
            assert said[40:72] not in after, (site, step)
    left = "SELECT (SELECT count(*) FROM step_messages WHERE body IS NOT NULL) + (SELECT count(*) FROM step_bodies)"
    secret = "SELECT count(*) FROM rounds WHERE engine_secret IS NOT NULL"
    for query in (left, secret):
        assert await stage.database.read("test.left", lambda tx, q=query: tx.session.scalar(text(q))) == 0  # type: ignore[misc]


async def test_a_long_poll_wakes_at_once(quick_stage: Stage) -> None:
    stage = quick_stage
    sites = await Sites.open(stage)
    streams = Streams(stage.settings.redis)
    async with background(Relay(stage.database, streams, notifier=stage.notifier).run(), stage.notifier.run()):
        waiting = [asyncio.create_task(sites.get(site, "advertise", 30)) for site in sites.manifest.cohort]
        await asyncio.sleep(0.2)
        assert not any(task.done() for task in waiting)
        for site in sites.manifest.cohort:
            await sites.say(site, "advertise")
        driving = asyncio.create_task(stage.driver.drive(sites.id))  # type: ignore[arg-type]
        began = time.monotonic()
        answers = await asyncio.gather(*waiting)
        assert [answer.status_code for answer in answers] == [200] * 5
        assert time.monotonic() - began < 25  # and not at the end of the poll
        driving.cancel()
        await asyncio.gather(driving, return_exceptions=True)
    await streams.close()


async def test_a_sealed_round_has_no_steps(quick_stage: Stage) -> None:
    manifest = quick_stage.manifest(RoundKind.STATISTICS)
    await quick_stage.open(manifest)
    found = await quick_stage.state(manifest.round_id)
    assert (found["step"], found["opening"]) == (None, False)
    async with quick_stage.client(quick_stage.site(manifest.cohort[0])) as http:
        answer = await http.get(f"/v1/rounds/{manifest.round_id}/steps/upload/answer")
    assert answer.status_code == 404
