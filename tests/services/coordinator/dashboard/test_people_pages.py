"""The page of people over the coordinator itself: what each sees, and the buttons that revoke and confirm."""

import httpx

from tests.services.coordinator.dashboard.conftest import csrf
from tests.services.coordinator.dashboard.test_site_pages import signed_in
from tests.services.coordinator.world import World
from undersong.services.coordinator.domain.two_persons import TwoPersonRule


async def browser_of(world: World, client: httpx.AsyncClient) -> httpx.AsyncClient:
    return await signed_in(world, client.headers["authorization"].removeprefix("Bearer "))


async def test_an_administrator_sees_and_revokes_people_and_tokens(small_world: World) -> None:
    world = small_world
    federation = await world.federation("hearts <i>")
    sam = await world.person("Sam <b>", ("scientist", federation))
    admin = await browser_of(world, world.admin)
    page = (await admin.get("/dashboard/people")).text
    assert "Sam &lt;b&gt;" in page
    assert "scientist of hearts &lt;i&gt;" in page
    assert "user.create" in page
    me = (await sam.get("/v1/me")).json()["id"]
    token = (await sam.get("/v1/tokens")).json()["items"][0]["id"]
    mark = await csrf(admin)
    for path in (f"tokens/{token}", f"users/{me}"):
        assert f"/dashboard/people/{path}/revoke" in page
        assert (await admin.post(f"/dashboard/people/{path}/revoke")).status_code == 403, "another site's form"
    assert (await admin.post(f"/dashboard/people/tokens/{token}/revoke", data={"csrf": mark})).status_code == 303
    assert (await sam.get("/v1/me")).status_code == 401
    assert (await admin.post(f"/dashboard/people/users/{me}/revoke", data={"csrf": mark})).status_code == 303
    assert "user.revoke" in (await admin.get("/dashboard/people")).text
    await admin.aclose()


async def test_others_see_themselves(small_world: World) -> None:
    world = small_world
    federation = await world.federation()
    await world.person("ada", ("owner", federation))
    sam = await browser_of(world, await world.person("sam", ("scientist", federation)))
    page = (await sam.get("/dashboard/people")).text
    assert "Your tokens" in page
    assert "ada" not in page
    assert "Who changed what" not in page
    await sam.aclose()


async def test_a_second_person_confirms_on_the_page(small_world: World) -> None:
    world = small_world
    federation = await world.federation()
    site = await world.site(federation, "north")
    people = [await world.person(name, ("owner", federation)) for name in ("ann", "ben")]
    for case in (world.use_cases.sites, world.use_cases.accounts, world.use_cases.two_persons):
        case._rule = TwoPersonRule(on=True)
    ann, ben = [await browser_of(world, each) for each in people]
    asked = await ann.post(f"/dashboard/sites/{site.id}/suspend", data={"csrf": await csrf(ann)})
    assert asked.headers["location"] == "/dashboard/people", "where it waits"
    page = (await ann.get("/dashboard/people")).text
    assert "Waits for a second person" in page
    assert "/confirm" not in page
    (waits,) = (await people[0].get("/v1/pending-actions")).json()["items"]
    path = f"/dashboard/people/pending/{waits['id']}/confirm"
    assert (await ann.post(path, data={"csrf": await csrf(ann)})).status_code == 403
    assert path in (await ben.get("/dashboard/people")).text
    assert (await ben.post(path, data={"csrf": await csrf(ben)})).status_code == 303
    assert (await world.admin.get(f"/v1/sites/{site.id}")).json()["state"] == "suspended"
    assert "Waits for a second person" not in (await ben.get("/dashboard/people")).text
    await ann.aclose()
    await ben.aclose()
