"""One report from client to result, in one process."""

import secrets
from dataclasses import dataclass
from typing import Any

from undersong.shared.vdaf.field import Vector
from undersong.shared.vdaf.vdaf import Vdaf

CTX = b"tests"


@dataclass
class Report:
    """What a client sends."""

    nonce: bytes
    public_share: bytes
    input_shares: list[bytes]


def report(scheme: Any, measurement: Any, *, ctx: bytes = CTX, integers: bool = False) -> Report:
    """A report under fresh randomness."""
    nonce, rand = secrets.token_bytes(scheme.NONCE_SIZE), secrets.token_bytes(scheme.RAND_SIZE)
    shard = scheme.shard_integers if integers else scheme.shard
    return Report(nonce, *shard(ctx, measurement, nonce, rand))


def verify(scheme: Vdaf, sent: Report, *, ctx: bytes = CTX, key: bytes | None = None) -> list[Vector]:
    """Every aggregator's output share, or the refusal."""
    key = key or secrets.token_bytes(scheme.VERIFY_KEY_SIZE)
    prepared = [
        scheme.verify_init(key, ctx, agg_id, None, sent.nonce, sent.public_share, share)
        for agg_id, share in enumerate(sent.input_shares)
    ]
    message = scheme.verifier_shares_to_message(ctx, None, [share for _, share in prepared])
    return [scheme.verify_next(ctx, state, message) for state, _ in prepared]


def result(scheme: Vdaf, reports: list[Report]) -> Any:
    """The aggregate result of accepted reports."""
    totals = [scheme.agg_init(None) for _ in range(scheme.SHARES)]
    for sent in reports:
        for total, out_share in zip(totals, verify(scheme, sent), strict=True):
            scheme.agg_update(total, out_share)
    return scheme.unshard(None, totals, len(reports))
