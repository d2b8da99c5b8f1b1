"""Real vectors to integers modulo 2**b whose sum cannot wrap, and back.

Source: conditional randomised rounding after Kairouz, Liu, Steinke, The Distributed Discrete Gaussian Mechanism (ICML
2021), section 4: the rounding is redrawn until the integer vector's norm is below a bound, so that the sensitivity is a
fact and not a hope. Departs: beta = 2**-20, so a redraw is rare and the bias it brings is below one millionth.
Shapes: a vector is float32[d]; its ring form is uint[d + TAIL_LENGTH], weight times integer in two's complement.
The tail carries TAIL as limbs of 8 bits, because a weighted loss does not fit a 16-bit coordinate. Where the encoding
has a `clip_bit`, that coordinate stands between them.
"""

import math
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from undersong.shared.errors import Invalid
from undersong.shared.secagg.facts import TAIL_WORDS
from undersong.shared.secagg.rounding import BLOCK, Uniforms, measure, round_into
from undersong.shared.wire.manifest import Encoding

ModVector = npt.NDArray[np.unsignedinteger]
Floats = npt.NDArray[np.float32]

TAIL: Final = ("weight", "clipped", "loss_milli_weighted")
TAIL_LENGTH: Final = TAIL_WORDS
LIMBS: Final = TAIL_LENGTH // len(TAIL)  # 48 bits hold max_weight * 2**31
MIN_BOUND: Final = 2**7
MIN_ROTATED_BOUND: Final = 2**3  # of rotated vectors, whose coordinates are about as large as each other
MAX_BOUND: Final = 2**30  # rounding works on 32 fractional bits in an int64
NORM_BOUND: Final = 2**20  # of proved vectors; rounding costs sqrt(d) / 2 of it, noise can be 16 times it
MAX_MULTIPLE: Final = 2**52
SUMS_SCALE: Final = 2.0**24
COUNTS_SCALE: Final = 1.0
_LOSS_OFFSET: Final = 2**30
_ROUNDING_SLACK: Final = math.sqrt(2 * 20 * math.log(2))  # sqrt(2 ln(1 / beta))
_SUM_ERROR: Final = 1e-9  # more than a float64 sum of squares can be off by
_MAX_REDRAWS: Final = 64
_MOST_RADIUS: Final = 2.0**500  # its square is finite
DTYPES: Final[dict[int, npt.DTypeLike]] = {16: np.uint16, 24: np.uint32, 32: np.uint32, 64: np.uint64}
_SIGNED: Final[dict[int, npt.DTypeLike]] = {16: np.int16, 24: np.int32, 32: np.int32, 64: np.int64}


class NonFinite(Invalid):
    """The vector holds a value that is not a finite number."""


class NoHeadroom(Invalid):
    """The cohort, the weights and the modulus leave too little room for a useful encoding."""


class OutOfRange(Invalid):
    """A number is outside what its encoding can carry."""


@dataclass(frozen=True, slots=True)
class Quantised:
    """A vector ready for an engine; `clipped` says whether it had to be made smaller."""

    ring: ModVector
    clipped: bool


@dataclass(frozen=True, slots=True)
class Decoded:
    """A weighted mean float32[d], the sum of weights, how many vectors were clipped, and the weighted mean loss.

    The last two are None where vectors have no tail. within: the noisy share of vectors within the clip norm, where the
    encoding has a `clip_bit`; noise can put it outside 0..1.
    """

    mean: Floats
    weight: int
    clipped: int | None
    loss: float | None
    within: float | None = None


def plan_encoding(
    *,
    summands: int,
    max_weight: int,
    clip_norm: float | None,
    bound_value: float | None,
    modulus_bits: int,
    least: int = MIN_BOUND,
) -> Encoding:
    """Return the finest encoding with headroom for `summands` sites; raises `NoHeadroom`.

    `clip_norm` bounds a vector's L2 norm, `bound_value` each coordinate's size; at least one must be given. `least`:
    the fewest steps from 0 to the largest coordinate.
    """
    limits = [limit for limit in (clip_norm, bound_value) if limit is not None]
    if not limits:
        raise NoHeadroom("give clip_norm, bound_value or both: without a bound nothing limits a coordinate")
    bound = min(((1 << (modulus_bits - 1)) - 1) // (summands * max_weight), MAX_BOUND)
    if bound < least:
        raise NoHeadroom(
            f"{summands} sites of weight up to {max_weight} leave {bound} steps in {modulus_bits} bits, "
            f"fewer than {least}: raise modulus_bits or lower max_weight"
        )
    return Encoding(
        modulus_bits=modulus_bits,
        max_summands=summands,
        bound=bound,
        scale=scale_of(bound, min(limits)),
        max_weight=max_weight,
        clip_norm=clip_norm,
    )


def scale_of(bound: int, limit: float) -> float:
    """Return how many steps of the grid there are in 1 where `limit` has `bound` of them; raises `NoHeadroom`."""
    scale = bound / limit
    if not math.isfinite(scale):
        raise NoHeadroom(f"a limit of {limit:g} is too small to be divided into steps: raise clip_norm or bound")
    return scale


def plan_norm(*, summands: int, clip_norm: float) -> Encoding:
    """Return the encoding of vectors whose L2 norm is proved to be within `clip_norm`: equal weights, 64-bit words."""
    return Encoding(
        modulus_bits=64,
        max_summands=summands,
        bound=NORM_BOUND,
        scale=scale_of(NORM_BOUND, clip_norm),
        max_weight=1,
        clip_norm=clip_norm,
    )


def plan_sums(*, summands: int) -> Encoding:
    """Return the encoding of statistics and evaluation sums: 64-bit words (see `encode_sums`)."""
    return Encoding(
        modulus_bits=64, max_summands=summands, bound=(2**63 - 1) // summands, scale=SUMS_SCALE, max_weight=1
    )


def plan_counts(*, summands: int, most: int) -> Encoding:
    """Return the encoding of statistics that are counts from 0 to `most` at each site: as they are, for a proof of
    range.
    """
    return Encoding(modulus_bits=64, max_summands=summands, bound=most, scale=COUNTS_SCALE, max_weight=1)


def counted(encoding: Encoding) -> bool:
    """Return whether sums are encoded as plain counts (`plan_counts`), and not in two words (`plan_sums`)."""
    return encoding.scale == COUNTS_SCALE and encoding.clip_norm is None


def encode_counts(values: npt.NDArray[np.float64], encoding: Encoding) -> npt.NDArray[np.uint64]:
    """Return counts, float64[m] to uint64[m]; raises `OutOfRange` for what is no count from 0 to `bound`."""
    values = np.asarray(values, np.float64)
    if not ((values >= 0) & (values <= encoding.bound) & (values == np.rint(values))).all():
        raise OutOfRange(f"a number is no count from 0 to {encoding.bound}")
    return values.astype(np.uint64)


def decode_counts(total: npt.NDArray[np.uint64], encoding: Encoding) -> npt.NDArray[np.float64]:
    """Return the summed counts, uint64[m] to float64[m]; raises `OutOfRange` where no counts in range give them."""
    if total.size and int(total.max()) > encoding.max_summands * encoding.bound:
        raise OutOfRange("a sum is larger than its summands allow")
    return total.astype(np.float64)


def squared_norm_bound(encoding: Encoding, length: int) -> int:
    """Return what the squared L2 norm of every encoded integer vector stays below (before its weight).

    `length`: its coordinates, the one for `clip_bit` among them where there is one. Raises `OutOfRange` for a clip norm
    of more steps than can be counted.
    """
    if encoding.clip_bit is not None:
        plain = encoding.model_copy(update={"clip_bit": None})
        return squared_norm_bound(plain, length - encoding.clip_words) + encoding.clip_bit**2
    if encoding.clip_norm is None:
        return length * encoding.bound**2
    radius = encoding.clip_norm * encoding.scale
    if radius > _MOST_RADIUS:
        raise OutOfRange(f"a clip norm of {radius:.3g} steps of the grid is more than can be counted with")
    spread = radius**2 + length / 4 + _ROUNDING_SLACK * (radius + math.sqrt(length) / 2)
    return int(min(spread, (radius + math.sqrt(length)) ** 2))


def finite_measures(vector: Floats, loss: float) -> tuple[float, float]:
    """Return the norm and the greatest size of a coordinate of a float32[d]; `NonFinite` where these or the loss are no
    finite numbers.
    """
    if not math.isfinite(loss):
        raise NonFinite("the loss is not a finite number")
    norm, peak = measure(vector)
    if not math.isfinite(norm):
        raise NonFinite("the vector holds a value that is not a finite number")
    return norm, peak


def encode(
    vector: Floats, weight: int, encoding: Encoding, *, key: bytes, loss: float = 0.0, bare: bool = False
) -> Quantised:
    """Clip, scale, round and weigh a float32[d]; `key` is 32 fresh random bytes.

    bare: the tail says the weight alone, neither the loss nor whether the vector was clipped.

    Raises `NonFinite` for NaN and infinities (never encoded as 0) and `OutOfRange` for a weight outside 1..max_weight.
    """
    if not 1 <= weight <= encoding.max_weight:
        raise OutOfRange(f"weight {weight} is outside 1..{encoding.max_weight}")
    norm, peak = finite_measures(vector, loss)
    shrink = 1.0 if encoding.clip_norm is None or norm <= encoding.clip_norm else encoding.clip_norm / norm
    largest = peak * shrink * encoding.scale
    clipped = shrink < 1.0 or largest > encoding.bound * (1 + 1e-9)
    clamp = encoding.bound if largest > encoding.bound * (1 - 1e-9) else None
    bits = _clip_words(encoding, within=shrink == 1.0)
    ring = np.empty(vector.size + len(bits) + TAIL_LENGTH, DTYPES[encoding.modulus_bits])
    limit = math.inf
    if encoding.clip_norm is not None:
        limit = (squared_norm_bound(encoding, vector.size + len(bits)) - sum(bit**2 for bit in bits)) * (1 - _SUM_ERROR)
    for draw in range(_MAX_REDRAWS):
        uniforms = Uniforms(key, draw)
        if round_into(ring, vector, shrink * encoding.scale, weight, clamp, uniforms) <= limit:
            ring[vector.size : vector.size + len(bits)] = np.array(bits, np.int64).astype(ring.dtype)
            ring[vector.size + len(bits) :] = _tail(weight, clipped and not bare, 0.0 if bare else loss)
            return Quantised(ring, clipped)
    raise OutOfRange("rounding kept leaving the norm bound")  # pragma: no cover  (probability below 2**-1280)


def decode(total: ModVector, encoding: Encoding, count: int, *, slack: int = 0, bare: bool = False) -> Decoded:
    """Return the weighted mean from the sum of `count` ring vectors; raises `OutOfRange` where no honest sum could be.

    slack: how much more than its summands a coordinate may be, for the sake of noise. bare: the tails say no more than
    weights (see `encode`).
    """
    length = total.size - TAIL_LENGTH
    weight, clipped, loss = _read_tail(total[length:], encoding.modulus_bits)
    if not count <= weight <= count * encoding.max_weight or clipped > count or count > encoding.max_summands:
        raise OutOfRange("the sum of weights or of clipped vectors does not fit the number of summands")
    mean, within = _opened(total[:length], encoding, weight, weight * encoding.bound + slack)
    if bare:
        return Decoded(mean, weight, None, None, within)
    return Decoded(mean, weight, clipped, (loss / weight - _LOSS_OFFSET) / 1000, within)


def decode_plain(total: ModVector, encoding: Encoding, count: int, *, slack: int = 0) -> Decoded:
    """Return the mean from the sum of `count` vectors of weight 1 without tails; raises `OutOfRange`.

    `slack`: how much more than its summands a coordinate may be, for the sake of noise.
    """
    if not 0 < count <= encoding.max_summands:
        raise OutOfRange("more vectors were summed than the encoding has room for")
    limit = count * (encoding.bound + 1) + slack
    mean, within = _opened(total, encoding, count, limit)
    return Decoded(mean, count, None, None, within)


def _opened(total: ModVector, encoding: Encoding, weight: int, limit: int) -> tuple[Floats, float | None]:
    """Return the mean, and the share of vectors that were within the clip norm where the encoding counts them."""
    if encoding.clip_bit is None:
        return _mean(total, encoding, weight, limit), None
    count = int(signed(total[-1:], encoding.modulus_bits)[0])
    if abs(count) > limit:
        raise OutOfRange("the count of vectors within the clip norm is larger than its summands allow")
    return _mean(total[:-1], encoding, weight, limit), 0.5 + count / (2 * encoding.clip_bit * weight)


def _clip_words(encoding: Encoding, *, within: bool) -> list[int]:
    """Return the coordinate that says whether a vector was within the clip norm; none without `clip_bit`."""
    if encoding.clip_bit is None:
        return []
    return [encoding.clip_bit if within else -encoding.clip_bit]


def _mean(total: ModVector, encoding: Encoding, weight: int, limit: int) -> Floats:
    mean = np.empty(total.size, np.float32)
    step = 1.0 / (encoding.scale * weight)
    for start in range(0, total.size, BLOCK):
        block = signed(total[start : start + BLOCK], encoding.modulus_bits)
        if int(block.max()) > limit or int(block.min()) < -limit:
            raise OutOfRange("a coordinate of the sum is larger than its summands allow")
        np.multiply(block, step, out=mean[start : start + block.size], casting="unsafe")
    return mean


def encode_multiples(values: npt.NDArray[np.float64], encoding: Encoding) -> npt.NDArray[np.uint64]:
    """Multiples of what a unit can change, float64[m] to uint64[m]; raises `NonFinite`.

    Numbers beyond the bound, or beyond 2**52 steps, which a float64 would round to more than a step, are cut off there.
    They are not refused: that a site refuses would tell exactly on which side of a bound its sum is, without any noise.
    """
    values = np.asarray(values, np.float64) * encoding.scale
    if not np.isfinite(values).all():
        raise NonFinite("a sum is not a finite number")
    limit = min(encoding.bound, MAX_MULTIPLE)
    return np.rint(np.clip(values, -limit, limit)).astype(np.int64).view(np.uint64)


def decode_multiples(total: npt.NDArray[np.uint64], encoding: Encoding, *, slack: int) -> npt.NDArray[np.float64]:
    """Return the summed multiples, uint64[m] to float64[m]; raises `OutOfRange` beyond the summands and `slack` of
    noise.
    """
    steps = total.view(np.int64)
    limit = encoding.max_summands * encoding.bound + slack
    if steps.size and max(int(steps.max()), -int(steps.min())) > limit:
        raise OutOfRange("a sum is larger than its summands allow")
    return steps / encoding.scale


def encode_sums(values: npt.NDArray[np.float64], encoding: Encoding) -> npt.NDArray[np.uint64]:
    """Statistics or evaluation sums, float64[m] to uint64[2 m]; raises `NonFinite`, `OutOfRange`.

    The first m words count units of `scale` (2**24), the last m the rest in units of 1 / `scale`, so that a sum of
    squares of large numbers and a loss both fit.
    """
    values = np.asarray(values, np.float64)
    if not np.isfinite(values).all():
        raise NonFinite("a sum is not a finite number")
    coarse = np.rint(values / encoding.scale)
    fine = np.rint((values - coarse * encoding.scale) * encoding.scale)
    words = np.concatenate([coarse, fine])
    if words.size and float(np.abs(words).max()) > min(encoding.bound, 2**62):
        raise OutOfRange(
            f"a sum is larger than {encoding.bound * encoding.scale:.4g}, what the cohort's total can carry"
        )
    return words.astype(np.int64).view(np.uint64)


def decode_sums(total: npt.NDArray[np.uint64], encoding: Encoding) -> npt.NDArray[np.float64]:
    """Return the summed values, uint64[2 m] to float64[m]."""
    coarse, fine = np.split(total.view(np.int64), 2)
    return coarse * encoding.scale + fine / encoding.scale


def sums_length(values: int) -> int:
    """Return how many ring words carry this many sums."""
    return 2 * values


def signed(ring: ModVector, modulus_bits: int) -> npt.NDArray[np.signedinteger]:
    """Two's complement of ring elements."""
    plain = ring.view(_SIGNED[modulus_bits])
    return (plain << 8) >> 8 if modulus_bits == 24 else plain


def pack(ring: ModVector, modulus_bits: int) -> memoryview:
    """Little-endian bytes of ring elements; a view of the same memory except for 24 bits."""
    little = np.ascontiguousarray(ring, np.dtype(DTYPES[modulus_bits]).newbyteorder("<"))
    octets = little.view(np.uint8)
    if modulus_bits == 24:
        octets = np.ascontiguousarray(octets.reshape(-1, 4)[:, :3]).reshape(-1)
    return octets.data


def unpack(data: bytes | bytearray | memoryview, modulus_bits: int) -> ModVector:
    """Read elements from little-endian bytes, a view except for 24 bits; raises `OutOfRange` for a part of a word."""
    octets = np.frombuffer(data, np.uint8)
    if octets.size % (modulus_bits // 8):
        raise OutOfRange("the bytes end within a word")
    if modulus_bits == 24:
        wide = np.zeros((octets.size // 3, 4), np.uint8)
        wide[:, :3] = octets.reshape(-1, 3)
        octets = wide.reshape(-1)
    return octets.view(np.dtype(DTYPES[modulus_bits]).newbyteorder("<"))


def _tail(weight: int, clipped: bool, loss: float) -> list[int]:
    milli = max(-_LOSS_OFFSET, min(_LOSS_OFFSET, round(loss * 1000)))
    values = (weight, int(clipped), weight * (milli + _LOSS_OFFSET))
    return [value >> (8 * limb) & 0xFF for value in values for limb in range(LIMBS)]


def _read_tail(tail: ModVector, modulus_bits: int) -> tuple[int, int, int]:
    words = [int(word) & ((1 << modulus_bits) - 1) for word in tail]
    values = [sum(word << (8 * limb) for limb, word in enumerate(words[at : at + LIMBS])) for at in range(0, 18, LIMBS)]
    return values[0], values[1], values[2]
