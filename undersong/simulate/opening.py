"""From a round's sum to the mean that the strategy steps by, with the servers' noise. Pure but for the sampler."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from undersong.shared.secagg.engines import engine_facts
from undersong.shared.secagg.payload import opened_train
from undersong.shared.secagg.private import coordinates_of, noise_of_server
from undersong.shared.secagg.quantise import DTYPES, TAIL_LENGTH, Decoded, ModVector
from undersong.shared.wire.manifest import RoundManifest
from undersong.simulate.conditions import PLAIN, Conditions
from undersong.simulate.sampling import key_of


@dataclass(frozen=True, slots=True)
class Mean:
    """Of what a mean is taken: the round, the conditions, the model's length, and how many clients there are in all."""

    manifest: RoundManifest
    conditions: Conditions
    length: int
    clients: int
    seed: int


def opened_mean(asked: Mean, total: Any, count: int, weight: int, loss: float, clipped: int) -> Decoded:
    """Return the mean of `count` changes; of none, 0. Raises `OutOfRange`.

    Where clients were tossed for and noise protects them, the sum is divided by how many are expected, not by how many
    came: their number would tell whether a client was among them. weight, loss, clipped: of engine plain.
    """
    if asked.conditions.engine == PLAIN:
        if not count:
            return _nothing(asked.length)
        return Decoded((total / weight).astype(np.float32), weight, clipped, loss / weight, 1 - clipped / count)
    manifest, sample = asked.manifest, asked.conditions.sample
    if not count and manifest.privacy is None:
        return _nothing(asked.length)
    words = _words(asked, total)
    _add_noise(words[: coordinates_of(manifest, asked.length)], asked)
    opened = opened_train(manifest, words, max(count, 1))
    if not sample.tossed or sample.share is None or manifest.privacy is None:
        return opened
    expected = sample.share * asked.clients
    scale = max(count, 1) / expected
    within = None if opened.within is None else 0.5 + (opened.within - 0.5) * scale
    return Decoded(opened.mean * np.float32(scale), count, None, None, within)


def _nothing(length: int) -> Decoded:
    return Decoded(np.zeros(length, np.float32), 0, 0, None, 0.5)


def _words(asked: Mean, total: ModVector | None) -> ModVector:
    """Return the sum in the form that the job's engine opens: without a tail where it has none."""
    encoding, tail = asked.manifest.encoding, engine_facts(asked.manifest.engine).tail_words
    if encoding is None:
        raise ValueError("a round of training without an encoding")
    if total is None:
        return np.zeros(coordinates_of(asked.manifest, asked.length) + tail, DTYPES[encoding.modulus_bits])
    return total if tail else total[: total.size - TAIL_LENGTH]


def _add_noise(words: ModVector, asked: Mean) -> None:
    sigma = noise_of_server(asked.manifest, words.size)
    if not sigma:
        return
    from undersong.shared.privacy.noise import add_discrete_gaussian  # compiled code, which exact rounds do not need

    draw = f"{asked.manifest.kind}/{asked.manifest.number}/{asked.manifest.attempt}"
    for server in range(asked.conditions.noise_servers):
        noise = np.zeros(words.size, np.int64)
        add_discrete_gaussian(noise, sigma, key_of("noise", asked.seed, draw, str(server)))
        words += noise.astype(words.dtype)
