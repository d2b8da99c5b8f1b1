"""The two-person rule, last uses of tokens, revoked users: who may do what alone, and what is done once."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.services.coordinator.world import World, make_world
from undersong.services.coordinator.domain.two_persons import TwoPersonRule

HOUR = 3600


@dataclass
class Two:
    """A platform where the rule is switched on, once there are two administrators and two owners."""

    world: World
    federation: str
    site: str
    people: dict[str, httpx.AsyncClient]

    async def ask(self, who: str, action: str, subject: str, code: int = 201, **more: Any) -> dict[str, Any]:
        body = {"action": action, "subject": subject, **more}
        answer = await self.people[who].post("/v1/pending-actions", json=body)
        assert answer.status_code == code, answer.text
        return dict(answer.json())

    async def confirm(self, who: str, id_: str) -> tuple[int, str]:
        answer = await self.people[who].post(f"/v1/pending-actions/{id_}/confirmation")
        return answer.status_code, str(answer.json().get("state") or answer.json()["type"].rpartition(":")[2])

    async def suspended(self) -> bool:
        return bool((await self.world.admin.get(f"/v1/sites/{self.site}")).json()["state"] == "suspended")

    async def user(self, name: str) -> dict[str, Any]:
        listed = (await self.world.admin.get("/v1/users")).json()["items"]
        return next(dict(each) for each in listed if each["name"] == name)

    async def log(self) -> list[tuple[str, str]]:
        found = (await self.world.admin.get("/v1/audit-entries")).json()["items"]
        return [(each["action"], each["actor"]) for each in found]


async def staged(world: World) -> Two:
    federation = await world.federation()
    site = await world.site(federation, "north")
    people = {name: await world.person(name, ("owner", federation)) for name in ("ann", "ben")}
    people |= {"sam": await world.person("sam", ("scientist", federation))}
    people |= {name: await world.person(name, ("admin", None)) for name in ("rita", "rob")}
    rule = TwoPersonRule(on=True)
    for case in (world.use_cases.sites, world.use_cases.accounts, world.use_cases.two_persons):
        case._rule = rule
    return Two(world, federation, site.id, people)


@pytest.fixture
async def two(small_world: World) -> Two:
    return await staged(small_world)


@pytest.fixture
async def both(database_url: str, redis_url: str, tmp_path: Path) -> AsyncIterator[Two]:
    """The same on each database."""
    async with make_world(database_url, redis_url, tmp_path) as world:
        yield await staged(world)


def slug(answer: httpx.Response) -> tuple[int, str]:
    return answer.status_code, answer.json()["type"].rpartition(":")[2]


async def test_one_person_asks_and_another_confirms(two: Two) -> None:
    path = f"/v1/sites/{two.site}/suspension"
    assert slug(await two.people["ann"].post(path)) == (409, "second-person-needed")
    assert slug(await two.people["rita"].post(path)) == (409, "second-person-needed"), "administrators too"
    await two.ask("ann", "site.suspend", two.site, 422, reason="stolen\u202e")
    asked = await two.ask("ann", "site.suspend", two.site, reason="its key was stolen")
    assert (await two.ask("ann", "site.suspend", two.site))["id"] == asked["id"], "asked again, it is the same"
    assert await two.confirm("ann", asked["id"]) == (403, "same-person")
    second = await two.world.admin.post("/v1/tokens", json={"name": "x", "user_id": (await two.user("ann"))["id"]})
    assert slug(second) == (403, "own-tokens-only")
    own = (await two.people["ann"].post("/v1/tokens", json={"name": "another"})).json()["token"]
    two.people["ann again"] = two.world.client(authorization=f"Bearer {own}")
    assert await two.confirm("ann again", asked["id"]) == (403, "same-person"), "by another token of hers"
    assert await two.confirm("sam", asked["id"]) == (403, "forbidden")
    assert not await two.suspended()
    assert await two.confirm("ben", asked["id"]) == (200, "confirmed")
    assert await two.suspended()
    assert await two.confirm("rita", asked["id"]) == (200, "confirmed"), "again, nothing is changed"
    told = [each for each in await two.log() if each[0].startswith(("pending", "site.suspend"))]
    assert told == [("pending.confirm", "ben"), ("site.suspend", "ben"), ("pending.request", "ann")]
    assert (await two.people["ben"].delete(path)).status_code == 200, "to let it back takes one"


async def test_what_is_confirmed_by_many_at_once_is_done_once(both: Two) -> None:
    asked = await both.ask("ann", "site.suspend", both.site)
    answers = await asyncio.gather(*(both.confirm(who, asked["id"]) for who in ("ben", "rita", "rob") * 2))
    assert set(answers) == {(200, "confirmed")}
    assert [each[0] for each in await both.log()].count("pending.confirm") == 1


async def test_it_expires_and_is_withdrawn(two: Two) -> None:
    asked = await two.ask("ann", "site.suspend", two.site)
    two.world.clock.advance(25 * HOUR)
    assert await two.confirm("ben", asked["id"]) == (410, "action-over")
    listed = (await two.people["ben"].get("/v1/pending-actions")).json()["items"]
    assert [each["state"] for each in listed] == ["expired"]
    fresh = await two.ask("ben", "site.suspend", two.site)
    assert fresh["id"] != asked["id"]
    for _ in range(2):
        answer = await two.people["ann"].delete(f"/v1/pending-actions/{fresh['id']}")
        assert (answer.status_code, answer.json()["state"], answer.json()["decider"]) == (200, "withdrawn", "ann")
    assert await two.confirm("ann", fresh["id"]) == (410, "action-over")
    assert not await two.suspended()


async def test_both_must_have_the_role_when_it_is_confirmed(two: Two) -> None:
    asked = await two.ask("ann", "site.suspend", two.site)
    ann = await two.user("ann")
    gone = await two.ask("rita", "user.revoke", ann["id"])
    assert await two.confirm("ann", gone["id"]) == (404, "not-found"), "of all federations: administrators alone"
    assert await two.confirm("rob", gone["id"]) == (200, "confirmed")
    assert (await two.people["ann"].get("/v1/me")).status_code == 401, "her tokens ended"
    assert (await two.confirm("ben", asked["id"]))[0] in (403, 404), "she may no longer ask for it"
    assert not await two.suspended()
    assert (await two.user("ann"))["roles"] == []


async def test_roles_and_tokens_take_two(two: Two) -> None:
    sam, rob = await two.user("sam"), await two.user("rob")
    roles = [{"role": "admin", "federation_id": None}]
    rita = two.people["rita"]
    assert slug(await rita.put(f"/v1/users/{sam['id']}/roles", json={"roles": roles})) == (409, "second-person-needed")
    assert slug(await rita.post("/v1/users", json={"name": "eve", "roles": roles})) == (409, "second-person-needed")
    asked = await two.ask("rita", "user.roles", sam["id"], data={"roles": roles})
    other = await two.ask("rita", "user.roles", sam["id"], data={"roles": []})
    assert other["id"] != asked["id"], "other roles are another change"
    assert await two.confirm("rob", asked["id"]) == (200, "confirmed")
    assert (await two.user("sam"))["roles"] == roles
    lost = {"roles": [{"role": "admin", "federation_id": "fed_unknown"}]}
    for data in (lost, {}, {"roles": "admin"}, {"roles": [{"role": "king"}]}, {"roles": [], "x": 1}):
        await two.ask("rita", "user.roles", sam["id"], 422, data=data)
    await two.ask("rita", "user.roles", (await two.user("rita"))["id"], 409, data={"roles": roles})
    await two.ask("ann", "user.revoke", rob["id"], 403)
    await two.ask("rita", "user.revoke", "usr_unknown", 404)
    token = (await two.people["sam"].get("/v1/tokens")).json()["items"][0]
    assert slug(await rita.delete(f"/v1/tokens/{token['id']}")) == (409, "second-person-needed")
    asked = await two.ask("rita", "token.revoke", token["id"])
    assert asked["name"] == "test of sam"
    assert await two.confirm("rob", asked["id"]) == (200, "confirmed")
    assert (await two.people["sam"].get("/v1/me")).status_code == 401
    own = (await rita.post("/v1/tokens", json={"name": "mine"})).json()
    assert (await rita.delete(f"/v1/tokens/{own['id']}")).status_code == 204, "one's own takes one"


async def test_nobody_stops_what_is_about_themselves(two: Two) -> None:
    rob, rob_may = await two.user("rob"), two.people["rob"]
    token = (await rob_may.get("/v1/tokens")).json()["items"][0]
    for asked in (
        await two.ask("rita", "user.revoke", rob["id"]),
        await two.ask("rita", "user.roles", rob["id"], data={"roles": []}),
        await two.ask("rita", "token.revoke", token["id"]),
    ):
        path = f"/v1/pending-actions/{asked['id']}"
        assert slug(await rob_may.delete(path)) == (409, "not-oneself")
        assert (await two.people["rita"].delete(path)).json()["state"] == "withdrawn"


async def test_owners_of_all_federations_decide_about_sites_and_not_about_people(two: Two) -> None:
    two.world.use_cases.accounts._rule = TwoPersonRule()
    olga = two.people["olga"] = await two.world.person("olga", ("owner", None))
    about_people = await two.ask("rita", "user.revoke", (await two.user("sam"))["id"])
    about_site = await two.ask("ann", "site.suspend", two.site)
    listed = (await olga.get("/v1/pending-actions")).json()["items"]
    assert [each["id"] for each in listed] == [about_site["id"]]
    assert (await olga.delete(f"/v1/pending-actions/{about_people['id']}")).status_code == 404
    assert await two.confirm("olga", about_people["id"]) == (404, "not-found")
    assert await two.confirm("olga", about_site["id"]) == (200, "confirmed")


async def test_a_tokens_scopes_hold_for_what_is_asked_and_confirmed(two: Two) -> None:
    asked = await two.ask("ann", "site.suspend", two.site)
    for name, scopes in (("accounts", ["accounts:write"]), ("both", ["accounts:write", "sites:write"])):
        made = (await two.people["ben"].post("/v1/tokens", json={"name": name, "scopes": scopes})).json()
        two.people[name] = two.world.client(authorization=f"Bearer {made['token']}")
    assert await two.confirm("accounts", asked["id"]) == (403, "scope-missing")
    await two.ask("accounts", "site.suspend", two.site, 403)
    assert slug(await two.people["accounts"].delete(f"/v1/pending-actions/{asked['id']}")) == (403, "scope-missing")
    assert await two.confirm("both", asked["id"]) == (200, "confirmed")


async def test_another_federation_sees_nothing_of_it(two: Two) -> None:
    asked = await two.ask("ann", "site.suspend", two.site)
    other = await two.world.federation("other")
    two.world.use_cases.accounts._rule = TwoPersonRule()
    stranger = two.people["stranger"] = await two.world.person("stranger", ("owner", other))
    assert (await stranger.get("/v1/pending-actions")).json()["items"] == []
    assert await two.confirm("stranger", asked["id"]) == (404, "not-found")
    await two.ask("stranger", "site.suspend", two.site, 404)


async def test_without_the_rule_one_person_does_it(small_world: World) -> None:
    world = small_world
    site = await world.site(await world.federation(), "north")
    body = {"action": "site.suspend", "subject": site.id}
    assert slug(await world.admin.post("/v1/pending-actions", json=body)) == (409, "rule-off")
    assert (await world.admin.post(f"/v1/sites/{site.id}/suspension")).status_code == 200


async def test_a_user_is_revoked_with_all_tokens_and_roles(small_world: World) -> None:
    world = small_world
    federation = await world.federation()
    sam = await world.person("sam", ("scientist", federation))
    me = (await sam.get("/v1/me")).json()["id"]
    admin = (await world.admin.get("/v1/me")).json()["id"]
    assert (await sam.delete(f"/v1/users/{admin}")).status_code == 403
    assert slug(await world.admin.delete(f"/v1/users/{admin}")) == (409, "not-oneself")
    assert (await world.admin.delete("/v1/users/usr_unknown")).status_code == 404
    for _ in range(2):
        assert (await world.admin.delete(f"/v1/users/{me}")).status_code == 204
    assert (await sam.get("/v1/me")).status_code == 401
    body = {"roles": [{"role": "auditor", "federation_id": federation}]}
    assert (await world.admin.put(f"/v1/users/{me}/roles", json=body)).status_code == 409
    fresh = await world.admin.post("/v1/tokens", json={"name": "again", "user_id": me})
    token = fresh.json()["token"]
    assert (await world.client(authorization=f"Bearer {token}").get("/v1/me")).status_code == 401


async def test_a_tokens_last_use_is_known_to_the_minute(small_world: World) -> None:
    world = small_world
    made = (await world.admin.post("/v1/tokens", json={"name": "laptop"})).json()
    client = world.client(authorization=f"Bearer {made['token']}")

    async def used() -> Any:
        listed = (await world.admin.get("/v1/tokens")).json()["items"]
        return next(each["last_used_at"] for each in listed if each["id"] == made["id"])

    assert made["last_used_at"] is None
    assert await used() is None
    await client.get("/v1/me")
    first = await used()
    assert first is not None
    await client.get("/v1/me")
    assert await used() == first
    world.clock.advance(61)
    await client.get("/v1/me")
    assert await used() > first
