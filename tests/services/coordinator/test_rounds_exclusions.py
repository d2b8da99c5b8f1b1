"""A site that dealt useless shares: out of the job's later rounds, seen by people and by the site itself."""

from typing import Any

from tests.services.coordinator.world import World
from undersong.services.coordinator.repository.jobs import JobRepository
from undersong.shared.ids import JobId, RoundId

FAULT = {"code": "dealer-at-fault", "message": "it dealt shares that do not belong to its secrets"}


def latest(world: World) -> tuple[str, dict[str, Any]]:
    round_id, known = list(world.neighbours.rounds.items())[-1]
    return round_id, known


async def test_a_dealer_at_fault_costs_one_round_number_and_is_excluded(small_world: World) -> None:
    """The work is done under the next number, without that site; all others are asked again, and no other is named."""
    world = small_world
    federation = await world.federation()
    agents = await world.sites(federation, 5)
    bad, others = agents[2], {agent.id for agent in agents if agent is not agents[2]}
    job = await world.job(federation)
    await world.conductor.advance(JobId(job["id"]))
    round_id, known = latest(world)
    for agent in agents:
        lease = await agent.lease()
        world.neighbours.upload(lease["round_id"], agent.id)
        await agent.report(lease, "completions", digest="cd" * 32)
    known.update(state="failed", reason="dealer-at-fault", opening=True, faults=[{"site_id": bad.id, **FAULT}])
    await world.conductor.drive(RoundId(round_id))
    await world.conductor.advance(JobId(job["id"]))
    again_id, again = latest(world)
    first, second = known["manifest"]["manifest"], again["manifest"]["manifest"]
    assert again_id != round_id
    assert (second["number"], second["attempt"]) == (first["number"] + 1, 2)
    assert set(second["cohort"]) == others
    found = await world.get_job(job["id"])
    assert [(each["site_id"], each["site_name"], each["code"]) for each in found["excluded"]] == [
        (bad.id, "site-2", "dealer-at-fault")
    ]
    assert found["last_failure"].startswith("A site dealt shares")
    tasks = {task["site_id"]: task for task in (await world.get_round(round_id))["tasks"]}
    assert (tasks[bad.id]["state"], tasks[bad.id]["code"]) == ("rejected", "dealer-at-fault")
    assert {tasks[site]["state"] for site in others} == {"done"}
    told = (await bad.http.get("/v1/sites/self/exclusions")).json()["items"]
    assert [(each["job_id"], each["code"], each["message"]) for each in told] == [
        (job["id"], "dealer-at-fault", FAULT["message"])
    ]
    assert (await agents[0].http.get("/v1/sites/self/exclusions")).json() == {"items": []}
    events = await world.database.read("test.events", lambda tx: JobRepository(tx).events(job["id"], 0, 100))
    assert [event.data["site_id"] for event in events if event.type == "site.excluded"] == [bad.id]
    # Whatever happens to the twice driven round, its end does not change.
    await world.conductor.drive(RoundId(round_id))
    assert len((await world.get_job(job["id"]))["excluded"]) == 1


async def test_a_round_that_went_on_without_a_dealer_excludes_it_too(small_world: World) -> None:
    """Also where the site itself had reported its task as failed."""
    world = small_world
    federation = await world.federation()
    agents = await world.sites(federation, 5)
    bad = agents[0]
    job = await world.job(federation)
    await world.conductor.advance(JobId(job["id"]))
    round_id, known = latest(world)
    for agent in agents:
        lease = await agent.lease()
        if agent is bad:
            await agent.report(lease, "failures", code="site-fell-out", message="", trace=[])
            continue
        world.neighbours.upload(lease["round_id"], agent.id)
        await agent.report(lease, "completions", digest="cd" * 32)
    known["faults"] = [
        {"site_id": bad.id, **FAULT}, {"site_id": agents[1].id, "code": "wrong-share", "message": "x"},
        {"site_id": agents[2].id, "code": "shares-disputed", "message": "said"},
    ]  # fmt: skip
    world.neighbours.publish(round_id, 4)
    await world.conductor.drive(RoundId(round_id))
    assert (await world.get_round(round_id))["phase"] == "published"
    faults = (await world.get_round(round_id))["result"]["faults"]
    assert [(each["site_id"], each["code"]) for each in faults] == [
        (bad.id, "dealer-at-fault"), (agents[1].id, "wrong-share"), (agents[2].id, "shares-disputed"),
    ]  # fmt: skip
    told = (await world.get_round(round_id))["faults"]
    assert [(each["site_id"], each["code"], each["message"]) for each in told] == [
        (bad.id, "dealer-at-fault", FAULT["message"]),
        (agents[1].id, "wrong-share", "x"),
        (agents[2].id, "shares-disputed", "said"),
    ]
    assert all(each["site_name"] for each in told)
    parts = {part["site_id"]: part for part in (await world.participation(job["id"]))}
    assert [parts[agent.id]["faults"] for agent in agents[:4]] == [
        {"dealer-at-fault": 1}, {"wrong-share": 1}, {"shares-disputed": 1}, {},
    ]  # fmt: skip
    assert (parts[bad.id]["code"], parts[bad.id]["message"]) == ("dealer-at-fault", FAULT["message"])
    assert (parts[bad.id]["round_id"], parts[agents[1].id]["code"]) == (round_id, None)
    view = world.view()
    shown = await view.job(job["id"])
    assert [part.faults for part in shown.parts] == [tuple(part["faults"].items()) for part in parts.values()]
    faults = (await view.round(round_id)).round.faults
    assert [(fault.code, fault.disputed) for fault in faults] == [
        ("dealer-at-fault", False), ("wrong-share", False), ("shares-disputed", True),
    ]  # fmt: skip
    tasks = {task["site_id"]: task for task in (await world.get_round(round_id))["tasks"]}
    assert (tasks[bad.id]["code"], tasks[agents[1].id]["state"]) == ("dealer-at-fault", "done")
    for _ in range(2):
        _, again = latest(world)
        if again["manifest"]["manifest"]["kind"] == "initialise":
            for agent in agents:
                answer = await agent.poll()
                if answer.status_code == 200:
                    world.neighbours.upload(answer.json()["round_id"], agent.id)
                    await agent.report(answer.json(), "completions", digest="cd" * 32)
            await world.conductor.drive(RoundId(latest(world)[0]))
    cohort = latest(world)[1]["manifest"]["manifest"]["cohort"]
    assert bad.id not in cohort
    assert len(cohort) == 4, "a sender of wrong shares is named, and stays; so does one that others accuse"
    assert [each["site_id"] for each in (await world.get_job(job["id"]))["excluded"]] == [bad.id]


async def test_a_job_with_too_few_sites_left_ends_by_that_name(small_world: World) -> None:
    world = small_world
    federation = await world.federation()
    agents = await world.sites(federation, 3)
    job = await world.job(federation)
    await world.conductor.advance(JobId(job["id"]))
    round_id, known = latest(world)
    faults = [{"site_id": agents[1].id, **FAULT}]
    known.update(state="failed", reason="dealer-at-fault", opening=True, faults=faults)
    await world.conductor.drive(RoundId(round_id))
    found = await world.get_job(job["id"])
    assert (found["state"], found["reason"]) == ("failed", "dealer-at-fault")
    assert "dealer-at-fault" in {cause["code"] for cause in found["causes"]}
