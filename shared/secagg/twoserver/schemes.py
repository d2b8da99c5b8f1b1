"""How a vector is split between leader and helper, and what both can check of it without seeing it.

`pine`: training updates. Field elements of Field64 with a zero-knowledge proof that the L2 norm is within the bound
(docs/protocols.md). `ranged`: statistics that are counts, each proved to be from 0 to the round's bound (Prio3 SumVec
over Field64, three proofs). `additive`: other statistics and evaluation sums, whose norm is not bounded: words modulo
2**64 and no proof at all. Shapes: a vector is int64[d] or uint64[d]; an out share is uint64[d], of which only sums are
ever opened.
"""

import math
from functools import lru_cache
from typing import Any, Final, Protocol

import numpy as np
import numpy.typing as npt
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from undersong.shared.fields.field64 import P
from undersong.shared.secagg.engine import Entropy, UpdateRefused
from undersong.shared.secagg.quantise import counted, squared_norm_bound
from undersong.shared.secagg.twoserver.roles import HELPER, LEADER, Share
from undersong.shared.vdaf.errors import FreshRandomnessNeeded
from undersong.shared.vdaf.pine_instances import Pine64HmacSha256Aes128 as Pine
from undersong.shared.vdaf.prio3 import Prio3SumVecWithMultiproof
from undersong.shared.wire.helper import NORM_PROOFS
from undersong.shared.wire.manifest import Encoding, RoundKind, RoundManifest

WORD_BYTES: Final = 8
VERIFY_KEY_BYTES: Final = 32
SEED_BYTES: Final = 32
Words = npt.NDArray[np.uint64]
Integers = npt.NDArray[np.int64]


class SplitScheme(Protocol):
    """One way to split and to check. `modulus`: the prime that out shares are added modulo; None for 2**64.

    ctx binds everything to a round, nonce to a report. `begin` and `finish` raise a Refusal for what does not hold.
    """

    modulus: int | None
    leader_size: int

    def shard(self, ctx: bytes, vector: Integers, nonce: bytes, entropy: Entropy) -> tuple[bytes, bytes, bytes]:
        """(public share, leader's share, helper's share) of a vector int64[d]."""

    def begin(
        self, verify_key: bytes, ctx: bytes, role: int, nonce: bytes, public: bytes, share: Share
    ) -> tuple[Any, bytes]:
        """(state, verifier share): what this server holds, and what it says to the other about the report."""

    def message(self, ctx: bytes, verifier_shares: list[bytes]) -> bytes:
        """Return what follows from both verifier shares."""

    def finish(self, ctx: bytes, state: Any, message: bytes) -> None:
        """Take the report, or refuse it."""

    def out_share(self, ctx: bytes, role: int, nonce: bytes, share: Share) -> Words:
        """Return the part of the sum that a report which was accepted brings to this server: uint64[d]."""


class Additive:
    """One-time pads modulo 2**64: the helper holds the pad's seed, the leader the rest. Nothing is proved."""

    modulus: int | None = None

    def __init__(self, length: int) -> None:
        self._length = length
        self.leader_size = WORD_BYTES * length

    def shard(self, ctx: bytes, vector: Integers, nonce: bytes, entropy: Entropy) -> tuple[bytes, bytes, bytes]:
        """Return the pad under a fresh seed, and the vector less the pad."""
        seed = entropy(SEED_BYTES)
        return b"", (vector.view(np.uint64) - self._pad(ctx, nonce, seed)).astype("<u8").tobytes(), seed

    def begin(
        self,
        verify_key: bytes,  # noqa: ARG002
        ctx: bytes,  # noqa: ARG002
        role: int,
        nonce: bytes,  # noqa: ARG002
        public: bytes,
        share: Share,
    ) -> tuple[Any, bytes]:
        """Only the sizes can be checked."""
        if public or len(share) != (self.leader_size if role == LEADER else SEED_BYTES):
            raise UpdateRefused("a share has another size than the round's vectors")
        return None, b""

    def message(self, ctx: bytes, verifier_shares: list[bytes]) -> bytes:  # noqa: ARG002
        """Nothing to say."""
        if any(verifier_shares):
            raise UpdateRefused("a verifier share where there is nothing to verify")
        return b""

    def finish(self, ctx: bytes, state: Any, message: bytes) -> None:
        """Nothing was proved."""

    def out_share(self, ctx: bytes, role: int, nonce: bytes, share: Share) -> Words:
        """Return the leader's words, or the pad."""
        if role == HELPER:
            return self._pad(ctx, nonce, bytes(share))
        return np.frombuffer(share, "<u8").astype(np.uint64, copy=False)

    def _pad(self, ctx: bytes, nonce: bytes, seed: bytes) -> Words:
        key = HKDF(hashes.SHA256(), 32, salt=nonce, info=b"undersong-additive-1" + ctx).derive(seed)
        cipher = Cipher(algorithms.AES256(key), modes.CTR(bytes(16))).encryptor()
        words = np.zeros(self._length, "<u8")
        cipher.update_into(words.view(np.uint8).data, words.view(np.uint8).data)
        return words.astype(np.uint64, copy=False)


class Proved:
    """PINE with the norm bound that the round's quantiser keeps."""

    modulus: int | None = P

    def __init__(self, encoding: Encoding, length: int, norm_proofs: int = 1) -> None:
        self._pine = _pine(norm_bound(encoding, length), length, norm_proofs)
        self.leader_size = self._pine.leader_share_size

    def shard(self, ctx: bytes, vector: Integers, nonce: bytes, entropy: Entropy) -> tuple[bytes, bytes, bytes]:
        """Return the published `shard`; tried again where the randomness carries no proof (less often than 2**-100)."""
        while True:
            try:
                public, (leader, helper) = self._pine.shard_integers(ctx, vector, nonce, entropy(self._pine.RAND_SIZE))
            except FreshRandomnessNeeded:
                continue
            return public, leader, helper

    def begin(
        self, verify_key: bytes, ctx: bytes, role: int, nonce: bytes, public: bytes, share: Share
    ) -> tuple[Any, bytes]:
        """Return the published `verify_init`."""
        return self._pine.verify_init(verify_key, ctx, role, None, nonce, public, share)

    def message(self, ctx: bytes, verifier_shares: list[bytes]) -> bytes:
        """Return the published `verifier_shares_to_message`."""
        return self._pine.verifier_shares_to_message(ctx, None, verifier_shares)

    def finish(self, ctx: bytes, state: Any, message: bytes) -> None:
        """Run the published `verify_next`; its out share is made again where it is added."""
        self._pine.verify_next(ctx, state, message)

    def out_share(self, ctx: bytes, role: int, nonce: bytes, share: Share) -> Words:  # noqa: ARG002
        """Return the first d elements of the share, expanded from the seed for the helper."""
        return self._pine.out_share(ctx, role, share)


class Ranged:
    """Prio3 SumVec: each number is from 0 to `most`, or the report is refused."""

    modulus: int | None = P

    def __init__(self, most: int, length: int) -> None:
        self._prio3 = _prio3(most, length)
        self.leader_size = self._prio3.leader_share_size

    def shard(self, ctx: bytes, vector: Integers, nonce: bytes, entropy: Entropy) -> tuple[bytes, bytes, bytes]:
        """Return the published `shard`."""
        public, (leader, helper) = self._prio3.shard(ctx, vector.tolist(), nonce, entropy(self._prio3.RAND_SIZE))
        return public, leader, helper

    def begin(
        self, verify_key: bytes, ctx: bytes, role: int, nonce: bytes, public: bytes, share: Share
    ) -> tuple[Any, bytes]:
        """Return the published `verify_init`."""
        return self._prio3.verify_init(verify_key, ctx, role, None, nonce, public, share)

    def message(self, ctx: bytes, verifier_shares: list[bytes]) -> bytes:
        """Return the published `verifier_shares_to_message`."""
        return self._prio3.verifier_shares_to_message(ctx, None, verifier_shares)

    def finish(self, ctx: bytes, state: Any, message: bytes) -> None:
        """Run the published `verify_next`; its out share is made again where it is added."""
        self._prio3.verify_next(ctx, state, message)

    def out_share(self, ctx: bytes, role: int, nonce: bytes, share: Share) -> Words:  # noqa: ARG002
        """Return each number's share, of its bits' shares."""
        return self._prio3.out_share(ctx, role, share)


@lru_cache(maxsize=8)
def _prio3(most: int, length: int) -> Prio3SumVecWithMultiproof:
    """Chunks of about the root of the bits make the shortest proofs (the draft's advice)."""
    chunk = max(1, math.isqrt(length * most.bit_length()))
    return Prio3SumVecWithMultiproof(length=length, max_measurement=most, chunk_length=chunk)


@lru_cache(maxsize=8)
def _pine(bound: int, length: int, norm_proofs: int) -> Pine:
    """Return its tables are worth keeping for the reports of a round."""
    return Pine.for_norm(float(bound), length, num_frac_bits=0, num_proofs_norm_equality=norm_proofs)


def norm_proofs_of(manifest: RoundManifest) -> int:
    """Return how many proofs of norm equality a report of this round carries; one where the manifest names no number.

    Raises UpdateRefused for another number than 1 or 2.
    """
    found = manifest.engine_params.get(NORM_PROOFS, 1)
    if isinstance(found, bool) or found not in (1, 2):
        raise UpdateRefused(f"engine_params.{NORM_PROOFS} is 1 or 2")
    return int(found)


def norm_bound(encoding: Encoding, length: int) -> int:
    """Return the bound B that is proved: the smallest integer whose square is not below what the quantiser keeps."""
    return math.isqrt(squared_norm_bound(encoding, length) - 1) + 1


def scheme_for(manifest: RoundManifest, length: int) -> SplitScheme:
    """Return the scheme of this round for vectors of this length; raises UpdateRefused where the manifest has none."""
    encoding = manifest.encoding
    if encoding is None or encoding.modulus_bits != 64:
        raise UpdateRefused("a round of two servers sums words of 64 bits")
    if manifest.kind is RoundKind.STATISTICS and counted(encoding) and manifest.privacy is None:
        return Ranged(encoding.bound, length)
    if manifest.kind is not RoundKind.TRAIN:
        return Additive(length)
    if encoding.clip_norm is None or encoding.max_weight != 1:
        raise UpdateRefused("a training round of two servers needs clip_norm, and the same weight for every site")
    return Proved(encoding, length, norm_proofs_of(manifest))
