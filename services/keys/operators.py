"""The people who run this service, and the files of the first start."""

from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Final

from undersong.services.keys.domain import EnrolmentToken, TokenUnknown
from undersong.services.keys.enrolments import Enrolments
from undersong.services.keys.repository.enrolments import EnrolmentRepository
from undersong.services.keys.repository.operators import OperatorRepository
from undersong.shared.clock import utc_now
from undersong.shared.database import Database, Transaction
from undersong.shared.files import check_writable, read_text
from undersong.shared.identity.authority import Subject, write_private
from undersong.shared.ids import new_id
from undersong.shared.web.access import Grant, Principal, Role, new_token, token_hash

SERVICES: Final = ("coordinator", "aggregator", "registry", "helper")
OPERATOR_FILE: Final = "operator-token"
_SERVICE_TOKEN_LIFE: Final = timedelta(days=7)  # a service may be started days after the bootstrap


class Operators:
    """Operator tokens: a `TokenDirectory` on this service's own table."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def lookup(self, token: str) -> Principal | None:
        """Return the operator, or None."""
        found = await self._database.read(
            "operator.lookup", lambda tx: OperatorRepository(tx).operator(token_hash(token))
        )
        return None if found is None else Principal(found, "operator", (Grant(Role.ADMIN),))

    async def create(self, *, revoke_others: bool = False) -> str:
        """Return a new operator token, in clear; the others stay valid unless they are to be revoked."""
        token = new_token()

        async def work(tx: Transaction) -> None:
            repository, now = OperatorRepository(tx), await tx.now()
            if revoke_others:
                await repository.revoke_operators(now)
            await repository.add_operator(new_id("tok"), token_hash(token), now)

        await self._database.run("operator.create", work)
        return token


@dataclass(frozen=True)
class Bootstrap:
    """Writes what the first start of a platform needs; safe to run again, also after a crash half-way."""

    database: Database
    operators: Operators
    enrolments: Enrolments

    async def run(self, out: Path) -> list[Path]:
        """Write the operator's token and one enrolment token a service (0600); gives the files that are new."""
        operator, written = out / OPERATOR_FILE, []
        for path in (operator, *(_enrol_token(out, service) for service in SERVICES)):
            check_writable(path)
        if await self._operator_in(operator) is None:
            write_private(operator, (await self.operators.create()).encode() + b"\n")
            written.append(operator)
        for service in SERVICES:
            path = _enrol_token(out, service)
            if not await self._still_good(path):
                new = await self.enrolments.create_token(Subject("service", service), _SERVICE_TOKEN_LIFE)
                write_private(path, new.token.encode() + b"\n")
                written.append(path)
        return written

    async def _operator_in(self, path: Path) -> Principal | None:
        token = _read(path)
        return None if token is None else await self.operators.lookup(token)

    async def _still_good(self, path: Path) -> bool:
        """Return whether the file's token was used (then the service has its certificate) or can still be used."""
        token = _read(path)
        if token is None:
            return False
        try:
            found: EnrolmentToken = await self.database.run(
                "bootstrap.token", lambda tx: EnrolmentRepository(tx).token(token_hash(token))
            )
        except TokenUnknown:
            return False
        return found.used_by is not None or found.expires_at > utc_now()


def _enrol_token(out: Path, service: str) -> Path:
    return out / f"{service}-enrol-token"


def _read(path: Path) -> str | None:
    try:
        return read_text(path, "ascii").strip() or None
    except FileNotFoundError:
        return None
