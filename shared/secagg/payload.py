"""From what a recipe returns to what an engine hides, and from an opened sum back to numbers."""

import numpy as np
import numpy.typing as npt

from undersong.shared.secagg.engine import MODEL_BITS, Payload, UpdateRefused
from undersong.shared.secagg.engines import engine_facts, engine_named
from undersong.shared.secagg.quantise import (
    Decoded,
    Floats,
    ModVector,
    counted,
    decode,
    decode_counts,
    decode_plain,
    decode_sums,
    encode,
    encode_counts,
    encode_sums,
    pack,
)
from undersong.shared.wire.manifest import Encoding, RoundKind, RoundManifest


def weight_of(examples: int, manifest: RoundManifest) -> int:
    """The site's weight: examples in units of `weight_unit`, within 1..max_weight (max_weight 1: all the same)."""
    return max(1, min(_encoding(manifest).max_weight, round(examples / manifest.weight_unit)))


def train_payload(
    manifest: RoundManifest, delta: Floats, *, examples: int, loss: float, key: bytes, samples: bytes | None = None
) -> Payload:
    """A float32[d] change of the model, quantised and weighed; `key` is 32 fresh random bytes.

    `samples`: the site's committed sample count, where the round takes one (`undersong.shared.zk.samples`).
    """
    encoding = _encoding(manifest)
    ring = encode(delta, weight_of(examples, manifest), encoding, key=key, loss=loss).ring
    data = pack(ring, encoding.modulus_bits)
    return Payload(RoundKind.TRAIN, ring.size, encoding.modulus_bits, data, samples=samples)


def sums_payload(manifest: RoundManifest, sums: npt.NDArray[np.float64], layout: str | None = None) -> Payload:
    """A float64[m] of statistics or (with the name of its layout) of evaluation sums."""
    encoding = _encoding(manifest)
    ring = encode_counts(sums, encoding) if _counts(manifest) else encode_sums(sums, encoding)
    return Payload(manifest.kind, ring.size, encoding.modulus_bits, pack(ring, encoding.modulus_bits), layout)


def model_payload(model: bytes | memoryview) -> Payload:
    """A safetensors file for an initialise round."""
    data = memoryview(model)
    return Payload(RoundKind.INITIALISE, data.nbytes, MODEL_BITS, data)


def opened_train(manifest: RoundManifest, total: ModVector, count: int) -> Decoded:
    """The weighted mean of `count` changes of the model; raises `OutOfRange`."""
    if not engine_facts(manifest.engine).tail_words:
        slack = engine_named(manifest.engine).server.slack(manifest, total.size)
        return decode_plain(total, _encoding(manifest), count, slack=slack)
    return decode(total, _encoding(manifest), count)


def opened_sums(manifest: RoundManifest, total: npt.NDArray[np.uint64]) -> npt.NDArray[np.float64]:
    """The summed statistics or evaluation values, float64[m]."""
    decoded = decode_counts if _counts(manifest) else decode_sums
    return decoded(total, _encoding(manifest))


def _counts(manifest: RoundManifest) -> bool:
    return manifest.kind is RoundKind.STATISTICS and counted(_encoding(manifest))


def _encoding(manifest: RoundManifest) -> Encoding:
    if manifest.encoding is None:
        raise UpdateRefused(f"a round of kind {manifest.kind} has no encoding")
    return manifest.encoding
