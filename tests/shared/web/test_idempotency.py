"""One key, one effect: in parallel, after a crash in the middle, and never with other content."""

import asyncio
from collections.abc import AsyncIterator

import httpx
import pytest
from fastapi import APIRouter, FastAPI
from pydantic import BaseModel
from sqlalchemy import String, func, select, text
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from undersong.shared.database import CommonTables, Database, Transaction, new_metadata
from undersong.shared.errors import Conflict
from undersong.shared.ids import new_id
from undersong.shared.web.access import Caller, Grant, Principal, Role
from undersong.shared.web.app import create_app
from undersong.shared.web.idempotency import IdempotentOnce, prune_idempotency


class Base(DeclarativeBase):
    metadata = new_metadata()
    common = CommonTables(metadata)


class JobRow(Base):
    __tablename__ = "jobs"
    id: Mapped[str] = mapped_column(String(40), primary_key=True)
    name: Mapped[str] = mapped_column(String(40))


class Job(BaseModel):
    name: str


class JobView(BaseModel):
    id: str
    name: str


class Refused(Conflict):
    """Not this one."""


@pytest.fixture
async def database(database_url: str) -> AsyncIterator[Database]:
    database = Database(database_url, Base.common, pool_size=10)
    async with database.engine.begin() as connection:
        await connection.run_sync(Base.metadata.create_all)
    yield database
    await database.close()


class Crash:
    """Fails once, after the effect and before the commit."""

    armed = False


@pytest.fixture
def app(database: Database) -> FastAPI:
    router = APIRouter(prefix="/v1")

    @router.post("/jobs", status_code=201)
    async def submit(job: Job, caller: Caller, once: IdempotentOnce) -> JobView:
        async def work(tx: Transaction) -> JobView:
            row = JobRow(id=new_id("job"), name=job.name)
            tx.session.add(row)
            await tx.session.flush()
            if job.name == "refused":
                raise Refused("no")
            if Crash.armed:
                Crash.armed = False
                raise RuntimeError("killed here")
            return JobView(id=row.id, name=row.name)

        return await database.run("job.submit", once(work))

    class Tokens:
        async def lookup(self, token: str) -> Principal | None:
            return Principal(token, token, (Grant(Role.SCIENTIST),))

    app = create_app(title="T", service="t", routers=[router])
    app.state.tokens = Tokens()
    return app


@pytest.fixture
async def client(app: FastAPI) -> AsyncIterator[httpx.AsyncClient]:
    headers = {"authorization": "Bearer ada"}
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://t", headers=headers) as client:
        yield client


async def submit(client: httpx.AsyncClient, key: str | None, name: str = "a", who: str = "ada") -> httpx.Response:
    headers = {"authorization": f"Bearer {who}"} | ({"idempotency-key": key} if key else {})
    return await client.post("/v1/jobs", json={"name": name}, headers=headers)


async def jobs(database: Database) -> int:
    counted = await database.read("count", lambda tx: tx.session.scalar(select(func.count()).select_from(JobRow)))
    return counted or 0


async def test_fifty_at_once_have_one_effect_and_one_answer(client: httpx.AsyncClient, database: Database) -> None:
    answers = await asyncio.gather(*(submit(client, "k1") for _ in range(50)))
    assert {answer.status_code for answer in answers} == {201}
    assert len({answer.json()["id"] for answer in answers}) == 1
    assert await jobs(database) == 1
    assert sum("idempotency-replayed" not in answer.headers for answer in answers) == 1


async def test_other_content_under_the_same_key_is_refused(client: httpx.AsyncClient, database: Database) -> None:
    await submit(client, "k1")
    response = await submit(client, "k1", "b")
    assert response.status_code == 409
    assert response.json()["type"].endswith(":idempotency-mismatch")
    assert await jobs(database) == 1


async def test_keys_belong_to_their_caller(client: httpx.AsyncClient, database: Database) -> None:
    first, second = await submit(client, "k1"), await submit(client, "k1", who="bob")
    assert first.json()["id"] != second.json()["id"]
    assert await jobs(database) == 2


async def test_without_a_key_each_request_counts(client: httpx.AsyncClient, database: Database) -> None:
    await submit(client, None)
    await submit(client, None)
    assert await jobs(database) == 2


async def test_a_crash_before_the_commit_leaves_the_key_free(client: httpx.AsyncClient, database: Database) -> None:
    Crash.armed = True
    assert (await submit(client, "k1")).status_code == 500
    assert await jobs(database) == 0
    assert (await submit(client, "k1")).status_code == 201
    assert await jobs(database) == 1


async def test_a_refusal_is_not_remembered(client: httpx.AsyncClient) -> None:
    assert (await submit(client, "k1", "refused")).status_code == 409
    assert (await submit(client, "k1", "refused")).json()["type"].endswith(":refused")
    assert (await submit(client, "k1", "a")).status_code == 201


@pytest.mark.parametrize("key", ["", "a b", "x" * 129, "ä"])
async def test_an_odd_key_is_refused(client: httpx.AsyncClient, key: str) -> None:
    headers = [(b"idempotency-key", key.encode("latin-1"))]
    response = await client.post("/v1/jobs", json={"name": "a"}, headers=headers)  # type: ignore[arg-type]
    assert response.status_code == 422
    assert response.json()["errors"][0]["path"] == "header idempotency-key"


async def test_old_answers_are_forgotten(client: httpx.AsyncClient, database: Database) -> None:
    await submit(client, "k1")
    await prune_idempotency(database)
    assert "idempotency-replayed" in (await submit(client, "k1")).headers
    async with database.engine.begin() as connection:
        await connection.execute(
            text(
                "UPDATE idempotency SET created_at = '2020-01-01 00:00:00+00'"
                if not database.is_sqlite
                else "UPDATE idempotency SET created_at = '2020-01-01 00:00:00.000000'"
            )
        )
    await prune_idempotency(database)
    assert "idempotency-replayed" not in (await submit(client, "k1")).headers
