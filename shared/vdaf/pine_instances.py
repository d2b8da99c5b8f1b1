"""PINE's instances as the draft names them: a field, an XOF and a number of proofs for each."""

import math
from typing import Self

from undersong.shared.vdaf.bases import power_of_two
from undersong.shared.vdaf.field import FIELD32, FIELD40, FIELD128, Field
from undersong.shared.vdaf.field64 import FIELD64
from undersong.shared.vdaf.pine import TEST_ID, Pine
from undersong.shared.vdaf.pine_circuits import ALPHA, NUM_WR_CHECKS, PineParameters
from undersong.shared.vdaf.xof import Xof, XofHmacSha256Aes128, XofTurboShake128Draft11


class _Published(Pine):
    """One of the draft's instances."""

    FIELD: Field
    XOF: type[Xof] = XofHmacSha256Aes128
    ALGORITHM = TEST_ID
    DEFAULT_PROOFS: int

    def __init__(
        self,
        l2_norm_bound: int,
        num_frac_bits: int,
        dimension: int,
        chunk_length: int,
        chunk_length_norm_equality: int,
        num_shares: int = 2,
        num_proofs: int | None = None,
        num_proofs_norm_equality: int = 1,
        alpha: float = ALPHA,
        num_wr_checks: int = NUM_WR_CHECKS,
        num_wr_successes: int | None = None,
    ) -> None:
        successes = num_wr_checks if num_wr_successes is None else num_wr_successes
        super().__init__(
            PineParameters(self.FIELD, l2_norm_bound, num_frac_bits, dimension, alpha, num_wr_checks, successes),
            chunk_length=chunk_length,
            chunk_length_norm_equality=chunk_length_norm_equality,
            num_proofs=self.DEFAULT_PROOFS if num_proofs is None else num_proofs,
            num_proofs_norm_equality=num_proofs_norm_equality,
            num_shares=num_shares,
            xof=self.XOF,
            algorithm=self.ALGORITHM,
        )


class Pine64HmacSha256Aes128(_Published):
    """The instance that the platform uses, there with three proofs: see `for_norm`."""

    FIELD, ALGORITHM, DEFAULT_PROOFS = FIELD64, 0xFFFF1004, 2

    @classmethod
    def for_norm(
        cls, norm: float, dimension: int, *, num_frac_bits: int = 20, num_proofs_norm_equality: int = 1
    ) -> Self:
        """Return the platform's parameters for vectors of L2 norm <= `norm` (real units): decision 0009."""
        nodes = power_of_two(math.isqrt(dimension - 1) + 1 if dimension > 1 else 2)
        return cls(
            l2_norm_bound=math.floor(norm * 2.0**num_frac_bits),
            num_frac_bits=num_frac_bits,
            dimension=dimension,
            chunk_length=48,
            chunk_length_norm_equality=-(-dimension // (nodes - 1)),
            num_proofs=3,
            num_proofs_norm_equality=num_proofs_norm_equality,
        )


class Pine32HmacSha256Aes128(_Published):
    """Half the bytes for each coordinate, more proofs; without a compiled field here."""

    FIELD, ALGORITHM, DEFAULT_PROOFS = FIELD32, 0xFFFF1005, 5


class Pine40HmacSha256Aes128(_Published):
    """Five bytes for each coordinate; without a compiled field here."""

    FIELD, ALGORITHM, DEFAULT_PROOFS = FIELD40, 0xFFFF1006, 4


class Pine64(_Published):
    """Field64 with TurboSHAKE128."""

    FIELD, XOF, DEFAULT_PROOFS = FIELD64, XofTurboShake128Draft11, 2


class Pine128(_Published):
    """Field128 with TurboSHAKE128."""

    FIELD, XOF, DEFAULT_PROOFS = FIELD128, XofTurboShake128Draft11, 1
