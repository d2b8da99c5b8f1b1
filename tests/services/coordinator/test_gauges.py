"""What is read from SQL into gauges."""

import pytest
from prometheus_client import REGISTRY

from tests.services.coordinator.test_tasks import started
from tests.services.coordinator.world import TIMING, World
from undersong.services.coordinator.gauges import Gauges


@pytest.mark.both_databases
async def test_tasks_count_as_unleased_while_their_sites_could_take_them(world: World) -> None:
    gauges = Gauges(world.database, TIMING)

    async def unleased() -> float | None:
        await gauges.rounds()
        return REGISTRY.get_sample_value("fl_tasks_unleased")

    assert await unleased() == 0
    _, agents, _ = await started(world)
    assert await unleased() == 4
    lease = await agents[0].lease()
    assert await unleased() == 3
    await agents[1].lease()
    assert (await agents[0].report(lease, "failures", code="recipe-failed", message="no")).status_code < 300
    before = await unleased()
    await world.run("UPDATE sites SET last_seen_at = NULL WHERE id = :site", site=agents[2].id)
    assert before is not None
    assert await unleased() == before - 1, "a silent site is none that the platform makes wait"
