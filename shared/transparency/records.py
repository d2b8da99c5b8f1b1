"""Round records and the log: their documents, and the checks that anyone can run over them, offline.

Pure: all keys are arguments.
"""

from collections.abc import Iterable
from dataclasses import dataclass

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from undersong.shared.errors import Forbidden, Refusal
from undersong.shared.identity.authority import Holder, check_certificate, public_bytes
from undersong.shared.ids import Digest, SiteId
from undersong.shared.merkle import proofs as merkle
from undersong.shared.secagg.engines import engine_audit, engine_facts
from undersong.shared.transparency.documents import ConsistencyProof as ConsistencyProof
from undersong.shared.transparency.documents import InclusionProof as InclusionProof
from undersong.shared.transparency.documents import LogEntry as LogEntry
from undersong.shared.transparency.documents import LoggedRecord as LoggedRecord
from undersong.shared.transparency.documents import LogHead as LogHead
from undersong.shared.transparency.documents import RoundRecord as RoundRecord
from undersong.shared.transparency.documents import RoundResult as RoundResult
from undersong.shared.transparency.documents import leaf_of as leaf_of
from undersong.shared.transparency.steps import RecordInvalid as RecordInvalid
from undersong.shared.transparency.steps import check_cohort, check_manifest, check_transcript
from undersong.shared.transparency.steps import transcript_of as transcript_of


class LogInvalid(Forbidden):
    """The transparency log does not hold together."""


@dataclass(frozen=True, slots=True)
class Signers:
    """Whose keys a record must be signed with: 32 raw bytes each."""

    coordinator: bytes
    witness: bytes


@dataclass(frozen=True, slots=True)
class RoundFacts:
    """What a checked record proves. `steps`: T0 to T4; threshold and quorum only where the engine has them.

    committed: how many survivors signed the survivor set themselves.
    """

    sites: tuple[SiteId, ...]
    invited: int
    min_cohort: int
    witnessed: bool
    threshold: int | None
    committed: int
    steps: tuple[Digest, ...]


def check_record(record: RoundRecord, witness_key: bytes, coordinator_key: bytes) -> RoundFacts:
    """Recompute and compare everything in a record; raises RecordInvalid with the reason.

    witness_key: of the party beside the aggregator that vouches for who is in the sum, where the engine has one (see
    `named_voucher`). Checked: the manifest's signature, cohort and minimum, what the engine adds
    (`undersong.shared.secagg.audit`), and the transcript.
    """
    check_manifest(record, coordinator_key)
    check_cohort(record)
    threshold = engine_audit(record.engine).check(record, witness_key)
    return _facts(record, check_transcript(record), threshold)


def named_voucher(record: RoundRecord) -> tuple[str, Digest] | None:
    """Return the service that vouches for who is in the sum and its certificate, where the record names that.

    Raises RecordInvalid or EngineUnknown.
    """
    service, keyid = engine_facts(record.engine).vouched_by, engine_audit(record.engine).named_voucher(record)
    return None if service is None or keyid is None else (service, keyid)


def signers(record: RoundRecord, ca_certificate: x509.Certificate, certificates: Iterable[x509.Certificate]) -> Signers:
    """Return the keys that the authority vouches for: the coordinator's by key id, and that of who vouches for the sum.

    Where the record does not name that one's certificate, it is known by its signature. `certificates`: the
    coordinator's, those of the service that vouches, any others. Raises RecordInvalid or CertificateUntrusted.
    """
    holders = [check_certificate(each, ca_certificate) for each in certificates]
    coordinator, named = _coordinator(record, holders), named_voucher(record)
    service = named[0] if named is not None else engine_facts(record.engine).vouched_by or "keys"
    known = [each for each in holders if _is_service(each, service) and (named is None or each.keyid == named[1])]
    if not known:
        raise RecordInvalid(f"the certificate of {service}, which vouched for the round, is missing")
    keys = [public_bytes(each.public_key) for each in known]
    return Signers(coordinator, next((key for key in keys if _vouched(record, key)), keys[0]))


def check_certified(
    record: RoundRecord, ca_certificate: x509.Certificate, certificates: Iterable[x509.Certificate]
) -> None:
    """Check that every site whose key the record relies on holds a certificate of this federation for it.

    Raises RecordInvalid or CertificateUntrusted. Engines whose records rely on no site's key pass.
    """
    federation = record.manifest.manifest.federation_id
    known = {
        (each.subject.name, public_bytes(each.public_key))
        for each in (check_certificate(item, ca_certificate) for item in certificates)
        if each.subject.kind == "site" and each.subject.federation_id == federation
    }
    for site_id, identity in engine_audit(record.engine).identities(record).items():
        if (site_id, identity) not in known:
            raise RecordInvalid(f"{site_id} has no certificate for the key in the roster")


def check_own_body(record: RoundRecord, site_id: SiteId, body: Digest) -> None:
    """Check that this site's update is in the sum as it was submitted; raises RecordInvalid."""
    if record.bodies.get(site_id) != body:
        raise RecordInvalid("the record names another update than this site submitted, or none")


def check_head(head: LogHead, key: bytes) -> None:
    """Check that the head is signed by this key of keys (32 raw bytes); raises LogInvalid."""
    try:
        Ed25519PublicKey.from_public_bytes(key).verify(bytes.fromhex(head.signature), head.statement())
    except (InvalidSignature, ValueError) as error:
        raise LogInvalid("the log's head does not carry the signature of keys") from error
    if head.size == 0 and head.root != merkle.EMPTY_ROOT.hex():
        raise LogInvalid("an empty log has another root")


def check_inclusion(leaf: LogEntry | RoundRecord, proof: InclusionProof, head: LogHead) -> None:
    """Check that the log holds the entry, or the round's record, under this head; raises LogInvalid."""
    if isinstance(leaf, LogEntry) and leaf.index != proof.index:
        raise LogInvalid("the proof is for another entry")
    if proof.size != head.size:
        raise LogInvalid("the proof and the head are of different sizes")
    value = bytes.fromhex(leaf.leaf()) if isinstance(leaf, LogEntry) else leaf_of(leaf.leaf_document())
    try:
        merkle.verify_inclusion(value, proof.index, proof.size, _path(proof), bytes.fromhex(head.root))
    except merkle.MerkleProofInvalid as error:
        raise LogInvalid(str(error)) from error


def check_consistency(old: LogHead, new: LogHead, proof: ConsistencyProof | None) -> None:
    """Check that the log behind `new` begins with the log behind `old`; raises LogInvalid.

    `proof` may be None where nothing needs one: equal sizes, or an old log that was empty.
    """
    if new.size < old.size:
        raise LogInvalid("the log has become shorter")
    if old.size == 0:
        if old.root != merkle.EMPTY_ROOT.hex():
            raise LogInvalid("an empty log has another root")
        return
    if old.size == new.size and old.root != new.root:
        raise LogInvalid("two roots for one size: the log was rewritten")
    if old.size == new.size and proof is None:
        return
    if proof is None or (proof.first, proof.second) != (old.size, new.size):
        raise LogInvalid("the proof is not between these two heads")
    try:
        merkle.verify_consistency(old.size, new.size, bytes.fromhex(old.root), bytes.fromhex(new.root), _path(proof))
    except merkle.MerkleProofInvalid as error:
        raise LogInvalid(str(error)) from error


def _facts(record: RoundRecord, heads: list[bytes], threshold: int | None) -> RoundFacts:
    manifest = record.manifest.manifest
    return RoundFacts(
        sites=tuple(sorted(record.bodies)),
        invited=len(manifest.cohort),
        min_cohort=manifest.min_cohort,
        witnessed=engine_facts(record.engine).vouched_by is not None,
        threshold=threshold,
        committed=len(record.commitments),
        steps=tuple(Digest(head.hex()) for head in heads),
    )


def _vouched(record: RoundRecord, key: bytes) -> bool:
    """Return whether the record carries this key's signature; nothing else is checked here."""
    try:
        engine_audit(record.engine).check_voucher(record, key)
    except (Refusal, ValueError):
        return False
    return True


def _coordinator(record: RoundRecord, holders: Iterable[Holder]) -> bytes:
    for holder in holders:
        if holder.keyid == record.manifest.keyid and _is_service(holder, "coordinator"):
            return public_bytes(holder.public_key)
    raise RecordInvalid("the certificate of the coordinator that signed the manifest is missing")


def _is_service(holder: Holder, name: str) -> bool:
    return holder.subject.kind == "service" and holder.subject.name == name


def _path(proof: InclusionProof | ConsistencyProof) -> list[bytes]:
    return [bytes.fromhex(item) for item in proof.path]
