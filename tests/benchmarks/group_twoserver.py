"""Group `twoserver`: what proving and checking a norm costs, for one client and for each of the two servers.

CPU time of this process, which uses one core; the median of a few runs after one that warms up. The client's figure is
`shard_integers` (the quantiser's own is in group `fold`), a verifier's `verify_init`, by far the larger of its steps.
Bytes are the scheme's messages without their sealing.
"""

import os
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

from tests.benchmarks import pedersen_peer
from tests.benchmarks.figures import Figure
from tests.benchmarks.two_server_rounds import round_figures
from undersong.shared.vdaf.pine_instances import Pine64HmacSha256Aes128

T = TypeVar("T")

REPEATS = 9
CTX = b"bench"


@dataclass(frozen=True)
class Cost:
    """Milliseconds of CPU and bytes for one report."""

    client_ms: float
    leader_ms: float
    helper_ms: float
    bytes_up: int
    bytes_between: int


def measure() -> list[Figure]:
    """The group's figures."""
    return [*scheme_figures(), *pedersen_peer.figures(), *round_figures()]


def scheme_figures() -> list[Figure]:
    """The scheme alone, in this process."""
    large, small, tiny = cost(1_000_000), cost(100_000), cost(10_000)
    verifier = max(large.leader_ms, large.helper_ms)
    return [
        Figure("twoserver.client_ms.d1m", large.client_ms, "ms", 150, note="CPU, PROOFS = 3"),
        Figure("twoserver.verifier_ms.d1m", verifier, "ms", 70, note="CPU, the slower of leader and helper"),
        Figure("twoserver.leader_ms.d1m", large.leader_ms, "ms", note="CPU"),
        Figure("twoserver.helper_ms.d1m", large.helper_ms, "ms", note="CPU"),
        Figure("twoserver.bytes_up.d1m", large.bytes_up, "B", 8.1e6, note="client to both servers"),
        Figure("twoserver.bytes_between.d1m", large.bytes_between, "B", 12e3, note="one server to the other"),
        Figure("twoserver.client_ms.d100k", small.client_ms, "ms", 20, note="CPU"),
        Figure("twoserver.client_ms.d10k", tiny.client_ms, "ms", note="CPU; beside it the commitment-based way"),
        Figure("twoserver.verifier_ms.d100k", max(small.leader_ms, small.helper_ms), "ms", note="CPU"),
    ]


def cost(d: int) -> Cost:
    """One report of d coordinates at the bound, accepted."""
    task = Pine64HmacSha256Aes128.for_norm(1.0, d)
    drawn = np.random.default_rng(d).normal(size=d)
    vector = np.trunc(drawn * (task.parameters.l2_norm_bound / np.linalg.norm(drawn))).astype(np.int64)
    key, nonce = os.urandom(task.VERIFY_KEY_SIZE), os.urandom(task.NONCE_SIZE)
    client_ms, (public, shares) = _median_ms(
        lambda: task.shard_integers(CTX, vector, nonce, os.urandom(task.RAND_SIZE))
    )
    leader_ms, leader = _median_ms(lambda: task.verify_init(key, CTX, 0, None, nonce, public, shares[0]))
    helper_ms, helper = _median_ms(lambda: task.verify_init(key, CTX, 1, None, nonce, public, shares[1]))
    message = task.verifier_shares_to_message(CTX, None, [leader[1], helper[1]])
    opened = [task.verify_next(CTX, state, message) for state, _ in (leader, helper)]
    if not np.array_equal(task.unshard_integers(opened), vector):
        raise AssertionError("the sum differs")
    sent = 2 * len(public) + sum(map(len, shares))
    return Cost(client_ms, leader_ms, helper_ms, sent, max(len(leader[1]), len(helper[1]) + len(message)))


def _median_ms(work: Callable[[], T]) -> tuple[float, T]:
    result, took = work(), []
    for _ in range(REPEATS):
        began = time.process_time()
        result = work()
        took.append(time.process_time() - began)
    return statistics.median(took) * 1000, result
