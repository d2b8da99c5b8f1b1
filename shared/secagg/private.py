"""What a round's noise is and what it costs, from its manifest alone: one answer for every party.

A unit that is added or removed moves the integer sum by a vector of norm at most `sensitivity`, in steps of the grid.
A training update is clipped, and its rounding redrawn until that holds (`undersong.shared.secagg.quantise`). The sums
of a private statistics round come in multiples of what one unit can change of all of them together, so there the norm
is one such multiple and what rounding adds. The noise is discrete Gaussian; who adds it, and how much, follows from
`PrivacyTerms`. `length` is everywhere the number of coordinates with noise (`coordinates_of`): without a training
update's tail, but with the one that says whether the update was clipped, where the clip norm moves.
"""

import math
from typing import Final, Literal

from undersong.shared.errors import Invalid
from undersong.shared.privacy import toeplitz
from undersong.shared.privacy.clipping import bit_noise, bit_size
from undersong.shared.privacy.distributed import site_sigma, sum_rho
from undersong.shared.secagg.engines import engine_facts
from undersong.shared.secagg.facts import EngineFacts
from undersong.shared.secagg.quantise import (
    MAX_MULTIPLE,
    MIN_BOUND,
    NORM_BOUND,
    NoHeadroom,
    scale_of,
    squared_norm_bound,
)
from undersong.shared.wire.manifest import STATISTICS_RECIPE, Encoding, RoundKind, RoundManifest
from undersong.shared.wire.privacy import (
    GaussianEvent,
    NoisySteps,
    NonPrivateEvent,
    PoissonGaussianEvent,
    PrivacyEvent,
    PrivacyModel,
    PrivacyTerms,
    ZeroConcentratedEvent,
)

WIDEST: Final = 12 * math.sqrt(2)
"""What a draw can be at most, in standard deviations (see `undersong.shared.privacy.noise`)."""

MAX_SIGMA: Final = 2.0**24
"""The widest noise that can be drawn, in steps of the grid (as there; this module imports no kernels)."""
_CONVOLVED: Final = math.sqrt(2)  # z of correlated noise is a sum of two such draws
_ROUNDED: Final = 1.25  # what rounding can add to a radius of the grid, of which a plan knows nothing yet
ModulusBits = Literal[16, 24, 32, 64]


class NoiseMisplanned(Invalid):
    """A round's encoding has no room for its noise, or no bound that its noise could be measured by."""


def coordinates_of(manifest: RoundManifest, model_length: int) -> int:
    """Return how many coordinates of a round's update get noise: the model's, and one for an adaptive clip norm."""
    return model_length + (0 if manifest.encoding is None else manifest.encoding.clip_words)


def event_of(manifest: RoundManifest, length: int) -> PrivacyEvent | None:
    """Return what a round costs the units whose data it uses; None for one that uses no data.

    `length`: coordinates of the update; it matters to hardly any digit. Raises `NoiseTooFine`, and `NoiseMisplanned`
    for a round whose terms, engine and encoding do not go together.
    """
    terms = manifest.privacy
    if terms is None:
        return None if manifest.kind is RoundKind.INITIALISE else NonPrivateEvent()
    if manifest.kind is RoundKind.STATISTICS and manifest.recipe.name != STATISTICS_RECIPE:
        raise NoiseMisplanned(f"nothing bounds what one record changes in the sums of recipe {manifest.recipe.name}")
    if _encoding(manifest).max_weight != 1:
        raise NoiseMisplanned("noise needs the same weight for every site")
    if terms.record_noise is not None:
        return terms.record_noise.event
    if fault := misplaced(terms.model, engine_facts(manifest.engine)):
        raise NoiseMisplanned(fault)
    bound = sensitivity(_encoding(manifest), manifest.kind, length)
    sigma = noise_of_site(manifest, length)
    if terms.model is PrivacyModel.DISTRIBUTED:
        return ZeroConcentratedEvent(rho=sum_rho(sigma, bound, length, terms.min_sites))
    if terms.correlated is not None:  # on its own, finer grid
        return GaussianEvent(noise_multiplier=terms.noise_multiplier, row=manifest.noise_row)
    if terms.model is PrivacyModel.SERVER:
        site_sigma(terms.noise_multiplier, bound, 1)  # on a coarser grid it is no longer close to a Gaussian
    return GaussianEvent(noise_multiplier=terms.noise_multiplier)


def expected_event(
    model: PrivacyModel, noise_multiplier: float, rounds: int = 1, steps: NoisySteps | None = None
) -> PrivacyEvent:
    """Return what rounds of this noise cost before they are planned, to all digits that are shown (`event_of`).

    What vectors' rounding and length add to distributed noise is below any digit, as long as its grid is not refused.
    Of correlated noise `rounds` are those in which one site takes part (`PrivacyTerms.charged`).
    """
    if steps is not None:
        return PoissonGaussianEvent(
            noise_multiplier=noise_multiplier, probability=steps.probability, count=steps.count * rounds
        )
    if model is PrivacyModel.DISTRIBUTED:
        return ZeroConcentratedEvent(rho=0.5 / noise_multiplier**2, count=rounds)
    return GaussianEvent(noise_multiplier=noise_multiplier, count=rounds)


def misplaced(model: PrivacyModel, facts: EngineFacts) -> str | None:
    """Return why rounds of this engine cannot have noise of this model; None where they can."""
    if model is PrivacyModel.SERVER and not facts.adds_noise:
        return f"with {facts.name} no server adds noise"
    if model is PrivacyModel.DISTRIBUTED and not facts.sums_site_noise:
        return f"with {facts.name} a site's own part of the noise is not hidden in the sum"
    if model is PrivacyModel.LOCAL and facts.proves_norm:
        return f"{facts.name} proves an update's norm, which noise of the site's own would break"
    return None


def sensitivity(encoding: Encoding, kind: RoundKind, length: int) -> int:
    """Return by how much one unit can move the integer sum of a private round at most, as an L2 norm.

    Raises `NoiseMisplanned` where nothing bounds it.
    """
    if kind is RoundKind.STATISTICS:
        return math.ceil(encoding.scale + math.sqrt(length))  # a step in each coordinate, where it is rounded
    if encoding.clip_norm is None or encoding.max_weight != 1:
        raise NoiseMisplanned("noise needs a clip norm, and the same weight for every site")
    return math.isqrt(squared_norm_bound(encoding, length) - 1) + 1


def plan_noisy(*, summands: int, clip_norm: float, modulus_bits: ModulusBits, terms: PrivacyTerms) -> Encoding:
    """Return the finest encoding of training updates with headroom for the noise that sites or servers add.

    Raises `NoHeadroom`, and `NoiseTooFine` where the grid is too coarse for a site's part of the noise.
    """
    parts = terms.min_sites if terms.model is PrivacyModel.DISTRIBUTED else 1
    bit = 0.0 if terms.adaptive_clip is None else bit_size(terms.noise_multiplier, bit_noise(terms))
    radii = math.hypot(1.0, bit)  # what a site can move, with the bit of an adaptive clip norm
    spread = _ROUNDED * radii * terms.noise_multiplier / math.sqrt(parts)  # of one draw, in radii of the grid
    draws = 2 / summands if terms.model is PrivacyModel.SERVER else 1  # for each summand
    if terms.correlated is not None:
        spread *= toeplitz.norm(terms.correlated.separation)
        draws *= _CONVOLVED * toeplitz.reach(terms.correlated.separation, terms.correlated.rows)
    room = ((1 << (modulus_bits - 1)) - 1) / (summands * (1 + WIDEST * spread * draws))
    radius = int(min(room, NORM_BOUND, MAX_SIGMA / spread))
    if radius < MIN_BOUND:
        raise NoHeadroom(
            f"{summands} sites with noise leave {radius} steps in {modulus_bits} bits, fewer than {MIN_BOUND}: "
            "raise modulus_bits or epsilon"
        )
    sigma_of_site(terms, radius)
    return Encoding(
        modulus_bits=modulus_bits,
        max_summands=summands,
        bound=radius,
        scale=scale_of(radius, clip_norm),
        max_weight=1,
        clip_norm=clip_norm,
        clip_bit=None if terms.adaptive_clip is None else max(1, round(bit * radius)),
    )


def plan_multiples(*, summands: int, length: int, terms: PrivacyTerms) -> Encoding:
    """Return the encoding of private statistics: `length` multiples of what one unit can change, in 64-bit words.

    Raises `NoHeadroom`, and `NoiseTooFine` for less noise than a site can add.
    """
    parts = terms.min_sites if terms.model is PrivacyModel.DISTRIBUTED else 1
    spread = terms.noise_multiplier / math.sqrt(parts)
    scale = math.floor(min(NORM_BOUND, MAX_SIGMA / spread - math.sqrt(length) - 1))
    if scale < max(MIN_BOUND, math.sqrt(length)):
        raise NoHeadroom("so much noise on so many numbers cannot be drawn: allow more epsilon, or ask for less")
    sigma_of_site(terms, scale)
    reach = math.ceil(WIDEST * 2 * spread * (scale + math.sqrt(length) + 1))
    bound = min(MAX_MULTIPLE, ((1 << 63) - 1) // summands - reach)
    if bound < scale * MIN_BOUND:
        raise NoHeadroom(f"{summands} sites with noise leave no room in 64 bits: allow more epsilon")
    return Encoding(modulus_bits=64, max_summands=summands, bound=bound, scale=float(scale), max_weight=1)


def noise_of_site(manifest: RoundManifest, length: int) -> float:
    """Return the standard deviation of the noise that each site adds, in steps of the grid; 0.0 where it adds none.

    Raises `NoiseTooFine`, and `NoiseMisplanned` where the sum of all sites could wrap.
    """
    terms = manifest.privacy
    if terms is None or terms.model not in (PrivacyModel.DISTRIBUTED, PrivacyModel.LOCAL):
        return 0.0
    encoding = _encoding(manifest)
    sigma = sigma_of_site(terms, sensitivity(encoding, manifest.kind, length))
    summands = len(manifest.cohort)
    if sigma > MAX_SIGMA:
        raise NoiseMisplanned(f"noise of {sigma:.3g} steps of the grid is more than can be drawn")
    if summands * (encoding.bound + WIDEST * sigma) >= 1 << (encoding.modulus_bits - 1):
        raise NoiseMisplanned(
            f"the noise of {summands} sites does not fit {encoding.modulus_bits} bits: raise update.modulus_bits"
        )
    return sigma


def sigma_of_site(terms: PrivacyTerms, bound: float) -> float:
    """Return each site's standard deviation where one unit moves the sum by `bound`; raises `NoiseTooFine`."""
    alone = terms.model is PrivacyModel.LOCAL
    return site_sigma(terms.noise_multiplier, bound, 1 if alone else terms.min_sites)


def noise_of_server(manifest: RoundManifest, length: int) -> float:
    """Return the standard deviation of each server's noise in steps of the grid; 0.0 where servers add none.

    Of correlated noise that of z, which each row's noise is made of (`undersong.shared.privacy.matrix`).
    """
    terms = manifest.privacy
    if terms is None or terms.model is not PrivacyModel.SERVER:
        return 0.0
    moved = toeplitz.norm(terms.correlated.separation) if terms.correlated is not None else 1.0
    return terms.noise_multiplier * moved * sensitivity(_encoding(manifest), manifest.kind, length)


def noise_of_sum(manifest: RoundManifest, length: int, count: int) -> float:
    """Return the standard deviation of the noise on a sum of `count` sites, in steps of the grid."""
    server = noise_of_server(manifest, length)
    if (band := _band(manifest)) is not None:
        server *= toeplitz.spread(band, manifest.noise_row or 1)
    return math.sqrt(2 * server**2 + count * noise_of_site(manifest, length) ** 2)


def noise_reach(manifest: RoundManifest, length: int, count: int) -> int:
    """Return by how much noise can move a coordinate of a sum of `count` sites at most."""
    server = noise_of_server(manifest, length)
    if (band := _band(manifest)) is not None:
        server = (_CONVOLVED * server + 1) * toeplitz.reach(band, manifest.noise_row or 1)  # each row is rounded
    return math.ceil(WIDEST * (2 * server + count * noise_of_site(manifest, length)))


def _band(manifest: RoundManifest) -> int | None:
    """Return over how many rounds the servers' noise is correlated; None where it is not."""
    terms = manifest.privacy
    return None if terms is None or terms.correlated is None else terms.correlated.separation


def _encoding(manifest: RoundManifest) -> Encoding:
    if manifest.encoding is None:
        raise NoiseMisplanned(f"a round of kind {manifest.kind} has no encoding, and so no noise")
    return manifest.encoding
