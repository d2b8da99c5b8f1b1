"""How many integers a coefficient of the ring holds, and over how many sites their sum can be read. No NumPy here.

A coefficient holds `fields` signed values, each in `width` bits, times delta = 2**(63 - fields * width). The sum over
sites must keep each field below 2**(width - 1), and the sum of errors below delta / 2: both limit the sites. Words of
64 bits, which are added modulo 2**64, are packed as two limbs of 32 bits.
"""

from dataclasses import dataclass
from typing import Final

N: Final = 4096
"""Coefficients of a polynomial."""
SIGMA: Final = 4.6
"""Standard deviation of keys and errors, before the sum over the other honest sites is known."""
ROOM: Final = 9.5
"""Standard deviations of the summed error within delta / 2: a tail of 2**-64 a coefficient, 2**-44 in a million."""
LIMB_BITS: Final = 32


@dataclass(frozen=True, slots=True)
class Packing:
    """One way to pack words."""

    fields: int
    width: int
    limbs: int = 1

    @property
    def delta_bits(self) -> int:
        """The binary logarithm of delta."""
        return 63 - self.fields * self.width

    def polynomials(self, length: int) -> int:
        """Return how many polynomials `length` words take."""
        return -(-length * self.limbs // (self.fields * N))

    def most_by_noise(self) -> int:
        """Return over how many sites the errors may add up."""
        return int((2.0 ** (self.delta_bits - 1) / (ROOM * SIGMA)) ** 2)

    def most_by_width(self, largest: int) -> int:
        """Return over how many sites values of at most this size may add up."""
        size = largest if self.limbs == 1 else 1 << LIMB_BITS
        return ((1 << (self.width - 1)) - 1) // size


PACKINGS: Final = {16: Packing(3, 17), 24: Packing(2, 26), 32: Packing(1, 34), 64: Packing(1, 48, limbs=2)}
"""By the bits of a word, as the manifest's encoding names them; the encoding itself keeps sums within them."""
