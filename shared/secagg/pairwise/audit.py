"""What the record of a round of engine `pairwise` must show: roster, survivors, bodies, signatures, complaints."""

from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from typing import Final

from undersong.shared.errors import Refusal
from undersong.shared.ids import Digest, SiteId
from undersong.shared.secagg import transcript
from undersong.shared.secagg.audit import Check, RecordInvalid, finished, many, refusing
from undersong.shared.secagg.pairwise.complaints import check_left_out, unpack_complaints
from undersong.shared.secagg.pairwise.messages import Survivors
from undersong.shared.secagg.pairwise.roster import (
    Frame,
    Roster,
    advertisement_statement,
    masked_statement,
    survivors_statement,
    verify,
)
from undersong.shared.secagg.pairwise.terms import terms
from undersong.shared.secagg.transcript import Transcript
from undersong.shared.wire.records import RoundRecord


class PairwiseAudit:
    """The engine's checks (`undersong.shared.secagg.audit.EngineAudit`)."""

    def protection(self, record: RoundRecord) -> str:  # noqa: ARG002
        """Say that masks hid each update."""
        return "Masks hid each update from every service; only their sum was opened."

    def named_voucher(self, record: RoundRecord) -> Digest | None:  # noqa: ARG002
        """Return the record does not say with which of its certificates the witness signed."""
        return None

    def check_voucher(self, record: RoundRecord, voucher: bytes) -> None:
        """Raise unless this key signed the roster."""
        check_roster(record, voucher)

    def identities(self, record: RoundRecord) -> Mapping[SiteId, bytes]:
        """Return the identity keys in the roster."""
        return {SiteId(member.site_id): member.identity for member in roster_of(record).members}

    def check(self, record: RoundRecord, voucher: bytes) -> int:
        """Check everything; return the threshold."""
        checks = _Checks(record, lambda: [voucher])
        for check in checks.all():
            check.find()
        return checks.frame.topology.threshold

    def checks(self, record: RoundRecord, vouchers: Callable[[], Sequence[bytes]]) -> Sequence[Check]:
        """Return the checks, which share the frame that follows from the roster."""
        return _Checks(record, vouchers).all()

    @refusing
    def complainers(self, record: RoundRecord, site_id: SiteId) -> tuple[SiteId, ...]:
        """Return the sites that could not use the shares that this site dealt."""
        if not record.complaints:
            return ()
        me = roster_of(record).position(site_id)
        said = {site: unpack_complaints(bytes.fromhex(packed)) for site, packed in record.complaints.items()}
        return tuple(site for site, items in sorted(said.items()) if any(each.dealer == me for each in items))

    @refusing
    def transcript(self, record: RoundRecord) -> list[bytes]:
        """Return T0 to T4."""
        frozen, survivors = roster_of(record), survivors_of(record)
        begun = Transcript.begin(bytes.fromhex(record.manifest.manifest.digest()))
        roster = begun.roster(frozen.root, frozen.nonce)
        sharers = roster.sharers(bytes.fromhex(record.sharers or ""))
        return finished(record, [begun, roster, sharers], survivors.members, survivors.root)


class _Checks:
    """The checks over one record."""

    def __init__(self, record: RoundRecord, vouchers: Callable[[], Sequence[bytes]]) -> None:
        self._record, self._vouchers = record, vouchers

    def all(self) -> Sequence[Check]:
        """Return them in the order in which they build on each other."""
        return (
            Check("roster", self._roster),
            Check("survivors", self._survivors),
            Check("bodies", self._bodies),
            Check("uploads", self._uploads),
            Check("commitments", self._commitments),
        )

    @property
    def frame(self) -> Frame:
        """What follows from the roster that one of the witness's certificates signed; raises RecordInvalid."""
        return self._witnessed[1]

    @cached_property
    def _witnessed(self) -> tuple[bytes, Frame]:
        refused: Refusal = RecordInvalid("the certificate of keys, which witnessed the round, is missing")
        for key in self._vouchers():
            try:
                return key, check_roster(self._record, key)
            except Refusal as refusal:
                refused = refusal
        raise refused

    def _roster(self) -> str:
        members = len(self.frame.roster.members)
        sites = many(members, "site")
        return f"The keys service signed one roster of {sites}, each with round keys that the site had signed."

    def _survivors(self) -> str:
        key, frame = self._witnessed
        check_survivors(self._record, frame, key)
        check_complaints(self._record, frame)
        threshold, number = frame.topology.threshold, self._record.contributors
        return f"The keys service signed which {number} sites survived; opening their sum took {threshold} of them."

    def _bodies(self) -> str:
        check_bodies(self._record, self.frame)
        return "The updates in the sum are exactly those that were signed for, none left out or put in."

    def _uploads(self) -> str:
        check_uploads(self._record, self.frame)
        number = many(self._record.contributors, "site")
        return f"Each of the {number} signed the update that is in the sum as its own."

    def _commitments(self) -> str:
        check_commitments(self._record, self.frame)
        if not self._record.commitments:
            return "Keys alone vouches for the survivors, as the plan said (witness mode)."
        return f"{many(len(self._record.commitments), 'survivor')} signed the same set of survivors themselves."


@refusing
def check_roster(record: RoundRecord, witness_key: bytes) -> Frame:
    """Check the keys service's signature of the roster, and each site's of its own keys; return the frame."""
    fixed = terms(record.manifest.manifest, witness_key)
    frozen = roster_of(record)
    frozen.check(fixed)
    cohort = set(record.manifest.manifest.cohort)
    for member in frozen.members:
        if member.site_id not in cohort:
            raise RecordInvalid("the roster names a site outside the cohort")
        said = member.advertisement
        statement = advertisement_statement(fixed.ctx0, member.site_id, said.c, said.s, said.b)
        verify(member.identity, said.signature, statement, member.site_id)
    return Frame.of(frozen, fixed)


@refusing
def check_survivors(record: RoundRecord, frame: Frame, witness_key: bytes) -> None:
    """Check the keys service's signature of the survivors, and that the one sum that opens is over their bodies."""
    survivors, frozen, n = survivors_of(record), frame.roster, len(frame.roster.members)
    sharers = transcript.members(bytes.fromhex(record.sharers or ""), n)
    alive = transcript.members(survivors.members, n)
    frame.check_survivors(sharers, alive, record.manifest.manifest.min_cohort)
    if {frozen.members[i].site_id for i in alive} != set(record.bodies):
        raise RecordInvalid("the bodies are not those of the survivors")
    verify(witness_key, survivors.signature, _survivors_statement(record, frame), "the survivor set")


@refusing
def check_complaints(record: RoundRecord, frame: Frame) -> None:
    """Complaints are signed by members of the roster, and no dealer about whom too many complain is a sharer."""
    frozen = frame.roster
    said = {frozen.position(site): bytes.fromhex(packed) for site, packed in record.complaints.items()}
    sharers = transcript.members(bytes.fromhex(record.sharers or ""), len(frozen.members))
    check_left_out(frame, terms(record.manifest.manifest, b"").corrupt, said, sharers)
    for site in record.faults:
        frozen.position(site)


@refusing
def check_bodies(record: RoundRecord, frame: Frame) -> None:
    """Check that the bodies lead to the root that was signed with the survivors."""
    digests = {frame.roster.position(site): bytes.fromhex(digest) for site, digest in record.bodies.items()}
    if transcript.body_root(digests) != survivors_of(record).root:
        raise RecordInvalid("the bodies do not lead to the root that was signed")


@refusing
def check_uploads(record: RoundRecord, frame: Frame) -> None:
    """Check that each site in the sum signed its own body, for this round and these sharers."""
    if missing := sorted(record.bodies.keys() - record.upload_signatures.keys()):
        raise RecordInvalid(f"{', '.join(missing)} did not sign the update that is recorded as theirs")
    if stray := sorted(record.upload_signatures.keys() - record.bodies.keys()):
        raise RecordInvalid(f"{', '.join(stray)} signed an update that is not in the sum")
    sharers = bytes.fromhex(record.sharers or "")
    for site, digest in record.bodies.items():
        identity = frame.roster.members[frame.roster.position(site)].identity
        statement = masked_statement(frame.ctx, sharers, bytes.fromhex(digest))
        verify(identity, bytes.fromhex(record.upload_signatures[site]), statement, f"the update of {site}")


@refusing
def check_commitments(record: RoundRecord, frame: Frame) -> None:
    """In quorum mode enough survivors signed the survivor set themselves; every signer is a survivor."""
    needed = frame.topology.quorum if record.manifest.manifest.engine_params.get("quorum") is True else 0
    if len(record.commitments) < needed:
        raise RecordInvalid(f"{len(record.commitments)} of {needed} survivors committed to the survivor set")
    statement = _survivors_statement(record, frame)
    for site, signature in record.commitments.items():
        if site not in record.bodies:
            raise RecordInvalid("a commitment is from a site that is no survivor")
        identity = frame.roster.members[frame.roster.position(site)].identity
        verify(identity, bytes.fromhex(signature), statement, f"the commitment of {site}")


def roster_of(record: RoundRecord) -> Roster:
    """Return the record's roster; raises RecordInvalid or MalformedStep."""
    if record.roster is None or record.sharers is None:
        raise RecordInvalid("the record of a pairwise round needs its roster and sharers")
    return Roster.unpack(bytes.fromhex(record.roster))


def survivors_of(record: RoundRecord) -> Survivors:
    """Return the record's survivors; raises RecordInvalid or MalformedStep."""
    if record.survivors is None:
        raise RecordInvalid("the record of a pairwise round needs its survivors")
    return Survivors.unpack(bytes.fromhex(record.survivors))


def _survivors_statement(record: RoundRecord, frame: Frame) -> bytes:
    survivors, attempt = survivors_of(record), record.manifest.manifest.attempt
    return survivors_statement(frame.ctx, attempt, survivors.members, survivors.root)


AUDIT: Final = PairwiseAudit()
