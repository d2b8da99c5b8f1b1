"""Jobs that wait for owners' consent: no failure, told by site, and going on by themselves."""

from typing import Any

import pytest

from tests.services.coordinator.test_jobs_statistics import asking, hospitals, play_round
from tests.services.coordinator.test_rounds import work_once
from tests.services.coordinator.world import SiteAgent, World, document, profile
from undersong.services.agent.consent.requests import request_of
from undersong.services.coordinator.domain.jobs import MOST_EXCUSED
from undersong.services.coordinator.domain.progress import MAX_ATTEMPTS_PER_STEP, Stalled
from undersong.services.coordinator.repository.jobs import JobRepository
from undersong.shared.wire.manifest import RoundManifest


async def say(agent: SiteAgent, job: dict[str, Any], state: str | None) -> None:
    """Tell what an owner's agent tells of its consents."""
    consents = [{"job_id": job["id"], "state": state}] if state else []
    answer = await agent.http.put("/v1/sites/self/profile", json=profile(consents=consents))
    assert answer.status_code == 200, answer.text


async def refuse(agent: SiteAgent, code: str) -> dict[str, Any]:
    lease = await agent.lease()
    message = "this job waits for the consent of the site's owner"
    report = await agent.report(lease, "failures", code=code, message=message, trace=[])
    assert report.status_code == 200, report.text
    return lease


async def fail_round(world: World, round_id: str) -> None:
    """End the round as the aggregator does where too few came."""
    world.neighbours.rounds[round_id] |= {"state": "failed", "reason": "quorum"}
    await world.conductor.drive(round_id)


async def test_a_job_waits_for_consent_and_goes_on_by_itself(small_world: World) -> None:
    world = small_world
    federation = await world.federation()
    agents = await world.sites(federation, 3)
    job = await world.job(federation, reason="Which patients come back?")
    await world.conductor.advance(job["id"])
    for agent in agents[1:]:
        await agent.lease()
    await say(agents[0], job, "waiting")
    lease = await refuse(agents[0], "consent-waiting")
    manifest = RoundManifest.model_validate(lease["signed_manifest"]["manifest"])
    assert manifest.request is not None
    asked = manifest.request
    assert (asked.name, asked.reason) == ("heart disease", "Which patients come back?")
    assert {str(each.kind): each.rounds for each in asked.planned} == {"statistics": 1, "train": 2, "evaluate": 1}
    await fail_round(world, lease["round_id"])
    found = await world.get_job(job["id"])
    assert (found["state"], found["round_id"], found["progress"]["failures"]) == ("running", None, 1)
    assert [(each["site_id"], each["consent"]) for each in found["absent"]] == [(agents[0].id, "waiting")]
    assert found["absent"][0]["reason"] == "it waits for the consent of its owner"
    for _ in range(3):  # far beyond the deadline of a round
        await world.watch_for(60, agents)
        await world.conductor.sweep_jobs()
    found = await world.get_job(job["id"])
    assert (found["state"], found["round_id"], found["reason"]) == ("running", None, None)
    assert ("consent-waiting", 1) in [(each["code"], each["sites"]) for each in found["causes"]]
    await say(agents[0], job, None)
    await world.watch_for(40)  # the others are away just now: they have a round's time to come back
    await world.conductor.sweep_jobs()
    assert (await world.get_job(job["id"]))["state"] == "running"
    await world.watch_for(5, agents)
    await world.conductor.sweep_jobs()
    found = await world.get_job(job["id"])
    assert found["round_id"] is not None
    assert len(await work_once(world, agents)) == 3


NOISY = {
    "privacy": {"model": "distributed", "epsilon": 8.0, "delta": 1e-6},
    "strategy": {"weighting": "equal"},
    "update": {"clip_norm": 1.0},
}


@pytest.mark.parametrize("changes", [{}, NOISY, {"engine": "twoserver", "update": {"clip_norm": 2.0}}])
async def test_every_round_of_a_job_is_one_request_to_an_agent(small_world: World, changes: dict[str, Any]) -> None:
    """What owners are asked about once is what each manifest says, as the agent reads it."""
    federation = await small_world.federation()
    agents = await small_world.sites(federation)
    job = await small_world.job(federation, **changes)
    await check_requests(small_world, agents, job, ["statistics", "initialise", "train", "train", "evaluate"])


async def test_every_round_of_a_statistics_job_is_one_request(small_world: World) -> None:
    """Although each asks for other sums over other columns."""
    federation, agents = await hospitals(small_world)
    body = asking(
        federation,
        {"query": "mean", "columns": ["age", "chol"]},
        {"query": "histogram", "column": "thalach", "bins": 4},
    )
    job = (await small_world.admin.post("/v1/jobs", json=body)).json()
    await small_world.conductor.advance(job["id"])
    manifests = []
    while (await small_world.get_job(job["id"]))["state"] == "running":
        manifests.append(RoundManifest.model_validate(await play_round(small_world, agents, job)))
    assert len({manifest.data.features for manifest in manifests}) > 1
    requests = [request_of(manifest) for manifest in manifests]
    assert len({request.digest() for request in requests if request is not None}) == 1
    assert requests[0] is not None
    assert requests[0].rounds >= len(manifests)


async def check_requests(world: World, agents: list[SiteAgent], job: dict[str, Any], expected: list[str]) -> None:
    await world.conductor.advance(job["id"])
    kinds, requests = [], set()
    while done := await work_once(world, agents):
        manifest = RoundManifest.model_validate(done[0]["signed_manifest"]["manifest"])
        kinds.append(str(manifest.kind))
        request = request_of(manifest)
        assert (request is None) == (manifest.kind == "initialise")
        if request is not None:
            requests.add(request.digest())
            assert request.planned(manifest.kind).rounds >= kinds.count(str(manifest.kind))
        await world.conductor.drive(done[0]["round_id"])
    assert kinds[: len(expected)] == expected
    assert len(requests) == 1


async def test_enough_other_sites_do_not_wait(small_world: World) -> None:
    """A site whose owner has not decided is left out, and comes in with the round after the approval."""
    world = small_world
    federation = await world.federation()
    agents = await world.sites(federation, 4)
    job = await world.job(federation)
    await say(agents[0], job, "waiting")
    await world.conductor.advance(job["id"])
    (planned,) = (await world.admin.get(f"/v1/jobs/{job['id']}/rounds")).json()["items"]
    assert sorted(planned["cohort"]) == sorted(agent.id for agent in agents[1:])
    await say(agents[0], job, None)
    for _ in range(2):
        assert await work_once(world, agents)
        round_id = (await world.get_job(job["id"]))["round_id"]
        world.neighbours.publish(round_id, 3)
        await world.conductor.drive(round_id)
    newest = (await world.admin.get(f"/v1/jobs/{job['id']}/rounds")).json()["items"][-1]
    assert agents[0].id in newest["cohort"]


async def test_a_denied_job_pauses_with_the_reason(small_world: World) -> None:
    world = small_world
    federation = await world.federation()
    agents = await world.sites(federation, 3)
    job = await world.job(federation)
    await world.conductor.advance(job["id"])
    for agent in agents[1:]:
        await agent.lease()
    await say(agents[0], job, "denied")
    lease = await refuse(agents[0], "consent-denied")
    await fail_round(world, lease["round_id"])
    found = await world.get_job(job["id"])
    assert found["state"] == "paused"
    assert "Ask the sites' owners" in found["explanation"]
    assert ("consent-denied", 1) in [(each["code"], each["sites"]) for each in found["causes"]]
    await say(agents[0], job, None)
    assert (await world.admin.post(f"/v1/jobs/{job['id']}/resume")).status_code == 200
    await world.conductor.advance(job["id"])
    assert (await world.get_job(job["id"]))["round_id"] is not None


async def test_a_site_that_only_says_that_it_waits_holds_a_job_up_for_a_while(small_world: World) -> None:
    """Its attempts are excused so often, then they count as all others, and the job pauses."""
    federation = await small_world.federation()
    await small_world.sites(federation, 3)
    made = await small_world.job(federation)
    job = await small_world.database.read("test", lambda tx: JobRepository(tx).get(made["id"]))
    count = 0
    while not isinstance(job.next(), Stalled):
        job, count = job.setback("quorum", job.created_at, waits=True), count + 1
    assert count == MOST_EXCUSED + MAX_ATTEMPTS_PER_STEP


@pytest.mark.parametrize("reason", ["x" * 2001, "a\u202eb", "a\x1b[2J", 7])
async def test_a_reason_that_could_mislead_is_refused(small_world: World, reason: Any) -> None:
    world = small_world
    federation = await world.federation()
    await world.sites(federation)
    answer = await world.admin.post("/v1/jobs", json=document(federation, reason=reason))
    assert answer.status_code == 422
    assert [error["path"] for error in answer.json()["errors"]] == ["/reason"]
