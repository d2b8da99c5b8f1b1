"""The tables of the keys service. Private keys are sealed, tokens are hashed."""

from datetime import datetime

from sqlalchemy import BigInteger, CheckConstraint, ForeignKey, Index, LargeBinary, String, Text, UniqueConstraint
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from undersong.shared.database import CommonTables, RowNumber, UtcDateTime, new_metadata


class Base(DeclarativeBase):
    """The service's own metadata."""

    metadata = new_metadata()
    common = CommonTables(metadata)


class AuthorityRow(Base):
    """The one certificate authority; its row lock puts every issue and revocation in one order."""

    __tablename__ = "authority"
    __table_args__ = (CheckConstraint("id = 1", name="only_one"),)

    id: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    certificate_pem: Mapped[str] = mapped_column(Text)
    private_key: Mapped[bytes] = mapped_column(LargeBinary)  # sealed
    token_key: Mapped[bytes] = mapped_column(LargeBinary)  # sealed; makes repeated token requests give the same token
    created_at: Mapped[datetime] = mapped_column(UtcDateTime())


class OperatorTokenRow(Base):
    """Bearer tokens of the people who run this service."""

    __tablename__ = "operator_tokens"

    id: Mapped[str] = mapped_column(String(40), primary_key=True)
    token_hash: Mapped[str] = mapped_column(String(64), unique=True)
    created_at: Mapped[datetime] = mapped_column(UtcDateTime())
    revoked_at: Mapped[datetime | None] = mapped_column(UtcDateTime())


class EnrolmentTokenRow(Base):
    """Single-use rights to a certificate."""

    __tablename__ = "enrolment_tokens"

    id: Mapped[str] = mapped_column(String(40), primary_key=True)
    token_hash: Mapped[str] = mapped_column(String(64), unique=True)
    kind: Mapped[str] = mapped_column(String(16))
    name: Mapped[str] = mapped_column(String(64))
    federation_id: Mapped[str | None] = mapped_column(String(64))
    created_at: Mapped[datetime] = mapped_column(UtcDateTime())
    expires_at: Mapped[datetime] = mapped_column(UtcDateTime())
    used_at: Mapped[datetime | None] = mapped_column(UtcDateTime())
    used_by: Mapped[bytes | None] = mapped_column(LargeBinary)  # public key
    invited_by: Mapped[str | None] = mapped_column(String(200))  # set: the coordinator asked for it, for this person
    approved_at: Mapped[datetime | None] = mapped_column(UtcDateTime())


class ChallengeRow(Base):
    """Challenges that wait for their proof."""

    __tablename__ = "challenges"

    id: Mapped[str] = mapped_column(String(40), primary_key=True)
    public_key: Mapped[bytes] = mapped_column(LargeBinary)
    challenge: Mapped[bytes] = mapped_column(LargeBinary)
    expires_at: Mapped[datetime] = mapped_column(UtcDateTime(), index=True)


class CertificateRow(Base):
    """Every certificate ever issued: the directory."""

    __tablename__ = "certificates"
    __table_args__ = (Index("ix_certificates_party", "kind", "name"),)

    keyid: Mapped[str] = mapped_column(String(64), primary_key=True)
    kind: Mapped[str] = mapped_column(String(16))
    name: Mapped[str] = mapped_column(String(64))
    federation_id: Mapped[str | None] = mapped_column(String(64))
    public_key: Mapped[bytes] = mapped_column(LargeBinary, unique=True)
    certificate_pem: Mapped[str] = mapped_column(Text)
    not_before: Mapped[datetime] = mapped_column(UtcDateTime())
    not_after: Mapped[datetime] = mapped_column(UtcDateTime())
    replaces: Mapped[str | None] = mapped_column(String(64), index=True)
    revoked_at: Mapped[datetime | None] = mapped_column(UtcDateTime())
    reason: Mapped[str | None] = mapped_column(String(200))


class RevocationRow(Base):
    """The revocation feed, in the order of commits."""

    __tablename__ = "revocations"
    __table_args__ = ({"sqlite_autoincrement": True},)

    sequence: Mapped[int] = mapped_column(RowNumber, primary_key=True, autoincrement=True)
    keyid: Mapped[str] = mapped_column(String(64), ForeignKey("certificates.keyid"), unique=True)
    revoked_at: Mapped[datetime] = mapped_column(UtcDateTime())
    reason: Mapped[str] = mapped_column(String(200))


class WitnessStateRow(Base):
    """What the high-water file is compared with: both only grow unless the database was restored."""

    __tablename__ = "witness_state"
    __table_args__ = (CheckConstraint("id = 1", name="only_one"),)

    id: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    epoch: Mapped[int] = mapped_column(BigInteger)
    counter: Mapped[int] = mapped_column(BigInteger)  # commitments and signatures given


class WitnessedRoundRow(Base):
    """What this witness committed to and signed for one attempt at a round: each column is written once."""

    __tablename__ = "rounds_witnessed"
    __table_args__ = (UniqueConstraint("job_id", "number", "attempt"),)

    round_id: Mapped[str] = mapped_column(String(40), primary_key=True)
    epoch: Mapped[int] = mapped_column(BigInteger)
    keyid: Mapped[str] = mapped_column(String(64))  # the certificate that signs
    nonce: Mapped[bytes | None] = mapped_column(LargeBinary)  # sealed; forgotten once it is opened
    commitment: Mapped[str] = mapped_column(String(64))
    job_id: Mapped[str | None] = mapped_column(String(40))  # from here on: null until the roster is signed
    number: Mapped[int | None] = mapped_column(BigInteger)
    attempt: Mapped[int | None] = mapped_column(BigInteger)
    manifest_digest: Mapped[str | None] = mapped_column(String(64))
    roster: Mapped[bytes | None] = mapped_column(LargeBinary)
    roster_ask: Mapped[str | None] = mapped_column(String(64))  # digest of the question
    roster_reply: Mapped[bytes | None] = mapped_column(LargeBinary)
    survivors_ask: Mapped[str | None] = mapped_column(String(64))
    survivors_reply: Mapped[bytes | None] = mapped_column(LargeBinary)
    created_at: Mapped[datetime] = mapped_column(UtcDateTime())


class LogEntryRow(Base):
    """The transparency log's leaves: canonical documents."""

    __tablename__ = "log_entries"
    __table_args__ = (UniqueConstraint("type", "subject"),)

    index: Mapped[int] = mapped_column(BigInteger, primary_key=True, autoincrement=False)
    type: Mapped[str] = mapped_column(String(32))
    subject: Mapped[str] = mapped_column(String(128))
    document: Mapped[bytes] = mapped_column(LargeBinary)
    appended_at: Mapped[datetime] = mapped_column(UtcDateTime())


class LogNodeRow(Base):
    """The log's complete subtrees (`undersong.shared.merkle.tree`); level 0 holds the leaves' hashes."""

    __tablename__ = "log_nodes"

    level: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    position: Mapped[int] = mapped_column(BigInteger, primary_key=True, autoincrement=False)
    hash: Mapped[bytes] = mapped_column(LargeBinary)


class RoundRecordRow(Base):
    """Records of published rounds, as JSON; the log's leaf holds the digest."""

    __tablename__ = "round_records"

    round_id: Mapped[str] = mapped_column(String(40), primary_key=True)
    federation_id: Mapped[str] = mapped_column(String(64))
    digest: Mapped[str] = mapped_column(String(64))
    record: Mapped[str] = mapped_column(Text)
    index: Mapped[int] = mapped_column(BigInteger)
    recorded_at: Mapped[datetime] = mapped_column(UtcDateTime())


class LedgerHeadRow(Base):
    """Heads of sites' ledgers, as JSON, by their place in the log."""

    __tablename__ = "ledger_heads"
    __table_args__ = (Index("ix_ledger_heads_site", "federation_id", "site_id", "index"),)

    index: Mapped[int] = mapped_column(BigInteger, primary_key=True, autoincrement=False)
    federation_id: Mapped[str] = mapped_column(String(64))
    site_id: Mapped[str] = mapped_column(String(64))
    head: Mapped[str] = mapped_column(Text)
    logged_at: Mapped[datetime] = mapped_column(UtcDateTime())
