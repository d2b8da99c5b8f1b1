"""People: roles, tokens, and what each may do."""

from sqlalchemy import text

from tests.services.coordinator.world import World, document
from undersong.services.coordinator.accounts import Accounts


async def test_each_route_asks_for_its_role(world: World) -> None:
    """The matrix: who may read, steer, suspend, administer; and nothing in another federation."""
    federation, other = await world.federation(), await world.federation("other")
    agents = await world.sites(federation, 3)
    people = {role: await world.person(role, (role, federation)) for role in ("scientist", "owner", "auditor")}
    people["local admin"] = await world.person("local", ("admin", federation))
    people["stranger"] = await world.person("stranger", ("scientist", other))
    job = await world.job(federation)
    path = f"/v1/jobs/{job['id']}"
    site = f"/v1/sites/{agents[0].id}"
    wanted = {
        ("GET", path): {"scientist": 200, "owner": 200, "auditor": 200, "local admin": 200, "stranger": 404},
        ("POST", f"{path}/pause"): {
            "scientist": 200,
            "owner": 403,
            "auditor": 403,
            "local admin": 200,
            "stranger": 404,
        },
        ("POST", f"{site}/suspension"): {
            "scientist": 403,
            "owner": 200,
            "auditor": 403,
            "local admin": 200,
            "stranger": 403,
        },
        ("GET", "/v1/users"): {
            "scientist": 403,
            "owner": 403,
            "auditor": 403,
            "local admin": 403,
            "stranger": 403,
        },
        ("GET", f"/v1/federations/{federation}"): {
            "scientist": 200,
            "owner": 200,
            "auditor": 200,
            "local admin": 200,
            "stranger": 404,
        },
    }
    for (method, address), expected in wanted.items():
        found = {name: (await client.request(method, address)).status_code for name, client in people.items()}
        assert found == expected, (method, address)
    assert (await people["owner"].delete(f"{site}/suspension")).status_code == 200
    submissions = {
        name: (await client.post("/v1/jobs", json=document(federation))).status_code for name, client in people.items()
    }
    assert submissions == {"scientist": 201, "owner": 403, "auditor": 403, "local admin": 201, "stranger": 404}
    assert (await people["stranger"].get("/v1/jobs")).json()["items"] == []
    assert (await people["stranger"].get("/v1/sites")).json()["items"] == []
    assert (await people["local admin"].post("/v1/federations", json={"name": "mine"})).status_code == 403
    grab = {"name": "me", "roles": [{"role": "admin", "federation_id": None}]}
    assert (await people["local admin"].post("/v1/users", json=grab)).status_code == 403
    for address in ("/v1/jobs", "/v1/me", path, "/v1/sites", f"{path}/events"):
        assert (await world.client().get(address)).status_code == 401


async def test_a_token_is_shown_once_and_can_be_revoked(world: World) -> None:
    """Listed without its secret, refused after its end or revocation; revoking is idempotent."""
    made = (await world.admin.post("/v1/tokens", json={"name": "laptop", "expires_in_s": 60})).json()
    client = world.client(authorization=f"Bearer {made['token']}")
    assert (await client.get("/v1/me")).json()["name"] == "admin"
    listed = (await world.admin.get("/v1/tokens")).json()["items"]
    assert made["token"] not in str(listed)
    world.clock.advance(61)
    assert (await client.get("/v1/me")).status_code == 401
    second = (await world.admin.post("/v1/tokens", json={"name": "second"})).json()
    client = world.client(authorization=f"Bearer {second['token']}")
    for _ in range(2):
        assert (await world.admin.delete(f"/v1/tokens/{second['id']}")).status_code == 204
    assert (await client.get("/v1/me")).status_code == 401


async def test_a_repeated_request_shows_the_same_token_and_stores_none(world: World) -> None:
    """The stored answer is sealed: neither table holds the token."""
    headers = {"idempotency-key": "token-1"}
    answers = [await world.admin.post("/v1/tokens", json={"name": "ci"}, headers=headers) for _ in range(2)]
    assert answers[0].json() == answers[1].json()
    token = answers[0].json()["token"]
    assert (await world.client(authorization=f"Bearer {token}").get("/v1/me")).status_code == 200

    async def bodies(tx: object) -> str:
        rows = await tx.session.execute(text("SELECT body FROM idempotency"))  # type: ignore[attr-defined]
        return str([bytes(row.body) for row in rows])

    assert token not in await world.database.read("bodies", bodies)


async def test_one_person_cannot_touch_anothers_tokens(small_world: World) -> None:
    """Neither see, nor make, nor revoke."""
    world = small_world
    federation = await world.federation()
    alice = await world.person("alice", ("scientist", federation))
    bob = await world.person("bob", ("scientist", federation))
    bobs = (await bob.post("/v1/tokens", json={"name": "b"})).json()
    assert (await alice.delete(f"/v1/tokens/{bobs['id']}")).status_code == 404
    assert (await alice.get(f"/v1/tokens?user_id={bobs['user_id']}")).status_code == 403
    assert (await alice.post("/v1/tokens", json={"name": "x", "user_id": bobs["user_id"]})).status_code == 403


async def test_services_may_ask_about_a_token(small_world: World) -> None:
    """Active with roles; inactive without detail; and no other caller may ask."""
    world = small_world
    federation = await world.federation()
    ada = await world.person("ada", ("scientist", federation))
    token = ada.headers["authorization"].removeprefix("Bearer ")
    registry = world.service("registry")
    known = (await registry.post("/v1/introspections", json={"token": token})).json()
    assert (known["active"], known["name"]) == (True, "ada")
    assert known["roles"] == [{"role": "scientist", "federation_id": federation}]
    unknown = (await registry.post("/v1/introspections", json={"token": "ust_nobody"})).json()
    assert unknown == {"active": False, "user_id": None, "name": None, "roles": [], "scopes": None}
    assert (await ada.post("/v1/introspections", json={"token": token})).status_code == 401
    site = await world.site(federation, "curious")
    assert (await site.http.post("/v1/introspections", json={"token": token})).status_code == 403


async def test_bootstrap_can_be_repeated(small_world: World) -> None:
    """The file stays while its token works; a lost file gets a new token of the same admin."""
    world = small_world
    accounts: Accounts = world.use_cases.accounts
    first = (await accounts.bootstrap(world.folder)).read_text()
    assert (await accounts.bootstrap(world.folder)).read_text() == first
    (world.folder / "admin-token").unlink()
    file = await accounts.bootstrap(world.folder)
    assert file.read_text() != first
    assert file.stat().st_mode & 0o777 == 0o600
    assert len((await world.admin.get("/v1/users")).json()["items"]) == 1


async def test_names_are_taken_once(world: World) -> None:
    """Federations, sites and users: 409 name-taken, and nothing is half made."""
    federation = await world.federation()
    await world.site(federation, "one")
    twice = [
        ("/v1/federations", {"name": "heart"}),
        (f"/v1/federations/{federation}/sites", {"name": "one", "owner": "x"}),
        ("/v1/users", {"name": "admin", "roles": [{"role": "auditor", "federation_id": None}]}),
    ]
    for path, body in twice:
        answer = await world.admin.post(path, json=body)
        assert (answer.status_code, answer.json()["type"]) == (409, "urn:undersong:problem:name-taken")


async def test_names_that_people_cannot_tell_from_others_are_refused(small_world: World) -> None:
    federation = await small_world.federation()
    roles = [{"role": "scientist", "federation_id": federation}]
    sites = f"/v1/federations/{federation}/sites"
    an_id = "site_01m8qt59m4f8xwc3zpvstr20dj"
    for name in (" ada", "ada ", " ", "a\u202eda", "a\u200bda", "a\u00a0da", "a\tda", "a\u2028da", an_id):
        for path, body in (
            ("/v1/users", {"name": name, "roles": roles}),
            ("/v1/tokens", {"name": name}),
            ("/v1/federations", {"name": name}),
            (sites, {"name": name, "owner": "a"}),
            (sites, {"name": "a", "owner": name}),
            ("/v1/schedules", {"name": name, "document": {}, "cron": "7 * * * *"}),
        ):
            answer = await small_world.admin.post(path, json=body)
            assert answer.status_code == 422, (path, answer.text)


async def test_a_name_that_looks_like_another_is_taken(small_world: World) -> None:
    federation, other = await small_world.federation("süd"), await small_world.federation("other")
    role = {"role": "scientist", "federation_id": federation}
    sites = f"/v1/federations/{federation}/sites"
    await small_world.site(federation, "süd")
    for path, body in (
        ("/v1/users", {"name": "аdmin", "roles": [role]}),
        ("/v1/federations", {"name": "su\u0308d"}),
        (sites, {"name": "su\u0308d", "owner": "a"}),
    ):
        answer = await small_world.admin.post(path, json=body)
        assert answer.status_code == 409, answer.text
        assert "it looks like" in answer.json()["detail"]
    assert (await small_world.admin.post(sites, json={"name": "Zürich", "owner": "Spital Zürich"})).status_code == 201
    elsewhere = f"/v1/federations/{other}/sites"
    assert (await small_world.admin.post(elsewhere, json={"name": "su\u0308d", "owner": "a"})).status_code == 201
