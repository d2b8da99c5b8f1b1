"""SQL for every service: PostgreSQL in deployments, SQLite (WAL) embedded; one suite runs on both."""

from undersong.shared.database.common import CommonTables, RowNumber, new_metadata
from undersong.shared.database.database import Database
from undersong.shared.database.fresh import EmittedEvent, FreshEvents
from undersong.shared.database.gathering import Gathering
from undersong.shared.database.paging import Page, ordering, page
from undersong.shared.database.transaction import Transaction, insert_for
from undersong.shared.database.types import JsonDocument, UtcDateTime

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
    "ordering",
    "page",
]
