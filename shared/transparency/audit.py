"""The checks over a bundle of evidence: each has a name, and says in one plain sentence what it found. Pure, offline.

What the evidence cannot show: that the aggregator applied the sum to the model rightly (the sum stays with it; its
digest is bound into the transcript), what the sites trained on, and whether a certificate was revoked later.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property
from typing import Final

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from undersong.shared.errors import Forbidden, Refusal
from undersong.shared.identity.authority import CertificateUntrusted, Holder, keyid_of, public_bytes
from undersong.shared.ids import Digest
from undersong.shared.privacy.clipping import next_clip
from undersong.shared.secagg.audit import Check, many
from undersong.shared.secagg.engines import ENGINES, engine_audit, engine_facts
from undersong.shared.secagg.transcript import Transcript
from undersong.shared.transparency import steps
from undersong.shared.transparency.certificates import plain_fingerprint, read_authority, read_certificate, read_holder
from undersong.shared.transparency.documents import RoundRecord
from undersong.shared.transparency.evidence import Evidence, VersionEvidence, VersionSignature
from undersong.shared.transparency.records import check_head, check_inclusion, named_voucher
from undersong.shared.transparency.samples import check_samples, takes_samples
from undersong.shared.wire.canonical import digest_document
from undersong.shared.wire.manifest import RoundKind, version_statement

SHORT: Final = 16
CLIP_SLACK: Final = 1e-9  # relative: by how much two computations of one clip norm may differ
MAKES_VERSION: Final = frozenset({RoundKind.INITIALISE, RoundKind.TRAIN})


class EvidenceInvalid(Forbidden):
    """The evidence does not hold together."""


@dataclass(frozen=True, slots=True)
class CheckResult:
    """What one check found. `caution`: it passed, and a reader should know the sentence nevertheless."""

    check: str
    passed: bool
    sentence: str
    caution: bool = False


def holds(findings: list[CheckResult]) -> bool:
    """Return whether every check passed."""
    return bool(findings) and all(finding.passed for finding in findings)


def audit_file(data: bytes, ca_fingerprint: str | None, subject: str | None = None) -> list[CheckResult]:
    """Return all checks over a file; a file that cannot be read fails the check "file", and there are no others."""
    try:
        evidence = Evidence.unpack(data)
    except Refusal as refusal:
        return [CheckResult("file", False, f"The file cannot be used: {refusal.detail}.")]
    return [
        CheckResult("file", True, "The file is whole and in its one form."),
        *audit(evidence, ca_fingerprint, subject),
    ]


def audit(evidence: Evidence, ca_fingerprint: str | None, subject: str | None = None) -> list[CheckResult]:
    """Return all checks, in the order in which they build on each other; none is left out when another fails.

    ca_fingerprint: SHA-256 of the authority's certificate, known from elsewhere; without it nothing is proved.
    subject: the round or version that the evidence shall be about, if it is not taken as it says.
    """
    return list(_Audit(evidence, ca_fingerprint, subject).findings())


def fingerprint_of(evidence: Evidence) -> str | None:
    """Return the fingerprint that the evidence itself claims; None when its authority is no certificate."""
    try:
        return keyid_of(read_certificate(evidence.authority))
    except CertificateUntrusted:
        return None


def service_key(evidence: Evidence, keyid: Digest, name: str) -> bytes:
    """Return the public key of a service whose certificate is in the evidence; raises EvidenceInvalid."""
    return public_bytes(_Audit(evidence, None, None).service(keyid, name))


@dataclass(frozen=True)
class _Audit:
    evidence: Evidence
    ca_fingerprint: str | None
    subject: str | None

    def findings(self) -> Iterator[CheckResult]:
        """Run the checks."""
        yield _run("subject", self._subject)
        yield _run("authority", self._authority)
        yield _run("certificates", self._certificates)
        yield _run("manifest", self._manifest)
        yield _run("cohort", self._cohort)
        yield self._protection()
        for check in self._engine_checks():
            yield _run(check.name, check.find)
        if takes_samples(self.record):
            yield self._samples()
        yield _run("transcript", self._transcript)
        yield _run("sum", self._sum)
        yield _run("result", self._result)
        yield _run("lineage", self._lineage)
        yield _run("parents", self._parents)
        yield _run("log-head", self._head)
        yield _run("inclusion", self._inclusion)

    @cached_property
    def record(self) -> RoundRecord:
        """The round's record."""
        return self.evidence.logged.record

    @cached_property
    def ca(self) -> x509.Certificate:
        """The authority's certificate; raises CertificateUntrusted."""
        return read_authority(self.evidence.authority)

    @cached_property
    def holders(self) -> dict[Digest, Holder]:
        """Whom the authority vouches for, by key id; certificates that do not chain to it are left out."""
        found = {}
        for item in self.evidence.certificates:
            try:
                holder = read_holder(item, self.ca)
            except Refusal:
                continue
            found[holder.keyid] = holder
        return found

    def _subject(self) -> str:
        made, round_id = self.record.result.version_id, self.record.round_id
        if self.evidence.subject not in {round_id, made}:
            raise EvidenceInvalid("the evidence is about another round than it says")
        if self.subject is not None and self.subject not in {round_id, made}:
            raise EvidenceInvalid(f"the evidence is about {self.evidence.subject}, not about {self.subject}")
        return f"The evidence is about round {round_id}" + (f", which made version {made}." if made else ".")

    def _authority(self) -> str:
        fingerprint = keyid_of(self.ca)
        if self.ca_fingerprint is None:
            raise EvidenceInvalid(
                f"no trusted authority was given; this one's fingerprint is {fingerprint}, "
                "compare it with what the federation published"
            )
        if plain_fingerprint(self.ca_fingerprint) != fingerprint:
            raise EvidenceInvalid(f"the authority's fingerprint is {fingerprint}, not the one that was pinned")
        return f"The federation's authority is the one that was pinned: {fingerprint}."

    def _certificates(self) -> str:
        keyids = [read_holder(item, self.ca).keyid for item in self.evidence.certificates]
        if keyids != sorted(set(keyids)):
            raise EvidenceInvalid("the certificates are not in order, or one is there twice")
        until = datetime.fromtimestamp(self.evidence.logged.head.timestamp_ms / 1000, UTC)
        names = []
        for holder in self.holders.values():
            if holder.not_before > until:
                raise EvidenceInvalid(f"{holder.subject.uri} was certified only after the evidence was made")
            names.append(holder.subject.name if holder.subject.kind == "service" else "")
        services, sites = sorted(set(filter(None, names))), names.count("")
        self._check_signers()
        return f"The authority certified {', '.join(services)}" + (f" and {many(sites, 'site')}." if sites else ".")

    def _check_signers(self) -> None:
        head, signed = self.evidence.logged.head, self.record.manifest
        self.service(signed.keyid, "coordinator")
        self.service(head.keyid, "keys")
        federation = signed.manifest.federation_id
        known = {
            (holder.subject.name, public_bytes(holder.public_key))
            for holder in self.holders.values()
            if holder.subject.kind == "site" and holder.subject.federation_id == federation
        }
        for site_id, identity in engine_audit(self.record.engine).identities(self.record).items():
            if (site_id, identity) not in known:
                raise EvidenceInvalid(f"{site_id} has no certificate for the key in the roster")

    def service(self, keyid: Digest, name: str) -> Ed25519PublicKey:
        """Return the key of a service's certificate; raises EvidenceInvalid."""
        holder = self.holders.get(keyid)
        if holder is None or holder.subject.uri != _service(name):
            raise EvidenceInvalid(f"the certificate {keyid[:SHORT]}… of {name} is missing")
        return holder.public_key

    def _manifest(self) -> str:
        steps.check_manifest(self.record, public_bytes(self.service(self.record.manifest.keyid, "coordinator")))
        plan = self.record.manifest.manifest
        return f"The coordinator signed the plan: {plan.kind} round {plan.number}, attempt {plan.attempt}."

    def _cohort(self) -> str:
        steps.check_cohort(self.record)
        plan, count = self.record.manifest.manifest, self.record.contributors
        invited = many(len(plan.cohort), "invited site")
        return f"{count} of {invited} are in the sum; at least {plan.min_cohort} had to be."

    def _protection(self) -> CheckResult:
        try:
            facts, sentence = engine_facts(self.record.engine), engine_audit(self.record.engine).protection(self.record)
        except Refusal as refusal:
            return _failed("protection", refusal)
        return CheckResult("protection", True, sentence, caution=facts.sees_updates)

    def _engine_checks(self) -> Sequence[Check]:
        """Return what the engine adds; nothing for an engine that is unknown here, of which "protection" tells."""
        if self.record.engine not in ENGINES:
            return ()
        return engine_audit(self.record.engine).checks(self.record, self._vouchers)

    def _vouchers(self) -> list[bytes]:
        """Keys of the service that vouches for the set of updates: the one that the record names, else all of them."""
        named, service = named_voucher(self.record), engine_facts(self.record.engine).vouched_by
        if named is not None:
            return [public_bytes(self.service(named[1], named[0]))]
        certified = [each for each in self.holders.values() if each.subject.uri == _service(str(service))]
        return [public_bytes(each.public_key) for each in certified]

    def _samples(self) -> CheckResult:
        if not self.record.samples:
            sentence = "No site committed to its sample count: the aggregator of then asked for none."
            return CheckResult("samples", True, sentence, caution=True)
        return _run("samples", self._check_samples)

    def _check_samples(self) -> str:
        proofs, plan = check_samples(self.record), self.record.manifest.manifest
        limit = plan.encoding.max_weight if plan.encoding else 1
        unit = many(plan.weight_unit, "sample")
        where = "all here, and hold" if proofs == len(self.record.samples) else "in part in earlier rounds' records"
        return (
            f"{many(len(self.record.samples), 'site')} committed to their sample counts; the proofs that each is "
            f"1 to {limit} times {unit} are {where}. They do not show how the update was weighed."
        )

    def _transcript(self) -> str:
        heads = steps.check_transcript(self.record)
        return f"The transcript comes out the same in all {len(heads)} steps: {heads[-1].hex()[:SHORT]}…"

    def _sum(self) -> str:
        *_, before, last = steps.transcript_of(self.record)
        total = Transcript(before).total(bytes.fromhex(self.record.sum_digest)).head
        if total != last or last.hex() != self.record.transcript:
            raise EvidenceInvalid("the transcript does not end in the digest of the sum")
        return f"The transcript ends in the digest of the opened sum: {self.record.sum_digest[:SHORT]}…"

    def _result(self) -> str:
        result, plan = self.record.result, self.record.manifest.manifest
        if (result.version_id is not None) != (plan.kind in MAKES_VERSION):
            raise EvidenceInvalid(f"a round of kind {plan.kind} has another kind of result")
        if result.version_id is None:
            return f"The round made no model version; its values have the digest {str(result.values_digest)[:SHORT]}…"
        version = self._version(result.version_id)
        if version.content_digest != result.content_digest or version.model_id != plan.model_id:
            raise EvidenceInvalid("the version's content or model is another than the record's")
        for name, wanted in _expected(self.record).items():
            if version.lineage.get(name) != wanted and (name != "data" or name in version.lineage):
                raise EvidenceInvalid(f"the version's lineage names another {name.replace('_', ' ')} than the round")
        self._check_clipping(version)
        return f"Version {version.id} is the round's: same content, recipe, data, parent and number of sites."

    def _check_clipping(self, version: VersionEvidence) -> None:
        """Raise EvidenceInvalid where a clip norm that moves does not follow from the round before."""
        plan = self.record.manifest.manifest
        rule = None if plan.privacy is None else plan.privacy.adaptive_clip
        if rule is None or plan.encoding is None or plan.encoding.clip_norm is None or plan.model is None:
            return
        norm, parent = plan.encoding.clip_norm, self._version(plan.model.version_id).lineage
        first = parent.get("job_id") != plan.job_id or parent.get("kind") != RoundKind.TRAIN
        before = {"next": rule.start} if first else _clipping(parent)
        said = _clipping(version.lineage)
        if not math.isclose(norm, before["next"], rel_tol=CLIP_SLACK) or said["norm"] != norm:
            raise EvidenceInvalid(f"the round's clip norm {norm:g} does not follow from the round before")
        if not math.isclose(said["next"], next_clip(rule, norm, said["within"]), rel_tol=CLIP_SLACK):
            raise EvidenceInvalid("the next clip norm does not follow from the share of updates within this one")

    def _version(self, version_id: str) -> VersionEvidence:
        for version in self.evidence.versions:
            if version.id == version_id:
                return version
        raise EvidenceInvalid(f"version {version_id} is not in the evidence")

    def _lineage(self) -> str:
        for version in self.evidence.versions:
            self._check_signed(version)
        count = len(self.evidence.versions)
        if not count:
            return "No model version is involved."
        return (
            f"Publisher and registry signed {'the version' if count == 1 else f'all {count} versions'} of the lineage."
        )

    def _check_signed(self, version: VersionEvidence) -> None:
        imported = version.lineage.get("kind") == "import"
        roles = [signature.role for signature in version.signatures]
        if roles != ["publisher", "registry"] and not (imported and roles == ["registry"]):
            raise EvidenceInvalid(f"version {version.id} does not carry the signatures of publisher and registry")
        statement = version_statement(version.model_id, version.content_digest, dict(version.lineage))
        for item in version.signatures:
            try:
                self._signer(item, imported=imported).verify(bytes.fromhex(item.signature), statement)
            except InvalidSignature as error:
                raise EvidenceInvalid(f"the {item.role}'s signature does not fit version {version.id}") from error

    def _signer(self, item: VersionSignature, *, imported: bool) -> Ed25519PublicKey:
        if imported and item.role == "publisher" and item.keyid in self.holders:
            return self.holders[item.keyid].public_key
        return self.service(item.keyid, "aggregator" if item.role == "publisher" else "registry")

    def _parents(self) -> str:
        plan, by_id = self.record.manifest.manifest, {version.id: version for version in self.evidence.versions}
        if len(by_id) != len(self.evidence.versions):
            raise EvidenceInvalid("a version is in the evidence twice")
        if plan.model is not None and self._version(plan.model.version_id).content_digest != plan.model.digest:
            raise EvidenceInvalid("the round started from other content than its plan says")
        first = self.record.result.version_id or (plan.model.version_id if plan.model else None)
        waiting: list[str] = [first] if first else []
        seen: set[str] = set()
        while waiting:
            version = self._version(waiting.pop())
            if version.id in seen:
                continue
            seen.add(version.id)
            waiting += _parents(version)
        if seen != set(by_id):
            raise EvidenceInvalid("the evidence holds a version that is no ancestor")
        if not seen:
            return "The round started from no model."
        return f"The line of parents is complete, back to where it began: {many(len(seen), 'version')}."

    def _head(self) -> str:
        head = self.evidence.logged.head
        check_head(head, public_bytes(self.service(head.keyid, "keys")))
        at = datetime.fromtimestamp(head.timestamp_ms / 1000, UTC)
        return f"The keys service signed the log's head: {many(head.size, 'entry')} at {at:%Y-%m-%d %H:%M:%S} UTC."

    def _inclusion(self) -> str:
        logged = self.evidence.logged
        if logged.index != logged.proof.index:
            raise EvidenceInvalid("the proof is for another entry of the log")
        check_inclusion(logged.record, logged.proof, logged.head)
        return f"The round's record is entry {logged.index} of that log."


def _run(check: str, find: Callable[[], str]) -> CheckResult:
    try:
        return CheckResult(check, True, find())
    except Refusal as refusal:
        return _failed(check, refusal)
    except (ValueError, TypeError, LookupError, ArithmeticError, OSError) as error:
        return _failed(check, EvidenceInvalid(str(error) or type(error).__name__))


def _failed(check: str, refusal: Refusal) -> CheckResult:
    detail = refusal.detail
    return CheckResult(check, False, f"{detail[:1].upper()}{detail[1:].rstrip('.')}.")


def _expected(record: RoundRecord) -> dict[str, object]:
    """Return what the lineage of the round's version must say."""
    plan = record.manifest.manifest
    return {
        "job_id": plan.job_id,
        "round_id": plan.round_id,
        "kind": str(plan.kind),
        "parents": [plan.model.version_id] if plan.model else [],
        "recipe": {"name": plan.recipe.name, "digest": plan.recipe.digest},
        "data": plan.data.model_dump(mode="json"),
        "dataset_schema_digest": digest_document(plan.data.model_dump(mode="json")),
        "strategy": plan.strategy.name,
        "contributors": record.contributors,
        "privacy": None if plan.privacy is None else plan.privacy.model_dump(mode="json"),
    }


def _clipping(lineage: Mapping[str, object]) -> dict[str, float]:
    """Return what a version's lineage says of a clip norm that moves."""
    found = lineage.get("clipping")
    if not isinstance(found, dict) or not {"norm", "within", "next"} <= found.keys():
        raise EvidenceInvalid("a version's lineage does not say how its round's clip norm moved")
    said = {name: found[name] for name in ("norm", "within", "next")}
    if not all(isinstance(value, int | float) and math.isfinite(value) for value in said.values()):
        raise EvidenceInvalid("a version's lineage says how its round's clip norm moved by what is no number")
    return {name: float(value) for name, value in said.items()}


def _parents(version: VersionEvidence) -> list[str]:
    found = version.lineage.get("parents", [])
    if not isinstance(found, list):
        raise EvidenceInvalid(f"the parents of version {version.id} are no list")
    return [str(parent) for parent in found]


def _service(name: str) -> str:
    return f"undersong://service/{name}"
