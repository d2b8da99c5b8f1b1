"""Jobs over a real S3 server: nothing is lost and nothing counted twice, whatever the line to the store does."""

from collections.abc import Iterator

import pytest

from tests.object_stores import ObjectStore
from tests.simulation.cases import Case
from tests.simulation.proxy import FAIR, Weather
from tests.simulation.stores import KEEPERS, BucketArena
from tests.simulation.trial import run
from undersong.local.forks import Forks

pytestmark = [pytest.mark.process, pytest.mark.exhaustive, pytest.mark.timeout(300)]
POINTS = {
    "aggregator.api": "blob.stored",
    "registry.api": "registry.content.stored",
}


@pytest.fixture(scope="module")
def arena(object_store: ObjectStore, forks: Forks) -> Iterator[BucketArena]:
    with BucketArena(object_store, forks=forks) as made:
        made.warm_up()
        yield made


@pytest.mark.parametrize(("process", "point"), POINTS.items())
def test_a_killed_process_loses_nothing(arena: BucketArena, process: str, point: str) -> None:
    outcome = run(arena, Case(point, "killed, on S3", process, point, "kill"))
    assert outcome.tried
    assert not outcome.faults
    assert outcome.published >= 2, outcome.aborted


@pytest.mark.parametrize("weather", [Weather(drop_replies=True), Weather(partition=True)])
def test_a_bad_line_to_the_store_loses_nothing(arena: BucketArena, weather: Weather) -> None:
    def meanwhile(_: object) -> None:
        for service in KEEPERS:
            arena.line(service).set(weather)
        arena.pass_time(1.5)
        for service in KEEPERS:
            arena.line(service).set(FAIR)

    outcome = run(arena, Case("services - store", repr(weather), meanwhile=meanwhile))
    assert not outcome.faults
    assert outcome.published >= 2, outcome.aborted
    assert arena.stored("registry")
    assert not arena.blobs("registry").exists()
