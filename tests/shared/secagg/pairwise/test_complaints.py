"""A site that deals or sends wrong shares: it alone is named, and the others get their sum if they can."""

import math
import os
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.effort import examples
from tests.shared.secagg.pairwise.parties import Round
from undersong.shared.secagg.pairwise import client as client_module
from undersong.shared.secagg.pairwise import complaints as complaining
from undersong.shared.secagg.pairwise.complaints import Complaint, pack_complaints, unpack_complaints
from undersong.shared.secagg.pairwise.messages import MalformedStep, OpeningShares
from undersong.shared.secagg.pairwise.roster import RoundAborted
from undersong.shared.secagg.pairwise.server import DealerAtFault, NotEnoughShares


def noise(count: int = 1) -> bytes:
    return b"".join(os.urandom(7).ljust(8, b"\0") for _ in range(5 * count))


def dealing(party: Round, bad: dict[int, set[int]], monkeypatch: pytest.MonkeyPatch) -> None:
    """Share, where each dealer in `bad` deals noise to those holders, and commits to it."""
    real = client_module.split
    party.frozen = party.freeze()
    party.server = party.serving()
    party.envelopes = {}
    for i, client in enumerate(party.clients):
        spoil = bad.get(i, set())

        def split(*arguments, spoil=spoil):  # type: ignore[no-untyped-def]
            rows = real(*arguments)
            return [[noise(), noise()] if place in spoil else row for place, row in enumerate(rows)]

        monkeypatch.setattr(client_module, "split", split)
        party.envelopes[i] = client.share(party.frozen, party.identities[i].sign, party.streams[i])
        monkeypatch.setattr(client_module, "split", real)


def finished(party: Round, spoil: dict[int, set[int]] | None = None) -> object:
    """Everyone who is left masks; in R4 each liar sends noise for those clients. The sum, checked, and who is named."""
    alive = party.sharers
    party.mask(alive)
    openings = party.open(party.survivors(alive), alive)
    for liar, about in (spoil or {}).items():
        held = [j for j in range(party.n) if j in alive]
        parts = [openings[liar].b[40 * k : 40 * k + 40] for k in range(len(held))]
        openings[liar] = OpeningShares(
            b"".join(noise() if j in about else part for j, part in zip(held, parts, strict=True)), b""
        )
    found = party.unmask(openings, alive)
    assert (party.total(openings, alive) == party.plain(alive)).all()
    return found.blamed, found.dealers


@settings(max_examples=examples(25), deadline=None)
@given(st.sampled_from([4, 5, 10, 16, 17, 23, 40]), st.data())
def test_senders_of_wrong_shares_are_named_up_to_what_the_threshold_allows(n: int, data: st.DataObject) -> None:
    """As many as there are shares beyond the threshold, at whatever positions and about whichever site."""
    party = Round(n, dropout=0.0, d=3)
    party.share()
    party.deliver(frozenset(range(n)))
    most = min(n - party.server.topology.threshold, math.floor(n / 3))
    liars = data.draw(st.sets(st.sampled_from(range(n)), max_size=most))
    about = st.sets(st.sampled_from(range(n)), min_size=1)
    assert finished(party, {liar: data.draw(about) for liar in liars}) == (liars, set())


@settings(max_examples=examples(15), deadline=None)
@given(st.sampled_from([5, 10, 17]), st.data())
def test_a_dealer_of_wrong_shares_is_named_and_no_holder(n: int, data: st.DataObject) -> None:
    """It committed to what it dealt, so no site complains; few wrong shares are corrected, many cost the round."""
    party, dealer = Round(n, dropout=0.0, d=3), data.draw(st.integers(0, n - 1))
    holders = st.sets(st.sampled_from([i for i in range(n) if i != dealer]), min_size=1)
    with pytest.MonkeyPatch.context() as patch:
        dealing(party, {dealer: (victims := data.draw(holders))}, patch)
    party.deliver(frozenset(range(n)))
    assert party.refused == set()
    correctable = (n - party.server.topology.threshold) // 2
    if len(victims) <= correctable:
        assert finished(party) == (set(), {dealer})
        return
    with pytest.raises(DealerAtFault, match=f"site{dealer:03} dealt") as caught:
        finished(party)
    assert [(fault.site_id, fault.code) for fault in caught.value.faults] == [(f"site{dealer:03}", "dealer-at-fault")]


def test_a_dealer_that_commits_to_another_secret_than_it_deals_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """All its shares belong together, and open something else than it advertised."""
    party = Round(10, dropout=0.0)
    real = client_module.split

    def split(secrets, *rest):  # type: ignore[no-untyped-def]
        return real([bytes(32), bytes(32)] if secrets[0] == party.clients[3].b else secrets, *rest)

    monkeypatch.setattr(client_module, "split", split)
    party.share()
    party.deliver(frozenset(range(10)))
    with pytest.raises(DealerAtFault, match="site003 dealt"):
        finished(party)


def test_liars_cannot_make_a_dealer_look_guilty() -> None:
    """More liars than the others can make up for lose the round, but the dealer is not named for it."""
    party = Round(10, dropout=0.0)
    party.share()
    party.deliver(frozenset(range(10)))
    with pytest.raises(NotEnoughShares) as caught:
        finished(party, {liar: {0} for liar in (1, 2, 3, 4)})
    assert not isinstance(caught.value, DealerAtFault)
    assert {(fault.site_id, fault.code) for fault in caught.value.faults} == {
        (f"site{i:03}", "wrong-share") for i in (1, 2, 3, 4)
    }


def test_without_commitments_many_wrong_shares_are_the_dealers(monkeypatch: pytest.MonkeyPatch) -> None:
    """More senders than are planned to be corrupt would have to be wrong."""
    party = Round(40, dropout=0.0, corrupt=0.1)
    dealing(party, {7: set(range(20))}, monkeypatch)
    party.deliver(frozenset(range(40)))
    party.mask(party.sharers)
    openings = party.open(party.survivors(party.sharers), party.sharers)
    with pytest.raises(DealerAtFault, match="site007 dealt"):
        party.server.unmask(openings, party.sharers, party.sharers)


@pytest.mark.parametrize("what", ["envelope", "commitment"])
@pytest.mark.parametrize("victims", [1, 3, 4, 9])
def test_useless_envelopes_stop_nobody(what: str, victims: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Up to a third of the sites do without; more of them have the dealer left out."""
    party = Round(10, dropout=0.0)
    dealing(party, {}, monkeypatch)
    mine = party.envelopes[0] if what == "envelope" else party.clients[0].dealing
    size = 96 if what == "envelope" else 64
    bent = os.urandom(size * victims) + mine[size * victims :]
    if what == "envelope":
        party.envelopes[0] = bent
    else:
        party.clients[0].dealing = bent
    party.deliver(frozenset(range(10)))
    assert {i for i, said in party.complaints.items() if said} == set(range(1, victims + 1))
    assert {each.what for said in party.complaints.values() for each in said} == {what}
    assert party.sharers == set(range(10)) - (set() if victims <= 3 else {0})
    assert finished(party) == (set(), set())


def test_false_complaints_exclude_nobody() -> None:
    """A third of the sites complain about everybody: all stay, and the sum is exact."""
    party = Round(10, dropout=0.0)
    party.share()
    party.deliver(frozenset(range(10)))
    liars = {1, 4, 8}
    for liar in liars:
        party.clients[liar].failed = {j: "envelope" for j in range(10) if j != liar}
        party.complaints[liar] = party.clients[liar].complain(party.identities[liar].sign)
    assert complaining.refused_dealers(party.complaints, complaining.tolerated(10, party.corrupt)) == {}
    assert finished(party) == (set(), set())


@given(st.integers(3, 500), st.floats(0, 0.9))
def test_no_site_alone_has_another_left_out(n: int, corrupt: float) -> None:
    limit = complaining.tolerated(n, corrupt)
    said = {i: (Complaint(0, "envelope", bytes(64)),) for i in range(1, limit + 1)}
    assert limit >= max(1, math.floor(corrupt * n))
    assert complaining.refused_dealers(said, limit) == {}
    assert complaining.refused_dealers(said | {n: said[1]}, limit) == {0: limit + 1}


def test_complaints_are_signed_and_about_neighbours() -> None:
    party = Round(5)
    party.share()
    party.envelopes[2] = bytes(len(party.envelopes[2]))
    party.deliver(frozenset(range(5)))
    said, frame = party.complaints[0], party.server.frame
    complaining.check_complaints(frame, 0, said)
    bent = [
        replace(said[0], what="share"),
        replace(said[0], dealer=3),
        replace(said[0], dealer=0),
        replace(said[0], dealer=9),
    ]
    for each in bent:
        with pytest.raises(RoundAborted):
            complaining.check_complaints(frame, 0, (each,))
    with pytest.raises(RoundAborted):
        complaining.check_complaints(frame, 1, said)


@given(st.one_of(st.binary(max_size=200), st.lists(st.lists(st.one_of(st.integers(), st.text(max_size=9), st.binary()),
    max_size=4), max_size=4)))  # fmt: skip
def test_malformed_complaints_are_refused_by_name(data: object) -> None:
    import msgpack

    if not isinstance(data, bytes):
        try:
            data = msgpack.packb(data)
        except OverflowError:
            return
    try:
        found = unpack_complaints(data)
    except MalformedStep:
        return
    assert unpack_complaints(pack_complaints(found)) == found


def test_a_dealer_with_too_many_complaints_cannot_be_kept() -> None:
    party = Round(10, dropout=0.0)
    party.share()
    party.envelopes[2] = bytes(len(party.envelopes[2]))
    everyone = frozenset(range(10))
    party.deliver(everyone)
    packed = {i: pack_complaints(said) for i, said in party.complaints.items() if said}
    complaining.check_left_out(party.server.frame, party.corrupt, packed, party.sharers)
    with pytest.raises(RoundAborted, match="site002 dealt useless shares"):
        complaining.check_left_out(party.server.frame, party.corrupt, packed, everyone)
    with pytest.raises(MalformedStep):
        complaining.check_left_out(party.server.frame, party.corrupt, {10: packed[0]}, party.sharers)


def test_another_set_of_sharers_stops_the_client() -> None:
    from undersong.shared.secagg.transcript import bitmap

    party = Round(7, dropout=0.0)
    party.share()
    party.deliver(frozenset(range(6)))
    for second, reason in (
        (range(5), "second list"), (range(1, 6), "left out"), (range(7), "second list"),
    ):  # fmt: skip
        with pytest.raises(RoundAborted, match=reason):
            party.clients[0].settle(bitmap(frozenset(second), 7))
    party.clients[0].settled = False
    with pytest.raises(RoundAborted, match="too few"):
        party.clients[0].settle(bitmap(frozenset(range(4)), 7))
