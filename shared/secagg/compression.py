"""Which coordinates of an update are sent, and in which form; and the whole change from what was sent.

Sources: random masks with a shared seed, Konečný, McMahan, Yu et al., Federated Learning: Strategies for Improving
Communication Efficiency (2016), section 2, one mask for all sites of a round, because only what all of them send can be
added in secret; rotation, Suresh et al. (ICML 2017); error feedback, Karimireddy et al., Error Feedback Fixes SignSGD
and other Gradient Compression Schemes (ICML 2019), algorithm 2.
Departs: of the parameters one is drawn from each of k runs of neighbours, of equal length but for one. A run's length
is what its coordinate is multiplied by, so that the change that is opened is unbiased, as with k drawn from all; its
variance is that of a free draw, and the draw costs k words. With error feedback nothing is multiplied.
Shapes: a change is float32[length]: parameters, then buffers. Buffers (the means of normalisation, control variates,
the scale of a strategy) are states and no steps: all of them are sent in every round, and nothing of them is fed back.
"""

import math
from dataclasses import dataclass
from typing import Final, Self

import numpy as np
import numpy.typing as npt

from undersong.shared.secagg.quantise import Floats, NoHeadroom, scale_of
from undersong.shared.secagg.rotation import reach, rotate, rotate_back
from undersong.shared.secagg.rounding import BLOCK, Uniforms
from undersong.shared.wire.compression import Compression
from undersong.shared.wire.manifest import Encoding, RoundManifest

_KEEP: Final = "keep"
_ROTATION: Final = "rotation"


@dataclass(frozen=True, slots=True)
class Compressor:
    """What one round does to a change of a model of `parameters` parameters, `length` coordinates in all.

    chosen: the parameters that are sent, ascending, int64[k]; None where all are. runs: of how many parameters each of
    them was drawn. rotation: the key of the rotation; None without one.
    """

    parameters: int
    length: int
    chosen: npt.NDArray[np.int64] | None = None
    runs: Floats | None = None
    rotation: bytes | None = None
    feeds_back: bool = False

    @classmethod
    def of(cls, manifest: RoundManifest, parameters: int, length: int) -> Self:
        """Return that of a round; one that changes nothing where the manifest asks for none."""
        asked = manifest.compression
        if asked is None:
            return cls(parameters, length)
        chosen = runs = None
        if asked.keep is not None:
            chosen, runs = _draw(parameters, kept(asked.keep, parameters), manifest.shared_key(_KEEP))
        key = manifest.shared_key(_ROTATION) if asked.rotation else None
        return cls(parameters, length, chosen, runs, key, asked.error_feedback)

    def compress(self, change: Floats) -> Floats:
        """Return the coordinates that are sent, of a change float32[length]; the change itself where that is all."""
        sent = change
        if self.chosen is not None:
            sent = np.concatenate([change[self.chosen], change[self.parameters :]])
        if self.rotation is None:
            return sent
        sent = sent.copy() if sent is change else sent
        rotate(sent, self.rotation)
        return sent

    def expand(self, mean: Floats) -> Floats:
        """Return the mean change, float32[length], of the mean of what was sent, whose memory may be used for it."""
        mean = self._turned_back(mean)
        if self.chosen is None:
            return mean
        whole, count = np.zeros(self.length, np.float32), self.chosen.size
        whole[self.chosen] = mean[:count] if self.feeds_back or self.runs is None else mean[:count] * self.runs
        whole[self.parameters :] = mean[count:]
        return whole

    def left_out(self, change: Floats, error: Floats | None) -> Floats:
        """Return what a site's update leaves out of the parameters' change, float32[parameters], for its next one.

        error: by how much what was sent differs from what was encoded, in the form that is sent; None: not at all.
        """
        rest = change[: self.parameters].copy()
        sent: slice | npt.NDArray[np.int64] = slice(None) if self.chosen is None else self.chosen
        rest[sent] = 0
        if error is not None:
            rest[sent] = self._turned_back(error)[: rest[sent].size]
        return rest

    def _turned_back(self, sent: Floats) -> Floats:
        if self.rotation is not None:
            rotate_back(sent, self.rotation)
        return sent


def add_left_out(change: Floats, left_out: Floats | None) -> None:
    """Add to the parameters of a change, in place, what earlier updates left out of theirs; nothing where None did."""
    if left_out is not None:
        change[: left_out.size] += left_out


def kept(share: float, parameters: int) -> int:
    """Return how many parameters are sent: their share, rounded up."""
    return min(parameters, math.ceil(share * parameters))


def sent_length(compression: Compression | None, parameters: int, length: int) -> int:
    """Return how many coordinates of a change are sent."""
    if compression is None or compression.keep is None:
        return length
    return kept(compression.keep, parameters) + length - parameters


def grid_of(encoding: Encoding, compression: Compression | None, coordinates: int) -> Encoding:
    """Return the encoding of an update of so many coordinates: finer where they are rotated; raises `NoHeadroom`.

    No coordinate of a rotated vector is about as large as its norm, so that a step of the grid is `reach` of what it
    would be.
    """
    if compression is None or not compression.rotation:
        return encoding
    if encoding.clip_norm is None:
        raise NoHeadroom("what is rotated needs a clip_norm: without one nothing says how large a coordinate can be")
    return encoding.model_copy(update={"scale": scale_of(encoding.bound, encoding.clip_norm * reach(coordinates))})


def _draw(parameters: int, count: int, key: bytes) -> tuple[npt.NDArray[np.int64], Floats]:
    """Return one index of each of `count` runs of neighbours, and the runs' lengths.

    Run i begins at i * parameters // count; of a run of n, the index is its begin + (word * n) // 2**32.
    """
    if not count:
        return np.empty(0, np.int64), np.empty(0, np.float32)
    numbers = np.arange(count + 1, dtype=np.int64)
    whole, rest = divmod(parameters, count)
    begins = numbers * whole + numbers * rest // count
    runs, uniforms = np.diff(begins), Uniforms(key, 0)
    chosen = begins[:-1]
    for start in range(0, count, BLOCK):
        part = slice(start, min(count, start + BLOCK))
        words = uniforms.next(part.stop - start).astype(np.uint64)
        chosen[part] += ((words * runs[part].astype(np.uint64)) >> np.uint64(32)).astype(np.int64)
    return chosen, runs.astype(np.float32)
