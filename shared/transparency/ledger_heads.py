"""Heads of sites' ledgers in the transparency log: how far a ledger had come, without what stands in it.

A site commits to its ledger's number of lines and to the hash of the last one, under a secret of the ledger, so that
the commitment says nothing to those who do not hold the ledger: a line's hash alone could be guessed by parties that
know most of its fields. Who holds the ledger, its owner or an auditor with an export, finds with it whether the ledger
still is the one of which the log was told. Pure.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final, Protocol

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from pydantic import Field, JsonValue

from undersong.shared.errors import Invalid, Refusal
from undersong.shared.identity.authority import Identity, Subject, verify_signature
from undersong.shared.ids import Digest, FederationId, SiteId, digest_of
from undersong.shared.transparency.documents import LEDGER_HEAD
from undersong.shared.wire.canonical import canonical
from undersong.shared.wire.forms import DigestText, Document, SignatureHex

COMMITMENT_CONTEXT: Final = b"undersong/ledger-commitment/1\0"
HEAD_CONTEXT: Final = b"undersong/ledger-head/1"
SECRET_BYTES: Final = 32


class LedgerHeadInvalid(Invalid):
    """The head of a ledger does not carry the signature of the site that it names."""


class HeadSigner(Protocol):
    """Who signed, as a checked certificate says."""

    @property
    def subject(self) -> Subject:
        """Whom the certificate names."""

    @property
    def keyid(self) -> Digest:
        """The certificate's fingerprint."""

    @property
    def public_key(self) -> Ed25519PublicKey:
        """Its key."""


class LedgerHead(Document):
    """What a site says of its ledger: that it has so many lines, and a commitment to the last one.

    signature: Ed25519, by the site's certificate `keyid`, over the statement.
    """

    federation_id: FederationId
    site_id: SiteId
    lines: int = Field(ge=1, lt=2**53, strict=True)
    commitment: DigestText
    keyid: DigestText
    signature: SignatureHex

    def leaf_document(self) -> dict[str, JsonValue]:
        """Return the document of its leaf in the log."""
        return {"type": LEDGER_HEAD, **self.model_dump(mode="json")}

    def subject(self) -> Digest:
        """Return what the log knows it by: the same for the same head, whichever of the site's keys signed it."""
        return digest_of(self.statement())

    def statement(self) -> bytes:
        """Return the bytes that are signed."""
        return _statement(self.federation_id, self.site_id, self.lines, self.commitment)

    def check(self, holder: HeadSigner) -> None:
        """Check that the holder of certificate `keyid` is the site, and signed this; raises LedgerHeadInvalid."""
        if not is_of(self, holder.subject) or holder.keyid != self.keyid:
            raise LedgerHeadInvalid(f"the head of {self.site_id}'s ledger names a certificate of {holder.subject.uri}")
        try:
            verify_signature(holder.public_key, HEAD_CONTEXT, self.statement(), bytes.fromhex(self.signature))
        except (Refusal, ValueError) as error:
            raise LedgerHeadInvalid(f"the head of the ledger does not carry the signature of {self.site_id}") from error


class LoggedLedgerHead(Document):
    """A ledger's head, and the index of its leaf in the log."""

    head: LedgerHead
    index: int = Field(ge=0, lt=2**63, strict=True)


def commitment(secret: bytes, lines: int, last: str) -> Digest:
    """Return the commitment to a ledger of this many lines whose last line has this hash, under the ledger's secret."""
    return digest_of(COMMITMENT_CONTEXT + secret + lines.to_bytes(8, "big") + bytes.fromhex(last))


def signed_head(identity: Identity, lines: int, committed: Digest) -> LedgerHead:
    """Return the head signed with a site's identity."""
    subject = identity.subject
    federation, site = FederationId(str(subject.federation_id)), SiteId(subject.name)
    return LedgerHead(
        federation_id=federation,
        site_id=site,
        lines=lines,
        commitment=committed,
        keyid=identity.keyid,
        signature=identity.sign(HEAD_CONTEXT, _statement(federation, site, lines, committed)).hex(),
    )


def is_of(head: LedgerHead, subject: Subject) -> bool:
    """Return whether a head speaks of this party's ledger."""
    return (subject.kind, subject.name, subject.federation_id) == ("site", head.site_id, head.federation_id)


def unlike(heads: Iterable[LedgerHead], secret: bytes, hashes: Sequence[str]) -> Iterator[str]:
    """Yield, for each head that a ledger does not keep, why.

    hashes: of the ledger's lines, `hashes[0]` what stands before the first.
    """
    for head in heads:
        if head.lines >= len(hashes):
            yield f"it had {head.lines} lines by a head in the log, and has {len(hashes) - 1}: lines are gone"
        elif commitment(secret, head.lines, hashes[head.lines]) != head.commitment:
            yield f"its first {head.lines} lines are not those of a head in the log: it was rewritten"


@dataclass(frozen=True, slots=True)
class Adoption:
    """What line `line` of a ledger says: that its owner adopted it, where up to `had` lines were lost or changed."""

    line: int
    had: int


@dataclass(frozen=True, slots=True)
class UnlikeHead:
    """A head that a ledger does not keep, why, and the adoption that explains it; None where none does."""

    head: LedgerHead
    why: str
    adoption: Adoption | None


def compare_heads(
    heads: Sequence[LedgerHead], secret: bytes, hashes: Sequence[str], adoptions: Sequence[Adoption]
) -> list[UnlikeHead]:
    """Return the heads, in the log's order, that a ledger does not keep, and which adoption explains each.

    An adoption explains a head of as many lines as it admits to have had at most, and only a head that is in the log
    before one that the ledger keeps and that reaches the adoption's line: that one commits to what the owner admitted.
    So who rewrites a ledger must admit in the log how many lines are not the first ones, and lines that were logged
    after an adoption stay.
    """
    shown, found = 0, list[UnlikeHead]()
    for head in reversed(heads):
        why = next(unlike([head], secret, hashes), None)
        if why is None:
            shown = max(shown, head.lines)
            continue
        covering = [each for each in adoptions if head.lines <= each.had]
        adoption = next((each for each in covering if each.line <= shown), None)
        if adoption is None and covering:
            why += f"; line {covering[0].line} says that it was adopted, and no later head here commits to that line"
        found.append(UnlikeHead(head, why, adoption))
    return found[::-1]


def backward(heads: Sequence[LedgerHead]) -> Iterator[str]:
    """Yield where the heads of one ledger, in the log's order, go back: anyone sees this, without the ledger."""
    most: LedgerHead | None = None
    for head in heads:
        if most is not None and head.lines < most.lines:
            yield f"a head of {head.lines} lines follows one of {most.lines}: the ledger was put back, or begun anew"
        elif most is not None and head.lines == most.lines and head.commitment != most.commitment:
            yield f"two heads of {head.lines} lines differ: the ledger was rewritten"
        most = head


def _statement(federation_id: str, site_id: str, lines: int, committed: str) -> bytes:
    said: dict[str, JsonValue] = {
        "federation_id": federation_id, "site_id": site_id, "lines": lines, "commitment": committed,
    }  # fmt: skip
    return canonical(said)
