"""The clip norm that moves: from the noisy share of updates within it to that of the next round, and what that costs.

Source: Andrew, Thakkar, McMahan and Ramaswamy, Differentially Private Learning with Adaptive Clipping (NeurIPS 2021),
algorithm 1 and theorem 1. Each site adds a bit, one half where its update was within the clip norm and minus one half
where not, so that one site moves the count by one half at most. With noise of `sigma_b` on the count and of z_delta
clip norms on the sum, both together cost one Gaussian mechanism of noise multiplier z, where
z_delta**-2 = z**-2 - (2 sigma_b)**-2.

Here the bit is one coordinate more of the same vector, with the same noise in every coordinate: its size is what makes
that noise `sigma_b` on the count, and its L2 bound, and so what is accounted for, covers both. Departs: the paper's
sigma_b = n / 20 exists only for z < n / 10, which few sites never reach. Here sigma_b is at least z, so that z_delta is
at most 2 / sqrt(3) = 1.155 z for any number of sites; what few sites pay is a share that is known only to within
sigma_b / n.
"""

import math
from typing import Final

from undersong.shared.wire.privacy import AdaptiveClip, PrivacyModel, PrivacyTerms

SITES_A_STEP: Final = 20
"""Noise on the share of updates is one part in so many (the paper's choice), where enough sites allow it."""
MOST_SHARE_NOISE: Final = 0.5
"""The largest standard deviation of noise on the share with which the clip norm may move: above, a round's noise moves
it further than all updates together.
"""
SHARES: Final = (-1.0, 2.0)
"""What a share counts as at most: noise puts it no further outside 0..1 but by chance, false counts do."""
MOST_MOVED: Final = 2.0**20
"""By which factor the clip norm ends up from its start at most, whatever the rounds say."""


def bit_noise(terms: PrivacyTerms) -> float:
    """Return sigma_b: the noise on the count of updates within the clip norm that is accounted for, in sites."""
    sites = float(terms.min_sites + terms.colluding)
    if terms.model is PrivacyModel.LOCAL:
        sites = math.sqrt(sites)  # each site's own noise is enough alone, and adds up in the count
    return max(sites / SITES_A_STEP, terms.noise_multiplier)


def bit_size(noise_multiplier: float, sigma_b: float) -> float:
    """Return the size of the bit's coordinate in clip norms; 2 `sigma_b` must be above the noise multiplier."""
    return noise_multiplier / math.sqrt(4 * sigma_b**2 - noise_multiplier**2)


def update_noise(noise_multiplier: float, sigma_b: float) -> float:
    """Return z_delta: the noise on the sum of updates, in clip norms, that is left beside a noisy count."""
    return 1 / math.sqrt(noise_multiplier**-2 - (2 * sigma_b) ** -2)


def next_clip(rule: AdaptiveClip, clip_norm: float, share: float) -> float:
    """Return the next round's clip norm, after the noisy `share` of updates that were within this round's."""
    least, most = SHARES
    moved = clip_norm * math.exp(-rule.rate * (min(max(share, least), most) - rule.quantile))
    return min(max(moved, rule.start / MOST_MOVED), rule.start * MOST_MOVED)


def clip_range(rule: AdaptiveClip, rounds: int) -> tuple[float, float]:
    """Return the smallest and the largest clip norm that `next_clip` can lead to from the start in so many rounds.

    Each round multiplies by exp(-rate (share - quantile)) with a share that counts as one of `SHARES`, so that after t
    rounds the norm is within start exp(-rate (2 - quantile) t) and start exp(rate (1 + quantile) t), and never further
    than `MOST_MOVED` from the start.
    """
    least, most = SHARES
    limit = math.log(MOST_MOVED)
    down, up = (min(rule.rate * by * rounds, limit) for by in (most - rule.quantile, rule.quantile - least))
    return rule.start * math.exp(-down), rule.start * math.exp(up)
