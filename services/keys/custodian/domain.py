"""When a custodian takes part in a round, and when not any more; pure."""

from dataclasses import dataclass
from datetime import datetime

from undersong.services.keys.domain import RoundVoided
from undersong.shared.errors import Conflict, NotFound
from undersong.shared.ids import Digest, RoundId
from undersong.shared.wire.manifest import SignedManifest


class RoundNotBegun(NotFound):
    """The custodian was not asked to take part in this round."""


class OtherManifest(Conflict):
    """The custodian takes part in this round under another manifest."""


class EngineWithoutCustodians(Conflict):
    """The round's engine has no custodian of this number."""


class OtherSet(Conflict):
    """The custodian has answered about another set of this round, and answers about one only."""


class NothingSummed(Conflict):
    """The custodian has no sum of shares over this set: it was not asked about it, or cannot use a site's share."""


class SumGiven(Conflict):
    """This round of the job was opened in another attempt; two sums would differ by single sites."""


@dataclass(frozen=True, slots=True)
class CustodianRound:
    """A round as the custodian keeps it. key: sealed, None once erased; the last three are set by the check.

    total: sealed; None where a site's share was of no use.
    """

    id: RoundId
    signed: SignedManifest
    manifest_digest: Digest
    key: bytes | None
    expires_at: datetime
    asked: bytes | None
    checked: bytes | None
    total: bytes | None

    def check_open(self, now: datetime) -> bytes:
        """Return the sealed key; raises RoundVoided."""
        if self.key is None or now >= self.expires_at:
            raise RoundVoided("the round is over, or began before the custodian's database was restored")
        return self.key
