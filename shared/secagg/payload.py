"""From what a recipe returns to what an engine hides, and from an opened sum back to numbers."""

from typing import Final

import numpy as np
import numpy.typing as npt
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from undersong.shared.secagg.compression import Compressor, grid_of
from undersong.shared.secagg.engine import MODEL_BITS, Payload, UpdateRefused
from undersong.shared.secagg.engines import engine_facts
from undersong.shared.secagg.private import noise_of_site, noise_reach
from undersong.shared.secagg.quantise import (
    TAIL_LENGTH,
    Decoded,
    Floats,
    ModVector,
    Quantised,
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
    signed,
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
    """Return what is sent of a change, float32[n], quantised, weighed, and with the site's noise where the round asks
    for it.

    `key` is 32 fresh random bytes: rounding and noise follow from it, so that it is used once and not kept.
    `samples`: the site's committed sample count, where the round takes one (`undersong.shared.zk.samples`).
    """
    return _packed(manifest, _quantised(manifest, delta, examples, loss, key), key, samples)


def compressed_payload(
    manifest: RoundManifest,
    compressor: Compressor,
    change: Floats,
    *,
    examples: int,
    loss: float,
    key: bytes,
    samples: bytes | None = None,
) -> tuple[Payload, Floats | None]:
    """Return `train_payload` of what the round's compression sends of a change float32[d], and what that leaves out.

    With error feedback the latter is float32[parameters], else None. What a limit cut off is not in it: a limit stays
    one in later rounds too.
    """
    sent = compressor.compress(change)
    quantised = _quantised(manifest, sent, examples, loss, key)
    rest = None
    if compressor.feeds_back:
        error = None
        if not quantised.clipped:
            encoding = grid_of(_encoding(manifest), manifest.compression, sent.size)
            steps = signed(quantised.ring[: sent.size], encoding.modulus_bits)
            error = sent - (steps / (encoding.scale * weight_of(examples, manifest))).astype(np.float32)
        rest = compressor.left_out(change, error)
    return _packed(manifest, quantised, key, samples), rest


def _quantised(manifest: RoundManifest, sent: Floats, examples: int, loss: float, key: bytes) -> Quantised:
    """Return what is sent of a change, as integers; raises `UpdateRefused` where the engine's proof forbids it."""
    compression = manifest.compression
    if compression is not None and compression.rotation and engine_facts(manifest.engine).proves_norm:
        raise UpdateRefused(f"{manifest.engine} proves norms on the manifest's own grid, and a rotation has another")
    encoding = grid_of(_encoding(manifest), compression, sent.size)
    weight, bare = weight_of(examples, manifest), manifest.privacy is not None
    return encode(sent, weight, encoding, key=key, loss=loss, bare=bare)


def _packed(manifest: RoundManifest, quantised: Quantised, key: bytes, samples: bytes | None) -> Payload:
    ring, bits = quantised.ring, _encoding(manifest).modulus_bits
    _add_noise(ring[:-TAIL_LENGTH], manifest, key)
    return Payload(RoundKind.TRAIN, ring.size, bits, pack(ring, bits), samples=samples)


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
    """Return the weighted mean of what `count` updates sent (`Compressor.expand`); raises `OutOfRange`."""
    tail = engine_facts(manifest.engine).tail_words
    slack, encoding = noise_reach(manifest, total.size - tail, count), _encoding(manifest)
    encoding = grid_of(encoding, manifest.compression, total.size - tail - encoding.clip_words)
    if not tail:
        return decode_plain(total, encoding, count, slack=slack)
    return decode(total, encoding, count, slack=slack, bare=manifest.privacy is not None)


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
