"""A stored model that rots is noticed before it is served, set aside, and replaced by the same bytes."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select

from undersong.services.registry.tables import ActionRow
from undersong.shared.blobs import BlobCorrupt, BlobStore
from undersong.shared.database import Transaction
from undersong.shared.ids import Digest, digest_of

File = Callable[..., bytes]
World = Any


def stored(world: World, digest: str) -> Path:
    return Path(world.settings.data_dir) / "blobs" / digest[:2] / digest


def flip(path: Path, at: int = -1) -> None:
    """Change one byte; the length stays."""
    data = bytearray(path.read_bytes())
    data[at] ^= 0x01
    path.write_bytes(data)


def reason(answer: Any) -> tuple[int, str]:
    return answer.status_code, answer.json()["type"].rpartition(":")[2]


async def actions(world: World) -> list[str]:
    async def work(tx: Transaction) -> list[str]:
        return list(await tx.session.scalars(select(ActionRow.action)))

    return await world.app.state.versions._database.read("actions", work)


@pytest.mark.parametrize("damage", ["first byte", "last byte", "cut", "longer", "emptied", "gone"])
async def test_a_damaged_model_is_never_served_and_the_same_bytes_heal_it(
    world: World, make_file: File, damage: str
) -> None:
    model_id, data = await world.model(), make_file(rows=500)
    version = await world.publish(model_id, data)
    path, address = stored(world, version["content_digest"]), f"/versions/{version['id']}/content"
    assert (await world.ask("ust_scientist", "GET", address)).content == data
    match damage:
        case "first byte":
            flip(path, 0)
        case "last byte":
            flip(path)
        case "cut":
            path.write_bytes(data[:-1])
        case "longer":
            path.write_bytes(data + b"x")
        case "emptied":
            path.write_bytes(b"")
        case "gone":
            path.unlink()
    for headers in ({}, {"range": "bytes=0-9"}):
        answer = await world.ask(world.parties.site, "GET", address, headers=headers)
        assert reason(answer) == (503, "content-damaged")
        assert int(answer.headers["retry-after"]) >= 1
    if damage != "gone":
        assert "content.damaged" in await actions(world)
        ready = (await world.http.get("/health/ready")).json()
        assert (ready["status"], ready["degraded"], ready["reasons"]) == (
            "ready",
            ["contents"],
            {"contents": "damaged"},
        )
        assert not path.exists()
    await world.upload(data, world.parties.aggregator)
    assert (await world.ask(world.parties.site, "GET", address)).content == data
    assert (await world.http.get("/health/ready")).json()["degraded"] == []


async def test_the_last_good_version_where_the_caller_wants_it(world: World, make_file: File) -> None:
    model_id = await world.model()
    files = [make_file(seed) for seed in range(3)]
    versions = [await world.publish(model_id, data, round_id=f"rnd_{n}") for n, data in enumerate(files)]
    for version in versions[1:]:
        flip(stored(world, version["content_digest"]))
    address = f"/versions/{versions[2]['id']}/content"
    assert reason(await world.ask("ust_scientist", "GET", address)) == (503, "content-damaged")
    answer = await world.ask("ust_scientist", "GET", f"{address}?fallback=last-good")
    assert (answer.status_code, answer.content) == (200, files[0])
    assert answer.headers["undersong-version"] == versions[0]["id"]
    assert answer.headers["etag"] == f'"{digest_of(files[0])}"'
    flip(stored(world, versions[0]["content_digest"]))
    answer = await world.ask("ust_scientist", "GET", f"{address}?fallback=last-good")
    assert reason(answer) == (503, "content-damaged")


async def test_uploading_over_a_damaged_file_that_nobody_read_replaces_it(world: World, make_file: File) -> None:
    model_id, data = await world.model(), make_file()
    version = await world.publish(model_id, data)
    flip(stored(world, version["content_digest"]))
    await world.upload(data)
    assert (await world.ask("ust_scientist", "GET", f"/versions/{version['id']}/content")).content == data


async def test_damage_without_a_trace_breaks_off_before_the_last_byte(tmp_path: Path) -> None:
    """A disk that gives other bytes than were written changes no date: the stream itself ends too early."""
    store = BlobStore.open(f"file://{tmp_path}")
    blob = await store.put(os.urandom(3 << 20))
    assert await store.verify(blob.digest) == blob.size
    path = store.path(blob.digest)
    assert path is not None
    before = path.stat()
    flip(path, 5)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    got = 0
    with pytest.raises(BlobCorrupt):  # noqa: PT012  (what came before it is the point)
        async for chunk in store.stream_whole(blob.digest):
            got += len(chunk)
    assert got < blob.size


@pytest.mark.parametrize("url", ["file", "memory"])
async def test_every_store_notices_and_sets_aside(tmp_path: Path, url: str) -> None:
    store = BlobStore.open(f"file://{tmp_path}" if url == "file" else "memory:///")
    blob = await store.put(b"right")
    await store.verify(blob.digest)
    if url == "file":
        flip(tmp_path / blob.digest[:2] / blob.digest)
    else:
        import obstore

        await obstore.put_async(store._backend._store, f"{blob.digest[:2]}/{blob.digest}", b"wrong")  # type: ignore[union-attr]
    with pytest.raises(BlobCorrupt):
        await store.verify(blob.digest)
    await store.quarantine(blob.digest)
    assert await store.quarantined() == 1
    await store.put(b"right")
    assert (await store.quarantined(), await store.verify(Digest(blob.digest))) == (0, 5)
