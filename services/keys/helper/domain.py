"""When the helper takes part in a round, and when not any more; pure."""

from dataclasses import dataclass
from datetime import datetime

from undersong.services.keys.domain import ManifestUntrusted as ManifestUntrusted
from undersong.shared.errors import Conflict, Gone, NotFound
from undersong.shared.ids import Digest, RoundId
from undersong.shared.wire.manifest import SignedManifest


class RoundUnknown(NotFound):
    """The helper was not asked to take part in this round."""


class RoundDiffers(Conflict):
    """The helper takes part in this round under another manifest."""


class RoundVoided(Gone):
    """The round's keys are erased: it is over, or the helper's database was restored since it began."""


class EngineWithoutHelper(Conflict):
    """The round's engine has no helper."""


class SetAgreed(Conflict):
    """The helper has agreed on whose reports are in the sum; it takes no others."""


class SetDiffers(Conflict):
    """The helper has signed another set for this round, and signs one only."""


class SetUnfit(Conflict):
    """The set is not one of accepted reports, or too small."""


class RoundAnswered(Conflict):
    """This round of the job was opened in another attempt; two sums would differ by single sites."""


class SetMissing(Conflict):
    """The helper has not agreed on whose reports are in the sum yet."""


@dataclass(frozen=True, slots=True)
class HelperRound:
    """A round as the helper keeps it. keys: sealed, None once erased; the last four are set by the agreement."""

    id: RoundId
    signed: SignedManifest
    manifest_digest: Digest
    keys: bytes | None
    expires_at: datetime
    length: int | None
    members: bytes | None
    root: bytes | None
    share_digest: bytes | None
    accepted: bytes | None

    def check_open(self, now: datetime) -> bytes:
        """Return the sealed keys; raises RoundVoided."""
        if self.keys is None or now >= self.expires_at:
            raise RoundVoided("the round is over, or began before the helper's database was restored")
        return self.keys
