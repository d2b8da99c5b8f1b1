"""Heads of a site's ledger with all that proves them: certificates, and their places in the transparency log.

One JSON file, which an auditor keeps and anyone checks offline. It cannot show that heads are missing: who left some
out has fewer against which a ledger is compared.
"""

from collections.abc import Mapping
from itertools import pairwise
from typing import Final, Literal

from cryptography import x509
from pydantic import Field

from undersong.shared.errors import Invalid, Refusal
from undersong.shared.identity.authority import Holder, Subject, keyid_of, public_bytes
from undersong.shared.ids import Digest, SiteId
from undersong.shared.transparency.certificates import plain_fingerprint, read_authority, read_holder
from undersong.shared.transparency.documents import BytesHex, InclusionProof, LogEntry, LogHead
from undersong.shared.transparency.ledger_heads import LedgerHead
from undersong.shared.transparency.records import check_head, check_inclusion
from undersong.shared.wire.forms import Document
from undersong.shared.wire.records import LEDGER_HEAD

FORMAT: Final = "undersong-ledger-heads/1"
KEYS: Final = Subject("service", "keys")


class HeadProofInvalid(Invalid):
    """What should prove the heads of a ledger does not."""


class ProvenLedgerHead(Document):
    """A ledger's head, the index of its leaf in the log, and the leaf's inclusion proof."""

    head: LedgerHead
    index: int = Field(ge=0, lt=2**63, strict=True)
    proof: InclusionProof


class LedgerHeadProofs(Document):
    """Heads of one site's ledger in the log's order, under one head of the log; certificates are DER in hexadecimal."""

    format: Literal["undersong-ledger-heads/1"] = FORMAT
    site_id: SiteId
    authority: BytesHex
    certificates: tuple[BytesHex, ...] = Field(max_length=100_000)
    log_head: LogHead
    items: tuple[ProvenLedgerHead, ...] = Field(max_length=1_000_000)

    def check(self, ca_fingerprint: str) -> list[LedgerHead]:
        """Return the heads once the site signed each and the log of this authority's federation holds it.

        ca_fingerprint: SHA-256 of the authority's certificate, known from elsewhere. Raises HeadProofInvalid.
        """
        try:
            authority = read_authority(self.authority)
            if keyid_of(authority) != plain_fingerprint(ca_fingerprint):
                raise HeadProofInvalid("the authority in the file is not the one that was named")
            self._check(authority)
        except Refusal as refusal:
            raise HeadProofInvalid(f"the heads are not proven: {refusal.detail}") from refusal
        return [item.head for item in self.items]

    def _check(self, authority: x509.Certificate) -> None:
        holders = {each.keyid: each for each in (read_holder(item, authority) for item in self.certificates)}
        keys = _holder(holders, self.log_head.keyid)
        if keys.subject != KEYS:
            raise HeadProofInvalid("the log's head is not signed by the keys service")
        check_head(self.log_head, public_bytes(keys.public_key))
        if any(one.index >= other.index for one, other in pairwise(self.items)):
            raise HeadProofInvalid("the heads are not in the log's order")
        for item in self.items:
            if item.head.site_id != self.site_id:
                raise HeadProofInvalid(f"a head is of {item.head.site_id}, and the file is about {self.site_id}")
            item.head.check(_holder(holders, item.head.keyid))
            document, subject = item.head.leaf_document(), item.head.subject()
            leaf = LogEntry(index=item.index, type=LEDGER_HEAD, subject=subject, document=document)
            check_inclusion(leaf, item.proof, self.log_head)


def _holder(holders: Mapping[Digest, Holder], keyid: Digest) -> Holder:
    found = holders.get(keyid)
    if found is None:
        raise HeadProofInvalid(f"the certificate {keyid[:12]}… is missing")
    return found
