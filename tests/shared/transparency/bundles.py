"""A small federation that can sign everything, and bundles of evidence about its rounds."""

import hashlib
import os
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding

from undersong.shared.identity.authority import CertificateAuthority, Identity, Subject, keyid_of
from undersong.shared.ids import Digest, SiteId
from undersong.shared.merkle import proofs as merkle
from undersong.shared.secagg import transcript
from undersong.shared.secagg.pairwise import roster as rosters
from undersong.shared.secagg.pairwise.messages import Advertisement, Survivors
from undersong.shared.secagg.pairwise.roster import Frame, Member, Roster
from undersong.shared.secagg.pairwise.terms import terms
from undersong.shared.secagg.quantise import plan_norm
from undersong.shared.secagg.twoserver.messages import SetEvidence as Accepted
from undersong.shared.transparency.documents import (
    InclusionProof,
    LoggedRecord,
    LogHead,
    RoundRecord,
    head_statement,
    leaf_of,
)
from undersong.shared.transparency.evidence import Evidence, VersionEvidence
from undersong.shared.transparency.records import transcript_of
from undersong.shared.wire.canonical import digest_document
from undersong.shared.wire.helper import accepted_statement
from undersong.shared.wire.manifest import RoundManifest, SignedManifest, version_statement
from undersong.shared.zk.samples import Committed, takes_commitments

NOW = datetime(2026, 11, 22, 12, tzinfo=UTC)
SERVICES = ("coordinator", "aggregator", "keys", "registry", "helper")
RECIPE = {"name": "tabular", "digest": "0" * 64}


@dataclass
class Federation:
    """An authority, the services and five sites."""

    sites: int = 5
    quorum: bool = True
    identities: dict[str, Identity] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.ca = CertificateAuthority.create(NOW)
        self.names = tuple(SiteId(f"site_{i}") for i in range(self.sites))
        for name in SERVICES:
            self.identities[name] = self.identity(Subject("service", name))
        for site in self.names:
            self.identities[site] = self.identity(Subject("site", site, "fed_1"))
        self.nonce = os.urandom(32)

    @property
    def fingerprint(self) -> str:
        return keyid_of(self.ca.certificate)

    def identity(self, subject: Subject) -> Identity:
        key = Ed25519PrivateKey.generate()
        certificate = self.ca.issue(key.public_key(), subject, NOW + timedelta(days=90), now=NOW)
        return Identity(key, certificate, self.ca.certificate)

    def manifest(self, kind: str, engine: str, parent: VersionEvidence | None) -> SignedManifest:
        params = {
            "corrupt": 0.3, "dropout": 0.2, "quorum": self.quorum,
            "nonce_commitment": rosters.nonce_commitment(self.nonce).hex(),
        }  # fmt: skip
        encoding = {"modulus_bits": 32, "max_summands": 5, "bound": 1000, "scale": 1.5, "max_weight": 2}
        document = {
            "federation_id": "fed_1", "job_id": "job_1", "round_id": f"rnd_{kind}", "number": 1, "attempt": 1,
            "kind": kind, "engine": engine, "recipe": RECIPE, "data": {"dataset": "heart", "features": ["age"]},
            "engine_params": params if engine == "pairwise" else {},
            "model": {"version_id": parent.id, "digest": parent.content_digest} if parent else None,
            "model_id": "mdl_1", "encoding": None if kind == "initialise" else encoding,
            "cohort": list(self.names), "min_cohort": 3, "target": self.sites, "strategy": {"name": "fedavg"},
            "seed": 1, "deadline_s": 9.0,
        }  # fmt: skip
        if kind == "train" and engine == "twoserver":
            document["encoding"] = plan_norm(summands=5, clip_norm=1.5).model_dump(mode="json")
        return self.signed(RoundManifest.model_validate(document))

    def signed(self, manifest: RoundManifest) -> SignedManifest:
        signer = self.identities["coordinator"]
        signature = signer.private_key.sign(manifest.statement()).hex()
        return SignedManifest(manifest=manifest, keyid=signer.keyid, signature=signature)

    def version(self, number: int, plan: RoundManifest, contributors: int, **more: Any) -> VersionEvidence:
        lineage = {
            "job_id": plan.job_id, "round_id": plan.round_id, "kind": str(plan.kind),
            "parents": [plan.model.version_id] if plan.model else [], "recipe": RECIPE,
            "dataset_schema_digest": digest_document(plan.data.model_dump(mode="json")),
            "metrics": {"loss": 0.25}, "strategy": plan.strategy.name, "contributors": contributors, **more,
        }  # fmt: skip
        content = Digest(hashlib.sha256(b"content %d" % number).hexdigest())
        statement = version_statement(plan.model_id, content, lineage)
        signatures = [
            {"role": role, "keyid": who.keyid, "signature": who.private_key.sign(statement).hex()}
            for role, who in (("publisher", self.identities["aggregator"]), ("registry", self.identities["registry"]))
        ]
        return VersionEvidence.model_validate(
            {"id": f"ver_{number}", "model_id": plan.model_id, "content_digest": content, "lineage": lineage,
             "signatures": signatures}
        )  # fmt: skip

    def lineage(self, length: int) -> list[VersionEvidence]:
        """Versions, the newest first."""
        found: list[VersionEvidence] = []
        for number in range(length):
            plan = self.manifest("train" if found else "initialise", "sealed", found[0] if found else None).manifest
            found.insert(0, self.version(number, plan, 5))
        return found

    def record(self, signed: SignedManifest, alive: tuple[int, ...], result: dict[str, Any]) -> RoundRecord:
        plan = signed.manifest
        bodies = {plan.cohort[i]: hashlib.sha256(b"body %d" % i).hexdigest() for i in alive}
        document: dict[str, Any] = {
            "manifest": signed, "engine": plan.engine, "bodies": bodies, "sum_digest": "5" * 64,
            "transcript": "0" * 64, "result": result, "contributors": len(alive),
        }  # fmt: skip
        if plan.engine == "pairwise":
            document |= self.witnessed(plan, alive, bodies)
        if plan.engine == "twoserver":
            document["survivors"] = self.accepted(plan, alive, bodies).hex()
        if takes_commitments(plan):
            messages = {plan.cohort[i]: Committed.make(plan, plan.cohort[i], 2).message for i in alive}
            document["samples"] = {site: message[:32].hex() for site, message in messages.items()}
            document["sample_proofs"] = {site: messages[site][32:].hex() for site in list(messages)[1:]}
        record = RoundRecord.model_validate(document)
        return record.model_copy(update={"transcript": Digest(transcript_of(record)[-1].hex())})

    def witnessed(self, plan: RoundManifest, alive: tuple[int, ...], bodies: dict[SiteId, str]) -> dict[str, Any]:
        keys = self.identities["keys"].private_key
        fixed = terms(plan, keys.public_key().public_bytes_raw())
        members = []
        for site in plan.cohort:
            key, c, s, b = self.identities[site].private_key, os.urandom(32), os.urandom(32), os.urandom(32)
            signature = key.sign(rosters.advertisement_statement(fixed.ctx0, site, c, s, b))
            members.append(Member(site, key.public_key().public_bytes_raw(), Advertisement(c, s, b, signature)))
        bare = Roster(tuple(members), self.nonce, bytes(64))
        said = keys.sign(rosters.roster_statement(fixed.ctx0, len(members), bare.root, self.nonce))
        frozen = Roster(bare.members, self.nonce, said)
        frame = Frame.of(frozen, fixed)
        bits = transcript.bitmap(frozenset(alive), len(members))
        root = transcript.body_root({i: bytes.fromhex(bodies[plan.cohort[i]]) for i in alive})
        statement = rosters.survivors_statement(frame.ctx, plan.attempt, bits, root)
        commitments = {plan.cohort[i]: self.identities[plan.cohort[i]].private_key.sign(statement).hex() for i in alive}
        sharers = transcript.bitmap(frozenset(range(len(members))), len(members))
        uploads = {
            plan.cohort[i]: self.identities[plan.cohort[i]]
            .private_key.sign(rosters.masked_statement(frame.ctx, sharers, bytes.fromhex(bodies[plan.cohort[i]])))
            .hex()
            for i in alive
        }
        return {
            "roster": frozen.pack().hex(),
            "sharers": sharers.hex(),
            "upload_signatures": uploads,
            "survivors": Survivors(bits, root, keys.sign(statement)).pack().hex(),
            "commitments": commitments if self.quorum else {},
        }

    def accepted(self, plan: RoundManifest, alive: tuple[int, ...], bodies: dict[SiteId, str]) -> bytes:
        bits = transcript.bitmap(frozenset(alive), len(plan.cohort))
        root = transcript.body_root({i: bytes.fromhex(bodies[plan.cohort[i]]) for i in alive})
        share, helper = os.urandom(32), self.identities["helper"]
        said = helper.private_key.sign(accepted_statement(plan.digest(), bits, root, share))
        return Accepted(bits, root, share, bytes.fromhex(helper.keyid), said).pack()

    def logged(self, record: RoundRecord) -> LoggedRecord:
        """The record as entry 3 of a log of 7."""
        leaves = [merkle.leaf_hash(b"entry %d" % i) for i in range(7)]
        leaves[3] = leaf_of(record.leaf_document())
        root, at = merkle.root(leaves), int(NOW.timestamp() * 1000) + 60_000
        signer = self.identities["keys"]
        head = LogHead(
            size=7, root=Digest(root.hex()), timestamp_ms=at, keyid=signer.keyid,
            signature=signer.private_key.sign(head_statement(7, root, at)).hex(),
        )  # fmt: skip
        found = merkle.inclusion_proof(3, 7, lambda start, end: merkle.root(leaves[start:end]))
        proof = InclusionProof(index=3, size=7, path=tuple(Digest(each.hex()) for each in found))
        return LoggedRecord(record=record, index=3, proof=proof, head=head)

    def certificates(self, names: list[str]) -> tuple[str, ...]:
        found = sorted((self.identities[name].certificate for name in names), key=keyid_of)
        return tuple(hexed(each) for each in found)

    def bundle(self, kind: str = "train", engine: str = "pairwise", ancestors: int = 2) -> Evidence:
        """A whole bundle: four of five sites survive, the parent has ancestors of its own."""
        parents = self.lineage(ancestors) if kind in {"train", "evaluate"} else []
        signed = self.manifest(kind, engine, parents[0] if parents else None)
        versions = list(parents)
        result: dict[str, Any] = {"values_digest": "7" * 64}
        if kind in {"train", "initialise"}:
            versions.insert(0, self.version(ancestors, signed.manifest, 4))
            result = {"version_id": versions[0].id, "content_digest": versions[0].content_digest}
        record = self.record(signed, (0, 1, 2, 4), result)
        needed = ["coordinator", "keys", *(("aggregator", "registry") if versions else ())]
        needed += ["helper"] if engine == "twoserver" else []
        sites = list(self.names) if engine == "pairwise" else []
        return Evidence(
            subject=record.round_id, authority=hexed(self.ca.certificate),
            certificates=self.certificates(needed + sites), logged=self.logged(record), versions=tuple(versions),
        )  # fmt: skip


def hexed(certificate: x509.Certificate) -> str:
    return certificate.public_bytes(Encoding.DER).hex()
