"""Every refusal is a problem document; our own errors tell nothing; ids, headers, metrics and health are there."""

import asyncio
from collections.abc import Callable

import httpx
import pytest
from fastapi import FastAPI

from undersong.shared.errors import Forbidden, NotFound
from undersong.shared.identity.authority import Subject
from undersong.shared.identity.requests import SigningAuth
from undersong.shared.web.access import Grant, Principal, Role
from undersong.shared.web.app import create_app

COORDINATOR = Subject("service", "coordinator")


def bearer(name: str) -> dict[str, str]:
    return {"authorization": f"Bearer ust_{name}"}


async def test_the_frameworks_own_errors_are_problem_documents(client: httpx.AsyncClient) -> None:
    for method, path, status, slug in [
        ("GET", "/v1/none", 404, "not-found"),
        ("DELETE", "/v1/things", 405, "method-not-allowed"),
        ("GET", "/v1/things?limit=x", 422, "request-invalid"),
    ]:
        response = await client.request(method, path)
        assert response.status_code == status
        assert response.headers["content-type"] == "application/problem+json"
        assert response.json()["type"] == f"urn:undersong:problem:{slug}"
        assert response.json()["detail"] not in ("Not Found", "Method Not Allowed"), "it says what to do"


async def test_a_refusal_carries_its_fields_and_pause(client: httpx.AsyncClient) -> None:
    taken = (await client.post("/v1/things/a", json={"name": "taken"})).json()
    assert taken["title"] == "There is a thing of this name."
    assert taken["errors"] == [{"path": "/name", "message": "taken"}]
    busy = await client.get("/v1/busy")
    assert (busy.status_code, busy.headers["retry-after"], busy.json()["limit"]) == (429, "1", 7)


async def test_all_field_errors_come_at_once_with_their_paths_and_without_the_input(client: httpx.AsyncClient) -> None:
    response = await client.post("/v1/things/a", json={"name": 5, "size": "hush", "count": []})
    assert [error["path"] for error in response.json()["errors"]] == ["/name", "/size", "/count"]
    assert "hush" not in response.text
    query = await client.get("/v1/things?limit=x")
    assert query.json()["errors"][0]["path"] == "?limit"


async def test_a_bug_is_a_bare_500(client: httpx.AsyncClient) -> None:
    response = await client.get("/v1/boom")
    assert response.status_code == 500
    assert set(response.json()) == {"type", "title", "status", "request_id"}
    assert "zebra" not in response.text


async def test_a_given_request_id_is_kept_unless_it_is_odd(client: httpx.AsyncClient) -> None:
    kept = await client.get("/health/live", headers={"x-request-id": "abc-12345"})
    assert kept.headers["x-request-id"] == "abc-12345"
    for odd in ("a b c d e f", "x" * 65, "short", "<script>alert(1)"):
        made = await client.get("/health/live", headers={"x-request-id": odd})
        assert made.headers["x-request-id"].startswith("req_")


async def test_security_headers(client: httpx.AsyncClient) -> None:
    headers = (await client.get("/health/live")).headers
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["cache-control"] == "no-store"
    assert "default-src 'none'" in headers["content-security-policy"]


async def test_metrics_name_the_route_and_never_the_path(client: httpx.AsyncClient) -> None:
    await client.post("/v1/things/private-name", json={"name": "a"})
    await client.get("/v1/unknown-private-name")
    await client.request("BREW", "/v1/things")
    text = (await client.get("/metrics")).text
    assert 'method="POST",route="/v1/things/{thing_id}",status="201"' in text
    assert "private-name" not in text
    assert "BREW" not in text


@pytest.mark.parametrize(
    ("path", "name", "status"),
    [
        ("/v1/person", None, 401),
        ("/v1/person", "mallory", 401),
        ("/v1/person", "x" * 500, 401),
        ("/v1/person", "ada", 200),
        ("/v1/scientist", "ada", 200),
        ("/v1/scientist", "root", 200),
        ("/v1/scientist", "bob", 403),
        ("/v1/site", "root", 401),
        ("/v1/coordinator", "root", 401),
        ("/v1/actor", "bob", 200),
        ("/v1/actor", None, 401),
    ],
)
async def test_people_by_role(client: httpx.AsyncClient, path: str, name: str | None, status: int) -> None:
    response = await client.get(path, headers=bearer(name) if name else {})
    assert response.status_code == status
    if status == 401:
        assert response.headers["www-authenticate"] == "Bearer"


@pytest.mark.parametrize(
    ("path", "subject", "status"),
    [
        ("/v1/site", None, 200),
        ("/v1/site", COORDINATOR, 403),
        ("/v1/coordinator", COORDINATOR, 200),
        ("/v1/coordinator", Subject("service", "registry"), 403),
        ("/v1/coordinator", Subject("site", "coordinator", "fed_x"), 403),
        ("/v1/actor", None, 200),
        ("/v1/person", None, 401),
    ],
)
async def test_parties_by_kind(
    client: httpx.AsyncClient, signer: Callable[..., SigningAuth], path: str, subject: Subject | None, status: int
) -> None:
    assert (await client.get(path, auth=signer(subject))).status_code == status


async def test_a_replayed_request_is_refused_over_http(
    client: httpx.AsyncClient, signer: Callable[..., SigningAuth]
) -> None:
    request = client.build_request("POST", "/v1/site", json={"name": "x"})
    request = next(signer().sync_auth_flow(request))
    first = await client.send(request)
    second = await client.request("POST", "/v1/site", content=request.content, headers=request.headers)
    assert (first.status_code, second.status_code) == (200, 401)
    assert second.json()["type"].endswith(":replayed-request")


def test_roles_are_scoped_to_federations() -> None:
    ada = Principal("u", "ada", (Grant(Role.SCIENTIST, "fed_x"), Grant(Role.OWNER, "fed_y")))
    ada.check(Role.SCIENTIST, federation_id="fed_x")
    with pytest.raises(Forbidden):
        ada.check(Role.SCIENTIST, federation_id="fed_y")
    with pytest.raises(NotFound):
        ada.check(Role.SCIENTIST, federation_id="fed_z")
    assert ada.federations() == {"fed_x", "fed_y"}
    assert ada.federations(Role.SCIENTIST) == {"fed_x"}
    assert Principal("u", "root", (Grant(Role.ADMIN),)).federations(Role.OWNER) is None
    assert Principal("u", "none", ()).federations() == frozenset()


async def test_readiness_names_what_is_missing() -> None:
    async def fine() -> None:
        return

    async def away() -> None:
        raise OSError("gone")

    async def hangs() -> None:
        await asyncio.sleep(60)

    for checks, degradable, expected in [
        ({"database": fine}, {"redis": fine}, (200, [], [])),
        ({"database": fine}, {"redis": away}, (200, [], ["redis"])),
        ({"database": away, "schema": hangs}, {"redis": fine}, (503, ["database", "schema"], [])),
    ]:
        app = create_app(title="T", service="t", routers=[], checks=checks, degradable=degradable)
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://t") as client:
            response = await client.get("/health/ready")
            answer = response.json()
            assert (response.status_code, answer["failing"], answer["degraded"]) == expected
            assert (await client.get("/health/live")).status_code == 200


def test_openapi_documents_problems_with_examples(app: FastAPI) -> None:
    document = app.openapi()
    responses = document["paths"]["/v1/things/{thing_id}"]["post"]["responses"]
    conflict = responses["409"]["content"]["application/problem+json"]
    assert conflict["schema"]["$ref"] == "#/components/schemas/Problem"
    assert conflict["examples"]["thing-taken"]["value"]["type"] == "urn:undersong:problem:thing-taken"
    assert set(document["components"]["schemas"]["Problem"]["properties"]) >= {"type", "title", "status", "detail"}
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            assert "default" in operation["responses"], f"{method} {path}"
            assert "application/json" not in operation["responses"]["422"]["content"]


async def test_a_trace_is_continued(client: httpx.AsyncClient, app: FastAPI) -> None:
    from undersong.shared.telemetry.traces import current_trace

    seen: list[str | None] = []

    @app.get("/trace")
    async def trace() -> None:
        seen.append(current_trace())

    parent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    await client.get("/trace", headers={"traceparent": parent})
    await client.get("/trace", headers={"traceparent": "00-zz"})
    assert seen[0] is not None
    assert seen[1] is not None
    assert seen[0][:36] == parent[:36]
    assert seen[0] != parent
    assert seen[1][3:35] != parent[3:35]
