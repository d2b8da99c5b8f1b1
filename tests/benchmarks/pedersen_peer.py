"""The commitment-based way to verified inputs, as a peer for group `twoserver`: `figures()`.

Every coordinate of a quantised update gets a Pedersen commitment of its own, and a bit-wise range proof would show it
to be small. Commitments are measured over all 10 000 coordinates; range proofs over a stated few, a coordinate at a
time. Textbook proofs on libsodium, as in `shared/zk`: systems that live on commitments batch their proofs and take
multi-exponentiations, and are faster for it.
"""

import os
import statistics
import time
from collections.abc import Callable
from typing import TypeVar

import numpy as np

from tests.benchmarks.figures import Figure
from undersong.shared.zk.group import Scalar
from undersong.shared.zk.pedersen import Opening, commit
from undersong.shared.zk.range_proof import proof_size, prove_range, verify_range

LENGTH = 10_000
BITS = 16
PROVED = 24
CONTEXT = b"bench"
T = TypeVar("T")
LIMIT = (1 << BITS) - 1


def figures() -> list[Figure]:
    """CPU time of this process."""
    values = [int(value) for value in np.random.default_rng(3).integers(0, LIMIT, LENGTH)]
    committed_ms, openings = _measured(lambda: _committed(values))
    few = openings[:PROVED]
    proved = [_measured(lambda one=one: prove_range(one, 0, LIMIT, CONTEXT)) for one in few]
    verified = [
        _measured(lambda one=one, proof=proof: verify_range(one.commitment, 0, LIMIT, CONTEXT, proof))[0]
        for one, (_, proof) in zip(few, proved, strict=True)
    ]
    note = f"CPU of one coordinate of {BITS} bits, median of {PROVED} of the {LENGTH:,}; each needs one"
    return [
        Figure(
            "twoserver.pedersen_client_ms.d10k",
            committed_ms,
            "ms",
            note=f"CPU, {LENGTH:,} commitments, no range proofs",
        ),
        Figure("twoserver.pedersen_range_ms.one_of_d10k", statistics.median(ms for ms, _ in proved), "ms", note=note),
        Figure("twoserver.pedersen_verify_ms.one_of_d10k", statistics.median(verified), "ms", note=note),
        Figure(
            "twoserver.pedersen_bytes_up.d10k", LENGTH * (32 + proof_size(0, LIMIT)), "B", note="with the range proofs"
        ),
    ]


def _committed(values: list[int]) -> list[Opening]:
    """An opening for each value, its commitment made."""
    uniform = os.urandom(64 * len(values))
    openings = [
        Opening(Scalar.of(value), Scalar.reduce(uniform[64 * i : 64 * i + 64])) for i, value in enumerate(values)
    ]
    for opening in openings:
        commit(opening.value, opening.blinding)
    return openings


def _measured(work: Callable[[], T]) -> tuple[float, T]:
    began = time.process_time()
    made = work()
    return (time.process_time() - began) * 1000, made
