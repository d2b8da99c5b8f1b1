"""SQL of certificates: the directory, and the feed of revocations."""

from collections import defaultdict
from collections.abc import Mapping
from datetime import datetime

from sqlalchemy import select, update

from undersong.services.keys.domain import CertificateUnknown, Issued, Revocation
from undersong.services.keys.repository.subjects import party_of, subject_of
from undersong.services.keys.tables import CertificateRow, RevocationRow, WitnessedRoundRow
from undersong.shared.database import Page, Transaction, page
from undersong.shared.identity.authority import Subject
from undersong.shared.identity.verify import CertificateRevoked
from undersong.shared.ids import Digest

_CHUNK = 500  # keys a query: databases limit a statement's parameters


class CertificateRepository:
    """Certificates and revocations within one transaction."""

    def __init__(self, tx: Transaction) -> None:
        self._session = tx.session

    async def add_certificate(self, issued: Issued) -> None:
        """Put a new certificate into the directory."""
        self._session.add(
            CertificateRow(
                keyid=issued.keyid,
                public_key=issued.public_key,
                certificate_pem=issued.certificate_pem,
                not_before=issued.not_before,
                not_after=issued.not_after,
                replaces=issued.replaces,
                **party_of(issued.subject),
            )
        )
        await self._session.flush()

    async def certificate(self, keyid: str) -> Issued:
        """Return one certificate; raises CertificateUnknown."""
        row = await self._session.get(CertificateRow, keyid)
        if row is None:
            raise CertificateUnknown("no certificate with this key id was issued")
        return _issued(row)

    async def check_in_force(self, keyid: str) -> Issued:
        """Return the certificate of a party that asks for something; raises CertificateRevoked or
        CertificateUnknown.
        """
        issued = await self.certificate(keyid)
        if issued.revoked_at is not None:
            raise CertificateRevoked("this certificate was revoked; enrol again with a new token")
        return issued

    async def certified_keys(
        self, federation_id: str, identities: Mapping[str, bytes], now: datetime
    ) -> dict[str, bytes]:
        """Of these sites' identity keys, those with a certificate of the federation that is valid now."""
        certified: dict[str, bytes] = {}
        keys = list(identities.values())
        for start in range(0, len(keys), _CHUNK):
            query = select(CertificateRow).where(
                CertificateRow.public_key.in_(keys[start : start + _CHUNK]),
                CertificateRow.kind == "site",
                CertificateRow.federation_id == federation_id,
                CertificateRow.revoked_at.is_(None),
            )
            for row in await self._session.scalars(query):
                in_time = row.not_before <= now < row.not_after
                if in_time and identities.get(row.name) == row.public_key:
                    certified[row.name] = row.public_key
        return certified

    async def witness_key(self, round_id: str) -> bytes | None:
        """Return the public key with which this service witnessed the round."""
        query = select(CertificateRow.public_key).join(
            WitnessedRoundRow, WitnessedRoundRow.keyid == CertificateRow.keyid
        )
        return await self._session.scalar(query.where(WitnessedRoundRow.round_id == round_id))

    async def certificate_of_key(self, public_key: bytes) -> Issued | None:
        """Return the certificate of a public key, if it has one."""
        query = select(CertificateRow).where(CertificateRow.public_key == public_key)
        row = (await self._session.scalars(query)).one_or_none()
        return None if row is None else _issued(row)

    async def certificates(self, name: str | None, limit: int, after: str | None) -> Page[Issued]:
        """Return a page of the directory, by key id."""
        query = select(CertificateRow)
        if name is not None:
            query = query.where(CertificateRow.name == name)
        return (await page(self._session, query, CertificateRow.keyid, limit, after)).map(_issued)

    async def in_force(self, subject: Subject) -> list[Digest]:
        """Return the key ids of a party's certificates that are not revoked."""
        query = select(CertificateRow.keyid).where(
            CertificateRow.kind == subject.kind,
            CertificateRow.name == subject.name,
            CertificateRow.federation_id == subject.federation_id,
            CertificateRow.revoked_at.is_(None),
        )
        return [Digest(keyid) for keyid in await self._session.scalars(query)]

    async def replaced_by(self, subject: Subject) -> dict[Digest, list[Digest]]:
        """Return which certificates of a party were rotated from which."""
        columns = (CertificateRow.keyid, CertificateRow.replaces)
        query = select(*columns).where(CertificateRow.kind == subject.kind, CertificateRow.name == subject.name)
        children: dict[Digest, list[Digest]] = defaultdict(list)
        for keyid, replaces in await self._session.execute(query):
            if replaces is not None:
                children[Digest(replaces)].append(Digest(keyid))
        return children

    async def revoke(self, keyid: Digest, reason: str, now: datetime) -> bool:
        """Mark as revoked and append to the feed; False when it was revoked before."""
        mark = update(CertificateRow).where(CertificateRow.keyid == keyid, CertificateRow.revoked_at.is_(None))
        marked = await self._session.execute(mark.values(revoked_at=now, reason=reason).returning(CertificateRow.keyid))
        if marked.first() is None:
            return False
        self._session.add(RevocationRow(keyid=keyid, revoked_at=now, reason=reason))
        await self._session.flush()
        return True

    async def revocations(self, after: int, limit: int) -> Page[Revocation]:
        """Return a page of the feed, by sequence."""
        found = await page(self._session, select(RevocationRow), RevocationRow.sequence, limit, str(after))
        return found.map(lambda row: Revocation(row.sequence, Digest(row.keyid), row.revoked_at, row.reason))


def _issued(row: CertificateRow) -> Issued:
    return Issued(
        keyid=Digest(row.keyid),
        subject=subject_of(row),
        public_key=row.public_key,
        certificate_pem=row.certificate_pem,
        not_before=row.not_before,
        not_after=row.not_after,
        replaces=None if row.replaces is None else Digest(row.replaces),
        revoked_at=row.revoked_at,
        reason=row.reason,
    )
