"""The engine's laws: exact sums with parties away, one set, lies that are named, and bodies that say nothing."""

import itertools
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.contracts.rounds import SITES, Round, manifest_of
from tests.effort import examples
from undersong.services.aggregator.peers.peer import AskRefused
from undersong.shared.ids import SiteId
from undersong.shared.lattice.ring import Q
from undersong.shared.secagg import engines
from undersong.shared.secagg.engine import UPLOAD, RoundSpoiled, UpdateRefused
from undersong.shared.secagg.fold import BytesSource
from undersong.shared.secagg.oneshot import dealing, room
from undersong.shared.secagg.oneshot.facts import FACTS, NAME
from undersong.shared.secagg.oneshot.messages import Checked
from undersong.shared.secagg.oneshot.server import OneshotState
from undersong.shared.secagg.quantise import plan_encoding, plan_sums
from undersong.shared.wire.custodian import CUSTODIAN
from undersong.shared.wire.manifest import RoundKind
from undersong.shared.wire.updates import read_header

SIZES = [(3, 2), (5, 3), (7, 4)]
FOUR, BAD = SITES[4], SITES[1]


@pytest.fixture(scope="module", autouse=True)
def registered() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(engines, "ENGINES", {**engines.ENGINES, NAME: FACTS})
        yield
    engines.engine_named.cache_clear()
    engines.engine_audit.cache_clear()


def round_of(custodians: int = 3, threshold: int = 2, *away: int, **changes: Any) -> Round:
    manifest = manifest_of(NAME, **changes)
    params = {**manifest.engine_params, "custodians": custodians, "threshold": threshold}
    return Round(manifest.model_copy(update={"engine_params": params}), [(CUSTODIAN, index) for index in away])


def state_of(round_: Round) -> OneshotState:
    return OneshotState.unpack(round_.server_round.secret)


@pytest.mark.parametrize("bits", [16, 24, 32])
def test_sums_are_exact_in_words_of_any_size(bits: int) -> None:
    encoding = plan_encoding(summands=7, max_weight=8, clip_norm=2.0, bound_value=None, modulus_bits=bits)
    round_ = round_of(encoding=encoding.model_dump())
    round_.run()
    total, wanted = round_.total(round_.bodies), round_.expected(round_.bodies)
    mask = (1 << bits) - 1
    np.testing.assert_array_equal(total & mask, wanted & mask)


@settings(max_examples=examples(20), deadline=None)
@given(data=st.data())
def test_any_custodians_open_any_sites(data: st.DataObject) -> None:
    custodians, threshold = data.draw(st.sampled_from(SIZES))
    spare = custodians - threshold
    order = data.draw(st.permutations(range(custodians)))
    early, late = sorted((data.draw(st.integers(0, spare)), data.draw(st.integers(0, spare))))
    lost = frozenset(data.draw(st.permutations(SITES))[: data.draw(st.integers(0, 4))])
    round_ = round_of(custodians, threshold, *order[:early])
    round_.run({UPLOAD: lost})
    round_.absent = {(CUSTODIAN, index) for index in order[:late]}
    np.testing.assert_array_equal(round_.total(round_.bodies), round_.expected(round_.bodies))
    assert set(round_.bodies) == set(SITES) - lost


def altered(round_: Round, site: SiteId, bend: Callable[[list[Any]], None], monkeypatch: pytest.MonkeyPatch) -> None:
    """Run the round to its end with one site that deals other shares than it should."""
    deal, client = dealing.deal, round_.client_rounds[site]

    def dealt(secret: Any, points: Any, keys: Any) -> list[Any]:
        shares = deal(secret, points, keys)
        if drawing == [site]:
            bend(shares)
        return shares

    drawing: list[SiteId] = []
    hand_in = round_.hand_in

    def handed(each: SiteId) -> None:
        drawing[:] = [each]
        hand_in(each)

    monkeypatch.setattr(dealing, "deal", dealt)
    monkeypatch.setattr(round_, "hand_in", handed)
    assert client.site_id == site
    round_.run()


def other_word(shares: list[Any]) -> None:
    shares[-1][17] = (int(shares[-1][17]) + 1) % Q


def all_wrong(shares: list[Any]) -> None:
    for number, share in enumerate(shares):
        share[5 + number] ^= 1


def test_a_site_that_deals_badly_is_named_although_who_lies_cannot_be_told(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(RoundSpoiled) as spoiled:
        altered(round_of(), BAD, other_word, monkeypatch)
    assert [(fault.site_id, fault.code) for fault in spoiled.value.faults] == [(BAD, "shares-disputed")]


def test_with_more_custodians_it_is_at_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(RoundSpoiled) as spoiled:
        altered(round_of(5, 3), BAD, all_wrong, monkeypatch)
    assert [(fault.site_id, fault.code) for fault in spoiled.value.faults] == [(BAD, "shares-inconsistent")]
    assert spoiled.value.faults[0].proved


def test_or_the_sum_is_opened_without_the_custodian_that_got_the_wrong_share(monkeypatch: pytest.MonkeyPatch) -> None:
    round_ = round_of(5, 3)
    altered(round_, BAD, other_word, monkeypatch)
    assert state_of(round_).openers == (0, 1, 2, 3)
    np.testing.assert_array_equal(round_.total(round_.bodies), round_.expected(round_.bodies))


def lie(round_: Round, index: int, stage: str, bend: Callable[[bytes], bytes]) -> None:
    """Let a custodian change its answers at a stage."""
    holder: Any = round_.parties[CUSTODIAN][index]
    answer = holder.answer
    holder.answer = lambda at, manifest, body: (
        bend(answer(at, manifest, body)) if at == stage else answer(at, manifest, body)
    )


def test_a_custodian_that_lies_about_every_site_is_left_out_and_no_site_is_named() -> None:
    def bend(reply: bytes) -> bytes:
        said = Checked.unpack(reply)
        return Checked({site: word ^ 1 for site, word in said.words.items()}, {}).pack()

    round_ = round_of(5, 3)
    lie(round_, 2, "close", bend)
    round_.run()
    assert state_of(round_).openers == (0, 1, 3, 4)
    np.testing.assert_array_equal(round_.total(round_.bodies), round_.expected(round_.bodies))


def test_a_custodian_that_refuses_every_share_stops_nothing() -> None:
    def bend(reply: bytes) -> bytes:
        return Checked({}, dict.fromkeys(Checked.unpack(reply).words, "I do not like it")).pack()

    round_ = round_of()
    lie(round_, 0, "close", bend)
    round_.run()
    assert state_of(round_).openers == (1, 2)
    np.testing.assert_array_equal(round_.total(round_.bodies), round_.expected(round_.bodies))


@pytest.mark.parametrize("liar", [0, 1, 2])
def test_a_custodian_with_one_wrong_word_is_named_and_the_others_open(liar: int) -> None:
    round_ = round_of()
    round_.run()
    holder: Any = round_.parties[CUSTODIAN][liar]
    word = np.frombuffer(holder._other.total, "<u8").copy()
    word[9] = (int(word[9]) + 2**40) % Q
    holder._other.total = word.tobytes()
    asks = round_.server.sum_asks(round_.server_round)
    replies = {
        ask.index: round_.parties[CUSTODIAN][ask.index].answer("sum", round_.manifest, ask.body) for ask in asks.asks
    }
    assert set(asks.check(replies)) == {liar}
    np.testing.assert_array_equal(round_.total(round_.bodies), round_.expected(round_.bodies))


def test_a_lie_that_looks_small_is_found_by_what_rounding_leaves() -> None:
    round_ = round_of()
    round_.run()
    holder: Any = round_.parties[CUSTODIAN][0]
    words = np.frombuffer(holder._other.total, "<u8").copy()
    words[3] = (int(words[3]) + pow(2, -1, Q)) % Q  # weight 2 at the points 1 and 2: the sum of keys is off by one
    holder._other.total = words.tobytes()
    asks = round_.server.sum_asks(round_.server_round)
    replies = {
        ask.index: round_.parties[CUSTODIAN][ask.index].answer("sum", round_.manifest, ask.body) for ask in asks.asks
    }
    for chosen in itertools.combinations(replies, 2):
        round_.server_round = replace(round_.server_round, shares={index: replies[index] for index in chosen})
        summed = ciphertext_sum(round_)
        if 0 in chosen:
            with pytest.raises(RoundSpoiled, match="one of them lies"):
                round_.server.unmask_sum(round_.server_round, summed)
        else:
            opened = round_.server.unmask_sum(round_.server_round, summed)
            np.testing.assert_array_equal(opened, round_.expected(round_.bodies))
    round_.server_round = replace(round_.server_round, shares=replies)
    opened = round_.server.unmask_sum(round_.server_round, ciphertext_sum(round_))
    np.testing.assert_array_equal(opened, round_.expected(round_.bodies))


def ciphertext_sum(round_: Round) -> np.ndarray:
    total = np.zeros(round_.summed_length, object)
    for body in round_.bodies.values():
        total = (total + np.frombuffer(body[-8 * total.size :], "<u8").astype(object)) % Q
    return total.astype(np.uint64)


def test_a_custodian_answers_about_one_set_only() -> None:
    round_ = round_of()
    round_.run(until=UPLOAD)
    before = round_.server_round
    round_.step(UPLOAD, frozenset())
    round_.server_round = before
    del round_.bodies[FOUR]
    with pytest.raises(AskRefused, match="another set"):
        round_.close(UPLOAD, round_.uploads(round_.bodies))


def test_an_update_under_other_public_polynomials_gives_noise() -> None:
    """One site was shown other keys of custodians than the aggregator says: the sum does not open."""
    round_ = round_of()
    round_.begin()
    client = round_.client_rounds[FOUR]
    keys: Any = {index: dict(each) for index, each in client.public["custodians"].items()}  # type: ignore[union-attr]
    keys["0"]["key"] = "5" * 64
    round_.client_rounds[FOUR] = replace(client, public={"custodians": keys})
    for site in SITES:
        round_.hand_in(site)
    round_.close(UPLOAD, round_.uploads(round_.bodies))
    assert state_of(round_).openers == (1, 2)
    with pytest.raises(RoundSpoiled):
        round_.total(round_.bodies)


def test_bodies_are_uniform_whatever_is_in_them() -> None:
    """Chi-square over all bytes of ciphertexts and shares: 255 degrees of freedom."""
    round_ = round_of()
    round_.begin()
    site, payload = SITES[0], round_.payload(SITES[0])
    for fill in (0, 0x7F):
        sent = replace(payload, data=memoryview(bytes([fill]) * len(payload.data)))
        _, pieces = round_.client.upload(round_.client_rounds[site], b"", None, sent)
        body = b"".join(bytes(piece) for piece in pieces)
        _, offset = read_header(body)
        counts = np.bincount(np.frombuffer(body[offset:], np.uint8), minlength=256)
        expected = counts.sum() / 256
        assert float(((counts - expected) ** 2 / expected).sum()) < 255 + 8 * (2 * 255) ** 0.5


def test_two_bodies_of_one_site_never_share_a_key() -> None:
    round_ = round_of()
    round_.begin()
    first, second = (round_.body(SITES[0])[0] for _ in range(2))
    difference = np.frombuffer(first[-8 * 4096 :], "<u8") != np.frombuffer(second[-8 * 4096 :], "<u8")
    assert difference.all()


def test_words_that_are_not_below_q_are_refused() -> None:
    round_ = round_of()
    round_.run(until=UPLOAD)
    body, _ = round_.body(SITES[0])
    changed = body[:-8] + (Q + 1).to_bytes(8, "little")
    header, offset = read_header(changed)
    with pytest.raises(UpdateRefused, match="below q"):
        list(round_.server.open_payload(round_.server_round, header, BytesSource(memoryview(changed)[offset:])))


@pytest.mark.parametrize(
    ("bits", "sites", "words"),
    [
        (16, 258, "at most 257 sites"),
        (24, 550, "at most 549 sites"),
        (64, 1 << 15, "at most 32,767 sites"),
    ],
)
def test_what_has_no_room_is_refused_with_the_numbers(bits: int, sites: int, words: str) -> None:
    for count, fits in ((sites - 1, True), (sites, False)):
        encoding = (
            plan_sums(summands=count)
            if bits == 64
            else plan_encoding(
                summands=count, max_weight=1, clip_norm=1.0, bound_value=None, modulus_bits=bits, least=1
            )
        )
        if fits:
            room.check_room(encoding)
        else:
            with pytest.raises(room.NoRoom, match=words):
                room.check_room(encoding)
            with pytest.raises(room.NoRoom):
                round_of(encoding=encoding.model_dump())


@pytest.mark.parametrize("size", [(4, 2), (3, 1), (3, 3), (None, 2), (True, 2)])
def test_only_these_sizes_are_served(size: tuple[Any, Any]) -> None:
    with pytest.raises(UpdateRefused, match="2 of 3, 3 of 5, 4 of 7"):
        round_of(*size)


@pytest.mark.parametrize("kind", [RoundKind.TRAIN, RoundKind.STATISTICS])
def test_it_is_called_experimental_wherever_it_is_named(kind: RoundKind) -> None:
    words = FACTS.wording
    for sentence in (words.description, words.protection, words.seen_by, words.collusion):
        assert "xperimental" in sentence
    round_ = round_of(kind=kind)
    round_.run()
    assert "(experimental)" in engines.engine_audit(NAME).protection(round_.record(round_.bodies))
