import asyncio
import os
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any

import numpy as np
import pytest
from sqlalchemy import select

from undersong.services.registry.tables import ActionRow
from undersong.shared.database import Transaction
from undersong.shared.identity.authority import verify_signature
from undersong.shared.ids import Digest, digest_of
from undersong.shared.learning import safetensors
from undersong.shared.wire.manifest import VERSION_CONTEXT, audit_statement, version_statement

File = Callable[..., bytes]
World = Any


def reason(answer: Any) -> tuple[int, str]:
    return answer.status_code, answer.json()["type"].rpartition(":")[2]


async def test_a_published_version_is_whole_signed_and_readable(world: World, make_file: File) -> None:
    model_id, data = await world.model(), make_file()
    lineage = {"metrics": {"loss": 0.5, "rows": 3.0}, "strategy": {"name": "fedavg"}, "contributors": 4}
    published = await world.publish(model_id, data, recipe={"name": "tabular", "digest": "ab" * 32}, **lineage)
    version = (await world.ask("ust_auditor", "GET", f"/versions/{published['id']}")).json()
    assert version == published
    assert (version["number"], version["content_digest"], version["size"]) == (0, digest_of(data), len(data))
    assert version["tensor_digest"] == safetensors.tensor_digest(safetensors.read(data))
    assert {tensor["name"]: tensor["role"] for tensor in version["schema"]} == {
        "weight": "parameter",
        "norm.mean": "buffer",
        "steps": "fixed",
    }
    statement = version_statement(model_id, Digest(version["content_digest"]), version["lineage"])
    assert [signature["role"] for signature in version["signatures"]] == ["publisher", "registry"]
    for signature in version["signatures"]:
        holder = world.parties.holders[signature["keyid"]]
        signed = bytes.fromhex(signature["signature"])
        verify_signature(holder.public_key, VERSION_CONTEXT, statement[len(VERSION_CONTEXT) :], signed)
    for reader in (world.parties.site, world.parties.aggregator, "ust_scientist"):
        answer = await world.ask(reader, "GET", f"/versions/{version['id']}/content")
        assert (answer.status_code, answer.content) == (200, data)
        assert answer.headers["etag"] == f'"{digest_of(data)}"'


async def test_the_same_publication_again_gets_the_same_answer(world: World, make_file: File) -> None:
    """However many come at once, one version exists and all hear of it."""
    model_id, digest = await world.model(), await world.upload(make_file(), world.parties.aggregator)
    body = world.request(model_id, digest)
    path = f"/models/{model_id}/versions"
    answers = await asyncio.gather(*[world.ask(world.parties.aggregator, "POST", path, json=body) for _ in range(5)])
    assert sorted(answer.status_code for answer in answers) == [200, 200, 200, 200, 201]
    assert len({answer.json()["id"] for answer in answers}) == 1
    listing = (await world.ask("ust_scientist", "GET", path)).json()
    assert [version["number"] for version in listing["items"]] == [0]


async def test_a_round_publishes_one_version_only(world: World, make_file: File) -> None:
    model_id = await world.model()
    await world.publish(model_id, make_file(1))
    digest = await world.upload(make_file(2))
    body = world.request(model_id, digest)
    answer = await world.ask(world.parties.aggregator, "POST", f"/models/{model_id}/versions", json=body)
    assert reason(answer) == (409, "version-differs")


async def test_numbers_run_without_gaps_and_pages_cover_all(world: World, make_file: File) -> None:
    model_id = await world.model()
    for number in range(5):
        version = await world.publish(model_id, make_file(number), round_id=f"rnd_{number}")
        assert version["number"] == number
    for sort, expected in (("number", [0, 1, 2, 3, 4]), ("-number", [4, 3, 2, 1, 0])):
        seen, query = [], {"limit": 2, "sort": sort}
        while True:
            page = (await world.ask("ust_auditor", "GET", f"/models/{model_id}/versions", params=query)).json()
            seen += [version["number"] for version in page["items"]]
            if page["next"] is None:
                break
            query["after"] = page["next"]
        assert seen == expected


async def test_training_must_keep_the_parents_shapes(world: World, make_file: File) -> None:
    model_id = await world.model()
    parent = await world.publish(model_id, make_file(0, rows=3), kind="initialise")
    await world.publish(model_id, make_file(1, rows=3), round_id="rnd_2", parents=[parent["id"]])
    digest = await world.upload(make_file(2, rows=4))
    body = world.request(model_id, digest, round_id="rnd_3", parents=[parent["id"]])
    answer = await world.ask(world.parties.aggregator, "POST", f"/models/{model_id}/versions", json=body)
    assert reason(answer) == (422, "shapes-differ")


async def test_unknown_parents_are_all_named(world: World, make_file: File) -> None:
    model_id, digest = await world.model(), await world.upload(make_file())
    body = world.request(model_id, digest, parents=["ver_x", "ver_y"])
    answer = await world.ask(world.parties.aggregator, "POST", f"/models/{model_id}/versions", json=body)
    assert reason(answer) == (422, "parent-unknown")
    assert [error["path"] for error in answer.json()["errors"]] == ["/lineage/parents/0", "/lineage/parents/1"]


async def test_only_model_files_become_versions(world: World, make_file: File) -> None:
    model_id, good = await world.model(), make_file()
    infinite = safetensors.write({"w": np.array([np.inf], np.float32)})
    for data in (b"", b"pickle", good[:-1], good + b"x", infinite):
        digest = await world.upload(data)
        body = world.request(model_id, digest)
        answer = await world.ask(world.parties.aggregator, "POST", f"/models/{model_id}/versions", json=body)
        assert reason(answer) == (422, "bad-model-file")


async def test_content_comes_before_its_version(world: World) -> None:
    model_id = await world.model()
    body = world.request(model_id, Digest("ab" * 32))
    answer = await world.ask(world.parties.aggregator, "POST", f"/models/{model_id}/versions", json=body)
    assert reason(answer) == (409, "content-missing")


@pytest.mark.parametrize("fault", ["forged", "other signer", "unknown key", "revoked", "unsigned", "half signed"])
async def test_a_publishers_signature_must_hold(world: World, make_file: File, fault: str) -> None:
    model_id, digest = await world.model(), await world.upload(make_file())
    body = world.request(model_id, digest)
    if fault == "forged":
        body["lineage"]["contributors"] = 99
    elif fault == "other signer":
        body = world.request(model_id, digest, world.parties.keys)
    elif fault == "unknown key":
        body["publisher_keyid"] = "00" * 32
    elif fault == "revoked":
        body = world.request(model_id, digest, signer := world.parties.make(world.parties.aggregator.subject))
        world.parties.revoked_ids.add(signer.keyid)
    else:
        del body["publisher_signature"]
        if fault == "unsigned":
            del body["publisher_keyid"]
    answer = await world.ask(world.parties.aggregator, "POST", f"/models/{model_id}/versions", json=body)
    assert reason(answer) == (422, "publisher-unproven")
    assert answer.json()["errors"]


async def test_a_scientist_brings_in_a_model_unsigned(world: World, make_file: File) -> None:
    model_id, digest = await world.model(), await world.upload(make_file())
    body = {"content_digest": digest, "lineage": {"kind": "import"}}
    path = f"/models/{model_id}/versions"
    first = await world.ask("ust_scientist", "POST", path, json=body)
    again = await world.ask("ust_scientist", "POST", path, json=body)
    assert (first.status_code, again.status_code) == (201, 200)
    assert first.json() == again.json()
    assert [signature["role"] for signature in first.json()["signatures"]] == ["registry"]


async def test_bad_fields_are_all_named(world: World) -> None:
    model_id = await world.model()
    body = {"content_digest": "x", "lineage": {"kind": 1, "contributors": -1}, "publisher_signature": "zz", "extra": 1}
    answer = await world.ask(world.parties.aggregator, "POST", f"/models/{model_id}/versions", json=body)
    assert reason(answer) == (422, "request-invalid")
    assert {error["path"] for error in answer.json()["errors"]} >= {
        "/content_digest",
        "/lineage/kind",
        "/lineage/contributors",
        "/publisher_signature",
        "/extra",
    }


async def test_uploads_are_checked_and_leave_nothing(world: World) -> None:
    data, digest = b"content", digest_of(b"content")
    aggregator, limit = world.parties.aggregator, world.settings.max_content_bytes
    wrong = await world.ask(aggregator, "PUT", f"/blobs/{'ab' * 32}?federation_id=fed_a", content=data)
    assert reason(wrong) == (422, "digest-mismatch")
    wrong = await world.ask("ust_scientist", "PUT", f"/blobs/{'ab' * 32}", content=data)
    assert reason(wrong) == (422, "digest-mismatch")
    large = await world.ask("ust_scientist", "PUT", f"/blobs/{digest}", content=bytes(limit + 1))
    assert large.status_code == 413
    malformed = await world.ask("ust_scientist", "PUT", "/blobs/..", content=data)
    assert malformed.status_code in (404, 422)
    stored = [path for path in (world.settings.data_dir / "blobs").rglob("*") if path.is_file()]
    assert stored == []
    path = f"/blobs/{digest}?federation_id=fed_a"
    assert (await world.ask(aggregator, "PUT", path, content=data)).json() == {
        "digest": digest,
        "size": 7,
    }
    assert (await world.ask("ust_admin", "PUT", path, content=data)).status_code == 200


async def test_downloads_heed_ranges_and_tags(world: World, make_file: File) -> None:
    data = make_file(rows=100)
    version = await world.publish(await world.model(), data)
    path, etag = f"/versions/{version['id']}/content", f'"{digest_of(data)}"'

    async def get(**headers: str) -> Any:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        return await world.ask(world.parties.site, "GET", path, headers=named)

    part = await get(range="bytes=10-19")
    assert (part.status_code, part.content) == (206, data[10:20])
    assert part.headers["content-range"] == f"bytes 10-19/{len(data)}"
    assert (await get(range="bytes=-5")).content == data[-5:]
    assert (await get(range=f"bytes=7-{10**9}")).content == data[7:]
    assert (await get(range="bytes=10-19", if_range='"other"')).content == data
    assert (await get(range="bytes=10-19", if_range=etag)).status_code == 206
    fresh = await get(if_none_match=f'"x", W/{etag}')
    assert (fresh.status_code, fresh.content) == (304, b"")
    outside = await get(range=f"bytes={len(data)}-")
    assert reason(outside) == (416, "range-not-satisfiable")
    assert outside.headers["content-range"] == f"bytes */{len(data)}"


async def test_evaluations_are_added_once_each(world: World, make_file: File) -> None:
    version = await world.publish(await world.model(), make_file(), metrics={"loss": 1.5})
    path = f"/versions/{version['id']}/metrics"
    for _ in range(2):
        answer = await world.ask(
            world.parties.coordinator, "POST", path, json={"metrics": {"auc": 0.9}}, headers={"idempotency-key": "k1"}
        )
        assert answer.status_code == 201
    answer = await world.ask(world.parties.coordinator, "POST", path, json={"metrics": {"auc": 0.95, "loss": 1}})
    assert answer.json()["metrics"] == {"auc": 0.95, "loss": 1}
    assert [evaluation["metrics"] for evaluation in answer.json()["evaluations"]] == [
        {"auc": 0.9},
        {"auc": 0.95, "loss": 1},
    ]
    assert answer.json()["lineage"] == version["lineage"]
    listed = (await world.ask("ust_auditor", "GET", f"/models/{version['model_id']}/versions")).json()
    assert listed["items"][0]["metrics"] == {"auc": 0.95, "loss": 1}
    empty = await world.ask(world.parties.coordinator, "POST", path, json={"metrics": {}})
    assert empty.status_code == 422


def audit(bound: float | None, epsilon: float | None = 2.0) -> dict[str, object]:
    claim = None if epsilon is None else {"epsilon": epsilon, "delta": 1e-6, "unit": "site"}
    document = {"kind": "one-run-mechanism", "figures": {"right": 98}, "confidence": 0.95, "claim": claim}
    return document | ({} if bound is None else {"epsilon_lower_bound": bound})


async def test_audits_are_added_signed_and_a_bound_above_its_claim_marks_the_version(
    world: World, make_file: File
) -> None:
    version = await world.publish(await world.model(), make_file())
    path = f"/versions/{version['id']}"
    assert (version["audits"], version["claim_broken"]) == ([], False)
    for body in (audit(2.0), audit(None), audit(50.0, epsilon=None)):
        answer = await world.ask("ust_scientist", "POST", f"{path}/audits", json=body)
        assert (answer.status_code, answer.json()["claim_broken"]) == (201, False)
    for _ in range(2):
        headers = {"idempotency-key": "k2"}
        answer = await world.ask("ust_auditor", "POST", f"{path}/audits", json=audit(2.01), headers=headers)
    found = (await world.ask("ust_auditor", "GET", path)).json()
    assert [one["broken"] for one in found["audits"]] == [False, False, False, True]
    assert found["claim_broken"]
    listed = (await world.ask("ust_auditor", "GET", f"/models/{version['model_id']}/versions")).json()
    assert listed["items"][0]["claim_broken"]
    last = found["audits"][-1]
    assert last["document"] == audit(2.01)
    when = datetime.fromisoformat(last["recorded_at"]).isoformat()
    statement = audit_statement(version["id"], last["document"], last["recorded_by"], when)
    key = world.parties.registry.certificate.public_key()
    key.verify(bytes.fromhex(last["signature"]), statement)
    assert {one["recorded_by"] for one in found["audits"][:3]} != {last["recorded_by"]}


@pytest.mark.parametrize(
    "change",
    [
        {"kind": "seance"},
        {"confidence": 1.0},
        {"epsilon_lower_bound": -0.1},
        {"claim": {"epsilon": 0, "delta": 1e-6}},
        {"claim": {"epsilon": 1, "delta": 1}},
        {"verdict": "fine"},
        {"sentence": "x" * 1001},
    ],
)
async def test_an_audit_that_says_nothing_is_refused(world: World, make_file: File, change: dict[str, object]) -> None:
    version = await world.publish(await world.model(), make_file())
    path = f"/versions/{version['id']}/audits"
    assert (await world.ask("ust_scientist", "POST", path, json=audit(1.0) | change)).status_code == 422
    for asker in (world.parties.coordinator, world.parties.site):
        assert (await world.ask(asker, "POST", path, json=audit(1.0))).status_code == 403
    assert (await world.ask("ust_stranger", "POST", path, json=audit(1.0))).status_code == 404
    assert (await world.ask("ust_auditor", "GET", f"/versions/{version['id']}")).json()["audits"] == []


async def test_a_deleted_version_leaves_a_tombstone(world: World, make_file: File) -> None:
    model_id, data = await world.model(), make_file()
    version = await world.publish(model_id, data)
    path = f"/versions/{version['id']}"
    body = {"version_id": version["id"], "reason": "best on the held-out sites"}
    await world.ask("ust_scientist", "PUT", f"/models/{model_id}/aliases/champion", json=body)
    assert reason(await world.ask("ust_scientist", "DELETE", path)) == (409, "version-in-use")
    await world.ask("ust_scientist", "DELETE", f"/models/{model_id}/aliases/champion")
    for _ in range(2):
        assert (await world.ask("ust_scientist", "DELETE", path, params={"reason": "withdrawn"})).status_code == 204
    tombstone = (await world.ask("ust_auditor", "GET", path)).json()
    assert tombstone["deletion_reason"] == "withdrawn"
    assert tombstone["content_digest"] == digest_of(data)
    assert reason(await world.ask(world.parties.site, "GET", f"{path}/content")) == (410, "version-deleted")
    again = await world.ask("ust_scientist", "PUT", f"/models/{model_id}/aliases/x", json={"version_id": version["id"]})
    assert reason(again) == (410, "version-deleted")
    bad = await world.ask("ust_scientist", "PUT", f"/models/{model_id}/aliases/x", json=body | {"reason": "a\0b"})
    assert bad.status_code == 422

    async def actions(tx: Transaction) -> list[str]:
        return list(await tx.session.scalars(select(ActionRow.action).order_by(ActionRow.id)))

    async def why(tx: Transaction) -> object:
        return await tx.session.scalar(select(ActionRow.detail).where(ActionRow.action == "alias.set"))

    told = {"alias": "champion", "version_id": version["id"], "before": None, "reason": "best on the held-out sites"}
    assert await world.app.state.models._database.read("why", why) == told
    assert await world.app.state.models._database.read("actions", actions) == [
        "model.created",
        "version.published",
        "alias.set",
        "alias.removed",
        "version.deleted",
    ]


async def test_unused_content_is_cleared_away_and_used_content_stays(world: World, make_file: File) -> None:
    model_id, contents = await world.model(), world.app.state.contents
    kept = await world.publish(model_id, make_file(1))
    gone = await world.publish(model_id, make_file(2), round_id="rnd_2")
    stray = await world.upload(make_file(3))
    await world.ask("ust_scientist", "DELETE", f"/versions/{gone['id']}")
    blobs = world.settings.data_dir / "blobs"
    (blobs / "incoming" / "cut-off").write_bytes(b"half")
    os.utime(blobs / "incoming" / "cut-off", (1, 1))
    assert await contents.collect(timedelta(hours=1)) == 0
    assert await contents.collect(timedelta(seconds=-5)) == 2
    left = {path.name for path in blobs.rglob("*") if path.is_file()}
    assert left == {kept["content_digest"]}
    body = world.request(model_id, stray, round_id="rnd_3")
    answer = await world.ask(world.parties.aggregator, "POST", f"/models/{model_id}/versions", json=body)
    assert reason(answer) == (409, "content-missing")
    assert (await world.ask(world.parties.site, "GET", f"/versions/{kept['id']}/content")).status_code == 200


async def test_files_unknown_to_the_database_get_a_last_chance(world: World) -> None:
    """As a crash between row and file, or a restored database, leaves them."""
    contents, data = world.app.state.contents, b"stray"
    folder = world.settings.data_dir / "blobs" / digest_of(data)[:2]
    folder.mkdir()
    path = folder / digest_of(data)
    path.write_bytes(data)
    os.utime(path, (1, 1))
    assert await contents.collect(timedelta(hours=1)) == 0
    assert path.exists()
    assert await contents.collect(timedelta(seconds=-5)) == 1
    assert not path.exists()


async def test_clearing_away_never_takes_what_is_being_published(world: World, make_file: File) -> None:
    """Uploads, publications and a collector without mercy at the same time: a version always has its content."""
    model_id, contents = await world.model(), world.app.state.contents
    stop = asyncio.Event()

    async def collect() -> None:
        while not stop.is_set():
            await contents.collect(timedelta(milliseconds=1))

    async def publish(number: int) -> str | None:
        digest = await world.upload(make_file(number), world.parties.aggregator)
        body = world.request(model_id, digest, round_id=f"rnd_{number}")
        answer = await world.ask(world.parties.aggregator, "POST", f"/models/{model_id}/versions", json=body)
        assert answer.status_code in (201, 409), answer.text
        return answer.json()["id"] if answer.status_code == 201 else None

    collecting = asyncio.create_task(collect())
    published = [version for version in await asyncio.gather(*[publish(n) for n in range(8)]) if version]
    stop.set()
    await collecting
    for version_id in published:
        assert (await world.ask(world.parties.site, "GET", f"/versions/{version_id}/content")).status_code == 200
