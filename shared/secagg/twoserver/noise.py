"""Each server's own noise on its share of a sum: discrete Gaussian, enough alone.

Its standard deviation follows from the round's manifest (`undersong.shared.secagg.private`). It is drawn once for the
one set that the servers agreed on, so one honest server suffices; two make the variance twice that.
"""

import numpy as np
import numpy.typing as npt

from undersong.shared.privacy.noise import add_discrete_gaussian
from undersong.shared.secagg.private import noise_of_server
from undersong.shared.wire.manifest import RoundManifest


def draw(manifest: RoundManifest, length: int, key: bytes) -> npt.NDArray[np.int64] | None:
    """Return one server's noise, int64[length]; None where the round asks for none. `key` is for this round alone."""
    sigma = noise_of_server(manifest, length)
    if not sigma:
        return None
    noise = np.zeros(length, np.int64)
    add_discrete_gaussian(noise, sigma, key)
    return noise
