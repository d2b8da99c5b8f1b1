"""What others were told of a ledger: heads in the transparency log, and references in datasheets."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import TypeAdapter, ValidationError

from undersong.errors import UndersongError
from undersong.shared.errors import Refusal
from undersong.shared.files import read_bytes

if TYPE_CHECKING:
    from undersong.services.agent.ledger.entries import Chain
    from undersong.shared.transparency.ledger_heads import LedgerHead


@dataclass(frozen=True, slots=True)
class LedgerOwner:
    """Whose ledger is checked, as far as it is known, and the fingerprint of the authority that it trusts."""

    site_id: str | None
    authority: str | None


@dataclass(frozen=True, slots=True)
class Told:
    """Heads of one ledger that others were told, and a round that it must have charged by the last of them."""

    heads: "Sequence[LedgerHead]"
    round_id: str | None = None


def told_in(file: Path, holder: LedgerOwner) -> Told:
    """Return what a file says of a ledger: a datasheet, or what `undersong ledger heads --json` printed.

    UndersongError for another file, for a datasheet whose signature does not hold, and where it names several ledgers
    and it is not known which one is meant.
    """
    try:
        document = json.loads(read_bytes(file))
        found = _of_datasheet(document, holder) if isinstance(document, dict) else _of_log(document)
    except (ValidationError, ValueError, RecursionError):
        raise UndersongError(
            f"{file} is neither a datasheet nor a list of heads",
            remedy="write one with `undersong datasheet MODEL --json` or `undersong ledger heads SITE --json`",
        ) from None
    except Refusal as refusal:
        raise UndersongError(f"{file}: {refusal.detail}", remedy="ask for the datasheet again") from None
    mine = {site: told for site, told in found.items() if holder.site_id in (None, site)}
    if not mine:
        raise UndersongError(f"{file} says nothing of the ledger of {holder.site_id or 'any site'}")
    if len(mine) > 1:
        raise UndersongError(
            f"{file} tells of the ledgers of {', '.join(sorted(mine))}", remedy="name the one with --site SITE_ID"
        )
    return next(iter(mine.values()))


def unlike_told(chain: "Chain", secret: bytes | None, told: Told) -> Iterator[str]:
    """Yield why a ledger is not the one of which others were told."""
    from undersong.shared.transparency.ledger_heads import unlike

    if told.heads and secret is None:
        yield "heads of it are in the log, and it holds no secret of any: it is another ledger, or was begun anew"
        return
    yield from unlike(told.heads, secret or b"", chain.hashes)
    if told.round_id is not None:
        seqs = [seq for seq, charge in chain.charges.items() if charge.held.round_id == told.round_id]
        if not seqs:
            yield f"it has no charge for round {told.round_id}, in which the site took part"
        elif told.heads and min(seqs) > told.heads[-1].lines:
            yield f"it charged round {told.round_id} in line {min(seqs)}, behind the head in the log"


def _of_datasheet(document: dict[str, Any], holder: LedgerOwner) -> dict[str, Told]:
    from undersong.shared.transparency.datasheet import SignedDatasheet, check_datasheet

    signed = SignedDatasheet.model_validate(document)
    sheet = signed.datasheet if holder.authority is None else check_datasheet(signed, holder.authority)
    return {one.site_id: Told([one.head] if one.head is not None else [], one.round_id) for one in sheet.ledgers}


def _of_log(document: Any) -> dict[str, Told]:
    from undersong.shared.transparency.ledger_heads import LoggedLedgerHead

    found: dict[str, list[LedgerHead]] = {}
    items: list[LoggedLedgerHead] = TypeAdapter(list[LoggedLedgerHead]).validate_python(document)
    for item in items:
        found.setdefault(item.head.site_id, []).append(item.head)
    return {site: Told(heads) for site, heads in found.items()}
