"""The owner's ledger: what is charged, what is refused, and what a changed or older database is."""

import json
import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from datetime import timedelta
from math import exp
from pathlib import Path
from typing import Any

import pytest

from tests.services.agent.ledgers import DELTA, ENCODING, Site, budget, gaussian, private
from tests.shared.wire.manifests import manifest
from undersong.services.agent.domain.budgets import PrivacyRule
from undersong.services.agent.domain.rules import Detail, Earlier, TaskFailure, report
from undersong.services.agent.ledger.accounts import accounts
from undersong.services.agent.ledger.adoption import adopt
from undersong.services.agent.ledger.entries import State
from undersong.services.agent.repository.highwater import UPLOAD, Place, Sent
from undersong.services.agent.transparency.receipts import ReceiptBook
from undersong.shared import clock
from undersong.shared.ids import TaskId, digest_of
from undersong.shared.privacy.accounting import epsilon_of
from undersong.shared.wire.manifest import RoundManifest
from undersong.shared.wire.privacy import (
    GaussianEvent,
    NonPrivateEvent,
    PrivacyEvent,
    PrivacyUnit,
    ZeroConcentratedEvent,
)

FREE = PrivacyRule()
YEAR = timedelta(days=365)


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    made = Site(tmp_path)
    yield made
    made.stop()


@pytest.fixture
def ahead() -> Iterator[list[timedelta]]:
    """By how much the clock is ahead: its first entry."""
    by = [timedelta()]
    clock.run_ahead(lambda: by[0])
    yield by
    clock.run_ahead(None)


def charge(site: Site, asked: RoundManifest, rule: PrivacyRule = FREE, event: PrivacyEvent | None = None) -> None:
    site.ledger.charge(asked, asked.digest(), event or gaussian(), rule)


def states(site: Site) -> list[str]:
    return [str(charge.state) for charge in site.ledger.look()[0].charges.values()]


def refusal(
    site: Site, asked: RoundManifest, rule: PrivacyRule = FREE, event: PrivacyEvent | None = None
) -> TaskFailure:
    before = site.ledger.look()[0].head
    with pytest.raises(TaskFailure) as refused:
        charge(site, asked, rule, event)
    assert site.ledger.look()[0].head == before
    return refused.value


def send(site: Site, asked: RoundManifest) -> None:
    """The update's bytes are durable, noted, sent and acknowledged."""
    body = (digest_of(b"body"), 4)
    site.state.keep(asked, asked.digest(), TaskId("task_1"), body, {"deadline_s": asked.deadline_s})
    site.sent.reach(Sent(Place.of(asked), UPLOAD, body[0]))
    site.state.settle(asked.round_id, Earlier.ANSWERED)


def publish(site: Site, asked: RoundManifest) -> None:
    """The round's record was fetched and verified."""
    document = json.dumps({"record": {"result": {"content_digest": "c" * 64}}}).encode()
    ReceiptBook(site.state).settle(asked.round_id, "verified", None, document)


def edit(site: Site, sql: str) -> None:
    """What an owner's hand, or another program, does to the file."""
    with closing(sqlite3.connect(site.folder / "state" / "agent.sqlite")) as db, db:
        for name in ("charges_stay", "charges_last"):
            db.execute(f"DROP TRIGGER {name}")
        db.execute(sql)


def test_a_charge_is_held_then_final_when_the_log_has_the_round(site: Site) -> None:
    asked = private()
    for _ in range(2):
        charge(site, asked)
    assert states(site) == ["held"]
    send(site, asked)
    assert site.ledger.settle(FREE) == 0
    publish(site, asked)
    assert site.ledger.settle(FREE) == 1
    (found,) = site.again().ledger.look()[0].charges.values()
    assert (found.state, found.release_digest) == (State.FINAL, "c" * 64)
    assert site.mark.read() == site.ledger.look()[0].head
    assert found.held.epsilon_after == pytest.approx(epsilon_of([gaussian()], DELTA))
    charge(site, asked)  # handed out again: it is paid
    assert states(site) == ["final"]


def test_lines_cannot_be_changed_by_a_program_that_does_not_mean_it(site: Site) -> None:
    charge(site, private())
    for sql in ("UPDATE charges SET delta = 0.5", "DELETE FROM charges"):
        with site.state.store.reading() as db, pytest.raises(sqlite3.IntegrityError, match="lines of the ledger stay"):
            db.execute(sql)


def test_what_was_not_ready_to_leave_is_void_once_the_site_gave_up(site: Site, ahead: list[timedelta]) -> None:
    first, second, third = (private(attempt=attempt) for attempt in (1, 2, 3))
    charge(site, first)
    assert site.ledger.settle(FREE) == 0
    assert site.ledger.settle(FREE, gave_up=first.round_id) == 1
    charge(site, first)  # handed out again: held anew
    assert states(site) == ["void", "held"]
    charge(site, second)
    ahead[0] = timedelta(seconds=first.deadline_s + 3700)  # a crash came before the failure was said
    assert site.ledger.settle(FREE) == 1
    assert states(site) == ["void", "void", "held"]  # the task that is at work may be ready at any moment
    site.ledger.rest()
    assert site.ledger.settle(FREE) == 1
    charge(site, third)
    send(site, third)
    assert site.ledger.settle(FREE, gave_up=third.round_id) == 0  # bytes were ready: only time tells
    ahead[0] += timedelta(days=7, seconds=third.deadline_s + 1)
    assert site.ledger.settle(FREE) == 1
    assert states(site) == ["void", "void", "void", "final"]


@pytest.mark.parametrize("attempts", [1, 3])
def test_each_attempt_is_a_new_hold(site: Site, attempts: int) -> None:
    for attempt in range(1, attempts + 1):
        asked = private(attempt=attempt)
        charge(site, asked)
        send(site, asked)
    assert states(site) == ["held"] * attempts
    spent = site.ledger.look()[0].spent("heart", "site")
    assert epsilon_of(spent, DELTA) == pytest.approx(epsilon_of([gaussian()] * attempts, DELTA))


def test_an_update_that_the_restored_folder_forgot_is_final(site: Site) -> None:
    asked = private()
    charge(site, asked)
    site.sent.reach(Sent(Place.of(asked), UPLOAD, digest_of(b"body")))  # it left; the copy is from before it was stored
    assert site.ledger.settle(FREE) == 1
    assert states(site) == ["final"]


def test_an_overdraw_says_what_there_is_and_what_would_fit(site: Site) -> None:
    two = epsilon_of([gaussian()] * 2, DELTA)
    rule = budget(two)
    for number in (1, 2):
        charge(site, private(number), rule)
    failure = refusal(site, private(3), rule)
    assert failure.code == "budget-exceeded"
    have, alone = f"have {two:.4g} spent", f"asked {epsilon_of([gaussian()], DELTA):.4g}"
    assert f"budget is epsilon {two:g}" in failure.detail
    assert have in failure.detail
    assert alone in failure.detail
    assert "left 0" in failure.detail
    assert "Of the job's 3 rounds 2 fit" in failure.detail
    noise = float(failure.detail.partition("noise multiplier of ")[2].split()[0])
    assert epsilon_of([gaussian(noise)] * 3, DELTA) <= two * 1.001
    assert epsilon_of([gaussian(noise * 0.99)] * 3, DELTA) > two
    for detail in Detail:  # what the data cost in other jobs is not the platform's business
        assert report(failure, detail).message == ""
    charge(site, private(1, job_id="job_2", data={"dataset": "lungs", "features": [], "label": None}), rule)


def test_a_zero_concentrated_round_is_refused_like_a_gaussian_one(site: Site) -> None:
    event = ZeroConcentratedEvent(rho=0.005)
    cost = epsilon_of([event] * 3, DELTA)
    rule = budget(epsilon_of([event] * 2, DELTA))
    for number in (1, 2):
        charge(site, private(number, terms={"epsilon": cost}), rule, event)
    failure = refusal(site, private(3, terms={"epsilon": cost}), rule, event)
    assert "Of the job's 3 rounds 2 fit" in failure.detail
    assert float(failure.detail.partition("noise multiplier of ")[2].split()[0]) == pytest.approx(12.25, rel=0.01)


def test_a_clock_that_goes_back_opens_no_new_budget(site: Site, ahead: list[timedelta]) -> None:
    rule = budget(epsilon_of([gaussian()], DELTA), days=30)
    charge(site, private(1), rule)
    for by in (timedelta(), timedelta(days=29), timedelta(days=-800), timedelta(days=-30)):
        ahead[0] = by
        assert refusal(site, private(2), rule).code == "budget-exceeded"
    ahead[0] = timedelta(days=31)
    charge(site, private(2), rule)  # thirty days later the first charge counts no more
    ahead[0] = timedelta(days=-31)
    assert refusal(site.again(), private(3), rule).code == "budget-exceeded"


def test_exact_answers_are_charged_without_bound_beside_the_budget(site: Site) -> None:
    rule = budget(epsilon_of([gaussian()] * 2, DELTA))
    exact = manifest(round_id="rnd_exact")
    charge(site, exact, rule, NonPrivateEvent())
    charge(site, private(2), rule)
    lines = [charge.held for charge in site.ledger.look()[0].charges.values()]
    assert [(line.epsilon_after, line.unit) for line in lines] == [(None, "site"), (None, "site")]
    spent = site.ledger.look()[0].spent("heart", PrivacyUnit.RECORD)
    assert spent == [NonPrivateEvent()]  # it bounds records no better than sites


def test_statistics_that_ask_the_same_again_are_charged_again(site: Site) -> None:
    """A second job with the same questions is a second answer, exact or with noise."""
    for job in ("job_1", "job_2"):
        exact = manifest(kind="statistics", round_id=f"rnd_{job}", job_id=job, model=None)
        charge(site, exact, event=NonPrivateEvent())
        noisy = exact.model_copy(update={"round_id": f"rnd_{job}_noisy"})
        charge(site, noisy, event=gaussian())
    spent = site.ledger.look()[0].spent("heart", "site")
    assert (spent.count(NonPrivateEvent()), spent.count(gaussian())) == (2, 2)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"terms": {"epsilon": 0.5}}, "3 rounds cost epsilon"),
        ({"terms": {"rounds": 30}}, "30 rounds cost epsilon"),
        ({"terms": {"delta": 1e-9}}, "3 rounds cost epsilon"),
        ({"terms": {"delta": 1e-30, "epsilon": 900.0}}, "not drawn more exactly"),
    ],
)
def test_a_claim_that_this_site_computes_otherwise_is_refused(site: Site, changes: dict, said: str) -> None:
    failure = refusal(site, private(**changes))
    assert failure.code == "privacy-mismatch"
    assert said in failure.detail


def test_a_claim_is_about_the_whole_job_whatever_each_round_says(site: Site) -> None:
    """Two rounds with much noise promised two; then the coordinator plans more of them, or noisier claims."""
    for number in (1, 2):
        charge(site, private(number, rounds=2))
    assert "2 rounds of a job" in refusal(site, private(3, rounds=2)).detail
    honest_alone = private(3, rounds=3, noise=20.0)
    assert "the 3 rounds up to this one cost" in refusal(site, honest_alone, event=gaussian(20.0)).detail
    charge(site, private(1, rounds=2, job_id="job_2"))
    charge(site, private(2, attempt=2, rounds=2))  # another attempt is within the claim, and charged


def moving(number: int, norm: float, **rule: float) -> RoundManifest:
    """A round of a job whose clip norm began at 5, after `norm / 5` was what earlier rounds multiplied it by."""
    clip = {"quantile": 0.5, "rate": 0.2, "start": 5.0, **rule}
    encoding = ENCODING.model_copy(update={"clip_norm": norm, "clip_bit": 1})
    return private(number, rounds=9, terms={"adaptive_clip": clip}, encoding=encoding)


def test_a_clip_norm_moves_from_its_start_as_its_rule_allows_and_no_further(site: Site) -> None:
    """A factor of exp(0.3) a round at most, either way: shares count as -1 to 2."""
    charge(site, moving(1, 5.0))
    for number, norm in ((2, 5 * exp(0.31)), (2, 5 * exp(-0.31)), (4, 5 * exp(0.91)), (99, 5 * exp(2.41)), (3, 1e6)):
        failure = refusal(site, moving(number, norm))
        assert (failure.code, "clip norm" in failure.detail) == ("privacy-mismatch", True)
    for number, norm in ((2, 5 * exp(0.29)), (4, 5 * exp(-0.89)), (99, 5 * exp(2.39))):
        charge(site, moving(number, norm))
    for rule in ({"start": 50.0}, {"rate": 2.0}, {"quantile": 0.9}):
        failure = refusal(site.again(), moving(5, rule.get("start", 5.0), **rule))
        assert (failure.code, "moved by" in failure.detail) == ("privacy-mismatch", True)


def test_taking_part_too_often_or_too_soon_is_refused(site: Site) -> None:
    for number in (1, 4):
        charge(site, private(number, rounds=9), PrivacyRule(max_participations=2, min_separation=3))
    assert "min_separation" in refusal(site, private(6, rounds=9), PrivacyRule(min_separation=3)).detail
    often = refusal(site, private(9, rounds=9), PrivacyRule(max_participations=2))
    assert (often.code, "max_participations" in often.detail) == ("policy-privacy", True)
    charge(site, private(4, attempt=2, rounds=9), PrivacyRule(max_participations=2, min_separation=3))


def test_a_round_is_not_asked_again_and_again_until_its_noise_averages_out(site: Site) -> None:
    """Without any budget: each attempt is fresh noise on the same data. Other rounds and exact ones are not limited."""
    rule = PrivacyRule(max_attempts=3)
    for attempt in (1, 2, 3):
        charge(site, private(1, attempt=attempt, rounds=9), rule)
    again = refusal(site, private(1, attempt=4, rounds=9), rule)
    assert (again.code, "max_attempts" in again.detail) == ("policy-privacy", True)
    charge(site, private(1, attempt=3, rounds=9), rule)  # the same attempt is the same charge
    charge(site, private(2, attempt=4, rounds=9), rule)
    charge(site, private(1, attempt=4, rounds=9, job_id="job_2"), rule)
    for attempt in range(1, PrivacyRule().max_attempts + 1):
        charge(site, private(3, attempt=attempt, rounds=9))
    assert "5 attempts" in refusal(site, private(3, attempt=9, rounds=9)).detail


def turn(row: int, *, number: int | None = None, attempt: int = 1, **changes: Any) -> RoundManifest:
    """A round of a job whose sites take turns of four rounds, three times; an evaluation follows each round."""
    cost = changes.pop("epsilon", epsilon_of([gaussian()] * 3, DELTA))
    promised = {"model": "server", "epsilon": cost, "correlated": {"separation": 4, "participations": 3}}
    number = 2 * row if number is None else number
    return private(number, rounds=12, attempt=attempt, engine="twoserver", noise_row=row, terms=promised, **changes)


def turned(row: int) -> PrivacyEvent:
    """What it costs."""
    return GaussianEvent(noise_multiplier=10.0, row=row)


def test_a_turn_costs_one_participation_and_comes_no_earlier_than_promised(site: Site) -> None:
    """Rows count, not numbers; another attempt at a row is charged again, and the servers sum one of both."""
    for row in (1, 5):
        charge(site, turn(row), event=turned(row))
    for near in (2, 4, 6, 8):
        failure = refusal(site, turn(near), event=turned(near))
        assert (failure.code, f"row {near}" in failure.detail) == ("privacy-mismatch", True)
    charge(site.again(), turn(5, attempt=2), event=turned(5))
    charge(site, turn(9), event=turned(9))
    assert "3 rounds of a job" in refusal(site, turn(12, number=90), event=turned(12)).detail
    held = [charge.event for charge in site.ledger.look()[0].charges.values()]
    assert epsilon_of(held, DELTA) == pytest.approx(epsilon_of([gaussian()] * 4, DELTA)), "two attempts at row 5"


def test_turns_claim_what_their_participations_cost_and_no_less(site: Site) -> None:
    low = epsilon_of([gaussian()] * 2, DELTA)
    assert "3 rounds cost epsilon" in refusal(site, turn(1, epsilon=low), event=turned(1)).detail
    charge(site, private(1, noise=5.0, rounds=12), event=gaussian(5.0))  # the job's terms were others: it counts
    assert "the 2 rounds up to this one" in refusal(site, turn(5), event=turned(5)).detail


def test_a_policys_separation_counts_rounds_that_train(site: Site) -> None:
    rule = PrivacyRule(min_separation=6)
    assert "min_separation: 4" in rule.objections(turn(1))[0], "the job promises less than the owner asks for"
    charge(site, turn(1), rule, turned(1))
    assert "min_separation" in refusal(site, turn(5), rule, turned(5)).detail, "numbers 2 and 10, rows 1 and 5"
    charge(site, turn(7), rule, turned(7))


EDITS = {
    "a charge made cheaper": "UPDATE charges SET event = replace(event, '10.0', '99.0') WHERE seq = 2",
    "a charge moved to another data set": "UPDATE charges SET dataset = 'lungs' WHERE seq = 1",
    "a charge made void": "UPDATE charges SET state = 'void' WHERE seq = 3",
    "bytes that are no text": "UPDATE charges SET reason = CAST(x'ff00' AS TEXT) WHERE seq = 2",
    "a number that is none": "UPDATE charges SET delta = 9e999 WHERE seq = 3",
    "an earlier time": "UPDATE charges SET at_ms = 0 WHERE seq = 1",
    "the last line cut off": "DELETE FROM charges WHERE seq = 3",
    "a line taken out": "DELETE FROM charges WHERE seq = 2",
    "all lines gone": "DELETE FROM charges",
}


def test_rounds_that_are_unknown_are_told_in_their_order(site: Site) -> None:
    made = private(1)
    charge(site, made, budget(2))
    asked = ["rnd_z", made.round_id, "rnd_a", 'rnd_"b']
    assert site.ledger.unknown(asked) == ["rnd_z", "rnd_a", 'rnd_"b']
    assert site.ledger.unknown([]) == []


@pytest.mark.parametrize("sql", EDITS.values(), ids=EDITS)
@pytest.mark.parametrize("restarted", [True, False])
def test_an_edited_ledger_refuses_rounds_with_noise_until_it_is_adopted(site: Site, sql: str, restarted: bool) -> None:
    rule = budget(epsilon_of([gaussian()] * 10, DELTA))
    for number in (1, 2, 3):
        charge(site, private(number), rule)
    edit(site, sql)
    if restarted:
        site.again()
    failure = refusal(site, private(4, job_id="job_2"), rule)
    assert failure.code == "ledger-damaged"
    exact = manifest(round_id="rnd_exact", number=7)
    charge(site, exact, rule, NonPrivateEvent())  # goes on, is charged, and heals nothing
    charge(site, exact, rule, NonPrivateEvent())
    assert refusal(site.again(), private(4, job_id="job_2"), rule).code == "ledger-damaged"
    assert site.ledger.settle(rule) == 0
    lines = adopt(site.ledger, "the disk was exchanged", site.folder / "aside.json")
    assert lines[0].state is State.ADOPTED
    assert "the disk was exchanged" in lines[0].reason
    chain, fault = site.again().ledger.look()
    assert fault is None
    assert {str(each.state) for each in chain.charges.values()} <= {"final"}
    assert NonPrivateEvent() in chain.spent("heart", "site")
    charge(site, private(4, job_id="job_2"), rule)
    assert adopt(site.ledger, "", site.folder / "aside.json") == []


def test_an_older_copy_of_the_state_folder_is_damaged(site: Site) -> None:
    charge(site, private(1))
    site.stop()
    shutil.copytree(site.folder / "state", site.folder / "copy")
    site.start()
    charge(site, private(2))
    site.stop()
    shutil.rmtree(site.folder / "state")
    (site.folder / "copy").rename(site.folder / "state")
    site.start()
    assert refusal(site, private(3)).code == "ledger-damaged"
    assert "it has 1 lines and had 2" in str(site.ledger.look()[1])


@pytest.mark.parametrize("content", [None, "", "{}", '{"seq": -1, "hash": "x", "at_ms": 0}'])
def test_a_mark_that_is_gone_or_is_none_is_damage_too(site: Site, content: str | None) -> None:
    for number in (1, 2):
        charge(site, private(number))
    mark = site.folder / "high-water.ledger"
    mark.unlink() if content is None else mark.write_text(content)
    assert refusal(site.again(), private(3)).code == "ledger-damaged"
    adopt(site.ledger, "", site.folder / "aside.json")
    charge(site.again(), private(3))


def test_broken_lines_are_kept_aside_and_charged_again(site: Site) -> None:
    for number in (1, 2, 3):
        charge(site, private(number))
    edit(site, "UPDATE charges SET at_ms = 0 WHERE seq = 2")
    adopt(site.again().ledger, "", site.folder / "aside.json")
    assert [row["seq"] for row in json.loads((site.folder / "aside.json").read_text())] == [2, 3]
    spent = site.again().ledger.look()[0].spent("heart", "site")
    assert epsilon_of(spent, DELTA) == pytest.approx(epsilon_of([gaussian()] * 3, DELTA))


def test_two_names_for_one_file_have_one_budget(site: Site) -> None:
    """Whichever name a round uses, it is spent of the budgets of both; the tighter one decides."""
    two = epsilon_of([gaussian(), gaussian()], DELTA)
    wide = budget(100.0).budgets["heart"]
    rule = replace(
        budget(two * 1.001),
        same_files={"heart": frozenset({"again"}), "again": frozenset({"heart"})},
    )
    other = {"dataset": "again", "features": [], "label": None}
    charge(site, private(1), rule)
    charge(site, private(1, job_id="job_2", data=other), rule)
    for asked in (private(2), private(2, job_id="job_2", data=other)):
        failure = refusal(site, asked, replace(rule, budgets={**rule.budgets, "again": wide}))
        assert failure.code == "budget-exceeded"
        assert "data sets again, heart, which read the same files and are counted together" in str(failure)
    charge(site, private(2, job_id="job_3", data={**other, "dataset": "lungs"}), rule)
    shown = {one.dataset: one for one in accounts(site.ledger.look()[0], rule, site.ledger.now())}
    assert shown["heart"].epsilon == pytest.approx(two), "what is shown as left is what a round could still spend"
    assert (shown["heart"].final + shown["heart"].held, shown["again"].budget) == (1, None)
