"""Each server's own noise on its share of a training sum: discrete Gaussian, enough alone.

The manifest's ``noise_multiplier`` z is the standard deviation in units of the sensitivity, which is the proved bound
B: one site more or less moves the sum by a vector of norm at most B. Each server adds noise of standard deviation
z B, drawn once for the one set that it agreed on, so one honest server suffices; two make the variance twice that.
"""

import math

import numpy as np
import numpy.typing as npt

from undersong.shared.privacy.noise import add_discrete_gaussian
from undersong.shared.secagg.engine import UpdateRefused
from undersong.shared.secagg.twoserver.facts import NOISE
from undersong.shared.secagg.twoserver.schemes import norm_bound
from undersong.shared.wire.manifest import RoundKind, RoundManifest

_WIDEST = 12 * math.sqrt(2)  # in standard deviations: what a draw can be at most (`undersong.shared.privacy.noise`)


def noise_sigma(manifest: RoundManifest, length: int) -> float:
    """The standard deviation of each server's noise in steps of the grid; 0.0 where the round asks for none."""
    asked = manifest.engine_params.get(NOISE)
    if asked is None or manifest.kind is not RoundKind.TRAIN or manifest.encoding is None:
        return 0.0
    if isinstance(asked, bool) or not isinstance(asked, int | float) or not 0 < asked < math.inf:
        raise UpdateRefused(f"{NOISE} is not a positive number")
    return asked * norm_bound(manifest.encoding, length)


def draw(manifest: RoundManifest, length: int, key: bytes) -> npt.NDArray[np.int64] | None:
    """One server's noise, int64[length]; None where the round asks for none. `key` is for this round alone."""
    sigma = noise_sigma(manifest, length)
    if not sigma:
        return None
    noise = np.zeros(length, np.int64)
    add_discrete_gaussian(noise, sigma, key)
    return noise


def slack(manifest: RoundManifest, length: int) -> int:
    """How much both servers' noise can move a coordinate of the sum at most."""
    return math.ceil(2 * _WIDEST * noise_sigma(manifest, length))
