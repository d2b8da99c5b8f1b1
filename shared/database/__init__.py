"""SQL for every service: PostgreSQL in deployments, SQLite (WAL) embedded; one suite runs on both."""

from shared.database.common import CommonTables, RowNumber, new_metadata
from shared.database.database import Database
from shared.database.fresh import EmittedEvent, FreshEvents
from shared.database.gathering import Gathering
from shared.database.paging import Page, page
from shared.database.transaction import Transaction, insert_for
from shared.database.types import JsonDocument, UtcDateTime

__all__ = [
    "CommonTables",
    "Database",
    "EmittedEvent",
    "FreshEvents",
    "Gathering",
    "JsonDocument",
    "Page",
    "RowNumber",
    "Transaction",
    "UtcDateTime",
    "insert_for",
    "new_metadata",
    "page",
]
