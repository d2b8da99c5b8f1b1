"""From what a recipe returns to what an engine hides, and from an opened sum back to numbers."""

from typing import Final

import numpy as np
import numpy.typing as npt
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from undersong.shared.secagg.engine import MODEL_BITS, Payload, UpdateRefused
from undersong.shared.secagg.engines import engine_facts
from undersong.shared.secagg.private import noise_of_site, noise_reach
from undersong.shared.secagg.quantise import (
    TAIL_LENGTH,
    Decoded,
    Floats,
    ModVector,
    counted,
    decode,
    decode_counts,
    decode_multiples,
    decode_plain,
    decode_sums,
    encode,
    encode_counts,
    encode_multiples,
    encode_sums,
    pack,
)
from undersong.shared.wire.manifest import Encoding, RoundKind, RoundManifest

KEY_BYTES: Final = 32


def weight_of(examples: int, manifest: RoundManifest) -> int:
    """Return the site's weight: examples in units of `weight_unit`, within 1..max_weight (max_weight 1: all the
    same).
    """
    return max(1, min(_encoding(manifest).max_weight, round(examples / manifest.weight_unit)))


def train_payload(
    manifest: RoundManifest, delta: Floats, *, examples: int, loss: float, key: bytes, samples: bytes | None = None
) -> Payload:
    """Return a float32[d] change of the model, quantised, weighed, and with the site's noise where the round asks for
    it.

    `key` is 32 fresh random bytes: rounding and noise follow from it, so that it is used once and not kept.
    `samples`: the site's committed sample count, where the round takes one (`undersong.shared.zk.samples`).
    """
    encoding, private = _encoding(manifest), manifest.privacy is not None
    ring = encode(delta, weight_of(examples, manifest), encoding, key=key, loss=loss, bare=private).ring
    _add_noise(ring[:-TAIL_LENGTH], manifest, key)
    data = pack(ring, encoding.modulus_bits)
    return Payload(RoundKind.TRAIN, ring.size, encoding.modulus_bits, data, samples=samples)


def sums_payload(
    manifest: RoundManifest, sums: npt.NDArray[np.float64], layout: str | None = None, *, key: bytes | None = None
) -> Payload:
    """Return a float64[m] of statistics or (with the name of its layout) of evaluation sums.

    Of a private round: multiples of what one unit can change of all of them together, and `key` as for `train_payload`.
    """
    encoding = _encoding(manifest)
    ring: ModVector
    if manifest.privacy is not None:
        ring = encode_multiples(sums, encoding)
        _add_noise(ring, manifest, key)
    else:
        ring = encode_counts(sums, encoding) if _counts(manifest) else encode_sums(sums, encoding)
    return Payload(manifest.kind, ring.size, encoding.modulus_bits, pack(ring, encoding.modulus_bits), layout)


def model_payload(model: bytes | memoryview) -> Payload:
    """Return a safetensors file for an initialise round."""
    data = memoryview(model)
    return Payload(RoundKind.INITIALISE, data.nbytes, MODEL_BITS, data)


def opened_train(manifest: RoundManifest, total: ModVector, count: int) -> Decoded:
    """Return the weighted mean of `count` changes of the model; raises `OutOfRange`."""
    tail = engine_facts(manifest.engine).tail_words
    slack = noise_reach(manifest, total.size - tail, count)
    if not tail:
        return decode_plain(total, _encoding(manifest), count, slack=slack)
    return decode(total, _encoding(manifest), count, slack=slack, bare=manifest.privacy is not None)


def opened_sums(manifest: RoundManifest, total: npt.NDArray[np.uint64]) -> npt.NDArray[np.float64]:
    """Return the summed statistics or evaluation values, float64[m]; of a private round as the multiples that were
    sent.
    """
    if manifest.privacy is not None:
        slack = noise_reach(manifest, total.size, len(manifest.cohort))
        return decode_multiples(total, _encoding(manifest), slack=slack)
    decoded = decode_counts if _counts(manifest) else decode_sums
    return decoded(total, _encoding(manifest))


def _add_noise(ring: ModVector, manifest: RoundManifest, key: bytes | None) -> None:
    """Add the site's noise to a view of the ring's coordinates, in place; nothing where sites add none."""
    sigma = noise_of_site(manifest, ring.size)
    if not sigma:
        return
    if key is None or len(key) != KEY_BYTES:
        raise ValueError("noise needs a fresh key")
    from undersong.shared.privacy.noise import add_discrete_gaussian  # compiled code, which exact rounds do not need

    own = HKDF(hashes.SHA256(), KEY_BYTES, salt=None, info=b"undersong-site-noise-1").derive(key)
    noise = np.zeros(ring.size, np.int64)
    add_discrete_gaussian(noise, sigma, own)
    ring += noise.astype(ring.dtype)


def _counts(manifest: RoundManifest) -> bool:
    return manifest.kind is RoundKind.STATISTICS and counted(_encoding(manifest))


def _encoding(manifest: RoundManifest) -> Encoding:
    if manifest.encoding is None:
        raise UpdateRefused(f"a round of kind {manifest.kind} has no encoding")
    return manifest.encoding
