"""How an owner takes a ledger whose lines were lost or changed into use again: what is missing is said in a line."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from undersong.services.agent.ledger import commitments
from undersong.services.agent.ledger.book import Ledger, insert, known, latest, rows_after
from undersong.services.agent.ledger.entries import FIELDS, Chain, Line, State
from undersong.shared.identity.authority import write_private
from undersong.shared.wire.canonical import NotCanonical

TRIGGERS = {"charges_stay": "UPDATE", "charges_last": "DELETE"}


def adopt(ledger: Ledger, reason: str, aside: Path) -> list[Line]:
    """Go on from a damaged ledger and return the lines added; none where nothing is wrong.

    Lines up to the first that does not hold stay. The others are written to the file `aside`, and what they charged is
    charged again. Every held charge becomes final, because it is unknown what was sent. The agent must not run.
    """
    chain, fault = ledger.look()
    if fault is None:
        return []
    mark = known(ledger.mark)
    with ledger.store.writing() as db:
        rows = rows_after(db, chain.head.seq)
        broken = [dict(zip((*FIELDS, "hash"), row, strict=True)) for row in rows]
        if broken:
            write_private(aside, json.dumps(broken, indent=1).encode())
        lost = max(0, (mark.seq if mark is not None else 0) - chain.head.seq - len(broken))
        had = chain.head.seq + len(broken) + lost
        gap = f"{fault}; {lost} lines are lost, {len(broken)} did not hold"
        had = commitments.settle(db, had)
        made = list(_added(chain, f"{gap}; {reason}" if reason else gap, had, broken, latest(chain, mark)))
        for name in TRIGGERS:
            db.execute(f"DROP TRIGGER IF EXISTS {name}")
        db.execute("DELETE FROM charges WHERE seq > ?", (made[0].seq - 1,))
        for line in made:
            insert(db, line)
        for name, change in TRIGGERS.items():
            says = "BEGIN SELECT RAISE(ABORT, 'lines of the ledger stay'); END"
            db.execute(f"CREATE TRIGGER {name} BEFORE {change} ON charges {says}")
    ledger.mark.write(chain.head)
    return made


def _added(chain: Chain, reason: str, had: int, broken: list[dict[str, Any]], now_ms: int) -> Iterator[Line]:
    """Add to the chain, and yield, the note, what broken lines charged, and the end of all that is held."""
    seq, last = chain.head.seq + 1, chain.head.hash
    note = Line(seq, last, now_ms, State.ADOPTED, seq, neighbours="", number=had, reason=reason)
    chain.add(note)
    yield note
    for fields in broken:
        line = _again(chain, fields, now_ms)
        if line is not None:
            chain.add(line)
            yield line
    for charge in chain.held():
        reason = "final at adoption: it is unknown what was sent"
        seq, last = chain.head.seq + 1, chain.head.hash
        line = replace(charge.held, seq=seq, prev_hash=last, at_ms=now_ms, state=State.FINAL, reason=reason)
        chain.add(line)
        yield line


def _again(chain: Chain, fields: Mapping[str, Any], now_ms: int) -> Line | None:
    """Return a line that charges again what a broken line charged; None where it is none, or is charged already."""
    if fields["state"] != State.HELD or chain.open(str(fields["manifest_digest"])) is not None:
        return None
    place = {"seq": chain.head.seq + 1, "prev_hash": chain.head.hash, "at_ms": now_ms, "charge": chain.head.seq + 1}
    line = Line(**{name: fields[name] for name in FIELDS} | place | {"state": State.HELD, "reason": "charged again"})
    trial = Chain()
    trial.head = chain.head
    try:
        trial.add(line)
    except (ValueError, ArithmeticError, NotCanonical):
        return None
    return line
