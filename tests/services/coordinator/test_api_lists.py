"""Lists of federations, sites, rounds and schedules: filtered and sorted by what the API's description names."""

from typing import Any

from tests.services.coordinator.world import World, document


async def listed(world: World, path: str, **query: Any) -> list[dict[str, Any]]:
    """Every item of a list, in pages of two."""
    found: list[dict[str, Any]] = []
    after: dict[str, str] = {}
    while True:
        answer = await world.admin.get(path, params={**query, "limit": 2, **after})
        assert answer.status_code == 200, answer.text
        found += answer.json()["items"]
        if answer.json()["next"] is None:
            return found
        after = {"after": answer.json()["next"]}


async def names(world: World, path: str, **query: Any) -> list[str]:
    return [each["name"] for each in await listed(world, path, **query)]


async def test_federations_and_sites(world: World) -> None:
    heart = await world.federation("Heart")
    for name in ("lung", "heartburn", "100%"):
        await world.federation(name)
    for name in ("north", "south", "east", "north-east"):
        await world.site(heart, name)
    assert await names(world, "/v1/federations", name="HEART") == ["Heart", "heartburn"]
    assert await names(world, "/v1/federations", name="%") == ["100%"]
    assert await names(world, "/v1/federations", sort="-created") == ["100%", "heartburn", "lung", "Heart"]
    assert await names(world, "/v1/sites", sort="name") == ["east", "north", "north-east", "south"]
    assert await names(world, "/v1/sites", sort="-name", name="nor") == ["north-east", "north"]
    first = (await listed(world, "/v1/sites"))[0]
    await world.admin.post(f"/v1/sites/{first['id']}/suspension")
    assert await names(world, "/v1/sites", suspended=True) == ["north"]
    assert await names(world, "/v1/sites", suspended=False, name="north") == ["north-east"]
    typo = await world.admin.get("/v1/sites", params={"suspendet": "true", "name": "n"})
    assert [error["path"] for error in typo.json()["errors"]] == ["?suspendet"]
    assert "did you mean 'suspended'" in typo.json()["errors"][0]["message"]
    for wrong in ("last_seen", "id", "name,created"):
        assert (await world.admin.get("/v1/sites", params={"sort": wrong})).status_code == 422


async def test_rounds_and_schedules(small_world: World) -> None:
    world = small_world
    federation = await world.federation()
    await world.sites(federation)
    job = await world.job(federation)
    await world.flush()
    path = f"/v1/jobs/{job['id']}/rounds"
    every = await listed(world, path)
    for kind in {each["kind"] for each in every}:
        assert await listed(world, path, kind=kind) == [each for each in every if each["kind"] == kind]
    assert await listed(world, path, sort="-created") == every[::-1]
    assert await listed(world, path, state="cancelled") == []
    for name in ("b", "a", "B2"):
        body = {"document": document(federation), "cron": "0 0 1 1 *", "name": name}
        assert (await world.admin.post("/v1/schedules", json=body)).status_code == 201
    path = f"/v1/federations/{federation}/schedules"
    assert await names(world, path, name="b", sort="-created") == ["B2", "b"]
    assert set(await names(world, path, sort="name")) == {"a", "b", "B2"}


async def test_users_and_tokens(small_world: World) -> None:
    world = small_world
    for name in ("Ada", "bob", "Adam"):
        await world.person(name, ("auditor", None))
    assert await names(world, "/v1/users", name="ada", sort="-name") == ["Adam", "Ada"]
    for name in ("b", "a"):
        assert (await world.admin.post("/v1/tokens", json={"name": name})).status_code == 201
    assert (await names(world, "/v1/tokens", sort="name"))[:2] == ["a", "b"]
    assert await names(world, "/v1/tokens", name="B", sort="-created") == ["b", "bootstrap"]


async def test_a_place_that_no_list_gave_is_no_fault_of_ours(small_world: World) -> None:
    world = small_world
    lists = (await world.admin.get("/openapi.json")).json()["paths"]
    asked = 0
    for path, operations in lists.items():
        known = {each["name"] for each in operations.get("get", {}).get("parameters", [])}
        if "after" not in known or "{" in path:
            continue
        for odd in ("abc", "", "-1", "1.5", "9" * 30, "\u202e", "job_"):
            answer = await world.admin.get(path, params={"after": odd})
            assert answer.status_code in (200, 422), (path, odd, answer.text)
            asked += 1
    assert asked > 40
