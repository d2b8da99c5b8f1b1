"""The directory of certificates: look up, rotate, revoke, follow revocations."""

from datetime import timedelta
from pathlib import Path

from cryptography import x509

from undersong.services.keys.appending import log_revoked
from undersong.services.keys.authority import Authority
from undersong.services.keys.domain import Issued, Revocation, check_proof, parse_public_key, with_descendants
from undersong.services.keys.issuing import TOPIC, issue
from undersong.services.keys.repository.authority import AuthorityRepository
from undersong.services.keys.repository.certificates import CertificateRepository
from undersong.shared.clock import utc_now
from undersong.shared.database import Database, Page, Transaction
from undersong.shared.identity.authority import IDENTITY_FILE, Identity, Subject, public_bytes
from undersong.shared.identity.enrol import adopt, due, pending_key, rotation_proof_data
from undersong.shared.identity.verify import CertificateRevoked, Party

SELF = Subject("service", "keys")


class Certificates:
    """The use cases, one transaction each."""

    def __init__(self, database: Database, authority: Authority, life: timedelta) -> None:
        self._database, self._authority, self._life = database, authority, life

    async def get(self, keyid: str) -> Issued:
        """Return one certificate; raises CertificateUnknown."""
        return await self._database.read("certificate.get", lambda tx: CertificateRepository(tx).certificate(keyid))

    async def list(self, name: str | None, limit: int, after: str | None) -> Page[Issued]:
        """Return a page of the directory."""
        return await self._database.read(
            "certificate.list", lambda tx: CertificateRepository(tx).certificates(name, limit, after)
        )

    async def rotate(self, party: Party, public_key: bytes, proof: bytes) -> tuple[Issued, bool]:
        """Return a certificate for the party's next key, and whether it is new; the old one stays valid until its end.

        Raises PublicKeyInvalid, ProofInvalid, CertificateUnknown, CertificateRevoked or KeyInUse.
        """
        parse_public_key(public_key)
        check_proof(public_key, proof, rotation_proof_data(party.keyid, public_key))

        async def work(tx: Transaction) -> tuple[Issued, bool]:
            repository = CertificateRepository(tx)
            await AuthorityRepository(tx).in_turn()
            old = await repository.certificate(party.keyid)
            if old.revoked_at is not None:
                raise CertificateRevoked("this certificate was revoked; enrol again with a new token")
            known = await repository.certificate_of_key(public_key)
            if known is not None:
                known.check_same_party(old.subject)
                return known, False
            return await issue(tx, self._authority.ca, public_key, old.subject, self._life, old.keyid), True

        return await self._database.run("certificate.rotate", work)

    async def revoke(self, keyid: str, reason: str) -> Issued:
        """Revoke the certificate and all that were rotated from it; asking again changes nothing.

        Raises CertificateUnknown.
        """

        async def work(tx: Transaction) -> Issued:
            repository, now = CertificateRepository(tx), await tx.now()
            await AuthorityRepository(tx).in_turn()
            first = await repository.certificate(keyid)
            for each in with_descendants(first.keyid, await repository.replaced_by(first.subject)):
                if await repository.revoke(each, reason, now):
                    await log_revoked(tx, each, now)
                    await tx.emit(TOPIC, "certificate.revoked", each)
            tx.session.expire_all()
            return await repository.certificate(keyid)

        return await self._database.run("certificate.revoke", work)

    async def revocations(self, after: int, limit: int) -> Page[Revocation]:
        """Return what was revoked after this sequence number."""
        return await self._database.read(
            "certificate.revocations", lambda tx: CertificateRepository(tx).revocations(after, limit)
        )

    async def own_identity(self, directory: Path) -> Identity:
        """Return this service's own certificate: loaded, or issued when there is none or it ends soon."""
        if (directory / IDENTITY_FILE).exists():
            identity = Identity.load(directory)
            if identity.ca_certificate == self._authority.ca.certificate and not due(identity, utc_now()):
                return identity
        key = pending_key(directory)
        public_key = public_bytes(key.public_key())

        async def work(tx: Transaction) -> Issued:
            repository = CertificateRepository(tx)
            await AuthorityRepository(tx).in_turn()
            known = await repository.certificate_of_key(public_key)
            return known or await issue(tx, self._authority.ca, public_key, SELF, self._life)

        issued = await self._database.run("certificate.own", work)
        certificate = x509.load_pem_x509_certificate(issued.certificate_pem.encode())
        identity = Identity(key, certificate, self._authority.ca.certificate)
        adopt(identity, directory)
        return identity


class RevokedInRow:
    """The `Revocations` of this service itself: use cases that take signed requests look at the row.

    See `CertificateRepository.check_in_force`, which cannot be out of date.
    """

    def revoked(self, keyid: str) -> bool:  # noqa: ARG002
        """Left to the use case."""
        return False
