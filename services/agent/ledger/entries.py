"""The lines of the ledger: a chain of hashes, and the charges that it tells. Pure.

A line is never changed: what becomes of a charge is a further line. Each line's hash covers all its fields and the hash
of the line before, so that a line that is edited, left out or put in between breaks the chain. Lines that are cut off
at the end leave a chain that holds; the mark outside the database shows them (`undersong.services.agent.ledger.mark`).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Any, Final

from pydantic import TypeAdapter, ValidationError

from undersong.shared.ids import Digest, digest_of
from undersong.shared.wire.canonical import NotCanonical, canonical
from undersong.shared.wire.privacy import NEIGHBOURS, NonPrivateEvent, PrivacyEvent, PrivacyUnit, privacy_event

CONTEXT: Final = b"undersong/ledger/1\0"
START: Final = "0" * 64
"""Stands for the hash before the first line."""


class State(StrEnum):
    """What a line says: a charge is HELD before a round trains, and FINAL or VOID once it is known what came of it.

    ADOPTED: the owner accepted the ledger as it is after lines were lost or changed.
    """

    HELD = "held"
    FINAL = "final"
    VOID = "void"
    ADOPTED = "adopted"


@dataclass(frozen=True, slots=True)
class Line:
    """One line. Times are Unix milliseconds.

    charge: the `seq` of the line by which the charge was held; of that line its own. due_ms: when the charge is final
    at the latest. delta: that of `epsilon_after`, the cost of all charges of the data set and unit that are held or
    final, of a budget's period where there is a budget; None where it has no bound. A line of state ADOPTED has no
    charge, and of what follows `charge` only `reason` and `number`: how many lines the ledger had had, as far as known.
    """

    seq: int
    prev_hash: str
    at_ms: int
    state: State
    charge: int
    federation_id: str = ""
    job_id: str = ""
    round_id: str = ""
    kind: str = ""
    number: int = 0
    attempt: int = 0
    engine: str = ""
    dataset: str = ""
    unit: str = ""
    neighbours: str = NEIGHBOURS
    event: str = ""
    delta: float = 0.0
    manifest_digest: str = ""
    due_ms: int = 0
    release_digest: str | None = None
    reason: str = ""
    epsilon_after: float | None = None

    def document(self) -> dict[str, Any]:
        """Return the fields, in the order of the table's columns."""
        return {name: getattr(self, name) for name in FIELDS}

    def hash(self) -> Digest:
        """Return the hash by which the next line names this one."""
        return digest_of(CONTEXT + canonical({**self.document(), "state": str(self.state)}))


FIELDS: Final = tuple(Line.__dataclass_fields__)
_LINE: Final = TypeAdapter(Line)


def line_of(values: Sequence[object]) -> Line:
    """Return a stored line, its values in the order of `FIELDS`; ValueError for one that is none."""
    try:
        return _LINE.validate_python(dict(zip(FIELDS, values, strict=True)))
    except ValidationError as error:
        first = error.errors()[0]
        raise ValueError(f"{'.'.join(str(part) for part in first['loc'])}: {first['msg']}") from error


@dataclass(frozen=True, slots=True)
class Head:
    """How far a ledger has come: its number of lines, the hash of the last one, and the latest time in any."""

    seq: int = 0
    hash: str = START
    at_ms: int = 0


@dataclass(frozen=True, slots=True)
class Charge:
    """One charge as its lines tell it: the line by which it was held, and what it is now."""

    held: Line
    state: State
    release_digest: str | None = None
    reason: str = ""

    @property
    def event(self) -> PrivacyEvent:
        """What the round costs."""
        return event_in(self.held)

    @property
    def counts(self) -> bool:
        """Whether the charge is part of what was spent."""
        return self.state is not State.VOID

    def touches(self, dataset: str, unit: str) -> bool:
        """Return whether it is spent of this data set's unit: an exact answer bounds no unit, so it is spent of
        each.
        """
        exact = isinstance(self.event, NonPrivateEvent)
        return self.counts and self.held.dataset == dataset and (exact or self.held.unit == unit)


_parsed: dict[str, PrivacyEvent] = {}


def event_in(line: Line) -> PrivacyEvent:
    """Return the event of a line; raises pydantic's ValidationError. Equal texts are read once."""
    found = _parsed.get(line.event)
    if found is None:
        if len(_parsed) > 4096:
            _parsed.clear()
        found = _parsed[line.event] = privacy_event(_JSON.validate_json(line.event))
    return found


_JSON: Final[TypeAdapter[dict[str, Any]]] = TypeAdapter(dict[str, Any])


class Chain:
    """Lines that were read in order, the charges that they tell, and the first fault in them."""

    def __init__(self) -> None:
        self.head = Head()
        self.charges: dict[int, Charge] = {}
        self.hashes: list[str] = [START]
        self.adopted: list[Line] = []
        self.fault: str | None = None
        self._held: set[int] = set()
        self._of_manifest: defaultdict[str, list[int]] = defaultdict(list)
        self._of_job: defaultdict[tuple[str, str], list[int]] = defaultdict(list)

    def read(self, rows: Iterable[tuple[Sequence[object], object]]) -> Chain:
        """Take in stored rows, each the values of `FIELDS` and the hash; stop at the first that does not hold."""
        for values, stored in rows:
            try:
                line = line_of(values)
                self.add(line, stored)
            except (ValueError, ArithmeticError, NotCanonical) as error:
                self.fault = f"line {self.head.seq + 1} does not hold: {error}"
                break
        return self

    def add(self, line: Line, stored: object = None) -> None:
        """Take in the next line; ValueError where it does not follow from those before."""
        found = line.hash()
        if line.seq != self.head.seq + 1:
            raise ValueError(f"line {line.seq} comes after line {self.head.seq}")
        if line.prev_hash != self.head.hash:
            raise ValueError("it names another line before it")
        if stored is not None and stored != found:
            raise ValueError("its hash is not that of its content")
        self._apply(line)
        self.head = Head(line.seq, found, max(self.head.at_ms, line.at_ms))
        self.hashes.append(found)

    def _apply(self, line: Line) -> None:
        if line.state is State.ADOPTED:
            self.adopted.append(line)
            return
        if line.state is State.HELD:
            if line.charge != line.seq:
                raise ValueError("it holds another line's charge")
            PrivacyUnit(line.unit)
            event_in(line)
            self.charges[line.seq] = Charge(line, State.HELD)
            self._held.add(line.seq)
            self._of_manifest[line.manifest_digest].append(line.seq)
            self._of_job[line.job_id, line.kind].append(line.seq)
            return
        charge = self.charges.get(line.charge)
        if charge is None or charge.state is not State.HELD:
            raise ValueError(f"it changes charge {line.charge}, which is not held")
        self.charges[line.charge] = replace(
            charge, state=line.state, release_digest=line.release_digest, reason=line.reason
        )
        self._held.discard(line.charge)

    def held(self) -> list[Charge]:
        """Return the charges of which it is not known yet what becomes of them, oldest first."""
        return [self.charges[seq] for seq in sorted(self._held)]

    def spent(self, dataset: str, unit: str, since_ms: int | None = None) -> list[PrivacyEvent]:
        """Return the events that are spent of a data set's unit, of charges held after `since_ms`."""
        return [
            charge.event
            for charge in self.charges.values()
            if charge.touches(dataset, unit) and (since_ms is None or charge.held.at_ms > since_ms)
        ]

    def open(self, manifest_digest: str) -> Charge | None:
        """Return the charge of a manifest that is held or final."""
        charges = (self.charges[seq] for seq in reversed(self._of_manifest.get(manifest_digest, [])))
        return next((charge for charge in charges if charge.counts), None)

    def of_job(self, job_id: str, kind: str) -> list[Charge]:
        """Return what counts of a job's rounds of one kind."""
        charges = (self.charges[seq] for seq in self._of_job.get((job_id, kind), []))
        return [charge for charge in charges if charge.counts]


def noisy(events: Iterable[PrivacyEvent]) -> list[PrivacyEvent]:
    """Return the events that have a bound."""
    return [event for event in events if not isinstance(event, NonPrivateEvent)]
