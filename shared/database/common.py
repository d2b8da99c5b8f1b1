"""The three tables every service has beside its own: outbox, idempotency records, nonces."""

from sqlalchemy import BigInteger, Column, Index, Integer, LargeBinary, MetaData, SmallInteger, String, Table, text

from undersong.shared.database.types import JsonDocument, UtcDateTime

NAMING = {
    "ix": "ix_%(column_0_N_label)s",
    "uq": "uq_%(table_name)s_%(column_0_N_name)s",
    "ck": "ck_%(table_name)s_%(constraint_name)s",
    "fk": "fk_%(table_name)s_%(column_0_N_name)s_%(referred_table_name)s",
    "pk": "pk_%(table_name)s",
}

# SQLite counts rows by itself only in a column of exactly INTEGER type.
RowNumber = BigInteger().with_variant(Integer(), "sqlite")


def new_metadata() -> MetaData:
    """Metadata in which every constraint gets a predictable name, so that migrations can refer to it."""
    return MetaData(naming_convention=NAMING)


class CommonTables:
    """Defines the common tables in a service's metadata and holds them.

    `outbox`: events written with the state they announce, until a relay has announced them.
    `idempotency`: answers to unsafe requests, by (key, principal, route); `status` is null while in progress.
    `nonces`: request nonces already seen, by (principal, nonce).
    """

    def __init__(self, metadata: MetaData) -> None:
        self.outbox = Table(
            "outbox",
            metadata,
            Column("id", RowNumber, primary_key=True, autoincrement=True),
            Column("event_id", String(64), nullable=False, unique=True),
            Column("topic", String(64), nullable=False),
            Column("type", String(64), nullable=False),
            Column("subject", String(128), nullable=False),
            Column("trace", String(128)),
            Column("created_at", UtcDateTime(), nullable=False),
            Column("sent_at", UtcDateTime()),
            Index(
                "ix_outbox_unsent",
                "id",
                sqlite_where=text("sent_at IS NULL"),
                postgresql_where=text("sent_at IS NULL"),
            ),
            sqlite_autoincrement=True,
        )
        self.into_outbox = self.outbox.insert()  # built once: nearly every transaction runs it
        self.idempotency = Table(
            "idempotency",
            metadata,
            Column("key", String(128), primary_key=True),
            Column("principal", String(160), primary_key=True),
            Column("route", String(200), primary_key=True),
            Column("request_digest", String(64), nullable=False),
            Column("status", SmallInteger()),
            Column("body", LargeBinary()),
            Column("headers", JsonDocument()),
            Column("created_at", UtcDateTime(), nullable=False, index=True),
        )
        self.nonces = Table(
            "nonces",
            metadata,
            Column("principal", String(160), primary_key=True),
            Column("nonce", String(128), primary_key=True),
            Column("expires_at", UtcDateTime(), nullable=False, index=True),
        )
