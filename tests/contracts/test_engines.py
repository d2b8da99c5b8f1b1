"""What every engine must do, whichever it is: the suite that a new engine has to pass.

Engines are driven through the seam (`undersong.shared.secagg.engine`) with real parties beside them. `threshold` is an
engine of the tests' own, which has what no engine of the product has yet.
"""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from tests.contracts import threshold
from tests.contracts.rounds import CERTIFIED, SIGNERS, SITES, Round, manifest_of, readdressed
from tests.effort import examples
from tests.shared.secagg.verifiers import UNCERTIFIED
from undersong.services.aggregator.peers.peer import AskRefused
from undersong.shared.errors import Refusal
from undersong.shared.secagg import engines
from undersong.shared.secagg.engine import UPLOAD, ServerRound
from undersong.shared.secagg.engines import ENGINES, engine_audit, engine_named
from undersong.shared.secagg.oneshot.facts import FACTS as ONESHOT
from undersong.shared.secagg.quantise import TAIL_LENGTH
from undersong.shared.wire.manifest import RoundKind
from undersong.shared.wire.records import RoundRecord
from undersong.shared.wire.updates import read_header

UNREGISTERED = {facts.name: facts for facts in (threshold.FACTS, ONESHOT)}
NAMES = (*ENGINES, *sorted(UNREGISTERED.keys() - ENGINES.keys()))
SUMMED = (RoundKind.TRAIN, RoundKind.STATISTICS)
OTHER = [
    {"attempt": 2},
    {"round_id": "rnd_2"},
    {"seed": 2},
    {"model": {"version_id": "ver_2", "digest": "2" * 64}},
]
pytestmark = [pytest.mark.parametrize("name", NAMES), pytest.mark.usefixtures("registered")]
few = settings(
    max_examples=examples(5),
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.differing_executors],
)
many = settings(few, max_examples=examples(25))


@pytest.fixture(scope="module", autouse=True)
def registered() -> Iterator[None]:
    """One more entry in the registry is all that an engine needs."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(engines, "ENGINES", {**UNREGISTERED, **ENGINES})
        yield
    engine_named.cache_clear()
    engine_audit.cache_clear()


DONE: dict[str, Round] = {}


def finished(name: str) -> Round:
    """A round in which one site dropped out, at its end; the same for several tests, which change nothing in it."""
    if name not in DONE:
        DONE[name] = Round(manifest_of(name))
        DONE[name].run({UPLOAD: frozenset({SITES[3]})})
    return DONE[name]


@pytest.mark.parametrize("kind", SUMMED)
def test_the_sum_is_exact(name: str, kind: RoundKind) -> None:
    round_ = Round(manifest_of(name, kind))
    round_.run()
    np.testing.assert_array_equal(round_.total(round_.bodies), round_.expected(round_.bodies))


@few
@given(data=st.data())
def test_whoever_drops_out_the_sum_of_the_others_is_exact(name: str, data: st.DataObject) -> None:
    round_ = Round(manifest_of(name))
    order = data.draw(st.permutations(SITES))[: data.draw(st.integers(1, round_.tolerated))]
    when = {site: data.draw(st.sampled_from(round_.facts.steps)) for site in order}
    round_.run({step: frozenset(site for site in order if when[site] == step) for step in round_.facts.steps})
    before = round_.facts.steps[: round_.facts.steps.index(UPLOAD) + 1]
    assert set(round_.bodies) == {site for site in SITES if when.get(site) not in before}
    np.testing.assert_array_equal(round_.total(round_.bodies), round_.expected(round_.bodies))


@pytest.mark.parametrize("since", ["begin", UPLOAD, "sum"])
def test_parties_that_are_not_needed_may_be_away(name: str, since: str) -> None:
    facts = engine_named(name).facts
    absent = {(each.name, index) for each in facts.parties for index in range(each.count - each.need)}
    round_ = Round(manifest_of(name), absent if since == "begin" else ())
    round_.run(until=UPLOAD if since == UPLOAD else None)
    round_.absent = absent
    for step in facts.steps[facts.steps.index(UPLOAD) :] if since == UPLOAD else ():
        round_.step(step, frozenset())
    np.testing.assert_array_equal(round_.total(round_.bodies), round_.expected(round_.bodies))


BAD: dict[str, bytes | Exception] = {
    "junk": b"\x81\xa4what\xc3" * 9,
    "long": b"x" * (1 << 21),
    "refuses": AskRefused("no"),
    "fails": ZeroDivisionError("a bug in its client"),
}


@pytest.mark.parametrize("bad", BAD)
@pytest.mark.parametrize("since", ["begin", UPLOAD, "sum"])
def test_one_bad_party_stops_only_what_cannot_do_without_it(name: str, since: str, bad: str) -> None:
    facts, asked = engine_named(name).facts, []

    def say() -> bytes:
        asked.append(bad)
        said = BAD[bad]
        if isinstance(said, Exception):
            raise said
        return said

    for party in facts.parties:
        instead = {(party.name, 0): say}
        try:
            round_ = Round(manifest_of(name), instead=instead if since == "begin" else {})
            round_.run(until=UPLOAD if since == UPLOAD else None)
            round_.instead = instead
            for step in facts.steps[facts.steps.index(UPLOAD) :] if since == UPLOAD else ():
                round_.step(step, frozenset())
            np.testing.assert_array_equal(round_.total(round_.bodies), round_.expected(round_.bodies))
        except (Refusal, ZeroDivisionError):
            assert asked
            assert party.count == party.need
        else:
            assert not asked or party.count > party.need
        asked.clear()


def test_one_party_too_few_opens_nothing(name: str) -> None:
    round_ = Round(manifest_of(name))
    party = next((each for each in round_.facts.parties if each.opens_sum), None)
    round_.run()
    if party is None:
        assert not round_.server.sum_asks(round_.server_round)
        return
    round_.absent = {(party.name, index) for index in range(party.count - party.need + 1)}
    with pytest.raises(Refusal):
        round_.total(round_.bodies)
    with pytest.raises(Refusal):
        round_.server.unmask_sum(replace(round_.server_round, shares={}), np.zeros(round_.summed_length, np.uint64))


def test_a_site_begins_only_with_what_the_parties_signed(name: str) -> None:
    round_ = Round(manifest_of(name))
    for client_round in list(round_.client_rounds.values())[:2]:
        round_.client.begin(client_round, CERTIFIED)
        if not round_.asked_to_begin:
            continue
        with pytest.raises(Refusal):
            round_.client.begin(client_round, UNCERTIFIED)
        with pytest.raises(Refusal):
            round_.client.begin(replace(client_round, public={}), CERTIFIED)
        with pytest.raises(Refusal):  # signed, for another attempt
            round_.client.begin(replace(client_round, manifest=manifest_of(name, attempt=2)), CERTIFIED)


@pytest.mark.parametrize("change", OTHER)
def test_what_is_of_another_model_round_or_attempt_never_fits(name: str, change: dict[str, Any]) -> None:
    """Even where the server would use its keys again, and under a header that says that it fits."""
    round_, other = finished(name), manifest_of(name, **change)
    again = Round(other)
    again.server_round = replace(round_.server_round, manifest=other)
    site = SITES[0]
    body, signature = round_.bodies[site], round_.signatures[site]
    for sent in (body, readdressed(body, other, site)):
        with pytest.raises(Refusal):
            again.accept(site, sent, signature)


def test_an_update_is_its_own_sites(name: str) -> None:
    round_, other = finished(name), SITES[1]
    for sent in (round_.bodies[SITES[0]], readdressed(round_.bodies[SITES[0]], round_.manifest, other)):
        with pytest.raises(Refusal):
            round_.accept(other, sent, round_.signatures[SITES[0]])


def test_ids_that_are_good_for_one_use_are_fresh(name: str) -> None:
    """The services refuse an id that a job has seen; the engine has to name the field that holds it."""
    round_ = Round(manifest_of(name))
    if (field := round_.facts.single_use_ids) is None:
        return
    round_.begin()
    ids = [read_header(round_.body(SITES[0])[0])[0].material[field] for _ in range(2)]
    assert isinstance(ids[0], bytes)
    assert ids[0] != ids[1]


@many
@given(data=st.data())
def test_a_changed_bit_of_an_update_is_refused(name: str, data: st.DataObject) -> None:
    round_ = finished(name)
    site = data.draw(st.sampled_from(sorted(round_.bodies)))
    body = bytearray(round_.bodies[site])
    body[data.draw(st.integers(0, len(body) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    with pytest.raises(Refusal):
        round_.accept(site, bytes(body), round_.signatures[site])


@pytest.mark.parametrize("cut", [slice(0, -1), slice(0, -24), slice(0, 40)])
def test_an_update_is_never_shorter_or_longer(name: str, cut: slice) -> None:
    round_, site = finished(name), SITES[0]
    for sent in (round_.bodies[site][cut], round_.bodies[site] + bytes(24)):
        with pytest.raises(Refusal):
            round_.accept(site, sent, round_.signatures[site])


def test_a_second_survivor_set_is_never_opened(name: str) -> None:
    """What was said about one set is of no use for a smaller one, whose difference would be one site's update."""
    round_ = Round(manifest_of(name))
    round_.run(until=UPLOAD)
    before = round_.server_round
    round_.step(UPLOAD, frozenset())
    fewer = sorted(round_.bodies)[:-1]
    if round_.facts.vouched_by is None:
        assert round_.facts.sees_updates, "where no witness signs the set, a person is told that updates are seen"
        return
    second = before
    for replies in (None, *round_.vouched):
        closed = round_.server.close(second, UPLOAD, round_.uploads(dict.fromkeys(fewer, b"")), replies)
        second = replace(second, secret=closed.secret)
    round_.server_round, round_.answers = second, dict(closed.answers)

    def to_the_end() -> None:
        for step in round_.facts.steps[round_.facts.steps.index(UPLOAD) + 1 :]:
            round_.step(step, frozenset())
        round_.check(round_.record(dict.fromkeys(fewer, b"")))

    with pytest.raises(Refusal):
        to_the_end()


def test_evidence_verifies(name: str) -> None:
    round_ = finished(name)
    found = round_.check(round_.record(round_.bodies))
    assert found.sites == tuple(sorted(round_.bodies))
    assert found.witnessed == (round_.facts.vouched_by is not None)
    audit = engine_audit(name)
    sentences = [audit.protection(round_.record(round_.bodies))]
    voucher = SIGNERS[round_.facts.vouched_by].public if round_.facts.vouched_by else b""
    sentences += [check.find() for check in audit.checks(round_.record(round_.bodies), lambda: [voucher])]
    assert all(sentence.endswith(".") for sentence in sentences)


@many
@given(data=st.data())
def test_evidence_with_a_changed_bit_does_not_verify(name: str, data: st.DataObject) -> None:
    round_ = finished(name)
    document = round_.record(round_.bodies).model_dump(mode="json")
    del document["manifest"], document["result"], document["engine"]  # the manifest has a signature, the rest a leaf
    path = data.draw(st.sampled_from(sorted(leaves(document), key=str)))
    *parents, last = path
    place: Any = (whole := round_.record(round_.bodies).model_dump(mode="json"))
    for key in parents:
        place = place[key]
    place[last] = bent(place[last], data)
    with pytest.raises((Refusal, ValidationError)):
        round_.check(RoundRecord.model_validate(whole))


@pytest.mark.parametrize("what", ["bodies", "roster", "sharers", "survivors", "commitments", "faults"])
def test_evidence_that_is_missing_or_claimed_does_not_verify(name: str, what: str) -> None:
    """A record without a part of its evidence is refused, and so is one with a part that the engine does not give."""
    round_ = finished(name)
    whole = round_.record(round_.bodies).model_dump(mode="json")
    if what == "faults":
        whole["faults"] = {"site_stranger": "shares-inconsistent"}
    elif not whole[what]:
        whole[what] = {SITES[0]: "0" * 128} if what == "commitments" else "00"
    else:
        whole[what] = {} if isinstance(whole[what], dict) else None
    with pytest.raises((Refusal, ValidationError)):
        round_.check(RoundRecord.model_validate(whole))


def test_facts_are_those_of_the_code(name: str) -> None:
    engine = engine_named(name)
    facts = engine.facts
    assert facts.name == name
    assert facts is engines.engine_facts(name)
    assert facts.steps.count(UPLOAD) == 1
    assert facts.tail_words in (0, TAIL_LENGTH)
    assert facts.strength == ("weak" if facts.sees_updates else "strong")
    assert all(sentence for sentence in (facts.wording.description, facts.wording.protection, facts.wording.seen_by))
    round_ = finished(name)
    asked = {ask.party for ask in round_.server.sum_asks(round_.server_round).asks}
    assert facts.opened_by_parties == bool(asked)
    assert asked <= {party.name for party in facts.parties}
    assert ServerRound(round_.manifest, round_.server_round.secret).shares == {}


def leaves(document: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    for key, value in document.items():
        if isinstance(value, dict):
            yield from leaves(value, (*path, key))
        elif value is not None:
            yield (*path, key)


def bent(value: Any, data: st.DataObject) -> Any:
    """The same value with one bit changed: of a number, or of the bytes that a text gives in hexadecimal."""
    if isinstance(value, int):
        return value ^ 1 << data.draw(st.integers(0, 3))
    raw = bytearray.fromhex(value)
    raw[data.draw(st.integers(0, len(raw) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    return raw.hex()
