"""What the door lets in, and what it says to the rest."""

import asyncio
import base64
import hashlib
import struct
from typing import Any

import httpx
import msgpack
import numpy as np
import pytest
from sqlalchemy import func, select

from tests.services.aggregator.conftest import Stage, zeros
from undersong.services.aggregator.tables import ContributionRow, RoundEventRow
from undersong.shared.database import Transaction
from undersong.shared.identity.digests import content_digest
from undersong.shared.secagg.engine import Payload
from undersong.shared.secagg.quantise import pack
from undersong.shared.wire.manifest import RoundKind, RoundManifest


async def opened_round(stage: Stage, **changes: Any) -> tuple[RoundManifest, dict[str, Any], str, bytes]:
    """(manifest, opened, first site, its honest body)"""
    manifest = stage.manifest(RoundKind.STATISTICS, **changes)
    opened, site = await stage.open(manifest), manifest.cohort[0]
    return manifest, opened, site, stage.sums(manifest, opened, site, np.ones(4))


def reason(answer: httpx.Response) -> tuple[int, str]:
    return answer.status_code, answer.json()["type"].rpartition(":")[2]


def changed_header(body: bytes, **changes: Any) -> bytes:
    size = struct.unpack_from("<I", body, 4)[0]
    header = {**msgpack.unpackb(body[8 : 8 + size]), **changes}
    packed = msgpack.packb(header)
    return b"USU1" + struct.pack("<I", len(packed)) + packed + body[8 + size :]


async def count(stage: Stage, table: Any, *where: Any) -> int:
    async def work(tx: Transaction) -> int:
        return int(await tx.session.scalar(select(func.count()).select_from(table).where(*where)) or 0)

    return await stage.database.read("count", work)


@pytest.mark.both_databases
async def test_fifty_at_once_count_once(stage: Stage) -> None:
    manifest, _, site, body = await opened_round(stage)
    answers = await asyncio.gather(*(stage.send(manifest.round_id, site, body) for _ in range(50)))
    assert {answer.status_code for answer in answers} <= {200, 201}
    assert len({answer.text for answer in answers}) == 1
    assert (await stage.state(manifest.round_id))["got"] == 1
    assert await count(stage, ContributionRow) == 1


async def test_the_same_bytes_again_after_a_restart_and_after_the_end(stage: Stage) -> None:
    manifest, _, site, body = await opened_round(stage, sites=1)
    first = await stage.send(manifest.round_id, site, body)
    stage.restart()
    assert (await stage.send(manifest.round_id, site, body)).json() == first.json()
    assert (await stage.drive(manifest.round_id))["state"] == "published"
    await stage.maintenance.scrub()
    again = await stage.send(manifest.round_id, site, body)
    assert (again.status_code, again.json()) == (200, first.json())


async def test_other_bytes_of_the_same_site_are_refused_and_noted(stage: Stage) -> None:
    manifest, opened, site, body = await opened_round(stage)
    assert (await stage.send(manifest.round_id, site, body)).status_code == 201
    other = stage.sums(manifest, opened, site, np.zeros(4))
    assert reason(await stage.send(manifest.round_id, site, other)) == (409, "update-differs")
    assert await count(stage, RoundEventRow, RoundEventRow.type == "update.differs") == 1
    assert (await stage.state(manifest.round_id))["got"] == 1


@pytest.mark.both_databases
async def test_two_different_updates_at_once_count_once(stage: Stage) -> None:
    manifest, opened, site, body = await opened_round(stage)
    other = stage.sums(manifest, opened, site, np.zeros(4))
    answers = await asyncio.gather(*(stage.send(manifest.round_id, site, each) for each in (body, other) * 5))
    assert sorted({answer.status_code for answer in answers}) in ([201, 409], [200, 201, 409])
    assert (await stage.state(manifest.round_id))["got"] == 1


async def test_late_is_gone(stage: Stage) -> None:
    manifest, _, site, body = await opened_round(stage)
    await stage.post(manifest.round_id, "cancel")
    assert reason(await stage.send(manifest.round_id, site, body)) == (410, "round-closed")
    assert not list((stage.settings.data_dir / "blobs").glob("??/*"))


async def test_after_the_deadline_is_gone_even_before_anybody_noticed(quick_stage: Stage) -> None:
    manifest, _, site, body = await opened_round(quick_stage, deadline_s=0.05)
    await asyncio.sleep(0.06)
    assert reason(await quick_stage.send(manifest.round_id, site, body)) == (410, "round-closed")


@pytest.mark.parametrize(
    ("fault", "expected"),
    [
        ("longer", (413, "too-large")),
        ("shorter", (422, "malformed-update")),
        ("digest", (422, "digest-mismatch")),
        ("no digest", (401, "digest-missing")),
        ("other site", (422, "update-refused")),
        ("other round", (422, "update-refused")),
        ("other manifest", (422, "update-refused")),
        ("stranger", (403, "not-in-cohort")),
        ("unknown round", (404, "round-unknown")),
        ("unsigned", (401, "unauthenticated")),
        ("coordinator", (403, "forbidden")),
        ("no magic", (422, "malformed-update")),
        ("header only", (422, "malformed-update")),
        ("unknown key", (422, "malformed-update")),
        ("huge", (413, "too-large")),
        ("odd", (422, "wrong-length")),
        ("layout", (422, "malformed-update")),
        ("empty", (400, "digest-needed")),
        ("compressed", (415, "content-encoding-refused")),
    ],
)
async def test_what_is_wrong_is_refused_and_changes_nothing(  # noqa: C901  (a table of faults)
    quick_stage: Stage, fault: str, expected: tuple[int, str]
) -> None:
    stage = quick_stage
    manifest, opened, site, body = await opened_round(stage)
    path, headers = f"/v1/rounds/{manifest.round_id}/updates", {"content-type": "application/octet-stream"}
    identity: Any = stage.site(site)
    match fault:
        case "longer":
            body += b"x"
        case "shorter":
            body = body[:-1]
        case "digest":
            headers["content-digest"] = content_digest(b"other")
        case "other site":
            body = stage.sums(manifest, opened, manifest.cohort[1], np.ones(4))
        case "other round":
            body = changed_header(body, round_id="rnd_01k5z0000000000000000000aa")
        case "other manifest":
            body = changed_header(body, manifest_digest="0" * 64)
        case "stranger":
            identity = stage.site("site_stranger")
        case "unknown round":
            path = "/v1/rounds/rnd_01k5z0000000000000000000aa/updates"
        case "unsigned":
            identity = None
        case "coordinator":
            identity = stage.coordinator
        case "no magic":
            body = b"nope" + body[4:]
        case "header only":
            body = body[:40]
        case "unknown key":
            body = changed_header(body, surprise=1)
        case "huge":
            body = changed_header(body, length=2) + b"x" * 100_000
        case "odd":
            data = pack(np.zeros(3, np.uint64), 64)
            body = stage.body(manifest, opened, site, Payload(RoundKind.STATISTICS, 3, 64, data))
        case "layout":
            body = changed_header(body, metrics_layout="binary")
        case "empty":
            body = b""
        case "compressed":
            headers["content-encoding"] = "gzip"
    async with stage.client(identity) as http:
        request = http.build_request("PUT", path, content=body, headers=headers)
        if fault == "no digest":
            request.headers["content-digest"] = f"sha-512=:{base64.b64encode(hashlib.sha512(body).digest()).decode()}:"
        answer = await http.send(request)
    assert reason(answer) == expected, answer.text
    assert (await stage.state(manifest.round_id))["got"] == 0
    assert not list((stage.settings.data_dir / "blobs").glob("??/*"))


async def test_the_manifest_says_the_length(stage: Stage) -> None:
    manifest, opened, site, body = await opened_round(stage, length=8)
    other = stage.sums(manifest, opened, manifest.cohort[1], np.ones(5))
    assert reason(await stage.send(manifest.round_id, manifest.cohort[1], other)) == (422, "wrong-length")
    assert (await stage.send(manifest.round_id, site, body)).status_code == 201


async def test_a_model_made_here_fixes_the_length_before_the_first_update(stage: Stage) -> None:
    first = stage.manifest(RoundKind.INITIALISE, sites=1, min_cohort=1)
    opened, site = await stage.open(first), first.cohort[0]
    await stage.send(first.round_id, site, stage.first(first, opened, site, zeros(6)))
    result = (await stage.drive(first.round_id))["result"]
    manifest = stage.manifest(model={"version_id": result["version_id"], "digest": result["digest"]})
    opened = await stage.open(manifest)
    answer = await stage.send(manifest.round_id, site, stage.update(manifest, opened, site, np.zeros(7)))
    assert reason(answer) == (422, "wrong-length")


async def test_evaluations_share_one_layout(stage: Stage) -> None:
    model = stage.registry.seed(zeros(4))
    manifest = stage.manifest(RoundKind.EVALUATE, model=model, metrics_layout="regression")
    opened = await stage.open(manifest)
    a, b, c = manifest.cohort
    send = stage.send
    sums = stage.sums
    wrong = sums(manifest, opened, a, np.ones(6), "regression")
    assert reason(await send(manifest.round_id, a, wrong)) == (422, "wrong-length")
    unknown = sums(manifest, opened, a, np.ones(6), "surprise")
    assert reason(await send(manifest.round_id, a, unknown)) == (422, "wrong-length")
    assert (await send(manifest.round_id, b, sums(manifest, opened, b, np.ones(8), "regression"))).status_code == 201
    other = sums(manifest, opened, c, np.ones(7), "multiclass:2")
    assert reason(await send(manifest.round_id, c, other)) == (422, "wrong-length")


async def test_a_full_disk_is_507_and_the_round_goes_on(quick_stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    manifest, _, site, body = await opened_round(quick_stage)
    with monkeypatch.context() as patch:
        patch.setattr("undersong.shared.blobs.local.RESERVE_BYTES", 1 << 62)
        assert (await quick_stage.send(manifest.round_id, site, body)).status_code == 507
        assert (await quick_stage.state(manifest.round_id))["state"] == "collecting"
    assert (await quick_stage.send(manifest.round_id, site, body)).status_code == 201
