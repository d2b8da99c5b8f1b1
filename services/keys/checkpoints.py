"""Sign the log's head every minute, so that a log that cannot sign is noticed before its head is needed."""

from typing import Final

from undersong.services.keys.authority import Authority
from undersong.services.keys.log import Log
from undersong.shared.clock import monotonic
from undersong.shared.identity.authority import Identity
from undersong.shared.queues import Sweeper
from undersong.shared.telemetry.metrics import AUDIT_APPEND_FAILURES, CHECKPOINT_AGE_SECONDS
from undersong.shared.web.vitals import measure_certificate

EVERY_S: Final = 60.0


async def follow(heads: Log, authority: Authority, identity: Identity) -> None:
    """Sign and measure until cancelled."""
    signed_at = monotonic()
    CHECKPOINT_AGE_SECONDS.set_function(lambda: monotonic() - signed_at)

    async def sign() -> int:
        nonlocal signed_at
        try:
            await heads.head()
        except Exception:
            AUDIT_APPEND_FAILURES.inc()
            raise
        signed_at = monotonic()
        return 0

    async def certificates() -> int:
        ca, own = authority.ca.certificate, identity.holder
        measure_certificate("authority", ca.not_valid_before_utc, ca.not_valid_after_utc)
        measure_certificate("identity", own.not_before, own.not_after)
        return 0

    await Sweeper(EVERY_S, {"checkpoint": sign, "certificates": certificates}, housekeeping=True).run()
