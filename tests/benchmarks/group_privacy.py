"""Group `privacy`: noise for a million coordinates, and the epsilon of a thousand charges; CPU time, medians.

The charges are of the kinds that a site's ledger holds: servers' noise of many strengths, and noise added by the sites
themselves. None is in the library's cache: each repetition has other strengths.
"""

import os
import statistics
import time
from collections.abc import Callable, Sequence

import numpy as np

from tests.benchmarks.figures import Figure
from undersong.shared.privacy.accounting import epsilon_of
from undersong.shared.privacy.noise import add_discrete_gaussian
from undersong.shared.wire.privacy import GaussianEvent, PrivacyEvent, ZeroConcentratedEvent

LENGTH, CHARGES = 1_000_000, 1000
SAMPLED, COUNTED = 21, 11
DELTA = 1e-6


def measure() -> list[Figure]:
    """The group's figures."""
    out = np.zeros(LENGTH, np.int64)
    sampled = _median(lambda _: add_discrete_gaussian(out, 1600.0, os.urandom(32)), SAMPLED)
    gaussian = _median(lambda turn: epsilon_of(_charges(turn, mixed=False), DELTA), COUNTED)
    mixed = _median(lambda turn: epsilon_of(_charges(turn, mixed=True), DELTA), COUNTED)
    return [
        Figure("privacy.sampler_ms.d1m", sampled, "ms", 10, "at most", "CPU; sigma 1600, key stream included"),
        Figure(
            "privacy.pld_1000_charges_ms", mixed, "ms", 50, "at most", "CPU; Gaussian and zero-concentrated, merged"
        ),
        Figure("privacy.gaussian_1000_charges_ms", gaussian, "ms", note="CPU; Gaussians alone, in closed form"),
    ]


def _charges(turn: int, *, mixed: bool) -> Sequence[PrivacyEvent]:
    strengths = 20.0 + turn + np.arange(CHARGES) / CHARGES
    made: list[PrivacyEvent] = []
    for place, strength in enumerate(strengths.tolist()):
        if mixed and place % 2:
            made.append(ZeroConcentratedEvent(rho=0.5 / strength**2))
        else:
            made.append(GaussianEvent(noise_multiplier=strength))
    return made


def _median(work: Callable[[int], object], repeats: int) -> float:
    work(-1)  # imports, tables
    took = []
    for turn in range(repeats):
        began = time.process_time()
        work(turn)
        took.append(time.process_time() - began)
    return statistics.median(took) * 1000
