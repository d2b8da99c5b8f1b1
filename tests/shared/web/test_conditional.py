"""Answers have a tag; who has the content already gets none again; other answers pass as they are."""

from collections.abc import AsyncIterator

import httpx
import pytest
from fastapi import FastAPI
from fastapi.responses import StreamingResponse

from undersong.shared.web.conditional import Conditional


@pytest.fixture
async def client() -> AsyncIterator[httpx.AsyncClient]:
    app, said = FastAPI(), {"count": 1}

    @app.get("/thing")
    async def thing() -> dict[str, int]:
        return said

    @app.post("/thing")
    async def change() -> dict[str, int]:
        said["count"] += 1
        return said

    @app.get("/parts")
    async def parts() -> StreamingResponse:
        async def run() -> AsyncIterator[bytes]:
            yield b"[1,"
            yield b"2]"

        return StreamingResponse(run(), media_type="application/json")

    app.add_middleware(Conditional)
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test") as made:
        yield made


async def test_what_has_not_changed_comes_without_content(client: httpx.AsyncClient) -> None:
    first = await client.get("/thing")
    tag = first.headers["etag"]
    for known in (tag, f"W/{tag}", f'"other", {tag}', "*"):
        again = await client.get("/thing", headers={"if-none-match": known})
        assert (again.status_code, again.content, again.headers["etag"]) == (304, b"", tag), known
        assert "content-type" not in again.headers
    await client.post("/thing")
    changed = await client.get("/thing", headers={"if-none-match": tag})
    assert (changed.status_code, changed.json()) == (200, {"count": 2})
    assert changed.headers["etag"] != tag


async def test_other_answers_have_no_tag(client: httpx.AsyncClient) -> None:
    for method, path in (("POST", "/thing"), ("GET", "/none"), ("GET", "/parts")):
        answer = await client.request(method, path, headers={"if-none-match": "*"})
        assert "etag" not in answer.headers
        assert answer.status_code in (200, 404)
    assert (await client.get("/parts")).json() == [1, 2]
