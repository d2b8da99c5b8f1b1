"""Group `noise`: a million draws of the discrete Gaussian sampler, CPU time of this process, the median of several."""

import os
import statistics
import time

import numpy as np

from tests.benchmarks.figures import Figure
from undersong.shared.privacy.noise import add_discrete_gaussian, plan, table

LENGTH = 1_000_000
REPEATS = 21
SIGMAS = (10.0, 100.0, 1600.0, 1e6)


def measure() -> list[Figure]:
    """The group's figures."""
    return [_draws(sigma) for sigma in SIGMAS]


def _draws(sigma: float) -> Figure:
    """The table is made before: it is kept between calls."""
    way = plan(sigma)
    cells, out, took = len(table(way.sigma)), np.zeros(LENGTH, np.int64), []
    for _ in range(REPEATS):
        began = time.process_time()
        add_discrete_gaussian(out, sigma, os.urandom(32))
        took.append(time.process_time() - began)
    note = f"CPU; {'two tables' if way.k else 'a table'} of {cells} cells, key stream included"
    return Figure(f"noise.discrete_gaussian_ms.d1m_sigma{sigma:.0f}", statistics.median(took) * 1000, "ms", note=note)
