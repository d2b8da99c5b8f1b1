"""Invitations by the coordinator, certificates with their ends, and the log of what people changed."""

from datetime import timedelta
from typing import Any

import pytest

from tests.services.coordinator.world import World
from undersong.services.coordinator.views.membership import certificate_state
from undersong.shared.clock import utc_now


async def log_of(world: World) -> list[tuple[str, str]]:
    found = (await world.admin.get("/v1/audit-entries")).json()["items"]
    return [(each["action"], each["data"].get("name", "")) for each in found]


async def test_an_invitation_is_of_an_administrator_and_noted(small_world: World) -> None:
    world = small_world
    federation, other = await world.federation(), await world.federation("other")
    site = await world.site(federation, "north")
    path = f"/v1/sites/{site.id}/invitations"
    people = {
        role: await world.person(f"a {role}", (role, federation)) for role in ("admin", "scientist", "owner", "auditor")
    }
    stranger = await world.person("stranger", ("admin", other))
    for name, code in {"scientist": 403, "owner": 403, "auditor": 403}.items():
        assert (await people[name].post(path, json={})).status_code == code
    assert (await stranger.post(path, json={})).status_code == 404
    assert not world.neighbours.invitations
    key = {"idempotency-key": "once"}
    first, again = [(await people["admin"].post(path, json={}, headers=key)).json() for _ in range(2)]
    assert first == again
    assert first["needs_approval"]
    (asked,) = world.neighbours.invitations.values()
    assert asked["asked"]["invited_by"] == "a admin"
    assert ("site.invite", "north") in await log_of(world)
    assert first["token"] not in str((await world.admin.get("/v1/audit-entries")).json())
    world.neighbours.keys_away = True
    away = await people["admin"].post(path, json={})
    assert away.status_code == 503
    assert (await people["admin"].post(path, json={"expires_in_s": 1})).status_code == 422


async def test_the_log_tells_each_change_once_to_those_who_may_read_it(world: World) -> None:
    federation, other = await world.federation(), await world.federation("other")
    site = await world.site(federation, "north")
    for _ in range(2):  # again changes nothing, and is no change
        await world.admin.post(f"/v1/sites/{site.id}/suspension")
    for _ in range(2):
        await world.admin.delete(f"/v1/sites/{site.id}/suspension")
    auditor = await world.person("eve", ("auditor", federation))
    made = (await world.admin.post("/v1/tokens", json={"name": "laptop"})).json()
    for _ in range(2):
        await world.admin.delete(f"/v1/tokens/{made['id']}")
    told = await log_of(world)
    assert told[:6] == [
        ("token.revoke", "laptop"), ("token.create", "laptop"), ("token.create", "test"), ("user.create", "eve"),
        ("site.resume", "north"), ("site.suspend", "north"),
    ]  # fmt: skip
    seen = (await auditor.get("/v1/audit-entries", params={"limit": 2})).json()
    assert [each["action"] for each in seen["items"]] == ["user.create", "site.resume"]
    rest = (await auditor.get("/v1/audit-entries", params={"after": seen["next"]})).json()["items"]
    assert {each["federation_id"] for each in rest} == {federation}
    scientist = await world.person("sam", ("scientist", other))
    assert (await scientist.get("/v1/audit-entries")).status_code == 403


async def test_certificates_are_told_with_their_ends(small_world: World) -> None:
    world = small_world
    site = await world.site(await world.federation(), "north")
    now = utc_now()

    def facts(keyid: str, left: float, **more: Any) -> dict[str, Any]:
        until = now + timedelta(days=left)
        told = {"keyid": keyid * 64, "kind": "site", "name": site.id, "federation_id": "x", "revoked_at": None}
        return told | {"not_before": (until - timedelta(days=90)).isoformat(), "not_after": until.isoformat()} | more

    world.neighbours.certificates = [facts("a", 50), facts("b", 5), facts("c", -1), facts("d", 70, reason="lost",
                                     revoked_at=now.isoformat())]  # fmt: skip
    found = (await world.admin.get(f"/v1/sites/{site.id}/certificates")).json()["items"]
    assert [each["state"] for each in found] == ["revoked", "valid", "ends-soon", "ended"]
    world.neighbours.keys_away = True
    assert (await world.admin.get(f"/v1/sites/{site.id}/certificates")).status_code == 503


@pytest.mark.parametrize(
    ("life", "left", "state"),
    [(90, 60, "valid"), (90, 29, "due"), (90, 8, "ends-soon"), (825, 13, "ends-soon"), (1, 0.28, "due"),
     (1, 0.05, "ends-soon"), (90, 0, "ended")],
)  # fmt: skip
def test_a_certificate_is_warned_of_before_its_end(life: float, left: float, state: str) -> None:
    now = utc_now()
    ends = now + timedelta(days=left)
    assert certificate_state(ends - timedelta(days=life), ends, None, now) == state
