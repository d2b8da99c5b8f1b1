"""The checks over a round's record, one by one; `shared.transparency.records.check_record` runs them all.

Each raises RecordInvalid with the reason. Pure: all keys are arguments, 32 raw bytes each.
"""

from collections.abc import Callable
from functools import wraps
from typing import Final, ParamSpec, TypeVar

from shared.errors import Forbidden, Refusal
from shared.ids import Digest, SiteId
from shared.secagg import transcript
from shared.secagg.pairwise import roster as rosters
from shared.secagg.pairwise.complaints import check_left_out, unpack_complaints
from shared.secagg.pairwise.messages import Survivors
from shared.secagg.pairwise.roster import Frame, Roster
from shared.secagg.pairwise.terms import terms
from shared.secagg.transcript import Transcript
from shared.secagg.twoserver.messages import Evidence as Accepted
from shared.transparency.documents import RoundRecord
from shared.wire.helper import TWOSERVER, accepted_statement

PAIRWISE: Final = "pairwise"
VOUCHED: Final = frozenset({PAIRWISE, TWOSERVER})
"""Engines with a party beside the aggregator that signs who is in the sum."""
P = ParamSpec("P")
R = TypeVar("R")


class RecordInvalid(Forbidden):
    """The round's record does not hold together."""


def _refusing(check: Callable[P, R]) -> Callable[P, R]:
    """Whatever goes wrong inside becomes RecordInvalid."""

    @wraps(check)
    def checked(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return check(*args, **kwargs)
        except RecordInvalid:
            raise
        except Refusal as error:
            raise RecordInvalid(error.detail) from error
        except (ValueError, TypeError, LookupError, ArithmeticError) as error:
            raise RecordInvalid(str(error)) from error

    return checked


@_refusing
def check_manifest(record: RoundRecord, coordinator_key: bytes) -> None:
    """The manifest is signed by the coordinator."""
    signed = record.manifest
    rosters.verify(coordinator_key, bytes.fromhex(signed.signature), signed.manifest.statement(), "the manifest")


@_refusing
def check_cohort(record: RoundRecord) -> None:
    """Engine, contributors and minimum are those of the manifest, and nobody from outside the cohort took part."""
    manifest, sites = record.manifest.manifest, record.bodies.keys()
    if record.engine != manifest.engine:
        raise RecordInvalid("the record is of another engine than the manifest")
    if record.contributors != len(sites):
        raise RecordInvalid("contributors is not the number of bodies")
    if not sites <= set(manifest.cohort):
        raise RecordInvalid("a body is from a site outside the cohort")
    if len(sites) < manifest.min_cohort:
        raise RecordInvalid(f"{len(sites)} updates are fewer than the minimum cohort of {manifest.min_cohort}")


def check_without_steps(record: RoundRecord) -> None:
    """The record of an engine without a witness claims nothing that a witness would have signed."""
    if record.roster or record.sharers or record.survivors or _said_by_sites(record):
        raise RecordInvalid(f"engine {record.engine} has no roster, sharers, survivors, signatures or complaints")


def _said_by_sites(record: RoundRecord) -> bool:
    return bool(record.commitments or record.upload_signatures or record.complaints or record.faults)


@_refusing
def check_helper(record: RoundRecord, helper_key: bytes) -> None:
    """The helper signed that it accepted exactly these bodies' reports, and its one share of their sum."""
    if record.roster or record.sharers or _said_by_sites(record):
        raise RecordInvalid(f"engine {record.engine} has no roster, sharers, signatures or complaints")
    said, manifest = accepted_of(record), record.manifest.manifest
    positions = {manifest.cohort.index(site): bytes.fromhex(digest) for site, digest in record.bodies.items()}
    if transcript.members(said.members, len(manifest.cohort)) != frozenset(positions):
        raise RecordInvalid("the bodies are not those of the sites whose reports the helper accepted")
    if transcript.body_root(positions) != said.root:
        raise RecordInvalid("the bodies do not lead to the root that the helper signed")
    statement = accepted_statement(manifest.digest(), said.members, said.root, said.share_digest)
    rosters.verify(helper_key, said.signature, statement, "the helper's set")


@_refusing
def helper_keyid(record: RoundRecord) -> Digest:
    """The certificate that the helper signed the accepted set with, as the record says."""
    return Digest(accepted_of(record).keyid.hex())


@_refusing
def check_roster(record: RoundRecord, witness_key: bytes) -> Frame:
    """Keys signed the roster, and each of its sites its own keys; the frame that follows from it."""
    fixed = terms(record.manifest.manifest, witness_key)
    frozen = roster_of(record)
    frozen.check(fixed)
    cohort = set(record.manifest.manifest.cohort)
    for member in frozen.members:
        if member.site_id not in cohort:
            raise RecordInvalid("the roster names a site outside the cohort")
        said = member.advertisement
        statement = rosters.advertisement_statement(fixed.ctx0, member.site_id, said.c, said.s, said.b)
        rosters.verify(member.identity, said.signature, statement, member.site_id)
    return Frame.of(frozen, fixed)


@_refusing
def check_survivors(record: RoundRecord, frame: Frame, witness_key: bytes) -> None:
    """Keys signed the survivors; over them only one sum opens, and they are those whose bodies were summed."""
    survivors, frozen, n = survivors_of(record), frame.roster, len(frame.roster.members)
    sharers = transcript.members(bytes.fromhex(record.sharers or ""), n)
    alive = transcript.members(survivors.members, n)
    frame.check_survivors(sharers, alive, record.manifest.manifest.min_cohort)
    if {frozen.members[i].site_id for i in alive} != set(record.bodies):
        raise RecordInvalid("the bodies are not those of the survivors")
    rosters.verify(witness_key, survivors.signature, _survivors_statement(record, frame), "the survivor set")


@_refusing
def check_bodies(record: RoundRecord, frame: Frame) -> None:
    """The bodies lead to the root that was signed with the survivors."""
    digests = {frame.roster.position(site): bytes.fromhex(digest) for site, digest in record.bodies.items()}
    if transcript.body_root(digests) != survivors_of(record).root:
        raise RecordInvalid("the bodies do not lead to the root that was signed")


@_refusing
def check_complaints(record: RoundRecord, frame: Frame) -> None:
    """Complaints are signed by members of the roster, and no dealer about whom too many complain is a sharer."""
    frozen = frame.roster
    said = {frozen.position(site): bytes.fromhex(packed) for site, packed in record.complaints.items()}
    sharers = transcript.members(bytes.fromhex(record.sharers or ""), len(frozen.members))
    check_left_out(frame, terms(record.manifest.manifest, b"").corrupt, said, sharers)
    for site in record.faults:
        frozen.position(site)


@_refusing
def complainers(record: RoundRecord, site_id: SiteId) -> tuple[SiteId, ...]:
    """The sites that could not use the shares that this site dealt, by their own signed complaints."""
    if not record.complaints:
        return ()
    me = roster_of(record).position(site_id)
    said = {site: unpack_complaints(bytes.fromhex(packed)) for site, packed in record.complaints.items()}
    return tuple(site for site, items in sorted(said.items()) if any(each.dealer == me for each in items))


@_refusing
def check_uploads(record: RoundRecord, frame: Frame) -> None:
    """Each site in the sum signed its own body, for this round and these sharers."""
    if missing := sorted(record.bodies.keys() - record.upload_signatures.keys()):
        raise RecordInvalid(f"{', '.join(missing)} did not sign the update that is recorded as theirs")
    if stray := sorted(record.upload_signatures.keys() - record.bodies.keys()):
        raise RecordInvalid(f"{', '.join(stray)} signed an update that is not in the sum")
    sharers = bytes.fromhex(record.sharers or "")
    for site, digest in record.bodies.items():
        identity = frame.roster.members[frame.roster.position(site)].identity
        statement = rosters.masked_statement(frame.ctx, sharers, bytes.fromhex(digest))
        rosters.verify(identity, bytes.fromhex(record.upload_signatures[site]), statement, f"the update of {site}")


@_refusing
def check_commitments(record: RoundRecord, frame: Frame) -> None:
    """In quorum mode enough survivors signed the survivor set themselves; whoever signed is a survivor."""
    needed = frame.topology.quorum if record.manifest.manifest.engine_params.get("quorum") is True else 0
    if len(record.commitments) < needed:
        raise RecordInvalid(f"{len(record.commitments)} of {needed} survivors committed to the survivor set")
    statement = _survivors_statement(record, frame)
    for site, signature in record.commitments.items():
        if site not in record.bodies:
            raise RecordInvalid("a commitment is from a site that is no survivor")
        identity = frame.roster.members[frame.roster.position(site)].identity
        rosters.verify(identity, bytes.fromhex(signature), statement, f"the commitment of {site}")


@_refusing
def check_transcript(record: RoundRecord) -> list[bytes]:
    """The transcript that the record names is that of its steps; its heads."""
    heads = transcript_of(record)
    if heads[-1].hex() != record.transcript:
        raise RecordInvalid("the transcript is not the one of these steps")
    return heads


def transcript_of(record: RoundRecord) -> list[bytes]:
    """The transcript's heads T0, T1, … up to the last, which belongs into `RoundRecord.transcript`.

    `pairwise` has all five. Other engines skip roster and sharers; their survivors are positions in the cohort.
    """
    manifest = record.manifest.manifest
    heads = [Transcript.begin(bytes.fromhex(manifest.digest()))]
    if record.engine == PAIRWISE:
        frozen, survivors = roster_of(record), survivors_of(record)
        heads.append(heads[-1].roster(frozen.root, frozen.nonce))
        heads.append(heads[-1].sharers(bytes.fromhex(record.sharers or "")))
        members, root = survivors.members, survivors.root
    else:
        positions = {manifest.cohort.index(site): bytes.fromhex(digest) for site, digest in record.bodies.items()}
        members, root = transcript.bitmap(frozenset(positions), len(manifest.cohort)), transcript.body_root(positions)
    heads.append(heads[-1].survivors(members, root))
    heads.append(heads[-1].total(bytes.fromhex(record.sum_digest)))
    return [each.head for each in heads]


def roster_of(record: RoundRecord) -> Roster:
    """The record's roster; raises RecordInvalid or MalformedStep."""
    if record.roster is None or record.sharers is None:
        raise RecordInvalid("the record of a pairwise round needs its roster and sharers")
    return Roster.unpack(bytes.fromhex(record.roster))


def accepted_of(record: RoundRecord) -> Accepted:
    """What the helper signed; raises RecordInvalid or MessageMalformed."""
    if record.survivors is None:
        raise RecordInvalid("the record of a twoserver round needs what the helper signed")
    return Accepted.unpack(bytes.fromhex(record.survivors))


def survivors_of(record: RoundRecord) -> Survivors:
    """The record's survivors; raises RecordInvalid or MalformedStep."""
    if record.survivors is None:
        raise RecordInvalid("the record of a pairwise round needs its survivors")
    return Survivors.unpack(bytes.fromhex(record.survivors))


def _survivors_statement(record: RoundRecord, frame: Frame) -> bytes:
    survivors, attempt = survivors_of(record), record.manifest.manifest.attempt
    return rosters.survivors_statement(frame.ctx, attempt, survivors.members, survivors.root)
