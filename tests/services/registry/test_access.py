import asyncio
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import pytest

World = Any


def reason(answer: Any) -> tuple[int, str]:
    return answer.status_code, answer.json()["type"].rpartition(":")[2]


async def test_names_are_unique_in_a_federation(world: World) -> None:
    await world.model("heart")
    body = {"federation_id": "fed_a", "name": "heart"}
    assert reason(await world.ask("ust_scientist", "POST", "/models", json=body)) == (409, "model-name-taken")
    elsewhere = await world.ask("ust_stranger", "POST", "/models", json=body | {"federation_id": "fed_b"})
    assert elsewhere.status_code == 201


async def test_a_repeated_creation_gets_the_same_answer(world: World) -> None:
    body, headers = {"federation_id": "fed_a", "name": "heart"}, {"idempotency-key": "k"}
    first = await world.ask(world.parties.coordinator, "POST", "/models", json=body, headers=headers)
    again = await world.ask(world.parties.coordinator, "POST", "/models", json=body, headers=headers)
    assert (first.status_code, again.status_code) == (201, 201)
    assert first.json() == again.json()
    other = await world.ask(world.parties.coordinator, "POST", "/models", json=body | {"name": "x"}, headers=headers)
    assert reason(other) == (409, "idempotency-mismatch")


async def test_models_are_listed_by_federation_and_name(world: World) -> None:
    for name in ("a", "b", "c"):
        await world.model(name)
    listing = (await world.ask("ust_scientist", "GET", "/models", params={"limit": 2})).json()
    assert [model["name"] for model in listing["items"]] == ["a", "b"]
    rest = (await world.ask("ust_scientist", "GET", "/models", params={"after": listing["next"]})).json()
    assert ([model["name"] for model in rest["items"]], rest["next"]) == (["c"], None)
    falling = (await world.ask("ust_scientist", "GET", "/models", params={"sort": "-name", "limit": 2})).json()
    assert [model["name"] for model in falling["items"]] == ["c", "b"]
    last = (
        await world.ask("ust_scientist", "GET", "/models", params={"sort": "-name", "after": falling["next"]})
    ).json()
    assert [model["name"] for model in last["items"]] == ["a"]
    named = await world.ask(world.parties.coordinator, "GET", "/models", params={"federation_id": "fed_a", "name": "b"})
    assert [model["name"] for model in named.json()["items"]] == ["b"]
    for stranger in ("ust_stranger", world.parties.other_site):
        assert (await world.ask(stranger, "GET", "/models")).json()["items"] == []
        listing = await world.ask(stranger, "GET", "/models", params={"federation_id": "fed_a"})
        assert listing.json()["items"] == []


async def test_to_strangers_a_model_does_not_exist(world: World, make_file: Callable[..., bytes]) -> None:
    model_id = await world.model()
    version = await world.publish(model_id, make_file())
    paths = [f"/models/{model_id}", f"/models/{model_id}/versions", f"/versions/{version['id']}"]
    paths += [f"/versions/{version['id']}/content", f"/models/{model_id}/aliases/champion"]
    for path in paths:
        for stranger in ("ust_stranger", world.parties.other_site):
            assert (await world.ask(stranger, "GET", path)).status_code == 404
        assert (await world.ask(None, "GET", path)).status_code == 401
        assert reason(await world.ask("ust_wrong", "GET", path)) == (401, "token-refused")
    assert (await world.ask("ust_stranger", "DELETE", f"/versions/{version['id']}")).status_code == 404


@pytest.mark.parametrize("who", ["site", "keys", "ust_auditor"])
async def test_readers_cannot_write(world: World, make_file: Callable[..., bytes], who: str) -> None:
    asker = who if who.startswith("ust_") else getattr(world.parties, who)
    model_id = await world.model()
    version = await world.publish(model_id, make_file())
    body = world.request(model_id, version["content_digest"], round_id="rnd_2")
    calls = [
        ("POST", "/models", {"json": {"federation_id": "fed_a", "name": "x"}}),
        ("PUT", f"/blobs/{'ab' * 32}", {"content": b"x"}),
        ("POST", f"/models/{model_id}/versions", {"json": body}),
        ("POST", f"/versions/{version['id']}/metrics", {"json": {"metrics": {"auc": 1}}}),
        ("PUT", f"/models/{model_id}/aliases/champion", {"json": {"version_id": version["id"]}}),
        ("DELETE", f"/models/{model_id}/aliases/champion", {}),
        ("DELETE", f"/versions/{version['id']}", {}),
    ]
    for method, path, options in calls:
        assert (await world.ask(asker, method, path, **options)).status_code == 403, path
    assert (await world.ask(asker, "GET", f"/versions/{version['id']}")).status_code == 200


async def test_aliases_point_move_and_go(world: World, make_file: Callable[..., bytes]) -> None:
    model_id, other = await world.model(), await world.model("other")
    first = await world.publish(model_id, make_file(1))
    second = await world.publish(model_id, make_file(2), round_id="rnd_2")
    foreign = await world.publish(other, make_file(3), round_id="rnd_3")
    path = f"/models/{model_id}/aliases/champion"
    assert reason(await world.ask("ust_scientist", "GET", path)) == (404, "alias-unknown")
    for version in (first, second, second):
        answer = await world.ask("ust_scientist", "PUT", path, json={"version_id": version["id"]})
        assert answer.json()["aliases"] == {"champion": version["id"]}
    assert (await world.ask(world.parties.site, "GET", path)).json()["number"] == 1
    wrong = await world.ask("ust_scientist", "PUT", path, json={"version_id": foreign["id"]})
    assert reason(wrong) == (404, "version-unknown")
    bad = await world.ask("ust_scientist", "PUT", f"/models/{model_id}/aliases/No!", json={"version_id": first["id"]})
    assert bad.status_code == 422
    for _ in range(2):
        assert (await world.ask("ust_scientist", "DELETE", path)).status_code == 204
    assert (await world.ask("ust_scientist", "GET", f"/models/{model_id}")).json()["aliases"] == {}
    path = f"/models/{model_id}/alias-changes"
    changes = (await world.ask("ust_auditor", "GET", path)).json()["items"]
    assert [(each["version_id"], each["before"]) for each in changes] == [
        (None, None), (second["id"], first["id"]), (first["id"], None),
    ]  # fmt: skip
    assert {each["alias"] for each in changes} == {"champion"}
    page = (await world.ask("ust_auditor", "GET", path, params={"limit": 2})).json()
    rest = (await world.ask("ust_auditor", "GET", path, params={"after": page["next"]})).json()
    assert page["items"] + rest["items"] == changes
    assert reason(await world.ask("ust_stranger", "GET", path)) == (404, "model-unknown")


async def test_two_promotions_at_once_are_both_in_the_history(world: World, make_file: Callable[..., bytes]) -> None:
    model_id = await world.model()
    versions = [await world.publish(model_id, make_file(at), round_id=f"rnd_{at}") for at in range(4)]
    path = f"/models/{model_id}/aliases/champion"
    await asyncio.gather(*(world.ask("ust_scientist", "PUT", path, json={"version_id": one["id"]}) for one in versions))
    changes = (await world.ask("ust_auditor", "GET", f"/models/{model_id}/alias-changes")).json()["items"]
    pairs = pairwise(changes)
    assert all(newer["before"] == older["version_id"] for newer, older in pairs), "each names the one before it"
    now = (await world.ask("ust_auditor", "GET", f"/models/{model_id}")).json()["aliases"]
    assert now == {"champion": changes[0]["version_id"]}


async def test_no_alias_is_pointed_at_a_version_whose_claim_was_refuted(
    world: World, make_file: Callable[..., bytes]
) -> None:
    model_id = await world.model()
    version = await world.publish(model_id, make_file(1))
    found = {"kind": "one-run-mechanism", "confidence": 0.95, "epsilon_lower_bound": 2.7,
             "claim": {"epsilon": 2.0, "delta": 1e-6, "unit": "site"}}  # fmt: skip
    assert (
        await world.ask("ust_scientist", "POST", f"/versions/{version['id']}/audits", json=found)
    ).status_code == 201
    answer = await world.ask(
        "ust_scientist", "PUT", f"/models/{model_id}/aliases/champion", json={"version_id": version["id"]}
    )
    assert reason(answer) == (409, "claim-refuted")


async def test_what_is_unknown_is_said_so(world: World) -> None:
    assert reason(await world.ask("ust_admin", "GET", "/models/mdl_x")) == (404, "model-unknown")
    assert reason(await world.ask("ust_admin", "GET", "/versions/ver_x")) == (404, "version-unknown")
    assert reason(await world.ask("ust_admin", "GET", "/versions/ver_x/content")) == (404, "version-unknown")


async def test_a_replayed_request_is_refused(world: World) -> None:
    from undersong.shared.identity.requests import SigningAuth

    request = world.http.build_request("POST", "/v1/models", json={"federation_id": "fed_a", "name": "once"})
    signed = next(SigningAuth(world.parties.coordinator, "registry").sync_auth_flow(request))
    signed.read()
    assert (await world.http.send(signed)).status_code == 201
    assert reason(await world.http.send(signed)) == (401, "replayed-request")


async def test_every_operation_is_described(world: World) -> None:
    document = (await world.http.get("/openapi.json")).json()
    operations = [operation for path in document["paths"].values() for operation in path.values()]
    assert len(operations) >= 13
    for operation in operations:
        assert operation.get("description") or operation.get("summary")
        assert {"default"} <= set(operation["responses"])


async def test_readiness_names_what_is_missing(world: World) -> None:
    answer = await world.http.get("/health/ready")
    assert (answer.status_code, answer.json()["status"]) == (200, "ready")
