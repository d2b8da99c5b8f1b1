"""Round records and the log: their documents, and the checks that anyone can run over them, offline.

Pure: all keys are arguments.
"""

from collections.abc import Iterable
from dataclasses import dataclass, replace

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from shared.errors import Forbidden, Refusal
from shared.identity.authority import Holder, check_certificate, public_bytes
from shared.ids import Digest, SiteId
from shared.secagg.pairwise import roster as rosters
from shared.secagg.pairwise import transcript
from shared.secagg.pairwise.messages import Survivors
from shared.secagg.pairwise.roster import Frame, Roster
from shared.secagg.pairwise.terms import terms
from shared.secagg.pairwise.transcript import Transcript
from shared.transparency import merkle
from shared.transparency.documents import ConsistencyProof as ConsistencyProof
from shared.transparency.documents import InclusionProof as InclusionProof
from shared.transparency.documents import LogEntry as LogEntry
from shared.transparency.documents import LoggedRecord as LoggedRecord
from shared.transparency.documents import LogHead as LogHead
from shared.transparency.documents import RoundRecord as RoundRecord
from shared.transparency.documents import RoundResult as RoundResult
from shared.transparency.documents import leaf_of as leaf_of

PAIRWISE = "pairwise"


class RecordInvalid(Forbidden):
    """The round's record does not hold together."""


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

    Checked: the manifest's signature, cohort and minimum, every advertisement, the witness's signatures over roster
    and survivors, the root over the bodies, the survivors' own signatures in quorum mode, and the transcript.
    """
    manifest = record.manifest.manifest
    _verify(coordinator_key, record.manifest.signature, manifest.statement(), "the manifest")
    _check_cohort(record)
    if record.engine != PAIRWISE:
        if record.roster or record.sharers or record.survivors or record.commitments:
            raise RecordInvalid(f"engine {record.engine} has no roster, sharers, survivors or commitments")
        return _facts(record, _check_transcript(record), threshold=None)
    try:
        return _check_pairwise(record, witness_key)
    except RecordInvalid:
        raise
    except (Refusal, ValueError) as error:
        raise RecordInvalid(str(error)) from error


def transcript_of(record: RoundRecord) -> list[bytes]:
    """The transcript's heads T0, T1, … up to the last, which belongs into `RoundRecord.transcript`.

    `pairwise` has all five. Other engines skip roster and sharers; their survivors are positions in the cohort.
    """
    manifest = record.manifest.manifest
    heads = [Transcript.begin(bytes.fromhex(manifest.digest()))]
    if record.engine == PAIRWISE:
        frozen, survivors = _roster(record), _survivors(record)
        heads.append(heads[-1].roster(frozen.root, frozen.nonce))
        heads.append(heads[-1].sharers(bytes.fromhex(record.sharers or "")))
        members, root = survivors.members, survivors.root
    else:
        positions = {manifest.cohort.index(site): bytes.fromhex(digest) for site, digest in record.bodies.items()}
        members, root = transcript.bitmap(frozenset(positions), len(manifest.cohort)), rosters.body_root(positions)
    heads.append(heads[-1].survivors(members, root))
    heads.append(heads[-1].total(bytes.fromhex(record.sum_digest)))
    return [each.head for each in heads]


def signers(record: RoundRecord, ca_certificate: x509.Certificate, certificates: Iterable[x509.Certificate]) -> Signers:
    """The keys that the authority vouches for: the coordinator's by key id, the witness's by its signature.

    `certificates`: the coordinator's, those of keys, any others. Raises RecordInvalid or CertificateUntrusted.
    """
    holders = [check_certificate(each, ca_certificate) for each in certificates]
    coordinator = _coordinator(record, holders)
    witnesses = [public_bytes(each.public_key) for each in holders if _is_service(each, "keys")]
    if not witnesses:
        raise RecordInvalid("the certificate of keys, which witnessed the round, is missing")
    return Signers(coordinator, next((key for key in witnesses if _signed_roster(record, key)), witnesses[0]))


def check_certified(
    record: RoundRecord, ca_certificate: x509.Certificate, certificates: Iterable[x509.Certificate]
) -> None:
    """Every site of the roster holds a certificate of this federation for the key it signed with.

    Raises RecordInvalid or CertificateUntrusted. Engines without a roster pass.
    """
    if record.roster is None:
        return
    federation = record.manifest.manifest.federation_id
    known = {
        (each.subject.name, public_bytes(each.public_key))
        for each in (check_certificate(item, ca_certificate) for item in certificates)
        if each.subject.kind == "site" and each.subject.federation_id == federation
    }
    for member in _roster(record).members:
        if (member.site_id, member.identity) not in known:
            raise RecordInvalid(f"{member.site_id} has no certificate for the key in the roster")


def check_own_body(record: RoundRecord, site_id: SiteId, body: Digest) -> None:
    """This site's update is in the sum as it was handed in; raises RecordInvalid."""
    if record.bodies.get(site_id) != body:
        raise RecordInvalid("the record names another update than this site handed in, or none")


def check_head(head: LogHead, key: bytes) -> None:
    """The head is signed by this key of keys (32 raw bytes); raises LogInvalid."""
    try:
        Ed25519PublicKey.from_public_bytes(key).verify(bytes.fromhex(head.signature), head.statement())
    except (InvalidSignature, ValueError) as error:
        raise LogInvalid("the log's head does not carry the signature of keys") from error
    if head.size == 0 and head.root != merkle.EMPTY_ROOT.hex():
        raise LogInvalid("an empty log has another root")


def check_inclusion(leaf: LogEntry | RoundRecord, proof: InclusionProof, head: LogHead) -> None:
    """The entry, or the round's record, stands in the log under this head; raises LogInvalid."""
    if isinstance(leaf, LogEntry) and leaf.index != proof.index:
        raise LogInvalid("the proof is for another entry")
    if proof.size != head.size:
        raise LogInvalid("the proof and the head are of different sizes")
    value = bytes.fromhex(leaf.leaf()) if isinstance(leaf, LogEntry) else leaf_of(leaf.leaf_document())
    try:
        merkle.verify_inclusion(value, proof.index, proof.size, _path(proof), bytes.fromhex(head.root))
    except merkle.ProofInvalid as error:
        raise LogInvalid(str(error)) from error


def check_consistency(old: LogHead, new: LogHead, proof: ConsistencyProof | None) -> None:
    """The log behind `new` begins with the log behind `old`; raises LogInvalid.

    `proof` may be None where nothing needs one: equal sizes, or an old log that was empty.
    """
    if new.size < old.size:
        raise LogInvalid("the log has become shorter")
    if old.size == 0:
        return
    if old.size == new.size and old.root != new.root:
        raise LogInvalid("two roots for one size: the log was rewritten")
    if old.size == new.size and proof is None:
        return
    if proof is None or (proof.first, proof.second) != (old.size, new.size):
        raise LogInvalid("the proof is not between these two heads")
    try:
        merkle.verify_consistency(old.size, new.size, bytes.fromhex(old.root), bytes.fromhex(new.root), _path(proof))
    except merkle.ProofInvalid as error:
        raise LogInvalid(str(error)) from error


def _check_cohort(record: RoundRecord) -> None:
    manifest, sites = record.manifest.manifest, record.bodies.keys()
    if record.engine != manifest.engine:
        raise RecordInvalid("the record is of another engine than the manifest")
    if record.contributors != len(sites):
        raise RecordInvalid("contributors is not the number of bodies")
    if not sites <= set(manifest.cohort):
        raise RecordInvalid("a body is from a site outside the cohort")
    if len(sites) < manifest.min_cohort:
        raise RecordInvalid(f"{len(sites)} updates are fewer than the minimum cohort of {manifest.min_cohort}")


def _check_pairwise(record: RoundRecord, witness_key: bytes) -> RoundFacts:
    fixed = terms(record.manifest.manifest, witness_key)
    frozen, survivors = _roster(record), _survivors(record)
    frozen.check(fixed)
    _check_members(record, frozen, fixed.ctx0)
    frame, n = Frame.of(frozen, fixed), len(frozen.members)
    sharers, alive = (
        transcript.members(bytes.fromhex(record.sharers or ""), n),
        transcript.members(survivors.members, n),
    )
    if not alive <= sharers:
        raise RecordInvalid("a survivor is not among the sharers")
    if len(alive) < max(fixed.min_cohort, frame.topology.threshold):
        raise RecordInvalid("there are fewer survivors than the threshold")
    if {frozen.members[i].site_id for i in alive} != set(record.bodies):
        raise RecordInvalid("the bodies are not those of the survivors")
    digests = {frozen.position(site): bytes.fromhex(digest) for site, digest in record.bodies.items()}
    if rosters.body_root(digests) != survivors.root:
        raise RecordInvalid("the bodies do not lead to the root that was signed")
    statement = rosters.survivors_statement(frame.ctx, fixed.attempt, survivors.members, survivors.root)
    rosters.verify(witness_key, survivors.signature, statement, "the survivor set")
    _check_commitments(record, frozen, statement, needed=frame.topology.threshold if fixed.quorum else 0)
    return _facts(record, _check_transcript(record), threshold=frame.topology.threshold)


def _check_members(record: RoundRecord, frozen: Roster, ctx0: bytes) -> None:
    cohort = set(record.manifest.manifest.cohort)
    for member in frozen.members:
        if member.site_id not in cohort:
            raise RecordInvalid("the roster names a site outside the cohort")
        said = member.advertisement
        statement = rosters.advertisement_statement(ctx0, member.site_id, said.c, said.s, said.b)
        rosters.verify(member.identity, said.signature, statement, member.site_id)


def _check_commitments(record: RoundRecord, frozen: Roster, statement: bytes, needed: int) -> None:
    if len(record.commitments) < needed:
        raise RecordInvalid(f"{len(record.commitments)} of {needed} survivors committed to the survivor set")
    for site, signature in record.commitments.items():
        if site not in record.bodies:
            raise RecordInvalid("a commitment is from a site that is no survivor")
        identity = frozen.members[frozen.position(site)].identity
        rosters.verify(identity, bytes.fromhex(signature), statement, f"the commitment of {site}")


def _check_transcript(record: RoundRecord) -> list[bytes]:
    heads = transcript_of(record)
    if heads[-1].hex() != record.transcript:
        raise RecordInvalid("the transcript is not the one of these steps")
    return heads


def _facts(record: RoundRecord, heads: list[bytes], threshold: int | None) -> RoundFacts:
    manifest = record.manifest.manifest
    return RoundFacts(
        sites=tuple(sorted(record.bodies)),
        invited=len(manifest.cohort),
        min_cohort=manifest.min_cohort,
        witnessed=threshold is not None,
        threshold=threshold,
        committed=len(record.commitments),
        steps=tuple(Digest(head.hex()) for head in heads),
    )


def _roster(record: RoundRecord) -> Roster:
    if record.roster is None or record.sharers is None:
        raise RecordInvalid("the record of a pairwise round needs its roster and sharers")
    return Roster.unpack(bytes.fromhex(record.roster))


def _survivors(record: RoundRecord) -> Survivors:
    if record.survivors is None:
        raise RecordInvalid("the record of a pairwise round needs its survivors")
    return Survivors.unpack(bytes.fromhex(record.survivors))


def _signed_roster(record: RoundRecord, key: bytes) -> bool:
    """Whether the roster carries this key's signature; nothing else is checked here."""
    try:
        frozen = _roster(record)
        fixed = replace(terms(record.manifest.manifest, key), min_cohort=0)
        frozen.check(fixed)
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


def _verify(key: bytes, signature: str, statement: bytes, what: str) -> None:
    try:
        rosters.verify(key, bytes.fromhex(signature), statement, what)
    except Refusal as error:
        raise RecordInvalid(error.detail) from error


def _path(proof: InclusionProof | ConsistencyProof) -> list[bytes]:
    return [bytes.fromhex(item) for item in proof.path]
