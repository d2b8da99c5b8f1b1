"""The dashboard's sign-in limiter: addresses with many failures wait, and ended sessions stay ended."""

import ipaddress
from datetime import datetime, timedelta
from typing import Final

from undersong.services.coordinator.repository.accounts import AccountRepository
from undersong.services.coordinator.repository.signins import SignInRepository
from undersong.shared.database import Database, Transaction
from undersong.shared.errors import TooMany

MOST_FAILURES: Final = 10
LOCKED: Final = timedelta(minutes=15)  # after the last of them
SIGN_ONS_KEPT: Final = timedelta(days=30)  # tokens of sign-ons stay listed so long after their end
_IPV6_NETWORK: Final = 64  # what one household or host commonly has


class TooManySignIns(TooMany):
    """Too many failed sign-ins from this address."""


class SignIns:
    """The use cases, one transaction each."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def admit(self, address: str) -> None:
        """Check it; raises TooManySignIns while the address is locked out: even the right token is not looked at."""

        async def work(tx: Transaction) -> float | None:
            now = await tx.now()
            found = await SignInRepository(tx).failures(network_of(address), now)
            return None if found is None or found[0] < MOST_FAILURES else (found[1] - now).total_seconds()

        wait_s = await self._database.read("signin.admit", work)
        if wait_s is not None:
            minutes = int(wait_s // 60) + 1
            raise TooManySignIns(f"Wait {minutes} minutes, then try again.", retry_after_s=wait_s)

    async def failed(self, address: str) -> None:
        """Count it."""

        async def work(tx: Transaction) -> None:
            now = await tx.now()
            await SignInRepository(tx).add_failure(network_of(address), now, now + LOCKED)

        await self._database.run("signin.failed", work)

    async def succeeded(self, address: str) -> None:
        """Forget the failures."""
        await self._database.run("signin.succeeded", lambda tx: SignInRepository(tx).clear(network_of(address)))

    async def end(self, session_id: str, until: datetime) -> None:
        """End a session everywhere. Idempotent."""
        await self._database.run("session.end", lambda tx: SignInRepository(tx).end(session_id, until))

    async def ended(self, session_id: str) -> bool:
        """Return whether it was ended."""
        return await self._database.read("session.ended", lambda tx: SignInRepository(tx).ended(session_id))

    async def prune(self) -> int:
        """Forget what no longer counts; a job for the sweeper."""

        async def work(tx: Transaction) -> None:
            now = await tx.now()
            await SignInRepository(tx).prune(now)
            await AccountRepository(tx).prune_sign_ons(now - SIGN_ONS_KEPT)

        await self._database.run("signin.prune", work)
        return 0  # housekeeping is no repair


def network_of(address: str) -> str:
    """Return what one count is for: an IPv4 address, or an IPv6 network, whose owner has all its addresses."""
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return address[:64]
    if parsed.version == 4:
        return str(parsed)
    return str(ipaddress.ip_network((parsed, _IPV6_NETWORK), strict=False))
