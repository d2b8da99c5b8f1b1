"""One site's report: what it submits, how both halves are sealed, and what its signature covers.

The body is an update's (`undersong.shared.wire.updates`): its header carries the report's public parts and the helper's
sealed share, its payload is the leader's sealed share. HPKE (RFC 9180) seals each share to one server's key of the
round, with suite, task, round, model, site, report and role as info: a share that is moved to another place does not
open. Roles and words follow DAP (draft-ietf-ppm-dap) without claiming conformance.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from cryptography.exceptions import InvalidSignature, InvalidTag
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey

from undersong.shared.errors import Invalid
from undersong.shared.ids import Digest, SiteId
from undersong.shared.secagg.engine import ReportMalformed as ReportMalformed
from undersong.shared.secagg.engine import ReportRepeated as ReportRepeated
from undersong.shared.secagg.hpke import SUITE
from undersong.shared.secagg.twoserver.facts import REPORT_ID
from undersong.shared.secagg.twoserver.roles import NONCE_BYTES, ROLES, Share
from undersong.shared.wire.manifest import RoundManifest
from undersong.shared.wire.updates import UpdateHeader

SUITE_ID: Final = b"undersong-pine-1"
REPORT_CONTEXT: Final = b"undersong/report/1\0"
SEALING_BYTES: Final = 32 + 16  # HPKE's encapsulated key and tag
MAX_PUBLIC: Final = 1024
MAX_HELPER_SHARE: Final = 1024
_KEY_BYTES: Final = 32
_SIGNATURE_BYTES: Final = 64
_MATERIAL: Final = frozenset({REPORT_ID, "public_share", "helper_share", "leader_digest", "keyid", "signature"})


class ReportUnsigned(Invalid):
    """The report does not carry the signature of its site."""


class ReportSealedElsewhere(Invalid):
    """The report's share was sealed for another round, site, report or server."""


@dataclass(frozen=True, slots=True)
class Report:
    """A report without the leader's share, of which it names the digest; this is what the leader shows the helper.

    helper_share: sealed. leader_digest: SHA-256 of the leader's sealed share. keyid: the site's certificate.
    """

    site_id: SiteId
    length: int
    report_id: bytes
    public_share: bytes
    helper_share: bytes
    leader_digest: bytes
    keyid: Digest
    signature: bytes

    @classmethod
    def of(cls, header: UpdateHeader) -> "Report":
        """Read an update's header; raises ReportMalformed."""
        found = header.material
        if set(found) != _MATERIAL or not all(isinstance(value, bytes) for value in found.values()):
            raise ReportMalformed(f"a report's material is exactly {', '.join(sorted(_MATERIAL))}, all bytes")
        return cls.read(header.site_id, header.length, found)

    @classmethod
    def read(cls, site_id: SiteId, length: int, found: Mapping[str, object]) -> "Report":
        """Put the parts together; raises ReportMalformed."""
        parts: dict[str, bytes] = {name: value for name, value in found.items() if isinstance(value, bytes)}
        sizes = {"report_id": NONCE_BYTES, "leader_digest": 32, "keyid": 32, "signature": _SIGNATURE_BYTES}
        if parts.keys() != _MATERIAL or any(len(parts[name]) != size for name, size in sizes.items()):
            raise ReportMalformed("a part of the report is missing or has another size")
        if len(parts["public_share"]) > MAX_PUBLIC or len(parts["helper_share"]) > MAX_HELPER_SHARE:
            raise ReportMalformed("the report's public share or the helper's share is too long")
        return cls(site_id=site_id, length=length, **{**parts, "keyid": Digest(parts["keyid"].hex())})  # type: ignore[arg-type]

    def material(self) -> dict[str, bytes | int]:
        """Return the parts, as they stand in the header."""
        return {
            "report_id": self.report_id,
            "public_share": self.public_share,
            "helper_share": self.helper_share,
            "leader_digest": self.leader_digest,
            "keyid": bytes.fromhex(self.keyid),
            "signature": self.signature,
        }

    def statement(self, manifest_digest: Digest) -> bytes:
        """Return what the site signs: this report, in this round, with exactly these shares."""
        return report_statement(
            manifest_digest, self.site_id, self.length, self.report_id, self.public_share, self.helper_share,
            self.leader_digest,
        )  # fmt: skip

    def check_signature(self, manifest_digest: Digest, key: Ed25519PublicKey) -> None:
        """Check it; raises ReportUnsigned."""
        try:
            key.verify(self.signature, self.statement(manifest_digest))
        except InvalidSignature:
            raise ReportUnsigned(f"the signature on the report is not that of {self.site_id}") from None


def report_statement(
    manifest_digest: Digest,
    site_id: SiteId,
    length: int,
    report_id: bytes,
    public_share: bytes,
    helper_share: bytes,
    leader_digest: bytes,
) -> bytes:
    """Return the bytes under a report's signature."""
    parts = (
        bytes.fromhex(manifest_digest),
        site_id.encode(),
        length.to_bytes(8, "big"),
        report_id,
        public_share,
        helper_share,
        leader_digest,
    )
    return REPORT_CONTEXT + hashlib.sha256(fields(*parts)).digest()


def context(manifest: RoundManifest) -> bytes:
    """Return the application context of the round: suite, task, round, model and manifest."""
    return fields(*_round(manifest))


def share_info(manifest: RoundManifest, site_id: SiteId, report_id: bytes, role: int) -> bytes:
    """Return the HPKE info of one server's share of one report."""
    return fields(*_round(manifest), site_id.encode(), report_id, ROLES[role])


def aggregate_info(manifest: RoundManifest, what: bytes) -> bytes:
    """Return the HPKE info of what the helper gives the leader: ``verify-key`` or ``aggregate-share``."""
    return fields(*_round(manifest), what)


def fields(*parts: bytes) -> bytes:
    """Return each part behind its length (4 bytes, big-endian)."""
    return b"".join(len(part).to_bytes(4, "big") + part for part in parts)


def seal(plain: bytes, public_key: bytes, info: bytes) -> bytes:
    """HPKE single-shot to a 32-byte X25519 key: encapsulated key, ciphertext, tag."""
    return SUITE.encrypt(plain, X25519PublicKey.from_public_bytes(public_key), info)


def unseal(sealed: Share, private_key: bytes, info: bytes) -> bytes:
    """Return the inverse; raises ReportSealedElsewhere."""
    try:
        return SUITE.decrypt(sealed, X25519PrivateKey.from_private_bytes(private_key), info)
    except (InvalidTag, ValueError):
        raise ReportSealedElsewhere("a share was sealed for another round, site, report or server") from None


def _round(manifest: RoundManifest) -> tuple[bytes, ...]:
    model = bytes.fromhex(manifest.model.digest) if manifest.model else b""
    task, round_id = manifest.job_id.encode(), manifest.round_id.encode()
    return SUITE_ID, task, round_id, model, bytes.fromhex(manifest.digest())
