"""The page of sites over the coordinator itself: who may invite, what is shown once, and the start kit."""

import io
import re
import tarfile
from collections.abc import AsyncIterator

import httpx
import pytest

from tests.services.coordinator.dashboard.conftest import csrf
from tests.services.coordinator.world import World, profile
from undersong.services.coordinator.dashboard import Dashboard
from undersong.shared.clock import utc_now
from undersong.shared.identity.sealing import Sealer


async def signed_in(world: World, token: str) -> httpx.AsyncClient:
    """A browser of the person whose token this is, at the coordinator's own pages."""
    source, sealer = world.view().source, Sealer.ensure(world.folder / "seal.key")
    world.app.state.dashboard = Dashboard(source, world.use_cases.signins, sealer, utc_now, "http://coordinator", False)
    browser = world.client()
    assert (await browser.post("/dashboard/login", data={"token": token})).status_code == 303
    return browser


@pytest.fixture
async def admin(small_world: World) -> AsyncIterator[httpx.AsyncClient]:
    """An administrator's browser."""
    token = (small_world.folder / "admin-token").read_text().strip()
    browser = await signed_in(small_world, token)
    yield browser
    await browser.aclose()


def hidden(page: str) -> dict[str, str]:
    """The fields of the form that fetches the kit."""
    form = page[page.index("/kit") :]
    return dict(re.findall(r'name="([a-z_]+)" value="([^"]*)"', form[: form.index("</form>")]))


async def test_a_site_is_invited_and_its_kit_fetched(small_world: World, admin: httpx.AsyncClient) -> None:
    world = small_world
    federation = await world.federation()
    assert "Invite a site" in (await admin.get("/dashboard/sites")).text
    mark = await csrf(admin)
    form = {"name": "Nord <i>", "owner": "", "federation": federation}
    assert (await admin.post("/dashboard/sites/invitations", data=form)).status_code == 403, "another site's form"
    assert (await admin.post("/dashboard/sites/invitations", data=form | {"csrf": mark, "name": ""})).status_code == 422
    for odd in ({"name": "No\u202erd"}, {"owner": "No\u200brd"}, {"name": "site_01m8qt59m4f8xwc3zpvstr20dj"}):
        answer = await admin.post("/dashboard/sites/invitations", data=form | {"csrf": mark} | odd)
        assert answer.status_code == 422
    shown = await admin.post("/dashboard/sites/invitations", data=form | {"csrf": mark})
    assert shown.status_code == 200
    assert "Nord &lt;i&gt; is invited" in shown.text
    (made,) = world.neighbours.invitations.values()
    assert made["token"] in shown.text
    assert shown.headers["cache-control"] == "no-store"
    assert made["token"] not in (await admin.get("/dashboard/sites")).text, "shown once"
    (site,) = (await world.admin.get("/v1/sites")).json()["items"]
    kit = await admin.post(f"/dashboard/sites/{site['id']}/kit", data=hidden(shown.text))
    assert kit.headers["content-disposition"] == 'attachment; filename="undersong-Nord--i.tar.gz"'
    with tarfile.open(fileobj=io.BytesIO(kit.content)) as archive:
        token = archive.extractfile("undersong-Nord--i/enrol-token")
        assert token is not None
        assert token.read().decode().strip() == made["token"]
    for wrong in ({"token": "x"}, {"expires_at": "never"}, {"token": "ust_" + "a" * 43}):
        answer = await admin.post(f"/dashboard/sites/{site['id']}/kit", data=hidden(shown.text) | wrong)
        assert answer.status_code == 422
    again = await admin.post(f"/dashboard/sites/{site['id']}/invitations", data={"csrf": mark})
    assert again.status_code == 200
    assert made["token"] not in again.text
    for name in (form["name"], "N\u043erd <i>"):
        taken = await admin.post("/dashboard/sites/invitations", data=form | {"csrf": mark, "name": name})
        assert taken.status_code == 409


async def test_buttons_are_of_those_who_may(small_world: World, admin: httpx.AsyncClient) -> None:
    world = small_world
    federation = await world.federation()
    site = await world.site(federation, "north")
    mark = await csrf(admin)
    for act in ("suspend", "resume"):
        assert f"/dashboard/sites/{site.id}/{act}" in (await admin.get("/dashboard/sites")).text
        assert (await admin.post(f"/dashboard/sites/{site.id}/{act}", data={"csrf": mark})).status_code == 303
    client = await world.person("sam", ("scientist", federation))
    browser = await signed_in(world, client.headers["authorization"].removeprefix("Bearer "))
    page = (await browser.get("/dashboard/sites")).text
    assert "north" in page
    assert "Invite" not in page
    assert "/suspend" not in page
    mark = await csrf(browser)
    for path in (f"{site.id}/suspend", f"{site.id}/invitations", f"{site.id}/kit"):
        fields = {"csrf": mark, "token": "use_" + "a" * 43, "expires_at": "2099-01-01T00:00:00Z"}
        assert (await browser.post(f"/dashboard/sites/{path}", data=fields)).status_code == 403, path
    assert not world.neighbours.invitations
    await browser.aclose()


async def test_a_keys_service_that_is_away_is_said(small_world: World, admin: httpx.AsyncClient) -> None:
    world = small_world
    site = await world.site(await world.federation(), "north")
    world.neighbours.keys_away = True
    assert (await admin.get("/dashboard/sites")).status_code == 200
    answer = await admin.post(f"/dashboard/sites/{site.id}/invitations", data={"csrf": await csrf(admin)})
    assert answer.status_code == 503
    assert "keys service answered 503" in answer.text


async def test_a_certificate_that_ends_soon_is_warned_of(browser: httpx.AsyncClient) -> None:
    page = (await browser.get("/dashboard/sites")).text
    assert "is it running?" in page
    assert "to enrol with a new key" in page
    assert "hearts &lt;b&gt;" in page


async def test_data_sets_stand_side_by_side(small_world: World, admin: httpx.AsyncClient) -> None:
    world = small_world
    assert "No data set yet" in (await admin.get("/dashboard/data")).text
    federation = await world.federation("hearts <i>")
    await world.site(federation, "north")
    other = profile()
    heart = other["datasets"][0]
    heart["rows"] = None
    heart["columns"] = [{**each, "categories": ["m", "w<b>"]} if each["name"] == "sex" else each
                        for each in heart["columns"] if each["name"] != "chol"]  # fmt: skip
    await world.site(federation, "south", other)
    page = (await admin.get("/dashboard/data")).text
    assert "hearts &lt;i&gt;" in page
    assert "missing at south" in page
    assert "category: m, w&lt;b&gt;" in page
    assert "not told" in page
    assert "Mock rows" in page
    foreign = await signed_in(world, await _token(world, await world.federation("other")))
    assert "heart" not in (await foreign.get("/dashboard/data")).text.replace("hearts", "").partition("<main")[2]
    await foreign.aclose()


async def _token(world: World, federation: str) -> str:
    client = await world.person("stranger", ("scientist", federation))
    return client.headers["authorization"].removeprefix("Bearer ")
