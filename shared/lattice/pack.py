"""Packing integers into coefficients, and reading their sum (`undersong.shared.lattice.packings`)."""

import math
from collections.abc import Iterable
from typing import Final

import numpy as np

from undersong.shared.lattice import kernels
from undersong.shared.lattice.packings import LIMB_BITS, N, Packing
from undersong.shared.lattice.ring import Integers, Words

_RIGHT: Final = 0.4
"""A right sum leaves less than this part of what a wrong one leaves modulo delta, which is uniform."""


def pack(packing: Packing, words: Integers, noise: Integers) -> Words:
    """Return coefficients with their noise, uint64[k, N], of signed words int64[length]; noise is int64[k * N]."""
    values = words if packing.limbs == 1 else np.concatenate([words & ((1 << LIMB_BITS) - 1), words >> LIMB_BITS])
    out = np.empty(noise.size, np.uint64)
    layout = packing.fields, packing.width, 1 << packing.delta_bits
    kernels.pack_fields(out, np.ascontiguousarray(values), noise, *layout)
    return out.reshape(-1, N)


def unpack(packing: Packing, blocks: Iterable[Words], length: int) -> Integers:
    """Return the words in coefficients, uint64[j, N] at a time, modulo 2**64: int64[length]."""
    values, at = np.empty(length * packing.limbs, np.int64), 0
    for block in blocks:
        part = values[at : at + block.size * packing.fields]
        kernels.unpack_fields(part, block.reshape(-1), packing.fields, packing.width, packing.delta_bits)
        at += part.size
    return values if packing.limbs == 1 else values[:length] + (values[length:] << LIMB_BITS)


def residue(packing: Packing, coefficients: Words) -> float:
    """Return the root mean square of the noise in coefficients uint64[N], as rounding finds it."""
    return float(kernels.residue(coefficients, packing.delta_bits))


def is_right(packing: Packing, coefficients: Words) -> bool:
    """Return whether these coefficients of a sum were opened with the right sum of keys."""
    return residue(packing, coefficients) < _RIGHT * 2.0**packing.delta_bits / math.sqrt(12)
