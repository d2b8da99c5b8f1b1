"""Privacy datasheets in the registry: the coordinator's alone, kept beside earlier ones, shown with their version."""

from collections.abc import Callable
from datetime import timedelta
from typing import Any

import httpx
import pytest

from tests.services.registry.conftest import FED, World
from tests.services.registry.test_versions import audit
from undersong.shared.clock import utc_now
from undersong.shared.identity.authority import Identity
from undersong.shared.transparency.datasheet import Datasheet, SheetAudit, SheetSubject, SignedDatasheet, sign_datasheet


def sheet_of(version: dict[str, Any], *, audits: int = 0, age_s: float = 0, **subject: Any) -> Datasheet:
    named = {"version_id": version["id"], "model_id": version["model_id"], "model": "heart", "number": 0,
             "federation_id": FED, "content_digest": version["content_digest"]}  # fmt: skip
    now = utc_now() - timedelta(seconds=age_s)
    found = SheetAudit(kind="lira-offline", recorded_by="usr_aud", recorded_at=now)
    return Datasheet(
        made_at=now,
        expires_at=now + timedelta(days=180),
        subject=SheetSubject.model_validate(named | subject),
        audits=(found,) * audits,
    )


async def put(
    world: World, version: dict[str, Any], sheet: Datasheet, who: str | Identity | None = None, by: Any = None
) -> httpx.Response:
    signed = sign_datasheet(sheet, by or world.parties.coordinator).model_dump(mode="json")
    return await world.ask(who or world.parties.coordinator, "PUT", f"/versions/{version['id']}/datasheet", json=signed)


def slug(answer: httpx.Response) -> str:
    return str(answer.json()["type"]).rpartition(":")[2]


@pytest.fixture
async def version(world: World, make_file: Callable[..., bytes]) -> dict[str, Any]:
    return await world.publish(await world.model(), make_file())


@pytest.mark.both_databases
async def test_the_newest_sheet_is_shown_to_who_may_see_the_version(world: World, version: dict[str, Any]) -> None:
    path = f"/versions/{version['id']}/datasheet"
    assert slug(await world.ask("ust_auditor", "GET", path)) == "datasheet-missing"
    old, new = sheet_of(version, age_s=60), sheet_of(version)
    assert [(await put(world, version, sheet)).status_code for sheet in (old, new, new)] == [201, 201, 200]
    found = await world.ask("ust_auditor", "GET", path)
    assert SignedDatasheet.model_validate(found.json()).datasheet == new
    assert (await world.ask(world.parties.site, "GET", path)).status_code == 200
    for stranger in ("ust_stranger", world.parties.other_site):
        assert (await world.ask(stranger, "GET", path)).status_code == 404
    assert (await world.ask(None, "GET", path)).status_code == 401
    assert slug(await put(world, version, sheet_of(version, age_s=30))) == "datasheet-older"


async def test_a_sheet_of_another_party_or_version_is_refused(world: World, version: dict[str, Any]) -> None:
    good = sheet_of(version)
    assert slug(await put(world, version, good, "ust_admin")) == "unauthenticated"
    assert slug(await put(world, version, good, world.parties.aggregator)) == "forbidden"
    assert slug(await put(world, version, good, by=world.parties.aggregator)) == "datasheet-refused"
    for subject in ({"version_id": "ver_x"}, {"content_digest": "0" * 64}, {"federation_id": "fed_b"}):
        assert slug(await put(world, version, sheet_of(version, **subject))) == "datasheet-refused"
    signed = sign_datasheet(good, world.parties.coordinator).model_dump(mode="json")
    signed["datasheet"]["claim_broken"] = True
    path = f"/versions/{version['id']}/datasheet"
    assert slug(await world.ask(world.parties.coordinator, "PUT", path, json=signed)) == "datasheet-refused"
    assert slug(await world.ask("ust_auditor", "GET", path)) == "datasheet-missing"


@pytest.mark.both_databases
async def test_an_audit_makes_a_sheet_stale_until_one_tells_of_it(world: World, version: dict[str, Any]) -> None:
    async def stale() -> list[str]:
        found = await world.ask(world.parties.coordinator, "GET", "/datasheets/stale")
        assert found.status_code == 200, found.text
        items: list[str] = found.json()["items"]
        return items

    assert await stale() == []
    path = f"/versions/{version['id']}/audits"
    assert (await world.ask("ust_auditor", "POST", path, json=audit(2.01))).status_code == 201
    assert await stale() == [version["id"]]
    await put(world, version, sheet_of(version))
    assert await stale() == [version["id"]]
    await put(world, version, sheet_of(version, audits=1))
    assert await stale() == []
    assert (await world.ask("ust_admin", "GET", "/datasheets/stale")).status_code == 401
