"""What an engine's part of a round's record must show, and in which sentences `verify` says that it does.

Every engine has an `EngineAudit` in its folder. Pure, offline, without the engine's kernels: keys are arguments, 32 raw
bytes each.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import wraps
from typing import ParamSpec, Protocol, TypeVar

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from undersong.shared.errors import Forbidden, Refusal
from undersong.shared.ids import Digest, SiteId
from undersong.shared.secagg import transcript
from undersong.shared.secagg.transcript import Transcript
from undersong.shared.wire.records import RoundRecord

P = ParamSpec("P")
R = TypeVar("R")


class RecordInvalid(Forbidden):
    """The round's record does not hold together."""


@dataclass(frozen=True, slots=True)
class Check:
    """One check of a record: `find` returns the sentence that says what was found, or raises a Refusal."""

    name: str
    find: Callable[[], str]


class EngineAudit(Protocol):
    """The checks over an engine's part of a record. All raise RecordInvalid with the reason."""

    def protection(self, record: RoundRecord) -> str:
        """Return the sentence about who could see an update; it claims nothing that the engine does not give."""

    def named_voucher(self, record: RoundRecord) -> Digest | None:
        """Return the certificate with which the set of updates was vouched for, where the record names it."""

    def check_voucher(self, record: RoundRecord, voucher: bytes) -> None:
        """Raise unless this key vouched for the round, as far as that shows before anything else is checked."""

    def identities(self, record: RoundRecord) -> Mapping[SiteId, bytes]:
        """Return the sites' keys that the record relies on, each of which the authority must have certified."""

    def check(self, record: RoundRecord, voucher: bytes) -> int | None:
        """Check all of the engine's part; return how many sites it took to open the sum, where the engine has that."""

    def checks(self, record: RoundRecord, vouchers: Callable[[], Sequence[bytes]]) -> Sequence[Check]:
        """Return the same checks one by one. `vouchers`: the certified keys of the service that vouches."""

    def complainers(self, record: RoundRecord, site_id: SiteId) -> tuple[SiteId, ...]:
        """Return the sites that could not use what this site gave them, by their own signed complaints."""

    def transcript(self, record: RoundRecord) -> list[bytes]:
        """Return the transcript's heads T0, T1, … of the engine's steps."""


def many(count: int, noun: str) -> str:
    """Return ``1 site``, ``2,000 sites`` or ``2 entries``."""
    if count == 1:
        return f"1 {noun}"
    return f"{count:,} {noun[:-1]}ies" if noun.endswith("y") else f"{count:,} {noun}s"


def refusing(check: Callable[P, R]) -> Callable[P, R]:
    """Turn whatever goes wrong inside into RecordInvalid."""

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


def check_signature(public_key: bytes, signature: bytes, statement: bytes, what: str) -> None:
    """Check an Ed25519 signature; raises RecordInvalid naming `what`."""
    try:
        Ed25519PublicKey.from_public_bytes(public_key).verify(signature, statement)
    except (InvalidSignature, ValueError) as error:
        raise RecordInvalid(f"{what} does not carry a valid signature") from error


def said_by_sites(record: RoundRecord) -> bool:
    """Return whether the record holds anything that sites signed or were blamed for."""
    return bool(record.commitments or record.upload_signatures or record.complaints or record.faults)


def body_positions(record: RoundRecord) -> dict[int, bytes]:
    """Return the digests of the summed bodies by their sites' positions in the cohort."""
    cohort = record.manifest.manifest.cohort
    return {cohort.index(site): bytes.fromhex(digest) for site, digest in record.bodies.items()}


def cohort_transcript(record: RoundRecord) -> list[bytes]:
    """Return the heads of a round without roster and sharers; its survivors are positions in the cohort."""
    manifest, positions = record.manifest.manifest, body_positions(record)
    members = transcript.bitmap(frozenset(positions), len(manifest.cohort))
    begun = Transcript.begin(bytes.fromhex(manifest.digest()))
    return finished(record, [begun], members, transcript.body_root(positions))


def finished(record: RoundRecord, heads: Sequence[Transcript], members: bytes, root: bytes) -> list[bytes]:
    """Return all heads: those before the upload, then the survivors and the sum."""
    survivors = heads[-1].survivors(members, root)
    return [each.head for each in (*heads, survivors, survivors.total(bytes.fromhex(record.sum_digest)))]
