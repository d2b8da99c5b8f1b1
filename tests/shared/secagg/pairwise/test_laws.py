"""The laws of the pairwise engine: exact sums whichever sites drop out, and nothing but the sum."""

import hashlib
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from tests.effort import examples
from tests.shared.secagg.pairwise.parties import Round, Stream
from undersong.shared.secagg.engine import Floors
from undersong.shared.secagg.pairwise import graph, messages, roster
from undersong.shared.secagg.pairwise.client import ClientState
from undersong.shared.secagg.pairwise.decoding import decode
from undersong.shared.secagg.pairwise.graph import UnsafeTopology, neighbours, plan, sparse
from undersong.shared.secagg.pairwise.roster import RoundAborted
from undersong.shared.secagg.pairwise.server import NotEnoughShares
from undersong.shared.secagg.pairwise.shares import BadShares, split
from undersong.shared.secagg.pairwise.witness import WitnessRefused, survivors_statement

EVERYONE = frozenset(range(7))


def played(n: int = 7, **settings_: object) -> Round:
    """A round up to the masked updates, with all sites."""
    party = Round(n, **settings_)  # type: ignore[arg-type]
    party.share()
    party.deliver(frozenset(range(n)))
    party.mask(frozenset(range(n)))
    return party


@settings(max_examples=examples(40), deadline=None)
@given(st.integers(3, 12), st.data())
def test_masks_cancel_whoever_falls_out(n: int, data: st.DataObject) -> None:
    quorum = data.draw(st.booleans())
    most = n - plan(n, 1 / 3, 0.0, trusted_witness=not quorum).threshold
    party = Round(n, seed=b"laws%d" % n, dropout=most / n, quorum=quorum)
    party.share()
    threshold = party.server.topology.threshold
    some = st.sets(st.sampled_from(range(n)), min_size=max(threshold, 3))
    sharers = frozenset(data.draw(some))
    party.deliver(sharers)
    alive = frozenset(data.draw(st.sets(st.sampled_from(sorted(sharers)), min_size=max(threshold, 3))))
    party.mask(alive)
    said = party.survivors(alive)
    openings = party.open(said, alive)
    answered = data.draw(st.sets(st.sampled_from(sorted(alive)), min_size=threshold))
    total = party.total({i: openings[i] for i in answered}, alive)
    assert (total == party.plain(alive)).all()


def test_thirty_percent_falling_out_at_each_step_leaves_the_exact_sum() -> None:
    party = Round(20, dropout=0.3, corrupt=0.0)
    party.share()
    party.deliver(frozenset(range(18)))
    alive = frozenset(range(15))
    party.mask(alive)
    said = party.survivors(alive)
    openings = party.open(said, alive)
    few = {i: openings[i] for i in range(12)}
    assert (party.total(few, alive) == party.plain(alive)).all()


def test_a_sparse_graph_gives_the_exact_sum(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(graph, "COMPLETE_UP_TO", 128)
    party = Round(150, dropout=0.05, corrupt=0.05, quorum=False)
    party.share()
    assert not party.server.topology.complete
    party.deliver(party.server.reachable(frozenset(range(147))))
    alive = frozenset(range(141))
    party.mask(alive)
    openings = party.open(party.survivors(alive), alive)
    assert (party.total(openings, alive) == party.plain(alive)).all()


@pytest.mark.parametrize(
    ("what", "bend"),
    [
        ("one model bit", {"models": {2: b"modem"}}),
        ("an attempt", {"attempt": 2}),
    ],
)
def test_another_model_or_attempt_never_fits(what: str, bend: dict[str, object]) -> None:
    party = Round(7, **bend)  # type: ignore[arg-type]
    if what == "an attempt":
        first = Round(7)
        assert {c.c for c in first.clients}.isdisjoint(c.c for c in party.clients)
        assert first.freeze().root != party.freeze().root
        return
    with pytest.raises(RoundAborted):
        party.share()  # the witness signs one ctx0; the client with another model does not find its own in it


def test_a_client_with_another_model_spoils_the_sum_instead_of_showing_itself() -> None:
    """Even with a witness that signs for each model apart, the masks do not cancel."""
    party = played()
    other = Round(7, models=dict.fromkeys(range(7), b"modem"))
    other.witness = party.witness
    other.share(replace(other.freeze(), signature=other.witness.sign(
        roster.roster_statement(other.terms(b"modem").ctx0, 7, other.freeze().root, other.nonce)
    )))  # fmt: skip
    other.deliver(EVERYONE)
    other.mask(EVERYONE)
    party.masked[2] = other.masked[2]
    said = party.survivors(EVERYONE)
    total = party.total(party.open(said, EVERYONE), EVERYONE)
    assert not (total == party.plain(EVERYONE)).any()


def test_masked_bytes_look_random_and_know_nothing_of_the_input() -> None:
    party = Round(5, d=200_000)
    party.share()
    party.deliver(frozenset(range(5)))
    masked = party.mask(frozenset({0}))[0]
    counts = np.bincount(masked.view(np.uint8), minlength=256)
    assert stats.chisquare(counts).pvalue > 1e-6
    correlation = np.corrcoef(masked.astype(float), party.vector(0).astype(float))[0, 1]
    assert abs(correlation) < 3 / np.sqrt(party.d)


def test_fewer_than_the_threshold_say_nothing_of_a_secret() -> None:
    """For any t-1 shares every secret limb is still possible: interpolate through them and any other secret."""
    secret, other = hashlib.sha256(b"a").digest(), hashlib.sha256(b"b").digest()
    dealt = split([secret], 5, 3, Stream(b"x"))
    again = split([other], 5, 3, Stream(b"y"))
    assert decode({1: dealt[0][0], 2: dealt[1][0], 5: dealt[4][0]}, 3).secret == secret
    with pytest.raises(BadShares):
        decode({1: dealt[0][0], 2: dealt[1][0]}, 3)
    with pytest.raises(BadShares):
        decode({1: dealt[0][0], 2: dealt[1][0], 3: again[2][0]}, 3)


def test_two_survivor_sets_are_never_both_answered() -> None:
    party = played()
    first, second = party.survivors(EVERYONE), party.survivors(EVERYONE - {3})
    party.open(first, EVERYONE)
    for i in EVERYONE - {3}:
        with pytest.raises(RoundAborted, match="second survivor set"):
            party.clients[i].commit(second, party.identities[i].sign)
        with pytest.raises(RoundAborted, match="committed"):
            party.clients[i].open(second, {})


def test_state_that_was_stored_remembers_what_was_answered() -> None:
    party = played()
    party.open(party.survivors(EVERYONE), EVERYONE)
    restored = ClientState.load(party.terms(), "site000", party.clients[0].dump())
    with pytest.raises(RoundAborted, match="second survivor set"):
        restored.commit(party.survivors(EVERYONE - {3}), party.identities[0].sign)
    assert restored.b == party.clients[0].b
    assert party.clients[0].b.hex() not in repr(party.clients[0])


def test_both_shares_of_one_site_never_leave_together() -> None:
    party = played()
    alive = EVERYONE - {6}
    said = party.survivors(alive)
    for opening in party.open(said, alive).values():
        assert len(opening.b) == 40 * 6
        assert len(opening.s) == 40 * 1


@pytest.mark.parametrize(
    ("bend", "reason"),
    [
        (lambda p, m: p.freeze([*m[:3], m[3], m[3], *m[4:]]), "twice"),
        (lambda p, m: p.freeze(m[::-1]), "sorted"),
        (lambda p, m: p.freeze(m[1:]), "not in the roster"),
        (lambda p, m: p.freeze(m[:2]), "minimum cohort"),
        (lambda p, m: replace(p.freeze(m), signature=bytes(64)), "valid signature"),
        (lambda p, m: replace(p.freeze(m), nonce=bytes(32)), "another nonce"),
        (lambda p, m: p.freeze([replace(m[0], advertisement=m[1].advertisement), *m[1:]]), "another key"),
    ],
)
def test_a_bent_roster_stops_the_client(bend: object, reason: str) -> None:
    party = Round(7)
    frozen = bend(party, party.members())  # type: ignore[operator]
    with pytest.raises(RoundAborted, match=reason):
        party.clients[0].share(frozen, party.identities[0].sign, party.streams[0])


@pytest.mark.parametrize(
    ("floors", "quorum", "reason"),
    [
        (Floors(min_threshold=6), True, "pairwise.min_threshold"),
        (Floors(quorum_up_to=7), False, "pairwise.quorum"),
        (Floors(min_threshold=5, quorum_up_to=128), True, None),
        (Floors(min_threshold=4, quorum_up_to=6), False, None),
    ],
)
def test_a_roster_below_the_sites_floors_gets_no_shares(floors: Floors, quorum: bool, reason: str | None) -> None:
    """Who takes part is known only here: a large cohort of which few advertised does not evade the policy."""
    party = Round(7, quorum=quorum)
    arguments = party.freeze(), party.identities[0].sign, party.streams[0], floors
    if reason is None:
        assert party.clients[0].share(*arguments)
        return
    with pytest.raises(RoundAborted, match=reason):
        party.clients[0].share(*arguments)
    assert party.clients[0].own_shares is None


def test_a_second_roster_stops_the_client() -> None:
    party = played()
    other = party.freeze(party.members()[:6])
    with pytest.raises(RoundAborted, match="second roster"):
        party.clients[0].share(other, party.identities[0].sign, party.streams[0])


def test_a_key_of_low_order_stops_the_client() -> None:
    party = Round(7)
    members = party.members()
    bad = replace(members[6].advertisement, c=bytes(32))
    with pytest.raises(RoundAborted, match="low order"):
        party.clients[0].share(
            party.freeze([*members[:6], replace(members[6], advertisement=bad)]),
            party.identities[0].sign,
            party.streams[0],
        )


def test_wrong_signatures_on_the_survivors_stop_the_client() -> None:
    party = played()
    forged = party.survivors(EVERYONE, party.key(b"not the witness"))
    with pytest.raises(RoundAborted, match="survivor set does not carry"):
        party.clients[0].commit(forged, party.identities[0].sign)
    said = party.survivors(EVERYONE)
    commitments = party.commit(said, EVERYONE)
    with pytest.raises(RoundAborted, match="of 5 survivors"):
        party.clients[0].open(said, {i: commitments[i] for i in range(4)})
    with pytest.raises(RoundAborted, match="commitment"):
        party.clients[0].open(said, {**commitments, 1: bytes(64)})


def test_a_survivor_set_below_the_threshold_is_refused() -> None:
    party = played()
    with pytest.raises(RoundAborted, match="4 survivors are fewer than the 5"):
        party.clients[0].commit(party.survivors(frozenset(range(4))), party.identities[0].sign)
    with pytest.raises(RoundAborted, match="said to be missing"):
        party.clients[6].commit(party.survivors(frozenset(range(6))), party.identities[6].sign)


def test_too_few_answers_open_nothing() -> None:
    party = played()
    openings = party.open(party.survivors(EVERYONE), EVERYONE)
    with pytest.raises(NotEnoughShares, match="of 5 shares"):
        party.server.unmask({i: openings[i] for i in range(4)}, EVERYONE, EVERYONE)


def test_messages_of_another_shape_are_refused() -> None:
    with pytest.raises(messages.MalformedStep):
        messages.Advertisement.unpack(messages.OpeningShares(b"", b"").pack())
    with pytest.raises(messages.MalformedStep):
        messages.Survivors.unpack(b"\xc1")
    with pytest.raises(messages.MalformedStep):
        roster.Roster.unpack(b"\x93\x91\x93\xa1a\xc4\x01b\xc4\x01c\xc4\x00\xc4\x00")
    good = messages.Survivors(b"\x01", bytes(32), bytes(64))
    assert messages.Survivors.unpack(good.pack()) == good


@given(st.binary(max_size=200))
def test_random_bytes_are_refused_by_name(data: bytes) -> None:
    for read in (
        messages.Advertisement.unpack,
        messages.Delivery.unpack,
        messages.OpeningShares.unpack,
        roster.Roster.unpack,
    ):
        with pytest.raises(messages.MalformedStep):
            read(data)


@pytest.mark.parametrize("n", [150, 400])
def test_the_sparse_graph_is_regular_symmetric_and_follows_the_context(n: int) -> None:
    topology = sparse(n, 0.1, 0.1)
    assert topology is not None
    found = list(neighbours(topology, b"c" * 32))
    assert {len(around) for around in found} == {topology.degree}
    assert all(i in found[j] for i, around in enumerate(found) for j in around)
    assert found == list(neighbours(topology, b"c" * 32)) != list(neighbours(topology, b"d" * 32))


@pytest.mark.parametrize(
    ("n", "expected"),
    [
        (200, ["42; 11", "70; 19", "134; 35", "134; 47", "complete graph"]),
        (500, ["58; 16", "92; 25", "190; 50", "192; 66", "414; 110"]),
        (1000, ["62; 17", "104; 28", "218; 57", "226; 77", "550; 146"]),
        (10_000, ["74; 20", "120; 32", "268; 70", "280; 95", "808; 214"]),
    ],
)
def test_degrees_and_windows_are_those_of_the_documented_table(n: int, expected: list[str]) -> None:
    """docs/protocols.md prints these: degree; survivors needed in a window of half the degree."""
    shares = [(0.05, 0.05), (0.1, 0.1), (0.2, 0.2), (1 / 3, 0.1), (1 / 3, 0.3)]
    found = [sparse(n, corrupt, dropout) for corrupt, dropout in shares]
    assert [f"{t.degree}; {t.window_survivors}" if t else "complete graph" for t in found] == expected
    assert all(plan(n, *each, trusted_witness=True).complete == (n <= 512) for each in shares)


@pytest.mark.parametrize(("n", "corrupt", "dropout"), [(200, 0.2, 0.2), (1000, 1 / 3, 0.3), (10_000, 0.1, 0.1)])
def test_sparse_graphs_meet_every_bound_by_an_independent_computation(n: int, corrupt: float, dropout: float) -> None:
    found = plan(n, corrupt, dropout, trusted_witness=True) if n > 512 else sparse(n, corrupt, dropout)
    assert found is not None
    k, t, needed, bad, gone = found.degree, found.threshold, found.window_survivors, int(corrupt * n), int(dropout * n)
    within, without = stats.hypergeom(n, bad, found.window), stats.hypergeom(n, gone, found.window)
    around = stats.hypergeom(n - 1, bad, k)
    assert n * within.sf(needed - 1) <= 2**-40 < n * within.sf(needed - 2), "colluders fill no window's survivors"
    assert n * without.sf(found.window - needed) <= 2**-30, "an honest round leaves every window enough"
    assert n * around.sf(t - 1) <= 2**-40, "colluders reach no threshold"
    assert n * stats.hypergeom(n - 1, n - gone, k).cdf(t - 1) <= 2**-30, "an honest round opens"
    assert n * stats.hypergeom(n - 1, int((corrupt + dropout) * n), k).sf(k - 1) <= 2**-40, "no site is alone"


@pytest.mark.parametrize("quorum", [True, False])
def test_every_size_has_a_plan_with_the_shares_that_jobs_have(quorum: bool) -> None:
    for n in [*range(3, 130), 200, 511, 512, 513, 514, 515, 600, 777, 1000, 1500, 4000]:
        topology = plan(n, 1 / 3, 0.3, trusted_witness=not quorum)
        assert topology.quorum > (n + n // 3) / 2 - 1
        assert n - max(topology.quorum if quorum else 0, topology.threshold if topology.complete else 0) >= n * 3 // 10


def test_shares_are_counted_free_of_rounding_errors() -> None:
    """0.29 * 100 is 28.999… in floating point; one drop-out or colluder fewer would be planned for."""
    assert plan(100, 0.29, 0.29, trusted_witness=False).dropouts == 29
    assert plan(100, 0.29, 0.0, trusted_witness=False).threshold == (100 + 29) // 2 + 1


def test_unsound_plans_are_refused() -> None:
    with pytest.raises(UnsafeTopology, match="fewer than three"):
        plan(2, 0, 0, trusted_witness=True)
    with pytest.raises(UnsafeTopology, match="drop-out"):
        plan(10, 0.33, 0.5, trusted_witness=False)
    assert plan(10, 1 / 3, 0.3, trusted_witness=False).threshold == 7


def test_a_site_that_uploaded_nothing_is_no_survivor_for_the_witness() -> None:
    """The aggregator invents a body in its place; only the site itself could have signed it."""
    party = Round(10, dropout=0.3)
    party.share()
    party.deliver(frozenset(range(10)))
    party.mask(frozenset(range(10)) - {4})
    party.masked[4] = np.arange(party.d, dtype=np.uint32)
    signed = party.signatures(frozenset(range(10)) - {4})
    everyone, fixed = frozenset(range(10)), party.terms()
    for forged in (bytes(64), signed[3], party.identities[3].sign(b"mask")):
        with pytest.raises(WitnessRefused, match="the update of site004"):
            survivors_statement(party.question(everyone, {**signed, 4: forged}), fixed, party.frozen)
    assert survivors_statement(party.question(everyone - {4}, signed), fixed, party.frozen)
    assert survivors_statement(party.question(everyone, party.signatures(everyone)), fixed, party.frozen)


def test_sites_that_were_shown_other_sharers_are_no_survivors_together() -> None:
    """Each signs the list that it was shown, so a witness sees a split view before it signs anything."""
    party = Round(10, dropout=0.3)
    party.share()
    party.deliver(frozenset(range(10)))
    party.clients[0].sharers = frozenset(range(9))
    party.mask(frozenset(range(9)))
    alive = frozenset(range(9))
    ask = party.question(alive, party.signatures(alive))
    with pytest.raises(WitnessRefused, match="the update of site000"):
        survivors_statement(ask, party.terms(), party.frozen)
