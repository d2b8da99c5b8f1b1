"""From privacy events to epsilon, and from epsilon to noise.

By the library dp-accounting, whose import takes a second and 100 MB: it is imported where something is computed.
Sources: Balle and Wang, Improving the Gaussian Mechanism for Differential Privacy (ICML 2018), for Gaussians, of which
any number composes to one; Koskela, Jälkö and Honkela, Computing Tight Differential Privacy Guarantees Using FFT
(AISTATS 2020), for the rest (privacy loss distributions); Mironov, Rényi Differential Privacy (CSF 2017), where an
event is only known to be zero-concentrated. Epsilon is an upper bound in each case.
"""

import math
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Final

from undersong.shared.errors import Invalid
from undersong.shared.wire.privacy import (
    MAX_NOISE,
    MIN_NOISE,
    GaussianEvent,
    NonPrivateEvent,
    PoissonGaussianEvent,
    PrivacyEvent,
    ZeroConcentratedEvent,
)

if TYPE_CHECKING:
    import dp_accounting

ACCOUNTANT: Final = "dp-accounting"
_CLOSE: Final = 1e-4  # relative: how near calibrated noise comes to the least noise


class Unaffordable(Invalid):
    """No noise in the range that can be drawn gives this epsilon."""


def epsilon_of(events: Sequence[PrivacyEvent], delta: float) -> float:
    """Return the epsilon at `delta` (0 < delta < 1) of all events: 0 of none, infinite with an exact answer."""
    return _epsilon(tuple(merge(events)), delta)


@lru_cache(maxsize=1024)
def _epsilon(merged: tuple[PrivacyEvent, ...], delta: float) -> float:
    if NonPrivateEvent() in merged:
        return math.inf
    if not merged:
        return 0.0
    if len(merged) == 1 and isinstance(merged[0], GaussianEvent):
        from dp_accounting import get_epsilon_gaussian

        return float(get_epsilon_gaussian(_alone(merged[0]), delta))
    accountant = _accountant(merged)
    for event in merged:
        accountant.compose(_library_event(event))
    return float(accountant.get_epsilon(delta))


def merge(events: Sequence[PrivacyEvent]) -> list[PrivacyEvent]:
    """Return fewer events of the same cost: all Gaussians as one, zero-concentrated ones as one, equal samples as one.

    The others come in the order of their first appearance.
    """
    precision = sum(event.count / event.noise_multiplier**2 for event in events if isinstance(event, GaussianEvent))
    rho = sum(event.rho * event.count for event in events if isinstance(event, ZeroConcentratedEvent))
    sampled: dict[tuple[float, float], int] = {}
    for event in events:
        if isinstance(event, PoissonGaussianEvent):
            key = event.noise_multiplier, event.probability
            sampled[key] = sampled.get(key, 0) + event.count
    merged: list[PrivacyEvent] = []
    if any(isinstance(event, NonPrivateEvent) for event in events):
        merged.append(NonPrivateEvent())
    if precision:
        merged.append(GaussianEvent.model_construct(noise_multiplier=1 / math.sqrt(precision), count=1))
    if rho:
        merged.append(ZeroConcentratedEvent.model_construct(rho=rho, count=1))
    return merged + [
        PoissonGaussianEvent.model_construct(noise_multiplier=noise, probability=probability, count=count)
        for (noise, probability), count in sampled.items()
    ]


def noise_for(epsilon: float, delta: float, rounds: int) -> float:
    """Return the least noise multiplier of one of `rounds` Gaussian mechanisms that cost (epsilon, delta) together.

    Raises `Unaffordable` where it is outside what can be drawn.
    """
    from dp_accounting import get_sigma_gaussian

    sigma = float(get_sigma_gaussian(epsilon, delta)) * math.sqrt(rounds)
    if sigma > MAX_NOISE:
        raise _unaffordable(epsilon)
    return max(sigma * (1 + 1e-9), MIN_NOISE)  # so that rounding never costs more than was asked


def noise_until(epsilon: float, spent: Callable[[float], float]) -> float:
    """Return a noise multiplier for which `spent`, which falls as noise grows, is at most `epsilon`.

    At most one ten-thousandth more than the least. Raises `Unaffordable`.
    """
    low, high = MIN_NOISE, 1.0
    while spent(high) > epsilon:
        if high == MAX_NOISE:
            raise _unaffordable(epsilon)
        low, high = high, min(2 * high, MAX_NOISE)
    while high > low * (1 + _CLOSE):
        middle = math.sqrt(low * high)
        low, high = (low, middle) if spent(middle) <= epsilon else (middle, high)
    return high


def _unaffordable(epsilon: float) -> Unaffordable:
    return Unaffordable(
        f"epsilon {epsilon:g} needs noise of more than {MAX_NOISE:g} clip norms in each round: "
        "allow a larger epsilon or fewer rounds"
    )


def _alone(event: GaussianEvent) -> float:
    """Return the noise multiplier of the one Gaussian mechanism that costs as much as all of an event's."""
    return event.noise_multiplier / math.sqrt(event.count)


def _accountant(events: Sequence[PrivacyEvent]) -> Any:
    """Return the tightest accountant that knows all of the events."""
    if any(isinstance(event, ZeroConcentratedEvent) for event in events):
        from dp_accounting.rdp import RdpAccountant

        return RdpAccountant()
    from dp_accounting.pld import PLDAccountant

    return PLDAccountant()


def _library_event(event: PrivacyEvent) -> "dp_accounting.DpEvent":
    import dp_accounting as library

    if isinstance(event, NonPrivateEvent):
        return library.NonPrivateDpEvent()
    if isinstance(event, ZeroConcentratedEvent):
        return library.SelfComposedDpEvent(library.ZCDpEvent(event.rho), event.count)
    one: library.DpEvent = library.GaussianDpEvent(event.noise_multiplier)
    if isinstance(event, PoissonGaussianEvent):
        one = library.PoissonSampledDpEvent(event.probability, one)
    return library.SelfComposedDpEvent(one, event.count)
