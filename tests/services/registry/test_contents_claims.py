"""Content belongs to the federations that uploaded it: to all others it is as if it did not exist."""

from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
import sqlalchemy as sa
from alembic import command

from undersong.services.registry.tables import Base
from undersong.shared.database.migrations import _config, _locked_connection, drift, migrate
from undersong.shared.ids import Digest, digest_of

File = Callable[..., bytes]
World = Any
STATES = ("published", "uploaded", "deleted", "damaged", "forgotten by its owner")


def reason(answer: Any) -> tuple[int, str]:
    return answer.status_code, answer.json()["type"].rpartition(":")[2]


def told(answer: httpx.Response, digest: str) -> tuple[int, dict[str, str], dict[str, Any]]:
    """All that an answer tells, but for the request's own id and the digest that was asked for."""
    headers = {name: value for name, value in answer.headers.items() if name not in {"date", "x-request-id"}}
    document = httpx.Response(200, text=answer.text.replace(digest, "DIGEST")).json()
    document.pop("request_id", None)
    return answer.status_code, headers, document


async def theirs(world: World, data: bytes, state: str) -> Digest:
    """Content of the first federation."""
    digest = await world.upload(data, world.parties.aggregator)
    if state == "uploaded":
        return digest
    version = await world.publish(await world.model(), data)
    if state == "deleted":
        await world.ask("ust_scientist", "DELETE", f"/versions/{version['id']}")
    elif state == "damaged":
        (world.settings.data_dir / "blobs" / digest[:2] / digest).write_bytes(b"rot")
    elif state == "forgotten by its owner":
        await world.ask("ust_scientist", "DELETE", f"/versions/{version['id']}")
        await world.app.state.contents.collect(timedelta(seconds=-5))
    return digest


async def own_model(world: World) -> str:
    body = {"federation_id": "fed_b", "name": "mine"}
    return str((await world.ask("ust_stranger", "POST", "/models", json=body)).json()["id"])


async def publish(world: World, who: Any, model_id: str, digest: str) -> httpx.Response:
    body = {"content_digest": digest, "lineage": {"kind": "import"}}
    return await world.ask(who, "POST", f"/models/{model_id}/versions", json=body)


@pytest.mark.parametrize("state", STATES)
async def test_content_of_others_is_as_content_that_is_nowhere(world: World, make_file: File, state: str) -> None:
    data = make_file(1)
    here, nowhere = await theirs(world, data, state), digest_of(b"nothing")
    model_id = await own_model(world)
    calls: list[tuple[str, dict[str, Any]]] = [
        (f"/blobs/{{}}{query}", {"content": content, "headers": headers})
        for query in ("", "?federation_id=fed_b", "?federation_id=fed_a", "?federation_id=fed_x")
        for content in (b"", b"x", data[:-1], data + b"x")
        for headers in ({}, {"if-none-match": "*"}, {"expect": "100-continue"})
    ]
    for path, options in calls:
        answers = [await world.ask("ust_stranger", "PUT", path.format(digest), **options) for digest in (here, nowhere)]
        assert answers[0].status_code >= 400
        assert told(answers[0], here) == told(answers[1], nowhere), path
        for digest in (here, nowhere):
            assert reason(await publish(world, "ust_stranger", model_id, digest)) == (409, "content-missing")
    answers = [await publish(world, "ust_stranger", model_id, digest) for digest in (here, nowhere)]
    assert told(answers[0], here) == told(answers[1], nowhere)
    # One who has the file learns nothing from uploading it either, and may use it from then on.
    fresh = make_file(2)
    answers = [await world.ask("ust_stranger", "PUT", f"/blobs/{digest_of(one)}", content=one) for one in (data, fresh)]
    assert told(answers[0], here) == told(answers[1], digest_of(fresh))
    assert (await publish(world, "ust_stranger", model_id, here)).status_code == 201


async def test_the_whole_body_is_received_before_the_answer(world: World, make_file: File) -> None:
    """The answer about content that is stored already does not come before the last byte of it."""
    data, sent = make_file(rows=5000), 0
    digest = await theirs(world, data, "published")

    async def slowly() -> Any:
        nonlocal sent
        for at in range(0, len(data), 1000):
            yield data[at : at + 1000]
            sent = min(len(data), at + 1000)

    headers = {"content-length": str(len(data))}
    answer = await world.ask("ust_stranger", "PUT", f"/blobs/{digest}", content=slowly(), headers=headers)
    assert (answer.status_code, sent) == (200, len(data))


@pytest.mark.parametrize("body", ["none", "begun", "other", "longer"])
async def test_content_that_is_only_announced_is_not_kept_longer(world: World, make_file: File, body: str) -> None:
    """Neither the row of content that is stored already, nor one for content that never came."""
    data = make_file()
    stored, unknown = await theirs(world, data, "uploaded"), digest_of(b"never sent")

    async def rows() -> Any:
        async with world.app.state.contents._database.engine.connect() as connection:
            return (await connection.execute(sa.text("SELECT digest, touched_at FROM contents"))).all()

    before = await rows()
    sent = {"none": b"", "begun": data[:-1], "other": b"x" * len(data), "longer": data + b"x"}[body]
    for digest in (stored, unknown):
        answer = await world.ask("ust_stranger", "PUT", f"/blobs/{digest}", content=sent)
        assert answer.status_code >= 400
    assert await rows() == before
    await world.upload(data, "ust_stranger", None)
    assert await rows() != before


async def test_a_claim_ends_by_what_its_own_federation_does(world: World, make_file: File) -> None:
    """An upload without a version is forgotten in time, although another federation keeps the same content."""
    data, model_id = make_file(), await own_model(world)
    digest = await theirs(world, data, "published")
    await world.upload(data, "ust_stranger", None)
    await world.app.state.contents.collect(timedelta(seconds=-5))
    assert reason(await publish(world, "ust_stranger", model_id, digest)) == (409, "content-missing")
    await world.upload(data, "ust_stranger", None)
    version = (await publish(world, "ust_stranger", model_id, digest)).json()
    await world.app.state.contents.collect(timedelta(seconds=-5))
    again = await world.ask("ust_stranger", "GET", f"/versions/{version['id']}/content")
    assert (again.status_code, again.content) == (200, data)


async def test_who_writes_in_several_federations_names_one(world: World, make_file: File) -> None:
    data, aggregator = make_file(), world.parties.aggregator
    path, model_id = f"/blobs/{digest_of(data)}", await own_model(world)
    for who in ("ust_admin", aggregator):
        answer = await world.ask(who, "PUT", path, content=data)
        assert reason(answer) == (422, "federation-unnamed")
        assert [error["path"] for error in answer.json()["errors"]] == ["/query/federation_id"]
        answer = await world.ask(who, "PUT", f"{path}?federation_id=fed_a", content=data)
        assert answer.status_code == 200
        assert reason(await publish(world, "ust_admin", model_id, digest_of(data))) == (409, "content-missing")
    assert reason(await world.ask("ust_stranger", "PUT", f"{path}?federation_id=fed_a", content=data))[0] == 404
    assert reason(await world.ask("ust_auditor", "PUT", f"{path}?federation_id=fed_a", content=data))[0] == 403


@pytest.mark.both_databases
def test_versions_from_before_claims_keep_their_content(database_url: str, tmp_path: Path) -> None:
    """An older database: a federation claims what its living versions hold, and nothing else."""
    config = _config("registry")
    with _locked_connection(database_url, "registry") as connection:
        config.attributes["connection"] = connection
        command.upgrade(config, "0001")
        model = "INSERT INTO models VALUES ('{0}', '{1}', 'm', 2, '2026-01-01 00:00:00', 'x')"
        version = (
            "INSERT INTO versions (id, model_id, federation_id, number, natural_key, content_digest, tensor_digest,"
            " size, tensors, lineage, signatures, created_at, created_by, deleted_at) VALUES ('{0}', '{1}', '{2}', {3},"
            " '{3}', '{4}', 't', 1, '[]', '{{}}', '[]', '2026-01-01 00:00:00', 'x', {5})"
        )
        for fed, digest, gone in (("fed_a", "aa", "NULL"), ("fed_b", "bb", "'2026-01-02 00:00:00'")):
            connection.exec_driver_sql(model.format(f"mdl_{fed}", fed))
            for number, content, deleted in ((0, digest, "NULL"), (1, digest, "NULL"), (2, "cc", gone)):
                row = (f"ver_{fed}_{number}", f"mdl_{fed}", fed, number, content, deleted)
                connection.exec_driver_sql(version.format(*row))
    migrate(database_url, "registry")
    assert drift(database_url, "registry", Base.metadata) == []
    with _locked_connection(database_url, "registry") as connection:
        found = connection.execute(sa.text("SELECT federation_id, digest FROM content_claims")).all()
    assert sorted(map(tuple, found)) == [("fed_a", "aa"), ("fed_a", "cc"), ("fed_b", "bb")]
