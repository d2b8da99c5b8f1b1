"""Whether a round's sum can be read: how its words are packed, and over how many sites. No NumPy here."""

from typing import Final

from undersong.shared.errors import Invalid
from undersong.shared.lattice.packings import PACKINGS, ROOM, SIGMA, Packing
from undersong.shared.wire.manifest import Encoding

_LIMB_OF_TAIL: Final = 255  # words behind a training update are limbs of 8 bits


class NoRoom(Invalid):
    """The sum over so many sites does not fit its place in a coefficient, or its errors would change it."""


def packing_of(encoding: Encoding) -> Packing:
    """Return how words of this encoding are packed."""
    return PACKINGS[encoding.modulus_bits]


def check_room(encoding: Encoding) -> None:
    """Raise NoRoom, with the numbers, where sums over `max_summands` sites could not be read."""
    packing, sites = packing_of(encoding), encoding.max_summands
    by_noise = packing.most_by_noise()
    by_width = packing.most_by_width(max(encoding.max_weight * encoding.bound, _LIMB_OF_TAIL))
    if sites > by_noise:
        raise NoRoom(
            f"the errors of {sites:,} sites add up to {ROOM * SIGMA * sites**0.5:,.0f} at {ROOM:g} standard "
            f"deviations, and words of {encoding.modulus_bits} bits leave room for {1 << (packing.delta_bits - 1):,}: "
            f"at most {by_noise:,} sites. Raise update.modulus_bits, or lower cohort.max"
        )
    if sites > by_width:
        raise NoRoom(
            f"words of {encoding.modulus_bits} bits have a field of {packing.width} bits each, in which the values of "
            f"at most {by_width:,} sites add up, not of {sites:,}. Raise update.modulus_bits, or lower cohort.max"
        )
