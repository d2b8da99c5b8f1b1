"""Datasheets through the API: made of the rounds that led to a version, signed, and shown to its federation alone."""

from typing import Any

import httpx
import pytest

from tests.effort import also
from tests.services.coordinator.test_jobs_statistics import asking, hospitals
from tests.services.coordinator.test_rounds import work_once
from tests.services.coordinator.world import World
from undersong.services.coordinator.datasheets import Datasheets
from undersong.services.coordinator.peers.keys import KeysDirectory
from undersong.services.coordinator.peers.registry import Registry
from undersong.services.coordinator.sheet_keeping import SheetKeeper
from undersong.shared.identity.authority import Subject, keyid_of
from undersong.shared.ids import new_id
from undersong.shared.transparency.datasheet import Datasheet, SignedDatasheet, check_datasheet
from undersong.shared.transparency.datasheet_words import headline
from undersong.shared.web.access import Grant, Principal, Role


@pytest.fixture
def sheets(small_world: World) -> Datasheets:
    """The use cases over the neighbours' registry; no round's record is logged."""
    identity = small_world.identity(Subject("service", "coordinator"))
    http = httpx.AsyncClient(transport=httpx.ASGITransport(small_world.neighbours.application()), base_url="http://o")
    small_world.app.state.datasheets = Datasheets(
        small_world.database, Registry(http), KeysDirectory(http), lambda: identity
    )
    return small_world.app.state.datasheets


async def run(world: World, federation: str, agents: list[Any], **changes: Any) -> dict[str, Any]:
    """A job to its end; its versions then stand in the registry."""
    job = await world.job(federation, **changes)
    await world.conductor.advance(job["id"])
    while done := await work_once(world, agents):
        await world.conductor.drive(done[0]["round_id"])
    return await world.get_job(job["id"])


async def publish(world: World, job: dict[str, Any]) -> list[str]:
    """Tell the registry of the versions that a job's rounds made; return their ids."""
    found = []
    for item in (await world.admin.get(f"/v1/jobs/{job['id']}/rounds")).json()["items"]:
        version_id = (item["result"] or {}).get("version_id")
        if version_id is None:
            continue
        lineage = {"job_id": job["id"], "round_id": item["id"], "kind": item["kind"], "parents": found[-1:],
                   "recipe": {"name": "tabular", "digest": "0" * 64}}  # fmt: skip
        world.neighbours.versions[version_id] = {
            "id": version_id, "model_id": job["model_id"], "federation_id": job["federation_id"], "number": len(found),
            "content_digest": item["result"]["digest"], "lineage": lineage, "metrics": {"auc": 0.8},
        }  # fmt: skip
        found.append(version_id)
    return found


async def told(world: World, version_id: str) -> Datasheet:
    answer = await world.admin.get(f"/v1/versions/{version_id}/datasheet")
    assert answer.status_code == 200, answer.text
    return check_datasheet(SignedDatasheet.model_validate(answer.json()), keyid_of(world.authority.certificate))


async def test_an_exact_jobs_sheet_counts_what_has_no_bound(small_world: World, sheets: Datasheets) -> None:
    """Two trainings and one evaluation after the standardising sums; version 0 depends on no more than those."""
    federation = await small_world.federation()
    agents = await small_world.sites(federation)
    job = await run(small_world, federation, agents)
    first, _, last = await publish(small_world, job)
    sheet = await told(small_world, last)
    assert (sheet.subject.version_id, sheet.subject.job, sheet.subject.model) == (last, job["name"], "heart")
    assert sheet.subject.recipe is not None
    assert sheet.claims == ()
    counted = {gap.what: gap.releases for gap in sheet.gaps if gap.releases}
    assert counted == {"training without noise": 2, "statistics without noise": 1, "evaluations": 1}
    (data,) = sheet.data
    assert (data.dataset, data.features, data.label) == ("heart", ("age", "chol"), "disease")
    assert (data.fewest_sites, data.most_sites, data.rounds) == (4, 4, 4)
    assert sheet.utility.metrics == {"auc": 0.8}
    assert sheet.subject.log_entry is None
    before = await told(small_world, first)
    assert {gap.what: gap.releases for gap in before.gaps if gap.releases} == {"statistics without noise": 1}


async def test_a_sheet_is_kept_in_the_registry_and_made_again_where_it_says_something_new(
    small_world: World, sheets: Datasheets
) -> None:
    """After a job has ended, and after an audit, without anybody asking for it; the same once more is not signed."""
    neighbours = small_world.neighbours
    federation = await small_world.federation()
    agents = await small_world.sites(federation)
    job = await run(small_world, federation, agents)
    await publish(small_world, job)
    last = job["version_id"]
    keeper = SheetKeeper(small_world.database, sheets, sheets._registry)
    neighbours.away = True
    assert await keeper.sweep() == 1
    assert last not in neighbours.sheets
    neighbours.away = False
    assert await keeper.sweep() == 1
    first = neighbours.sheets[last][-1]
    assert {one["site_id"] for one in first["datasheet"]["ledgers"]} == {agent.id for agent in agents}
    for _ in range(2):
        assert (await small_world.admin.get(f"/v1/versions/{last}/datasheet")).json() == first
    document = {"kind": "lira-offline", "confidence": 0.95, "epsilon_lower_bound": 3.0}
    finding = {"document": document, "broken": True, "recorded_by": "usr_1", "recorded_at": "2026-11-30T12:00:00Z"}
    neighbours.versions[last]["audits"] = [finding]
    assert await SheetKeeper(small_world.database, sheets, sheets._registry).sweep() == 1
    kept = neighbours.sheets[last]
    assert (len(kept), kept[-1]["datasheet"]["claim_broken"]) == (2, True)
    assert (await told(small_world, last)).claim_broken
    assert len(neighbours.sheets[last]) == 2


async def test_a_version_that_goes_on_from_another_counts_both_jobs(small_world: World, sheets: Datasheets) -> None:
    federation = await small_world.federation()
    agents = await small_world.sites(federation)
    before = await run(small_world, federation, agents, rounds=1, evaluation={"every": 0})
    (_, start) = await publish(small_world, before)
    model = {"name": "heart", "version_id": start}
    after = await run(small_world, federation, agents, rounds=1, evaluation={"every": 0}, model=model)
    (last,) = await publish(small_world, after)
    sheet = await told(small_world, last)
    counted = {gap.what: gap.releases for gap in sheet.gaps if gap.releases}
    assert counted["training without noise"] == 2
    small_world.neighbours.versions[start]["lineage"] = {"kind": "import", "job_id": before["id"]}
    unknown = await told(small_world, last)
    assert f"the origin of {start}" in {gap.what for gap in unknown.gaps}
    assert {gap.what: gap.releases for gap in unknown.gaps if gap.releases}["training without noise"] == 1


async def test_a_version_that_names_anothers_round_is_of_unknown_origin(small_world: World, sheets: Datasheets) -> None:
    """Its lineage is what the person who brought it in wrote."""
    federation = await small_world.federation()
    job = await run(small_world, federation, await small_world.sites(federation), rounds=1, evaluation={"every": 0})
    *_, last = await publish(small_world, job)
    forged = new_id("ver")
    small_world.neighbours.versions[forged] = small_world.neighbours.versions[last] | {"id": forged}
    sheet = await told(small_world, forged)
    assert (sheet.unknown, sheet.claims, sheet.data) == ((forged,), (), ())
    assert "is not known here" in headline(sheet)
    assert sheet.subject.job_id is None


async def test_a_sheet_is_for_its_federation(small_world: World, sheets: Datasheets) -> None:
    federation = await small_world.federation()
    job = await run(small_world, federation, await small_world.sites(federation), rounds=1, evaluation={"every": 0})
    *_, last = await publish(small_world, job)
    path = f"/v1/versions/{last}/datasheet"
    other = await small_world.federation("lungs")
    stranger = await small_world.person("eve", ("auditor", other))
    friend = await small_world.person("ada", ("auditor", federation))
    assert (await small_world.client().get(path)).status_code == 401
    refused, unknown = await stranger.get(path), await stranger.get("/v1/versions/ver_none/datasheet")
    assert (refused.status_code, unknown.status_code) == (404, 404)
    assert refused.json()["detail"].replace(last, "ver_none") == unknown.json()["detail"]
    assert (await friend.get(path)).status_code == 200
    assert (await small_world.admin.get("/v1/versions/job_1/datasheet")).status_code == 422
    person = Principal("usr_1", "eve", (Grant(Role.AUDITOR, other),))
    with pytest.raises(Exception, match="no job"):
        await sheets.account(person, job["id"])
    small_world.neighbours.versions[last]["content_digest"] = "nonsense"
    assert (await small_world.admin.get(path)).status_code == 503


async def test_a_jobs_account_is_read_once_it_has_ended(small_world: World, sheets: Datasheets) -> None:
    federation = await small_world.federation()
    job = await run(small_world, federation, await small_world.sites(federation))
    person = Principal("usr_1", "ada", (Grant(Role.ADMIN, None),))
    account = await sheets.account(person, job["id"])
    assert (account.opened, account.exact, account.smallest, account.costs) == (4, 4, 4, ())
    assert account.engines == ("pairwise",)
    await small_world.run("UPDATE rounds SET phase = 'cancelled', got = 0 WHERE kind = 'evaluate'")
    assert await sheets.account(person, job["id"]) == account


async def test_a_private_jobs_sheet_says_what_the_plan_allowed(small_world: World, sheets: Datasheets) -> None:
    """After one of two rounds less than the plan, after both all of it: as the manifests' terms promise."""
    federation = await small_world.federation()
    agents = await small_world.sites(federation)
    noise = {"model": "distributed", "epsilon": 4.0, "delta": 1e-6}
    changes = {"strategy": {"weighting": "equal"}, "update": {"clip_norm": 1.0}, "privacy": noise}
    job = await run(small_world, federation, agents, **changes)
    assert job["state"] == "succeeded", job["reason"]
    first, half, whole = [await told(small_world, version) for version in await publish(small_world, job)]
    ((start,), (before,), (after,)) = (sheet.claims for sheet in (first, half, whole))
    assert (start.epsilon, before.released, after.released) == (0.0, 1, 2)
    assert before.epsilon is not None
    assert 0 < before.epsilon < 4.0
    for claim in (start, before, after):
        assert claim.planned_epsilon == pytest.approx(4.0, rel=1e-3)
    assert after.epsilon == pytest.approx(4.0, rel=1e-3)
    assert (after.unit, after.mechanisms[0].model, after.mechanisms[0].min_sites) == ("site", "distributed", 3)
    assert after.exact == 2  # the sums that standardise columns, and the evaluation
    person = Principal("usr_1", "ada", (Grant(Role.ADMIN, None),))
    account = await sheets.account(person, job["id"])
    assert (account.opened, account.exact) == (4, 2)
    assert [(cost.unit, cost.releases, cost.epsilon) for cost in account.costs] == [("site", 2, after.epsilon)]


async def test_private_statistics_cost_records(small_world: World, sheets: Datasheets) -> None:
    federation, agents = await hospitals(small_world)
    mean = {"query": "mean", "columns": ["age"], "ranges": {"age": [0, 120]}}
    noise = {"model": "distributed", "epsilon": 1.0, "delta": 1e-6}
    asked = asking(federation, mean, privacy=noise)
    answer = await small_world.admin.post("/v1/jobs", json=asked)
    assert answer.status_code == 201, answer.text
    job_id = answer.json()["id"]
    small_world.neighbours.add_up = lambda manifest: [0.0] * (manifest["length"] or 1)
    await small_world.conductor.advance(job_id)
    for lease in (await work_once(small_world, agents))[:1]:
        await small_world.conductor.drive(lease["round_id"])
    account = await sheets.account(Principal("usr_1", "ada", (Grant(Role.ADMIN, None),)), job_id)
    assert (account.opened, account.exact) == (1, 0)
    (cost,) = account.costs
    assert (cost.unit, cost.releases, cost.delta) == ("record", 1, 1e-6)
    assert cost.epsilon == pytest.approx(1.0, rel=1e-3)


@pytest.mark.parametrize(("engine", "model", "seen"), [("pairwise", "distributed", 1), *also(("sealed", "local", 2))])
async def test_a_round_that_failed_while_it_was_opened_is_counted(
    small_world: World, sheets: Datasheets, engine: str, model: str, seen: int
) -> None:
    """As the sites' ledgers count it; one that failed before is not, unless the aggregator sees each update."""
    federation = await small_world.federation()
    agents = await small_world.sites(federation)
    noise = {"model": model, "noise_multiplier": 3.0, "delta": 1e-6}
    changes = {"rounds": 1, "evaluation": {"every": 0}, "strategy": {"weighting": "equal"}, "privacy": noise}
    job = await small_world.job(federation, update={"clip_norm": 1.0}, engine=engine, **changes)
    await small_world.conductor.advance(job["id"])
    failures = [{"opening": False}, {"opening": True}]
    for _ in range(40):
        done = await work_once(small_world, agents)
        if done and done[0]["kind"] == "train" and failures:
            report = {"state": "failed", "reason": "quorum", "result": None, **failures.pop(0)}
            small_world.neighbours.rounds[done[0]["round_id"]].update(report)
        if done:
            await small_world.conductor.drive(done[0]["round_id"])
        else:
            await small_world.watch_for(5, agents)
            await small_world.conductor.sweep_jobs()
        if (await small_world.get_job(job["id"]))["state"] != "running":
            break
    job = await small_world.get_job(job["id"])
    assert (job["state"], failures) == ("succeeded", [])
    *_, last = await publish(small_world, job)
    sheet = await told(small_world, last)
    assert sheet.claims[0].released == 1 + seen
    counted = {gap.what: gap.releases for gap in sheet.gaps if gap.releases}
    assert counted["rounds that failed while their sum was being opened"] == seen
