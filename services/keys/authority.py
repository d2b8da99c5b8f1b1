"""The federation's authority as this service keeps it: made once, its private key sealed at rest."""

import hashlib
import hmac
import secrets

from cryptography import x509
from cryptography.hazmat.primitives import serialization

from undersong.services.keys.repository.authority import AuthorityRepository
from undersong.services.keys.repository.witness import WitnessRepository
from undersong.services.keys.tables import AuthorityRow
from undersong.shared.database import Database, Transaction
from undersong.shared.identity.authority import CertificateAuthority
from undersong.shared.identity.sealing import Sealer

_PLACE = ("authority", "1")


class Authority:
    """Signs certificates, and derives enrolment tokens for repeated requests."""

    def __init__(self, ca: CertificateAuthority, token_key: bytes) -> None:
        self.ca = ca
        self._token_key = token_key

    @classmethod
    async def open(cls, database: Database, sealer: Sealer, name: str) -> "Authority":
        """Load the authority; create it at the first start. Several processes may do this at once."""

        async def work(tx: Transaction) -> tuple[str, bytes, bytes]:
            repository = AuthorityRepository(tx)
            row = await repository.authority()
            if row is None:
                await repository.add_authority(await _fresh(tx, sealer, name))
                row = await repository.authority()
            if row is None:
                raise RuntimeError("the authority's row vanished within its own transaction")
            return row.certificate_pem, row.private_key, row.token_key

        certificate_pem, private_key, token_key = await database.run("authority.open", work)
        opened = sealer.open(private_key, *_PLACE, "private_key")
        ca = CertificateAuthority.load(opened, certificate_pem.encode())
        return cls(ca, sealer.open(token_key, *_PLACE, "token_key"))

    @property
    def certificate_pem(self) -> str:
        """The authority's own certificate."""
        return pem_of(self.ca.certificate)

    def derived_secret(self, principal: str, key: str) -> bytes:
        """32 bytes that only this authority can derive, the same for the same request."""
        message = f"{len(principal)}:{principal}{key}".encode()
        return hmac.new(self._token_key, message, hashlib.sha256).digest()


def pem_of(certificate: x509.Certificate) -> str:
    """Return a certificate as PEM text."""
    return certificate.public_bytes(serialization.Encoding.PEM).decode()


async def _fresh(tx: Transaction, sealer: Sealer, name: str) -> AuthorityRow:
    now = await tx.now()
    ca = CertificateAuthority.create(now, name)
    return AuthorityRow(
        id=1,
        certificate_pem=pem_of(ca.certificate),
        private_key=sealer.seal(ca.private_bytes(), *_PLACE, "private_key"),
        token_key=sealer.seal(secrets.token_bytes(32), *_PLACE, "token_key"),
        created_at=now,
    )


async def reseal(database: Database, sealer: Sealer) -> None:
    """Bring the sealed columns under the key file's first key."""

    async def work(tx: Transaction) -> None:
        repository = AuthorityRepository(tx)
        await repository.in_turn()
        row = await repository.authority()
        if row is not None:
            row.private_key = sealer.reseal(row.private_key, *_PLACE, "private_key")
            row.token_key = sealer.reseal(row.token_key, *_PLACE, "token_key")
        await WitnessRepository(tx).reseal(sealer)

    await database.run("authority.reseal", work)
