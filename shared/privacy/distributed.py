"""The cost of a sum to which every site has added discrete Gaussian noise of its own.

Source: Kairouz, Liu and Steinke, The Distributed Discrete Gaussian Mechanism for Federated Learning with Secure
Aggregation (ICML 2021), theorem 1: the sum of n draws of N_Z(0, s**2) on a vector of sensitivity D2 in d coordinates is
rho-zero-concentrated. Below 4 steps of the grid the sum of draws is no longer close to a discrete Gaussian.
"""

import math
from typing import Final

from undersong.shared.errors import Invalid

MIN_SITE_SIGMA: Final = 4.0
"""The least standard deviation of one site's noise, in steps of the grid."""


class NoiseTooFine(Invalid):
    """A site's part of the noise is too small for the grid that updates are rounded to."""


def site_sigma(noise_multiplier: float, sensitivity: float, min_sites: int) -> float:
    """Return the standard deviation of each site's noise, so that `min_sites` of them add up to the noise wanted.

    `sensitivity` is in steps of the grid, as the result. Raises `NoiseTooFine`.
    """
    sigma = noise_multiplier * sensitivity / math.sqrt(min_sites)
    if sigma < MIN_SITE_SIGMA:
        raise NoiseTooFine(
            f"each site's noise would be {sigma:.3g} steps of the grid, fewer than {MIN_SITE_SIGMA:g}: "
            "raise modulus_bits, or allow less epsilon"
        )
    return sigma


def sum_rho(sigma: float, sensitivity: float, length: int, min_sites: int) -> float:
    """Return rho of the sum of `min_sites` vectors of `length` coordinates with noise of `sigma` in each."""
    closeness = _closeness(sigma, min_sites)
    sharp = sensitivity**2 / (min_sites * sigma**2)
    loose = (sensitivity / (math.sqrt(min_sites) * sigma) + closeness * math.sqrt(length)) ** 2
    return min(sharp + closeness * length / 2, loose) / 2


def _closeness(sigma: float, sites: int) -> float:
    """Return tau: how far the sum of draws is from one discrete Gaussian draw."""
    return 10 * sum(math.exp(-2 * math.pi**2 * sigma**2 * k / (k + 1)) for k in range(1, min(sites, 10_000)))
