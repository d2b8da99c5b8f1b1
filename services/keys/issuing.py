"""The one place where a certificate is made and put into the directory and the log."""

from datetime import timedelta

from undersong.services.keys.appending import log_issued, log_revoked
from undersong.services.keys.authority import pem_of
from undersong.services.keys.domain import Issued, end_of_life, parse_public_key
from undersong.services.keys.repository.certificates import CertificateRepository
from undersong.shared.database import Transaction
from undersong.shared.identity.authority import CertificateAuthority, Subject, keyid_of
from undersong.shared.ids import Digest

TOPIC = "keys.certificates"


async def issue(
    tx: Transaction,
    ca: CertificateAuthority,
    public_key: bytes,
    subject: Subject,
    life: timedelta,
    replaces: Digest | None = None,
) -> Issued:
    """Issue and record within the caller's transaction, which has its turn (`AuthorityRepository.in_turn`)."""
    now = await tx.now()
    ends = end_of_life(now, life, ca.certificate.not_valid_after_utc)
    certificate = ca.issue(parse_public_key(public_key), subject, ends, now=now)
    issued = Issued(
        keyid=keyid_of(certificate),
        subject=subject,
        public_key=public_key,
        certificate_pem=pem_of(certificate),
        not_before=certificate.not_valid_before_utc,
        not_after=certificate.not_valid_after_utc,
        replaces=replaces,
    )
    await CertificateRepository(tx).add_certificate(issued)
    await log_issued(tx, issued)
    await tx.emit(TOPIC, "certificate.issued", issued.keyid)
    return issued


async def revoke_earlier(tx: Transaction, subject: Subject, reason: str) -> None:
    """Revoke all certificates of a party, within the caller's transaction, which has its turn."""
    certificates, now = CertificateRepository(tx), await tx.now()
    for keyid in await certificates.in_force(subject):
        if await certificates.revoke(keyid, reason, now):
            await log_revoked(tx, keyid, now)
            await tx.emit(TOPIC, "certificate.revoked", keyid)
