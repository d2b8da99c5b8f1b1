"""What others were told of a ledger: heads in the transparency log, and references in datasheets."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from undersong.client import Client
from undersong.errors import UndersongError
from undersong.shared.errors import Refusal
from undersong.shared.files import read_bytes

if TYPE_CHECKING:
    from undersong.services.agent.ledger.entries import Chain, Line
    from undersong.shared.transparency.head_proofs import LedgerHeadProofs
    from undersong.shared.transparency.ledger_heads import LedgerHead


@dataclass(frozen=True, slots=True)
class LedgerOwner:
    """Whose ledger is checked, as far as it is known, and the fingerprint of the authority that it trusts."""

    site_id: str | None
    authority: str | None


@dataclass(frozen=True, slots=True)
class Told:
    """Heads of one ledger that others were told, in the log's order, and a round that it must have charged by the last
    of them.
    """

    heads: "Sequence[LedgerHead]"
    round_id: str | None = None


def told_in(file: Path, holder: LedgerOwner) -> Told:
    """Return what a file says of a ledger: a datasheet, or what `undersong ledger heads --json` printed.

    Signatures, certificates and places in the log are checked. UndersongError for another file, for one that does not
    hold or whose authority is not known here, and where several ledgers are named and it is not known which is meant.
    """
    if holder.authority is None:
        raise UndersongError(
            f"nothing says by which authority {file} is to be checked",
            remedy="give the fingerprint of the federation's authority with --ca; its operator tells it",
        )
    try:
        document = json.loads(read_bytes(file))
        found = _in_document(document, holder.authority)
    except (ValidationError, ValueError, RecursionError):
        raise UndersongError(
            f"{file} is neither a datasheet nor a list of heads",
            remedy="write one with `undersong datasheet MODEL --json` or `undersong ledger heads SITE --json`",
        ) from None
    except Refusal as refusal:
        raise UndersongError(
            f"{file}: {refusal.detail}", remedy="get it again, or name its authority with --ca"
        ) from None
    mine = {site: told for site, told in found.items() if holder.site_id in (None, site)}
    if not mine:
        raise UndersongError(f"{file} says nothing of the ledger of {holder.site_id or 'any site'}")
    if len(mine) > 1:
        raise UndersongError(
            f"{file} tells of the ledgers of {', '.join(sorted(mine))}", remedy="name the one with --site SITE_ID"
        )
    return next(iter(mine.values()))


@dataclass(frozen=True, slots=True)
class LedgerComparison:
    """What a ledger does not keep of what others were told: what nothing explains, and what its adoptions explain."""

    faults: list[str]
    adopted: list[str]


def unlike_told(chain: "Chain", secret: bytes | None, told: Told) -> LedgerComparison:
    """Return in what a ledger is not the one of which others were told."""
    from undersong.shared.transparency.ledger_heads import Adoption, compare_heads

    if told.heads and secret is None:
        return LedgerComparison(
            ["heads of it are in the log, and it holds no secret of any: it is another ledger, or was begun anew"], []
        )
    adoptions = [Adoption(line.seq, line.number) for line in chain.adopted]
    unlike = compare_heads(told.heads, secret or b"", chain.hashes, adoptions)
    faults = [each.why for each in unlike if each.adoption is None]
    if told.round_id is not None:
        faults += _without_round(chain, told, told.round_id)
    lines = {line.seq: line for line in chain.adopted}
    of: dict[int, list[int]] = {}
    for each in unlike:
        if each.adoption is not None:
            of.setdefault(each.adoption.line, []).append(each.head.lines)
    return LedgerComparison(faults, [_adopted(lines[line], counts) for line, counts in sorted(of.items())])


def _without_round(chain: "Chain", told: Told, round_id: str) -> Iterator[str]:
    seqs = [seq for seq, charge in chain.charges.items() if charge.held.round_id == round_id]
    if not seqs:
        yield f"it has no charge for round {round_id}, in which the site took part"
    elif told.heads and min(seqs) > told.heads[-1].lines:
        yield f"it charged round {round_id} in line {min(seqs)}, behind the head in the log"


def _adopted(line: "Line", counts: Sequence[int]) -> str:
    """Return what an adoption says of heads of so many lines."""
    from undersong.shared.clock import utc_text

    heads = f"the head of {counts[0]} lines"
    if len(counts) > 1:
        heads = f"{len(counts)} heads of {min(counts)} to {max(counts)} lines"
    return (
        f"{heads}: its owner adopted it on {utc_text(line.at_ms)}, in line {line.seq}, when it had had up to "
        f"{line.number} lines, and gave as the reason: {line.reason}"
    )


def proven_heads(client: Client, site_id: str) -> "LedgerHeadProofs":
    """Return the heads of a site's ledger with the certificates and the log's proofs by which anyone checks them."""
    from cryptography import x509
    from cryptography.hazmat.primitives.serialization import Encoding

    from undersong.shared.transparency.head_proofs import LedgerHeadProofs

    def der(pem: str) -> str:
        return x509.load_pem_x509_certificate(pem.encode()).public_bytes(Encoding.DER).hex()

    heads, log_head = client.ledger_heads(site_id), client.log_head()
    keyids = dict.fromkeys([log_head.keyid, *(each.head.keyid for each in heads)])
    items = [
        {
            "head": each.head.model_dump(mode="json"),
            "index": each.index,
            "proof": client.inclusion_proof(each.index, log_head.size).model_dump(mode="json"),
        }
        for each in heads
        if each.index < log_head.size
    ]
    return LedgerHeadProofs.model_validate(
        {
            "site_id": site_id,
            "authority": der(client.authority().certificate_pem),
            "certificates": [der(client.certificate(keyid)["certificate_pem"]) for keyid in keyids],
            "log_head": log_head.model_dump(mode="json"),
            "items": items,
        }
    )


def _in_document(document: Any, authority: str) -> dict[str, Told]:
    from undersong.shared.transparency.head_proofs import FORMAT, LedgerHeadProofs

    if isinstance(document, dict) and document.get("format") == FORMAT:
        proofs = LedgerHeadProofs.model_validate_json(json.dumps(document))
        return {proofs.site_id: Told(proofs.check(authority))}
    return _of_datasheet(document, authority)


def _of_datasheet(document: Any, authority: str) -> dict[str, Told]:
    from undersong.shared.transparency.datasheet import SignedDatasheet, check_datasheet

    sheet = check_datasheet(SignedDatasheet.model_validate(document), authority)
    return {one.site_id: Told([one.head] if one.head is not None else [], one.round_id) for one in sheet.ledgers}
