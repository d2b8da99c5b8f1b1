"""What the transparency log holds of this ledger's heads: what is due to be committed, and heads that do not fit.

In the agent's database, beside the lines. A head that the log holds and the ledger does not keep is damage, as an older
mark is, until the owner adopts the ledger. Every function may block on the disk.
"""

from __future__ import annotations

import secrets
import sqlite3
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, Final

import msgpack

if TYPE_CHECKING:
    from undersong.services.agent.ledger.entries import Chain
    from undersong.shared.ids import Digest
    from undersong.shared.transparency.ledger_heads import LedgerHead

SECRET: Final = "ledger_secret"  # noqa: S105  (a fact's name)
COMMITTED: Final = "ledger_committed"
"""The fact that holds the lines and the hash that were committed last."""
LOST: Final = "ledger_lost"
"""The fact that holds rounds in the log with this site's updates that its state does not know."""
MISSED: Final = "ledger_heads_missed"
"""The fact that holds heads in the log that the ledger does not keep: lines, commitment, and why."""
SETTLED: Final = "ledger_heads_settled"
"""The fact that holds the commitments among them that an adoption explained."""
UNTIL: Final = "ledger_heads_until"
"""The fact that holds, from an adoption to the next look at the log, how many lines the adopted ledger had had."""


def fact(db: sqlite3.Connection, name: str, default: Any) -> Any:
    """Return a stored fact."""
    row = db.execute("SELECT value FROM facts WHERE name = ?", (name,)).fetchone()
    return default if row is None else msgpack.unpackb(row[0])


def remember(db: sqlite3.Connection, name: str, value: object) -> None:
    """Store a fact, within the caller's transaction."""
    there = "INSERT INTO facts (name, value) VALUES (?, ?) ON CONFLICT (name) DO UPDATE SET value = excluded.value"
    db.execute(there, (name, bytes(msgpack.packb(value))))


def elsewhere(db: sqlite3.Connection) -> str | None:
    """Return why the log shows that the ledger is an earlier or another one; None where it does not."""
    lost, missed = fact(db, LOST, []), fact(db, MISSED, [])
    if lost:
        more = f" and {len(lost) - 1} more" if len(lost) > 1 else ""
        return f"the transparency log has round {lost[0]}{more} with this site's update, which it does not know"
    if missed:
        return f"{missed[0][2]} ({len(missed)} such heads)" if len(missed) > 1 else str(missed[0][2])
    return None


def due(db: sqlite3.Connection, chain: Chain) -> tuple[int, Digest] | None:
    """Return the lines and the commitment that the log is to be told; None where it was told of them already."""
    from undersong.shared.transparency.ledger_heads import commitment

    head = chain.head
    if head.seq == 0 or fact(db, COMMITTED, None) == [head.seq, head.hash]:
        return None
    return head.seq, commitment(_secret(db), head.seq, head.hash)


def told(db: sqlite3.Connection, chain: Chain, lines: int) -> None:
    """Remember that the log was told of this many lines, within the caller's transaction."""
    remember(db, COMMITTED, [lines, chain.hashes[lines]])


def secret_of(db: sqlite3.Connection) -> bytes | None:
    """Return the secret under which the ledger's heads are committed; None where none was yet."""
    found = fact(db, SECRET, None)
    return found if isinstance(found, bytes) else None


def miss(db: sqlite3.Connection, chain: Chain, heads: Iterable[LedgerHead]) -> None:
    """Note which of these heads from the log the ledger does not keep, within the caller's transaction."""
    from undersong.shared.transparency.ledger_heads import unlike

    settled, until = list(fact(db, SETTLED, [])), int(fact(db, UNTIL, 0))
    missed = {str(each[1]): each for each in fact(db, MISSED, [])}
    secret = secret_of(db) or b""
    for head in heads:
        for why in unlike([head], secret, chain.hashes):
            if head.commitment in settled:
                continue
            if head.lines <= until:
                settled.append(head.commitment)
            else:
                missed[head.commitment] = [head.lines, head.commitment, why]
    remember(db, SETTLED, settled)
    remember(db, MISSED, list(missed.values()))
    db.execute("DELETE FROM facts WHERE name = ?", (UNTIL,))


def settle(db: sqlite3.Connection, lines: int) -> int:
    """Forget, at an adoption, what the log showed to be lost, of a ledger that had had this many lines.

    Returns how many it had had by the heads in the log as well.
    """
    missed: Sequence[Sequence[Any]] = fact(db, MISSED, [])
    until = max([lines, *(int(each[0]) for each in missed)])
    remember(db, SETTLED, list(dict.fromkeys([*fact(db, SETTLED, []), *(str(each[1]) for each in missed)])))
    remember(db, UNTIL, until)
    for name in (LOST, MISSED):
        db.execute("DELETE FROM facts WHERE name = ?", (name,))
    return until


def _secret(db: sqlite3.Connection) -> bytes:
    found = secret_of(db)
    if found is None:
        found = secrets.token_bytes(32)
        remember(db, SECRET, found)
    return found
