"""Each server's own noise on its share of a sum: discrete Gaussian, enough alone.

Its standard deviation follows from the round's manifest (`undersong.shared.secagg.private`). It is drawn once for the
one set that the servers agreed on, so one honest server suffices; two make the variance twice that.

Noise that is correlated over rounds is a row of a sequence that follows from a key of the job alone, so it needs no
state and is the same after a crash. That holds the terms only where each row is given to one sum, in ascending order:
the servers refuse another one. A sequence belongs to all that its rows have in common; rounds that differ in any of it
get rows of independent sequences, which costs accuracy and no privacy.
"""

from typing import Final

import numpy as np
import numpy.typing as npt

from undersong.shared.privacy.noise import KEY_BYTES, add_discrete_gaussian
from undersong.shared.secagg.engine import Derive, Entropy, UpdateRefused
from undersong.shared.secagg.private import noise_of_server
from undersong.shared.wire.canonical import digest_document
from undersong.shared.wire.manifest import RoundManifest

JOB_NOISE: Final = b"undersong/job-noise/1\0"
"""Of the label, which the job's id follows, that a server derives the key of a job's correlated noise for."""


def noise_key(manifest: RoundManifest, entropy: Entropy, derive: Derive | None) -> bytes:
    """Return the key of one server's noise: fresh, or that of the job where its noise is correlated over rounds."""
    if manifest.noise_row is None:
        return entropy(KEY_BYTES)
    if derive is None:
        raise UpdateRefused("this server has no secret that noise could be derived from, which rounds have in common")
    return derive(JOB_NOISE + manifest.job_id.encode())


def draw(manifest: RoundManifest, length: int, key: bytes) -> npt.NDArray[np.int64] | None:
    """Return one server's noise, int64[length]; None where the round asks for none. `key` is that of `noise_key`."""
    sigma = noise_of_server(manifest, length)
    if not sigma:
        return None
    terms = manifest.privacy
    if terms is not None and terms.correlated is not None and manifest.noise_row is not None:
        from undersong.shared.privacy import matrix, toeplitz  # compiled code, which few rounds need

        first = toeplitz.coefficients(terms.correlated.separation)
        return matrix.noise_row(first, sigma, key, sequence(manifest, length), length, manifest.noise_row)
    noise = np.zeros(length, np.int64)
    add_discrete_gaussian(noise, sigma, key)
    return noise


def sequence(manifest: RoundManifest, length: int) -> bytes:
    """Return 32 bytes that name the sequence which a round's row of noise is of."""
    encoding, terms = manifest.encoding, manifest.privacy
    common = {
        "federation_id": manifest.federation_id,
        "job_id": manifest.job_id,
        "privacy": terms.model_dump(mode="json") if terms is not None else None,
        "encoding": encoding.model_dump(mode="json") if encoding is not None else None,
        "length": length,
    }
    return bytes.fromhex(digest_document(common))
