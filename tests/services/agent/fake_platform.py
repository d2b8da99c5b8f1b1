"""A small real platform that speaks the agent's protocol."""

import asyncio
import base64
import json
import os
import re
import threading
import time
from collections.abc import Callable
from datetime import timedelta
from typing import Any
from urllib.parse import parse_qs

import numpy as np
import uvicorn
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID

from tests.pace import Deadline
from tests.services.agent.pairwise_platform import Log, PairwiseRound, Peer, commitment
from undersong.shared.clock import utc_now
from undersong.shared.identity.authority import CertificateAuthority, Identity, Subject, keyid_of
from undersong.shared.identity.digests import content_digest
from undersong.shared.identity.enrol import enrolment_proof_data
from undersong.shared.ids import SiteId, digest_of, new_id
from undersong.shared.learning.tensors import Model, Schema, save
from undersong.shared.secagg.engine import ServerRound
from undersong.shared.secagg.engines import engine_named
from undersong.shared.secagg.payload import opened_train
from undersong.shared.secagg.quantise import plan_encoding, plan_sums, unpack
from undersong.shared.wire.helper import HELPER, key_statement
from undersong.shared.wire.manifest import EnginePublic, RoundManifest, SignedEnginePublic, SignedManifest
from undersong.shared.wire.updates import ReceiptDoc, read_header

SITE, FEDERATION = "site_test", "fed_test"
_LOOK_S = 0.05
Answer = tuple[int, Any, dict[str, str]]


class FakePlatform:
    """All four services on one port, with real certificates, signatures and seals, and faults on request."""

    def __init__(self) -> None:
        now = utc_now()
        self.authority = CertificateAuthority.create(now)
        self.certificates: dict[str, Any] = {}
        self.coordinator = self._service("coordinator")
        self.aggregator = self._service("aggregator")
        self.keys = self._service("keys")
        self.helper = self._service(HELPER)
        self.log = Log(self.keys)
        self.pairwise: dict[str, PairwiseRound] = {}
        self.site_keys: dict[SiteId, bytes] = {}
        self.leases: list[dict[str, Any]] = []
        self.waiting = 0  # requests for work so far
        self._open_polls, self._poll_epoch = 0, 0
        self.poll_s = 1.0  # how long such a request waits
        self.rounds: dict[str, tuple[RoundManifest, Any]] = {}
        self.models: dict[str, bytes] = {}
        self.ranges: list[str | None] = []  # what downloads asked for
        self.cuts: list[int] = []  # after how many bytes the next downloads break off
        self.bodies: dict[str, list[bytes]] = {}
        self.ended: list[tuple[str, dict[str, Any]]] = []
        self.profiles: list[dict[str, Any]] = []
        self.exclusions: list[dict[str, Any]] = []
        self.beats: list[dict[str, Any]] = []
        self.desired: dict[str, Any] = {"state": "continue", "reason": None, "lease_s": 30}
        self.faults: list[tuple[str, str, Answer | str]] = []  # (method, path pattern, answer or "drop")
        self.requests: list[tuple[str, str]] = []
        self.revoked: list[dict[str, Any]] = []
        self.changed = threading.Condition()
        config = uvicorn.Config(
            self, port=0, log_level="warning", ws="none", lifespan="off", timeout_graceful_shutdown=3
        )
        self._server = uvicorn.Server(config)
        self._thread = threading.Thread(target=self._server.run, daemon=True)
        self._thread.start()
        while not self._server.started:
            time.sleep(0.01)
        self.url = f"http://127.0.0.1:{self._server.servers[0].sockets[0].getsockname()[1]}"

    def stop(self) -> None:
        self._server.should_exit = True
        self._thread.join(10)

    def wait(self, condition: Callable[[], Any], timeout_s: float = 60.0) -> None:
        """Wait until the condition holds; it may be of the platform, or of what the agent writes without a request."""
        deadline = Deadline(timeout_s)
        while not condition():
            assert not deadline.over(), f"not within {timeout_s} s; {self.requests[-8:]}"
            with self.changed:
                self.changed.wait(_LOOK_S)

    def end_polls(self) -> None:
        """End the requests for work that wait, as those of an agent that was killed: they would take its next task."""
        self._poll_epoch += 1
        self.wait(lambda: self._open_polls == 0)

    def _service(self, name: str) -> Identity:
        key, now = Ed25519PrivateKey.generate(), utc_now()
        made = self.authority.issue(key.public_key(), Subject("service", name), now + timedelta(days=1), now=now)
        self.certificates[keyid_of(made)] = made
        return Identity(key, made, self.authority.certificate)

    @property
    def witness_key(self) -> bytes:
        return self.keys.private_key.public_key().public_bytes_raw()

    def begin_pairwise(
        self, recipe: tuple[str, str], sites: list[str], *, peers: int = 0, **changes: Any
    ) -> PairwiseRound:
        """A pairwise round of these agents and of so many sites that answer by themselves, one lease for each agent."""
        others = [Peer(number) for number in range(peers)]
        cohort = sorted([*sites, *(peer.site_id for peer in others)])
        nonce = os.urandom(32)
        params = {"corrupt": 1 / 3, "dropout": 0.25, "quorum": True, "nonce_commitment": commitment(nonce)}
        size = len(cohort)
        encoding = plan_encoding(summands=size, max_weight=16, clip_norm=10.0, bound_value=None, modulus_bits=32)
        given = {"engine": "pairwise", "engine_params": params, "cohort": cohort, "min_cohort": 3, "target": size}
        manifest = self.manifest(recipe, **{**given, "encoding": encoding, **changes})
        made = PairwiseRound(self, manifest, nonce, others)
        self.pairwise[manifest.round_id] = made
        for site in sites:
            self.offer(manifest, site=site)
        return made

    def add_model(self, values: Any) -> tuple[str, str]:
        tensors = {"weights": np.asarray(values, np.float32)}
        data = save(Model(Schema.of(tensors), tensors))
        version = new_id("ver")
        self.models[version] = data
        return version, digest_of(data)

    def manifest(self, recipe: tuple[str, str], **changes: Any) -> RoundManifest:
        kind = changes.get("kind", "train")
        version, digest = changes.pop("model_ref", None) or (new_id("ver"), "0" * 64)
        sites = sorted([SITE, "site_b", "site_c"])
        encoding = plan_encoding(summands=3, max_weight=16, clip_norm=10.0, bound_value=None, modulus_bits=32)
        document: dict[str, Any] = {
            "federation_id": FEDERATION,
            "job_id": new_id("job"),
            "round_id": new_id("rnd"),
            "number": 1,
            "attempt": 1,
            "kind": kind,
            "engine": "sealed",
            "recipe": {"name": recipe[0], "digest": recipe[1], "params": changes.pop("params", {})},
            "data": {"dataset": "bench", "features": [], "label": None},
            "model": {"version_id": version, "digest": digest} if kind in ("train", "evaluate") else None,
            "model_id": new_id("mdl"),
            "encoding": None if kind == "initialise" else encoding if kind == "train" else plan_sums(summands=3),
            "cohort": sites,
            "min_cohort": 3,
            "target": 3,
            "strategy": {"name": "fedavg"},
            "seed": 1,
            "deadline_s": 60.0,
        }
        return RoundManifest.model_validate({**document, **changes})

    def offer(self, manifest: RoundManifest, *, signer: Identity | None = None, repeat: int = 1, **changes: Any) -> str:
        """Queue a task for the agent; returns its task id."""
        signer = signer or self.coordinator
        if manifest.round_id not in self.rounds:
            self.rounds[manifest.round_id] = (manifest, engine_named(manifest.engine).server.open(manifest))
        opened = self.rounds[manifest.round_id][1]
        shown = opened.public | (self._helper_key(manifest) if manifest.engine == "twoserver" else {})
        public = EnginePublic(
            round_id=manifest.round_id, manifest_digest=manifest.digest(), engine=manifest.engine, public=shown
        )
        signed = SignedManifest(
            manifest=manifest, keyid=signer.keyid, signature=signer.private_key.sign(manifest.statement()).hex()
        )
        seal_key = SignedEnginePublic(
            document=public,
            keyid=self.aggregator.keyid,
            signature=self.aggregator.private_key.sign(public.statement()).hex(),
        )
        lease = {
            "task_id": new_id("task"),
            "round_id": manifest.round_id,
            "job_id": manifest.job_id,
            "kind": manifest.kind.value,
            "lease_token": os.urandom(16).hex(),
            "lease_s": 2.0,
            "heartbeat_s": 0.2,
            "attempt": 1,
            "signed_manifest": signed.model_dump(mode="json"),
            "engine_public": seal_key.model_dump(mode="json"),
            **changes,
        }
        self.leases += [lease] * repeat
        return str(lease["task_id"])

    def _helper_key(self, manifest: RoundManifest) -> dict[str, str]:
        """Return a key that the helper signed for the round; what is sealed to it is never opened."""
        key = X25519PrivateKey.generate().public_key().public_bytes_raw()
        signature = self.helper.private_key.sign(key_statement(manifest.digest(), key))
        return {"helper_key": key.hex(), "helper_keyid": self.helper.keyid, "helper_signature": signature.hex()}

    def opened(self, round_id: str) -> Any:
        """What the aggregator reads in the (only) body of a training round."""
        manifest, opened = self.rounds[round_id]
        (body,) = set(self.bodies[round_id])
        header, offset = read_header(body)
        server_round, rest = ServerRound(manifest, opened.secret), memoryview(body)[offset:]
        source = type("Source", (), {"rest": rest, "take": _take})()
        plain = b"".join(
            bytes(block) for block in engine_named("sealed").server.open_payload(server_round, header, source)
        )
        return opened_train(manifest, unpack(plain, header.modulus_bits).copy(), 1)

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        body = b""
        while True:
            message = await receive()
            if message["type"] == "http.disconnect":
                return
            body += message.get("body", b"")
            if not message.get("more_body"):
                break
        query, route = scope["query_string"].decode(), scope["path"]
        path = f"{route}#completed" if route.endswith("/leases") and b'"completed"' in body else route
        headers = {k.decode(): v.decode() for k, v in scope["headers"]}
        site = caller(headers)
        step = re.fullmatch(r"/v1/rounds/([^/]+)/steps/([^/]+)", path)
        if step is not None and step[1] in self.pairwise:
            self.pairwise[step[1]].heard.append((step[2], site, body))
        fault = next((f for f in self.faults if f[0] == scope["method"] and re.fullmatch(f[1], path)), None)
        if fault is not None:
            self.faults.remove(fault)
        if fault is not None and fault[2] != "drop":
            status, answer, extra = fault[2]  # type: ignore[misc]
        else:
            status, answer, extra = await self._answer(scope["method"], route, query, headers, body, site)
        with self.changed:
            self.requests.append((scope["method"], path))
            self.changed.notify_all()
        if fault is not None and fault[2] == "drop":
            receive.__self__.transport.close()
            return
        content = answer if isinstance(answer, bytes) else b"" if answer is None else json.dumps(answer).encode()
        sent = [(k.encode(), v.encode()) for k, v in {"content-length": str(len(content)), **extra}.items()]
        await send({"type": "http.response.start", "status": status, "headers": sent})
        if path.endswith("/content") and self.cuts:
            await send({"type": "http.response.body", "body": content[: self.cuts.pop(0)], "more_body": True})
            receive.__self__.transport.close()
            return
        await send({"type": "http.response.body", "body": content})

    async def _answer(  # noqa: C901 (one case for each route)
        self, method: str, path: str, query: str, headers: dict[str, str], body: bytes, site: SiteId
    ) -> Answer:
        if body and "signature" in headers:
            assert headers["content-digest"] == content_digest(body)
        document = json.loads(body) if headers.get("content-type") == "application/json" else {}
        parts = path.strip("/").split("/")[1:]
        match [method, *parts]:
            case ["POST", "enrolment-challenges"]:
                return 201, {"challenge_id": "chl_1", "challenge": "ab" * 32, "expires_in_s": 60}, {}
            case ["POST", "enrolments"]:
                return self._enrol(document)
            case ["GET", "certificates", keyid]:
                if keyid not in self.certificates:
                    return problem(404, "not-found")
                return 200, {"certificate_pem": self.certificates[keyid].public_bytes(Encoding.PEM).decode()}, {}
            case ["GET", "revocations"]:
                after = int(query.removeprefix("after=") or 0)
                return 200, {"items": [r for r in self.revoked if r["sequence"] > after], "next": None}, {}
            case ["PUT", "sites", "self", "profile"]:
                self.profiles.append(document)
                return 200, {}, {}
            case ["GET", "sites", "self", "exclusions"]:
                return 200, {"items": self.exclusions}, {}
            case ["POST", "tasks", "leases"]:
                for done in document.get("completed", []):
                    self.ended.append((f"completions:{done.pop('task_id')}", done))
                self.waiting += 1
                self._open_polls += 1
                try:
                    return await self._lease(site)
                finally:
                    self._open_polls -= 1
            case ["POST", "tasks", _, "heartbeats"]:
                self.beats.append(document)
                return 200, self.desired, {}
            case ["POST", "tasks", task_id, ("completions" | "failures") as end]:
                self.ended.append((f"{end}:{task_id}", document))
                return 200, {}, {}
            case ["GET", "versions", version, "content"]:
                if version not in self.models:
                    return problem(404, "not-found")
                self.ranges.append(headers.get("range"))
                start = int(headers.get("range", "bytes=0-")[6:-1])
                if start and start >= len(self.models[version]):
                    return problem(416, "range-not-satisfiable")
                span = f"bytes {start}-{len(self.models[version]) - 1}/{len(self.models[version])}"
                return (206 if start else 200), self.models[version][start:], {"content-range": span} if start else {}
            case ["PUT", "rounds", round_id, "updates"]:
                return self._update(round_id, body, site, bytes.fromhex(headers.get("update-signature", "")))
            case ["PUT", "rounds", round_id, "steps", step]:
                slug = self.pairwise[round_id].say(site, step, body)
                if slug is not None:
                    return problem(409 if slug == "step-differs" else 410, slug)
                return (202, None, {}) if query == "wait_s=0" else await self._step_answer(round_id, step, site, 202)
            case ["GET", "rounds", round_id, "steps", step, "answer"]:
                return await self._step_answer(round_id, step, site, 204)
            case ["GET", "witness"]:
                return 200, {"keyid": self.keys.keyid, "epoch": 0}, {}
            case ["GET", "log", "head"]:
                return 200, self.log.head().model_dump(mode="json"), {}
            case ["GET", "log", "entries"]:
                start, end = (int(parse_qs(query)[name][0]) for name in ("start", "end"))
                return 200, {"items": self.log.entries(start, end)}, {}
            case ["GET", "log", "proofs", "consistency"]:
                first, second = (int(parse_qs(query)[name][0]) for name in ("first", "second"))
                return 200, self.log.consistency(first, second).model_dump(mode="json"), {}
            case ["GET", "log", "records"]:
                return 200, self._logged(parse_qs(query)), {}
        return problem(404, "not-found")

    async def _lease(self, site: SiteId) -> Answer:
        """Answer a request for work: with a task, or after `poll_s`."""
        epoch = self._poll_epoch
        for _ in range(round(self.poll_s * 20)):
            lease = next((found for found in self.leases if found.get("site", site) == site), None)
            if epoch != self._poll_epoch or self._server.should_exit:
                break
            if lease is not None:
                self.leases.remove(lease)
                return 200, {key: value for key, value in lease.items() if key != "site"}, {}
            await asyncio.sleep(0.05)
        return 204, None, {}

    def _logged(self, query: dict[str, list[str]]) -> dict[str, Any]:
        rounds = [self.pairwise.get(round_id) for round_id in query["round_id"]]
        items = [found.logged.model_dump(mode="json") for found in rounds if found is not None and found.logged]
        first, second = int(query["since"][0]), max((item["head"]["size"] for item in items), default=0)
        grown = self.log.consistency(first, second).model_dump(mode="json") if 0 < first < second else None
        return {"items": items, "consistency": grown}

    async def _step_answer(self, round_id: str, step: str, site: SiteId, not_yet: int) -> Answer:
        found = await self.pairwise[round_id].answer(site, step)
        if isinstance(found, str):
            return problem(410, found[1:])
        return (not_yet, None, {}) if found is None else (200, found, {"content-type": "application/octet-stream"})

    def _enrol(self, document: dict[str, str]) -> Answer:
        raw = bytes.fromhex(document["public_key"])
        proof = enrolment_proof_data(b"\xab" * 32, document["token"], raw)
        Ed25519PublicKey.from_public_bytes(raw).verify(bytes.fromhex(document["proof"]), proof)
        name, _, site = document["token"].partition(":")
        if name != "good-token":
            return problem(410, "token-expired")
        self.site_keys[SiteId(site or SITE)] = raw
        now = utc_now()
        made = self.authority.issue(
            Ed25519PublicKey.from_public_bytes(raw),
            Subject("site", site or SITE, FEDERATION),
            now + timedelta(days=30),
            now=now,
        )
        subject = Subject("site", site or SITE, FEDERATION)
        self.log.issue(subject.uri, raw, keyid_of(made))
        pem = {"certificate_pem": made, "ca_certificate_pem": self.authority.certificate}
        return 201, {name: cert.public_bytes(Encoding.PEM).decode() for name, cert in pem.items()}, {}

    def _update(self, round_id: str, body: bytes, site: SiteId, signature: bytes) -> Answer:
        self.bodies.setdefault(round_id, []).append(body)
        if round_id in self.pairwise:
            slug = self.pairwise[round_id].say(site, "upload", body, signature)
            if slug is not None:
                return problem(409 if slug == "step-differs" else 410, slug)
        receipt = ReceiptDoc(
            round_id=round_id, site_id=site, digest=digest_of(body), size=len(body), accepted_at="2026-11-22T00:00:00Z"
        )
        signature = self.aggregator.private_key.sign(receipt.statement()).hex()
        return 201, {**receipt.model_dump(mode="json"), "keyid": self.aggregator.keyid, "signature": signature}, {}


def caller(headers: dict[str, str]) -> SiteId:
    """Return the site that signed the request; none where it is not signed."""
    text = headers.get("undersong-certificate", "").strip(":")
    if not text:
        return SiteId("")
    names = x509.load_der_x509_certificate(base64.b64decode(text)).subject
    return SiteId(str(names.get_attributes_for_oid(NameOID.COMMON_NAME)[0].value))


def _take(self: Any, size: int) -> memoryview:
    part, self.rest = self.rest[:size], self.rest[size:]
    return part


def problem(status: int, slug: str, **headers: str) -> Answer:
    document = {"type": f"urn:undersong:problem:{slug}", "title": slug, "status": status, "detail": f"as asked: {slug}"}
    return status, document, {"content-type": "application/problem+json", **headers}
