"""Rounds of the default engine: the witness's commitment, sites given up, and numbers that are never asked twice."""

from typing import Any

from tests.services.coordinator.world import World
from undersong.services.coordinator.log_heads import LogHeads
from undersong.shared.ids import JobId, RoundId


async def planned(world: World, sites: int = 4) -> tuple[dict[str, Any], list[Any], dict[str, Any]]:
    federation = await world.federation()
    agents = await world.sites(federation, sites)
    job = await world.job(federation)
    await world.conductor.advance(JobId(job["id"]))
    (round_id,) = world.neighbours.rounds
    return job, agents, {"id": round_id, **world.neighbours.rounds[round_id]}


async def test_the_manifest_holds_the_witnesss_commitment(small_world: World) -> None:
    world = small_world
    world.neighbours.epoch = 4
    _, agents, found = await planned(world)
    manifest = found["manifest"]["manifest"]
    assert (manifest["engine"], manifest["epoch"], manifest["number"], manifest["attempt"]) == ("pairwise", 4, 0, 1)
    params = manifest["engine_params"]
    assert set(params) == {"corrupt", "dropout", "quorum", "nonce_commitment"}
    lease = await agents[0].lease()
    assert lease["signed_manifest"] == found["manifest"], "one manifest for everybody"


async def test_manifests_carry_the_logs_head_and_the_last_one_while_keys_is_away(small_world: World) -> None:
    """Which log the coordinator was shown is signed with the round; not knowing holds no round up."""
    world = small_world
    rounds = world.conductor._rounds
    heads = LogHeads(world.conductor._keys, rounds)
    await heads.look()
    _, _, found = await planned(world)
    assert found["manifest"]["manifest"]["log_head"]["size"] == 7
    world.neighbours.keys_away = True
    await heads.look()
    assert rounds.log_head is not None
    assert rounds.log_head.size == 7
    world.neighbours.keys_away, world.neighbours.log_size = False, 9
    await heads.look()
    assert rounds.log_head.size == 9


async def test_a_round_waits_for_a_witness_that_is_away(small_world: World) -> None:
    world = small_world
    world.neighbours.keys_away = True
    federation = await world.federation()
    await world.sites(federation, 3)
    job = await world.job(federation)
    await world.conductor.advance(JobId(job["id"]))
    assert world.neighbours.rounds == {}
    world.neighbours.keys_away = False
    world.clock.advance(4)
    await world.conductor.sweep_rounds()
    assert len(world.neighbours.rounds) == 1


async def test_the_aggregator_hears_of_sites_that_failed(small_world: World) -> None:
    world = small_world
    _, agents, found = await planned(world)
    lease = await agents[1].lease()
    assert (await agents[1].report(lease, "failures", code="policy", message="no", trace=[])).status_code == 200
    for _ in range(2):
        await world.conductor.drive(RoundId(found["id"]))
    assert world.neighbours.rounds[found["id"]]["lost"] == [agents[1].id]
    assert world.neighbours.calls.count("lose") == 1


async def test_a_round_that_failed_while_it_was_opened_goes_on_under_the_next_number(small_world: World) -> None:
    """Before that, another attempt keeps the number; after it, no site is asked under that number again."""
    world = small_world
    job, _, found = await planned(world)
    places = []
    for opening in (False, True, False):
        (round_id,) = [id_ for id_, known in world.neighbours.rounds.items() if known["state"] == "collecting"]
        manifest = world.neighbours.rounds[round_id]["manifest"]["manifest"]
        places.append((manifest["number"], manifest["attempt"]))
        world.neighbours.rounds[round_id].update(state="failed", reason="not-enough-shares", opening=opening)
        await world.conductor.drive(RoundId(round_id))
        world.clock.advance(3)  # the third attempt rests
        await world.conductor.advance(JobId(job["id"]))
    assert places == [(0, 1), (0, 2), (1, 3)]
    assert found["id"]
