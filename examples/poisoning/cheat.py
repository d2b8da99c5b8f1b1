"""An agent that cheats: it multiplies its update by 100 after the clip, and proves under `twoserver` what is not so.

Everything else is the real agent: its own key, its own certificate, signed reports. It replaces two functions of its
own process, as anyone can who runs an agent; no service is changed. Run as `python cheat.py --config agent.yaml`.
"""

import sys
from pathlib import Path
from typing import Any, Final

import numpy as np

from undersong.services.agent import __main__ as agent
from undersong.services.agent.rounds import updates
from undersong.services.agent.runner.protocol import RunOutcome
from undersong.shared.learning import tensors
from undersong.shared.secagg.engine import Payload
from undersong.shared.secagg.payload import train_payload
from undersong.shared.secagg.quantise import TAIL_LENGTH, pack, unpack
from undersong.shared.secagg.twoserver import schemes
from undersong.shared.vdaf.field64 import FIELD64
from undersong.shared.vdaf.pine_instances import Pine64HmacSha256Aes128
from undersong.shared.wire.manifest import RoundManifest

BOOST: Final = 100


class Liar(Pine64HmacSha256Aes128):
    """A prover that says that the norm is as large as it may be at most, whatever the vector."""

    def _squared_norm(self, vector: Any) -> int:
        exact = sum(int(value) ** 2 for value in vector.tolist()) % FIELD64.modulus
        return min(exact, self.parameters.squared_bound)

    def _check_bits(self, results: Any) -> list[int]:
        """And that every check for a wrap-around succeeded."""
        bound, bits = self.parameters.wr_bound, list[int]()
        for result in results:
            number = (int(result) + bound - 1) % FIELD64.modulus
            number = number if number < 2 * bound else 0
            bits += [*(number >> bit & 1 for bit in range(self.parameters.wr_bits)), 1]
        return bits


def boosted(
    manifest: RoundManifest, delta: tensors.Vector, parameters: int, *, loss: float, samples: bytes | None = None
) -> Payload:
    """Return the update's parameters times 100, without a clip, behind the tail of an honest update.

    Each coordinate stays within what the encoding carries for one site, or the sum would be refused as out of range.
    The buffers (running means and variances) stay as they are: a negative variance would show at once.
    """
    encoding = manifest.encoding
    if encoding is None:
        raise ValueError("a training round has an encoding")
    honest = train_payload(manifest, np.zeros_like(delta), examples=1, loss=loss, key=bytes(32), samples=samples)
    factor = np.ones(delta.size)
    factor[:parameters] = BOOST
    wanted = np.rint(np.clip(delta * factor * encoding.scale, -encoding.bound, encoding.bound)).astype(np.int64)
    ring = unpack(honest.data, encoding.modulus_bits).copy()
    ring[:-TAIL_LENGTH] = wanted.astype(ring.dtype)
    return Payload(honest.kind, ring.size, encoding.modulus_bits, pack(ring, encoding.modulus_bits), samples=samples)


def _change(
    manifest: RoundManifest, outcome: RunOutcome, model: Path | None, after: memoryview, committed: bytes | None
) -> Payload:
    if model is None:
        raise ValueError("a training round without a model")
    old, new = tensors.load(model.read_bytes()), tensors.load(after)
    delta = tensors.difference(old.schema, new.tensors, old.tensors)
    return boosted(manifest, delta, old.schema.parameters, loss=outcome.loss, samples=committed)


def _liar(bound: int, length: int, norm_proofs: int) -> Liar:
    return Liar.for_norm(float(bound), length, num_frac_bits=0, num_proofs_norm_equality=norm_proofs)


def cheat() -> None:
    """From here on this process cheats."""
    updates._change = _change  # noqa: SLF001  (an attacker does not keep to public interfaces)
    schemes._pine = _liar  # type: ignore[assignment]  # noqa: SLF001


if __name__ == "__main__":
    cheat()
    sys.exit(agent.main())
