"""What leader and helper say to each other: msgpack of fixed shape, strictly read.

| message | from, to | fields |
| --- | --- | --- |
| Begin | leader to helper | manifest (signed, JSON), leader_key (HPKE) |
| Begun | helper to leader | helper_key (HPKE), keyid, signature over it, verify_key (sealed to leader_key) |
| Batch | leader to helper | a list of reports, each with the body's digest and the leader's verifier share |
| Verdicts | helper to leader | one for each report: the verifier message, or the code and reason of a refusal |
| Agree | leader to helper | members (bitmap over the cohort), root over their bodies |
| Accepted | helper to leader | share_digest, keyid, signature over members, root and share_digest |
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from undersong.shared.ids import SiteId
from undersong.shared.secagg.strict import MessageMalformed as MessageMalformed
from undersong.shared.secagg.strict import exact, packed, unpacked
from undersong.shared.secagg.twoserver.report import Report

MAX_BATCH: Final = 64
MAX_BYTES: Final = 16 << 20


@dataclass(frozen=True, slots=True)
class Begin:
    """Begin a round."""

    manifest: bytes
    leader_key: bytes

    def pack(self) -> bytes:
        """As bytes."""
        return packed({"manifest": self.manifest, "leader_key": self.leader_key})

    @classmethod
    def unpack(cls, data: bytes) -> "Begin":
        """Strictly; raises MessageMalformed."""
        return cls(**_map(data, {"manifest": None, "leader_key": 32}))


@dataclass(frozen=True, slots=True)
class Begun:
    """The helper's keys for the round."""

    helper_key: bytes
    keyid: bytes
    signature: bytes
    verify_key: bytes

    def pack(self) -> bytes:
        """As bytes."""
        parts = {"helper_key": self.helper_key, "keyid": self.keyid, "signature": self.signature}
        return packed({**parts, "verify_key": self.verify_key})

    @classmethod
    def unpack(cls, data: bytes) -> "Begun":
        """Strictly; raises MessageMalformed."""
        return cls(**_map(data, {"helper_key": 32, "keyid": 32, "signature": 64, "verify_key": None}))


@dataclass(frozen=True, slots=True)
class ReportQuestion:
    """One report, as the leader shows it; the digest of this is what a second question is compared with."""

    report: Report
    body_digest: bytes
    verifier_share: bytes

    def document(self) -> dict[str, Any]:
        """For `pack_batch`."""
        return {
            "site_id": self.report.site_id,
            "length": self.report.length,
            "material": self.report.material(),
            "body_digest": self.body_digest,
            "verifier_share": self.verifier_share,
        }

    def pack(self) -> bytes:
        """As bytes, in one form only."""
        return packed(self.document())


@dataclass(frozen=True, slots=True)
class ReportVerdict:
    """What the helper found: the verifier message of an accepted report, or why it is refused."""

    message: bytes | None
    code: str | None = None
    detail: str | None = None


@dataclass(frozen=True, slots=True)
class Agree:
    """Whose reports are in the sum."""

    members: bytes
    root: bytes

    def pack(self) -> bytes:
        """As bytes."""
        return packed({"members": self.members, "root": self.root})

    @classmethod
    def unpack(cls, data: bytes) -> "Agree":
        """Strictly; raises MessageMalformed."""
        return cls(**_map(data, {"members": None, "root": 32}))


@dataclass(frozen=True, slots=True)
class Accepted:
    """The helper's signature over the one set of a round, and the digest of its share of the sum."""

    share_digest: bytes
    keyid: bytes
    signature: bytes

    def pack(self) -> bytes:
        """As bytes."""
        return packed({"share_digest": self.share_digest, "keyid": self.keyid, "signature": self.signature})

    @classmethod
    def unpack(cls, data: bytes) -> "Accepted":
        """Strictly; raises MessageMalformed."""
        return cls(**_map(data, {"share_digest": 32, "keyid": 32, "signature": 64}))


@dataclass(frozen=True, slots=True)
class SetEvidence:
    """What stays of a round in its record: the accepted set, and the helper's signature over it."""

    members: bytes
    root: bytes
    share_digest: bytes
    keyid: bytes
    signature: bytes

    def pack(self) -> bytes:
        """As bytes."""
        names = ("members", "root", "share_digest", "keyid", "signature")
        return packed({name: getattr(self, name) for name in names})

    @classmethod
    def unpack(cls, data: bytes) -> "SetEvidence":
        """Strictly; raises MessageMalformed."""
        sizes = {"members": None, "root": 32, "share_digest": 32, "keyid": 32, "signature": 64}
        return cls(**_map(data, sizes))


def pack_batch(questions: Sequence[ReportQuestion]) -> bytes:
    """Return a batch of questions."""
    return packed([question.document() for question in questions])


def unpack_batch(data: bytes) -> list[ReportQuestion]:
    """Strictly; raises MessageMalformed."""
    found = _unpacked(data)
    if not isinstance(found, list) or not 0 < len(found) <= MAX_BATCH:
        raise MessageMalformed(f"a batch is a list of 1 to {MAX_BATCH} reports")
    return [_question(item) for item in found]


def pack_verdicts(verdicts: Sequence[ReportVerdict]) -> bytes:
    """Return the answer to a batch."""
    return packed([[verdict.message, verdict.code, verdict.detail] for verdict in verdicts])


def unpack_verdicts(data: bytes, count: int) -> list[ReportVerdict]:
    """Exactly `count` verdicts; raises MessageMalformed."""
    found = _unpacked(data)
    if not isinstance(found, list) or len(found) != count:
        raise MessageMalformed("the helper's answer has not one verdict for each report")
    return [_verdict(item) for item in found]


def _question(found: Any) -> ReportQuestion:
    match found:
        case {
            "site_id": str() as site_id,
            "length": int() as length,
            "material": dict() as material,
            "body_digest": bytes() as body_digest,
            "verifier_share": bytes() as verifier_share,
        } if len(found) == 5 and not isinstance(length, bool) and 0 < length < 2**36 and len(body_digest) == 32:
            return ReportQuestion(Report.read(SiteId(site_id), length, material), body_digest, verifier_share)
    raise MessageMalformed("a question is site_id, length, material, body_digest and verifier_share")


def _verdict(found: Any) -> ReportVerdict:
    match found:
        case [bytes() as message, None, None]:
            return ReportVerdict(message)
        case [None, str() as code, str() as detail] if 0 < len(code) <= 64:
            return ReportVerdict(None, code, detail[:500])
    raise MessageMalformed("a verdict is a message, or a code and its detail")


def _unpacked(data: bytes) -> Any:
    if len(data) > MAX_BYTES:
        raise MessageMalformed("the message is too large")
    return unpacked(data, most=MAX_BATCH)


def _map(data: bytes, sizes: Mapping[str, int | None]) -> dict[str, bytes]:
    return exact(_unpacked(data), sizes)
