"""Parties that cheat in a pairwise round, against the real aggregator: each cheat ends under a name, and shows nothing.

What is tested elsewhere is not tested again here: the table in README.md says where.
"""

import itertools
import os
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from scipy import stats

from tests.effort import also
from tests.services.aggregator.conftest import Stage
from tests.services.aggregator.pairwise import AFTER, BEFORE, Sites
from tests.shared.secagg.verifiers import UNCERTIFIED
from undersong.shared.ids import digest_of
from undersong.shared.learning.tensors import load
from undersong.shared.merkle import proofs as merkle
from undersong.shared.secagg import transcript
from undersong.shared.secagg.engine import UPLOAD
from undersong.shared.secagg.pairwise import messages, roster
from undersong.shared.secagg.pairwise.masks import apply_mask
from undersong.shared.secagg.pairwise.messages import OpeningShares, Survivors
from undersong.shared.secagg.pairwise.roster import Frame, Roster, RoundAborted
from undersong.shared.secagg.pairwise.server import ServerState
from undersong.shared.secagg.pairwise.shares import SHARE_BYTES
from undersong.shared.secagg.pairwise.terms import terms
from undersong.shared.secagg.payload import opened_train
from undersong.shared.secagg.quantise import DTYPES, OutOfRange, unpack
from undersong.shared.wire.manifest import ModelRef
from undersong.shared.wire.updates import read_header, write_header

STEPS = (*BEFORE, UPLOAD, *AFTER)
LATER = ("share", "check", "commit", "unmask")
GARBAGE = ("empty", "garbage", "long", "noise of the right size")


async def until(sites: Sites, last: str) -> None:
    """Play every step up to this one honestly."""
    for step in STEPS[: STEPS.index(last) + 1]:
        await sites.step(step)


async def end(sites: Sites, first: str) -> dict[str, Any]:
    """Play from this step to the end honestly."""
    for step in STEPS[STEPS.index(first) :]:
        await sites.step(step)
    return await sites.stage.state(sites.id)


def frame_of(sites: Sites) -> Frame:
    return Frame.of(sites.keys.rosters[sites.id], terms(sites.manifest, sites.keys.public))


def signed_survivors(sites: Sites, alive: frozenset[int], root: bytes) -> Survivors:
    """A survivor set that a witness signs which works with the aggregator."""
    frame = frame_of(sites)
    bits = transcript.bitmap(alive, len(frame.roster.members))
    statement = roster.survivors_statement(frame.ctx, sites.manifest.attempt, bits, root)
    return Survivors(bits, root, sites.keys.key.sign(statement))


def shown(sites: Sites, alive: frozenset[int]) -> dict[str, bytes]:
    """The answers to the upload for this set, with its own true tree over the bodies."""
    cohort = sites.manifest.cohort
    digests = {i: sites.client_rounds[cohort[i]].body or b"" for i in alive}
    said, order = signed_survivors(sites, alive, transcript.body_root(digests)), sorted(alive)
    tree = merkle.stored([transcript.body_leaf(i, digests[i]) for i in order])
    return {
        cohort[i]: messages.pack_list([said.pack(), *merkle.inclusion_proof(place, len(order), tree)])
        for place, i in enumerate(order)
    }


def speak(sites: Sites, site: str, step: str, answer: bytes) -> bytes:
    sites.states[site], message = sites.engine.message(sites.client_rounds[site], sites.states[site], step, answer)
    return message


def words(sites: Sites, site: str) -> np.ndarray[Any, Any]:
    body = sites.said[site, UPLOAD]
    bits = sites.manifest.encoding.modulus_bits  # type: ignore[union-attr]
    return np.array(unpack(body[read_header(body)[1] :], bits), DTYPES[bits])


def trained(stage: Stage, found: dict[str, Any]) -> np.ndarray[Any, Any]:
    return np.asarray(load(stage.registry.blobs[found["result"]["digest"]]).tensors["w"])


def body_of(sites: Sites, site: str) -> bytes:
    """Return what the site would submit now, without submitting it."""
    held = sites.client_rounds[site], sites.states[site], sites.answers[site], sites.payload(site)
    return b"".join(bytes(piece) for piece in sites.engine.upload(*held)[1])


# the aggregator cheats


async def test_two_survivor_sets_for_two_halves_open_neither(quick_stage: Stage) -> None:
    """Even with a witness that signs both: no half can show a quorum of commitments, so no site opens anything."""
    sites = await Sites.open(quick_stage)
    await until(sites, UPLOAD)
    cohort = list(sites.manifest.cohort)
    sets = (frozenset(range(4)), frozenset(range(1, 5)))
    committed: dict[str, bytes] = {}
    for alive, halves in zip(sets, ((0, 1), (2, 3, 4)), strict=True):
        answers = shown(sites, alive)
        for i in halves:
            committed[cohort[i]] = speak(sites, cohort[i], "commit", answers[cohort[i]])
    for alive, halves in zip(sets, ((0, 1), (2, 3, 4)), strict=True):
        said = messages.unpack_list(shown(sites, alive)[cohort[halves[0]]])[0]
        signatures = [i.to_bytes(4, "little") + committed[cohort[i]][-64:] for i in range(5) if i in alive]
        own = [s for s in signatures if int.from_bytes(s[:4], "little") in halves]
        for i, chosen in itertools.product(halves, (own, signatures)):
            with pytest.raises(RoundAborted, match=r"survivors committed|valid signature"):
                speak(sites, cohort[i], "unmask", messages.pack_list([said, *chosen]))
    for site, message in committed.items():
        assert (await sites.put(site, "commit", message)).status_code == 202
    await sites.close()
    found = await quick_stage.state(sites.id)
    assert (found["state"], found["reason"], found["opening"]) == ("failed", "not-enough-shares", False)


async def test_after_opening_the_other_share_is_not_given(quick_stage: Stage) -> None:
    """Every site opened the sum with site 4 in it; asked again without it, none gives a share of its mask key."""
    sites = await Sites.open(quick_stage)
    await until(sites, "unmask")
    cohort = list(sites.manifest.cohort)
    answers = shown(sites, frozenset(range(4)))
    for site in cohort[:4]:
        with pytest.raises(RoundAborted, match="second survivor set"):
            speak(sites, site, "commit", answers[site])
        said = messages.unpack_list(answers[site])[0]
        with pytest.raises(RoundAborted, match="differs from the one"):
            speak(sites, site, "unmask", messages.pack_list([said]))
    for site in cohort:
        opening = OpeningShares.unpack(sites.said[site, "unmask"])
        assert (len(opening.b), len(opening.s)) == (5 * SHARE_BYTES, 0)


async def test_sites_with_another_model_fall_out_and_are_in_no_sum(quick_stage: Stage) -> None:
    """Their manifest names another model: what they sign is not of this round, whichever key signed their manifest."""
    sites = await Sites.open(quick_stage, sites=7)
    other = sites.manifest.model_copy(update={"model": ModelRef(version_id="ver_other", digest="9" * 64)})
    odd = sites.manifest.cohort[6]
    sites.client_rounds[odd] = replace(sites.client_rounds[odd], manifest=other)
    sites.states[odd] = sites.engine.begin(sites.client_rounds[odd], UNCERTIFIED)
    await sites.step("advertise")
    gone = await sites.get(odd, "advertise")
    assert (gone.status_code, gone.json()["type"].rpartition(":")[2]) == (410, "site-fell-out")
    with pytest.raises(RoundAborted, match=r"valid signature|not in the roster"):
        speak(sites, odd, "share", sites.keys.rosters[sites.id].pack())
    sites.answers.pop(odd)
    found = await end(sites, "share")
    assert (found["state"], found["got"]) == ("published", 6)
    assert trained(quick_stage, found) == pytest.approx(sites.expected(list(sites.manifest.cohort[:6])), abs=1e-4)


@pytest.mark.parametrize("signed", [False, True])
@pytest.mark.parametrize("key", ["c", "s", "b"])
async def test_a_substituted_key_is_noticed(quick_stage: Stage, key: str, signed: bool) -> None:
    """Another site's key swapped in the shown roster; with a witness that signs it, that site itself finds out."""
    sites = await Sites.open(quick_stage)
    await until(sites, "advertise")
    true = sites.keys.rosters[sites.id]
    victim = true.members[2]
    bent = replace(victim, advertisement=replace(victim.advertisement, **{key: os.urandom(32)}))
    members = (*true.members[:2], bent, *true.members[3:])
    fake = Roster(members, true.nonce, true.signature)
    if signed:
        fixed = terms(sites.manifest, sites.keys.public)
        statement = roster.roster_statement(fixed.ctx0, len(members), fake.root, fake.nonce)
        fake = replace(fake, signature=sites.keys.key.sign(statement))
    for site in [victim.site_id] if signed else list(sites.manifest.cohort):
        with pytest.raises(RoundAborted, match="another key" if signed else "valid signature"):
            speak(sites, site, "share", fake.pack())


@pytest.mark.parametrize("what", ["dropped", "duplicated", "exchanged"])
async def test_a_sum_over_other_bodies_than_were_signed_is_noise(quick_stage: Stage, what: str) -> None:
    """What the survivors opened fits the signed set only: with a body left out, twice, or another's, masks remain."""
    sites = await Sites.open(quick_stage)
    await until(sites, "commit")
    for site in sites.manifest.cohort:
        await sites.say(site, "unmask")
    cohort = list(sites.manifest.cohort)
    taken = {"dropped": cohort[1:], "duplicated": [*cohort, cohort[0]], "exchanged": [cohort[1], *cohort[1:]]}[what]
    total = np.zeros_like(words(sites, cohort[0]))
    for site in taken:
        total += words(sites, site)
    masked = total.copy()
    reveal(sites, total)
    plain = [plain_words(sites, site) for site in cohort]
    for candidate in (*plain, *(np.sum(plain[:i] + plain[i + 1 :], axis=0, dtype=total.dtype) for i in range(5))):
        assert np.mean(total == candidate) < 0.05
        assert np.mean(masked == candidate) < 0.05
    with pytest.raises(OutOfRange):
        opened_train(sites.manifest, total, len(cohort))


def reveal(sites: Sites, total: np.ndarray[Any, Any]) -> None:
    """Take out what the openings give, as the aggregator would for any sum it likes."""
    frame = frame_of(sites)
    server = ServerState(terms(sites.manifest, sites.keys.public), frame.roster)
    openings = {
        frame.roster.position(site): OpeningShares.unpack(sites.said[site, "unmask"]) for site in sites.manifest.cohort
    }
    everyone = frozenset(openings)
    for correction in server.unmask(openings, everyone, everyone).corrections:
        apply_mask(total, correction.seed, correction.sign, server.terms.modulus_bits)


def plain_words(sites: Sites, site: str) -> np.ndarray[Any, Any]:
    bits = sites.manifest.encoding.modulus_bits  # type: ignore[union-attr]
    return np.array(unpack(sites.payload(site).data, bits), DTYPES[bits])


async def test_a_whole_rounds_messages_hide_each_update(quick_stage: Stage) -> None:
    """All openings together still leave each body under its pairwise masks."""
    sites = await Sites.open(quick_stage)
    await until(sites, "commit")
    for site in sites.manifest.cohort:
        await sites.say(site, "unmask")
    for site in sites.manifest.cohort:
        alone = words(sites, site)
        reveal(sites, alone)  # every own mask is out
        counts = np.bincount(alone.view(np.uint8) >> 4, minlength=16)
        assert stats.chisquare(counts).pvalue > 1e-6
        assert np.mean(alone == plain_words(sites, site)) < 0.05
        with pytest.raises(OutOfRange):
            opened_train(sites.manifest, alone, 1)


@pytest.mark.parametrize("step", ["unmask", *also("share", "commit")])
async def test_an_answer_of_an_old_round_is_refused(quick_stage: Stage, step: str) -> None:
    """Same sites, same model, same witness: what was true in the last round is refused in this one."""
    old = await Sites.open(quick_stage)
    before = STEPS[STEPS.index(step) - 1]
    await until(old, before)
    new = await Sites.open(quick_stage, model=old.manifest.model, number=2)
    for each in STEPS[: STEPS.index(before) + 1]:
        await new.step(each)
    site = new.manifest.cohort[1]
    stale = old.answers[site]
    assert stale is not None
    new.answers[site], fresh = stale, new.answers[site]
    with pytest.raises(RoundAborted):
        await new.say(site, step)
    new.answers[site] = fresh
    assert (await end(new, step))["state"] == "published"


async def test_envelopes_of_an_old_round_open_nothing(quick_stage: Stage) -> None:
    """The site complains about all of them and goes on: the sum is over all sites, and no site is excluded."""
    old = await Sites.open(quick_stage)
    await until(old, "share")
    new = await Sites.open(quick_stage, model=old.manifest.model, number=2)
    await until(new, "share")
    site = new.manifest.cohort[1]
    new.answers[site] = old.answers[site]
    found = await end(new, "check")
    assert (found["state"], found["accepted"]) == ("published", list(new.manifest.cohort))
    others = [each for each in new.manifest.cohort if each != site]
    assert [(each["site_id"], each["code"]) for each in found["faults"]] == [(o, "shares-disputed") for o in others]
    assert list(new.keys.records[new.id].complaints) == [site]


@pytest.mark.parametrize("step", ["share", *also("advertise", "commit", "unmask")])
async def test_a_message_of_an_old_round_counts_for_nothing(quick_stage: Stage, step: str) -> None:
    """A site's words of the last round, played again in its name, do not put it into this one's sum."""
    old = await Sites.open(quick_stage)
    await until(old, step)
    new = await Sites.open(quick_stage, model=old.manifest.model, number=2)
    if step != "advertise":
        await until(new, STEPS[STEPS.index(step) - 1])
    site = new.manifest.cohort[3]
    new.said[site, step] = old.said[site, step]
    await with_a_cheat(new, step, site)


# sites cheat


async def with_a_cheat(sites: Sites, step: str, site: str) -> None:
    """The bent message is in `said`: the round gives the exact sum of the others or ends under a name."""
    await sites.step(step)
    honest = [each for each in sites.manifest.cohort if each != site]
    aborted = []
    for each in STEPS[STEPS.index(step) + 1 :]:
        sites.answers.pop(site, None)
        for other in list(sites.answers):
            try:
                await (sites.upload(other) if each == UPLOAD else sites.say(other, each))
            except RoundAborted as refusal:
                aborted.append(refusal.slug())
                sites.answers.pop(other)
                await sites.lose(other)
        await sites.lose(site)
        sites.present = list(sites.answers)
        await sites.close()
        await sites.hear(each)
    found = await sites.stage.state(sites.id)
    if found["state"] == "failed":
        assert found["reason"] in {"not-enough-shares", "dealer-at-fault", "quorum"}
        assert sites.keys.records == {} or sites.id not in sites.keys.records
        return
    assert (found["state"], aborted) == ("published", [])
    counted = found["accepted"]
    assert set(honest) <= set(counted)
    assert trained(sites.stage, found) == pytest.approx(sites.expected(counted), abs=1e-4)


@pytest.mark.parametrize(
    ("step", "how"),
    [
        *zip(LATER, GARBAGE, strict=True),
        *also(*(pair for pair in itertools.product(LATER, GARBAGE) if LATER.index(pair[0]) != GARBAGE.index(pair[1]))),
    ],
)
async def test_garbage_in_a_later_step(quick_stage: Stage, step: str, how: str) -> None:
    sites = await Sites.open(quick_stage)
    await until(sites, STEPS[STEPS.index(step) - 1])
    site = sites.manifest.cohort[3]
    true = speak(sites, site, step, sites.answers[site] or b"")
    noise = os.urandom(len(true))
    if step == "unmask":
        opening = OpeningShares.unpack(true)
        noise = OpeningShares(os.urandom(len(opening.b)), os.urandom(len(opening.s))).pack()
    bent = {"empty": b"\x80", "garbage": b"garbage", "long": true + b"x", "noise of the right size": noise}
    sites.said[site, step] = bent[how]
    await with_a_cheat(sites, step, site)


async def test_a_message_of_noise_costs_only_its_sender_the_round(quick_stage: Stage) -> None:
    """Instead of envelopes a site sends random bytes: it is left out, and the others' sum is published."""
    sites = await Sites.open(quick_stage)
    await until(sites, "advertise")
    bad = sites.manifest.cohort[2]
    sites.said[bad, "share"] = os.urandom(len(speak(sites, bad, "share", sites.answers[bad] or b"")))
    for step in STEPS[STEPS.index("share") :]:
        await sites.step(step, without=() if step == "share" else (bad,))
    found = await quick_stage.state(sites.id)
    assert (found["state"], found["accepted"]) == ("published", [s for s in sites.manifest.cohort if s != bad])


async def test_a_key_of_low_order_costs_only_its_sender_the_round(quick_stage: Stage) -> None:
    """Truly signed by its site; agreement with such a key would give a secret that everyone knows."""
    sites = await Sites.open(quick_stage)
    bad = sites.manifest.cohort[2]
    fixed = terms(sites.manifest, sites.keys.public)
    key: Ed25519PrivateKey = quick_stage.site(bad).private_key
    c, s, b = bytes(32), os.urandom(32), os.urandom(32)
    signature = key.sign(roster.advertisement_statement(fixed.ctx0, bad, c, s, b))
    sites.said[bad, "advertise"] = messages.Advertisement(c, s, b, signature).pack()
    await sites.step("advertise")
    for site in sites.manifest.cohort:
        if site != bad:
            await sites.say(site, "share")
            assert (site, "share") in sites.said
    assert not sites.answers.get(bad)


@pytest.mark.parametrize("how", ["garbage", "short", "long", "another round", "another site"])
async def test_a_bad_body_is_refused_at_the_door(quick_stage: Stage, how: str) -> None:
    """And its site may still submit a good one: nothing was stored."""
    sites = await Sites.open(quick_stage)
    await until(sites, "check")
    one, two = sites.manifest.cohort[:2]
    body, of_two = body_of(sites, one), body_of(sites, two)
    header, start = read_header(body)
    stray = write_header(replace(header, round_id="rnd_other")) + body[start:]
    bent = {"garbage": b"garbage" * 9, "short": body[:-4], "long": body + bytes(4), "another round": stray}
    refused = await quick_stage.send(sites.id, one, bent.get(how, of_two))
    assert refused.status_code in (413, 422), refused.text
    assert refused.json()["type"].rpartition(":")[2]
    assert (await end(sites, UPLOAD))["got"] == 5


async def test_a_body_of_noise_ends_the_round_under_a_name(quick_stage: Stage) -> None:
    """Right size, wrong words: no party can see that before the sum is open, and the opened sum is refused."""
    sites = await Sites.open(quick_stage)
    await until(sites, "check")
    bad = sites.manifest.cohort[2]
    held = sites.client_rounds[bad], sites.states[bad], sites.answers[bad], sites.payload(bad)
    sites.states[bad], pieces = sites.engine.upload(*held)
    body = b"".join(bytes(piece) for piece in pieces)
    start = read_header(body)[1]
    noise = body[:start] + os.urandom(len(body) - start)
    sites.said[bad, UPLOAD] = noise
    sites.client_rounds[bad] = replace(sites.client_rounds[bad], body=bytes.fromhex(digest_of(noise)))
    found = await end(sites, UPLOAD)
    assert (found["state"], found["reason"]) == ("failed", "sum-out-of-range")
    assert sites.keys.records == {}


# sites are lost


@pytest.mark.parametrize("step", ["share", "unmask", *also("advertise", "check", "upload", "commit")])
async def test_three_of_ten_lost_at_one_step_leave_the_exact_sum(quick_stage: Stage, step: str) -> None:
    """With the shares of corrupt sites and drop-outs that jobs have by default."""
    sites = await Sites.open(quick_stage, sites=10, engine_params={"corrupt": 1 / 3, "dropout": 0.3})
    cohort = list(sites.manifest.cohort)
    found = await sites.run(lost=dict.fromkeys((cohort[0], cohort[4], cohort[9]), step))
    assert found["state"] == "published", found
    late = STEPS.index(step) > STEPS.index(UPLOAD)
    counted = [site for i, site in enumerate(cohort) if late or i not in (0, 4, 9)]
    assert found["accepted"] == counted
    assert trained(quick_stage, found) == pytest.approx(sites.expected(counted), abs=1e-4)
