"""The rules, without any machinery."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from undersong.services.aggregator.domain.refusals import RoundClosed, UpdateDiffers, UpdateRejected
from undersong.services.aggregator.domain.rounds import (
    OPEN_PHASES,
    Known,
    Move,
    Phase,
    Reason,
    Round,
    admit,
    check_sum,
    due,
    repeated,
)
from undersong.shared.ids import Digest, RoundId, SiteId

NOON = datetime(2026, 11, 22, 12, tzinfo=UTC)
LATER = NOON + timedelta(hours=1)
ROUND = Round(
    id=RoundId("rnd_x"),
    phase=Phase.COLLECTING,
    got=0,
    rejected=0,
    cohort_size=5,
    min_cohort=3,
    target=4,
    deadline=NOON,
    finish_by=LATER,
)
BEFORE = NOON - timedelta(seconds=1)


def test_a_late_update_is_refused() -> None:
    admit(ROUND, BEFORE)
    with pytest.raises(RoundClosed):
        admit(ROUND, NOON)
    with pytest.raises(RoundClosed):
        admit(replace(ROUND, phase=Phase.FROZEN), BEFORE)


def test_a_round_freezes_at_its_target() -> None:
    assert due(replace(ROUND, got=3), BEFORE) is None
    assert due(replace(ROUND, got=4), BEFORE) == Move(Phase.FROZEN)


def test_a_round_freezes_when_no_site_is_left() -> None:
    assert due(replace(ROUND, got=3, rejected=2), BEFORE) == Move(Phase.FROZEN)
    assert due(replace(ROUND, got=2, rejected=3), BEFORE) == Move(Phase.FAILED, Reason.QUORUM)


@pytest.mark.parametrize(("now", "closing"), [(NOON, False), (BEFORE, True)])
def test_the_quorum_decides_at_the_deadline_and_at_closing(now: datetime, *, closing: bool) -> None:
    assert due(replace(ROUND, got=3), now, closing=closing) == Move(Phase.FROZEN)
    assert due(replace(ROUND, got=2), now, closing=closing) == Move(Phase.FAILED, Reason.QUORUM)


def test_a_frozen_round_that_loses_its_quorum_fails() -> None:
    frozen = replace(ROUND, phase=Phase.FROZEN, got=2, rejected=1)
    assert due(frozen, BEFORE) == Move(Phase.FAILED, Reason.QUORUM)


@pytest.mark.parametrize("phase", OPEN_PHASES)
@given(got=st.integers(0, 5), rejected=st.integers(0, 5))
def test_every_open_phase_ends(phase: Phase, got: int, rejected: int) -> None:
    """At the last deadline each open phase has a way on."""
    assert due(replace(ROUND, phase=phase, got=got, rejected=rejected), LATER) is not None


@given(got=st.integers(0, 5), rejected=st.integers(0, 5), late=st.booleans(), closing=st.booleans())
def test_no_round_is_frozen_below_min_cohort(got: int, rejected: int, *, late: bool, closing: bool) -> None:
    move = due(replace(ROUND, got=got, rejected=rejected), NOON if late else BEFORE, closing=closing)
    assert move != Move(Phase.FROZEN) or got >= ROUND.min_cohort


@pytest.mark.parametrize("phase", [Phase.PUBLISHED, Phase.FAILED, Phase.CANCELLED])
def test_what_is_over_stays_over(phase: Phase) -> None:
    assert due(replace(ROUND, phase=phase, got=5), LATER, closing=True) is None


def test_the_first_digest_stands() -> None:
    known = Known(Digest("a" * 64), None)
    repeated(known, Digest("a" * 64), SiteId("site_a"))
    with pytest.raises(UpdateDiffers):
        repeated(known, Digest("b" * 64), SiteId("site_a"))
    with pytest.raises(UpdateRejected):
        repeated(replace(known, rejected_for="out-of-range"), Digest("a" * 64), SiteId("site_a"))


def test_a_sum_of_too_few_stays_closed() -> None:
    with pytest.raises(ValueError, match="stays closed"):
        check_sum(replace(ROUND, phase=Phase.AGGREGATING, got=2))
