"""How far the ledger has come, in a file outside the state folder: it shows a database that was put back or cut off.

It is written after each line is in the database and before anything follows from it, so a crash can leave the database
ahead of the file, and only an older or changed database is behind it.
"""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Final

from pydantic import TypeAdapter

from undersong.services.agent.ledger.entries import Chain, Head
from undersong.shared.files import read_text
from undersong.shared.identity.authority import write_private

_HEAD: Final = TypeAdapter(Head)


class MarkUnreadable(Exception):
    """The file is there and cannot be used; the text says why."""


class LedgerMark:
    """The file: the head of the ledger as it was last known. Every method may block on the disk."""

    def __init__(self, high_water: Path) -> None:
        """`high_water`: the file that knows what was sent; this one lies beside it, where no backup restores it."""
        self._path = high_water.with_name(f"{high_water.name}.ledger")

    def read(self) -> Head | None:
        """Return the head, None where there is no file; raises MarkUnreadable."""
        try:
            return _HEAD.validate_json(read_text(self._path, "ascii"), strict=True)
        except FileNotFoundError:
            return None
        except (OSError, ValueError) as error:
            why = getattr(error, "strerror", None) or "it holds no mark"
            raise MarkUnreadable(f"{self._path}, which shows how far it had come, cannot be read: {why}") from error

    def write(self, head: Head) -> None:
        """Replace the head, durably; raises OSError."""
        self._path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        write_private(self._path, json.dumps(asdict(head)).encode() + b"\n")


def behind(chain: Chain, mark: Head | None) -> str | None:
    """Return why a chain is not the one that the mark was made of; None where it is. Pure.

    The first line may be there without a mark: a crash came between them.
    """
    if mark is None or mark.seq < 1:
        return "the file that shows how far it had come is gone" if chain.head.seq > 1 else None
    if mark.seq > chain.head.seq:
        return (
            f"it has {chain.head.seq} lines and had {mark.seq}: the state folder is an earlier copy, or lines are gone"
        )
    if chain.hashes[mark.seq] != mark.hash:
        return f"line {mark.seq} is not the one that was written"
    return None
