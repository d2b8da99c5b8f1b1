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
_ORDERS: Final = (*range(2, 64), 80, 96, 128, 192, 256, 512, 1024)
_MOST_BY_DISTRIBUTION: Final = 100.0
"""The largest epsilon worth a privacy loss distribution, whose memory grows with it; above, Rényi's bound stands."""
_INTERVAL: Final = 1e-4  # of the privacy loss: the library's own choice
_QUICK_INTERVAL: Final = 1e-3
_MOST_STEPS: Final = 10**6
"""Noisy steps that a privacy loss distribution is made for: one of more takes minutes, and Rényi's bound stands."""
_MOST_STEPS_QUICK: Final = 10**5  # with the coarser interval it is no tighter than Rényi's bound from here
_MOST_SAMPLES: Final = 32  # kinds of noisy steps, each of which has a distribution of its own
_CLOSE: Final = 1e-4  # relative: how near calibrated noise comes to the least noise


class Unaffordable(Invalid):
    """No noise in the range that can be drawn gives this epsilon."""


def epsilon_of(events: Sequence[PrivacyEvent], delta: float, *, quick: bool = False) -> float:
    """Return the epsilon at `delta` (0 < delta < 1) of all events: 0 of none, infinite with an exact answer.

    quick: ten times faster for samples, and up to half a percent larger, to search with.
    """
    return _epsilon(tuple(merge(events)), delta, quick)


@lru_cache(maxsize=1024)
def _epsilon(merged: tuple[PrivacyEvent, ...], delta: float, quick: bool) -> float:
    if NonPrivateEvent() in merged:
        return math.inf
    if not merged:
        return 0.0
    if len(merged) == 1 and isinstance(merged[0], GaussianEvent):
        from dp_accounting import get_epsilon_gaussian

        return float(get_epsilon_gaussian(_alone(merged[0]), delta))
    from dp_accounting.pld import PLDAccountant

    planned = _composed(_renyi_accountant(merged), merged, delta)
    if not _has_distribution(merged, quick=quick) or planned > _MOST_BY_DISTRIBUTION:
        return planned
    interval = _QUICK_INTERVAL if quick else _INTERVAL
    return min(planned, _composed(PLDAccountant(value_discretization_interval=interval), merged, delta))


def _has_distribution(merged: Sequence[PrivacyEvent], *, quick: bool) -> bool:
    """Return whether there is a privacy loss distribution of these events, and it takes seconds at most."""
    sampled = [event for event in merged if isinstance(event, PoissonGaussianEvent)]
    return (
        not any(isinstance(event, ZeroConcentratedEvent) for event in merged)
        and len(sampled) <= _MOST_SAMPLES
        and sum(event.count for event in sampled) <= (_MOST_STEPS_QUICK if quick else _MOST_STEPS)
    )


def merge(events: Sequence[PrivacyEvent]) -> list[PrivacyEvent]:
    """Return fewer events of the same cost: all Gaussians as one, zero-concentrated ones as one, equal samples as one.

    A sample of all is no sample. The others come in the order of their first appearance.
    """
    precision = sum(
        event.count / event.noise_multiplier**2
        for event in events
        if isinstance(event, GaussianEvent) or (isinstance(event, PoissonGaussianEvent) and event.probability == 1)
    )
    rho = sum(event.rho * event.count for event in events if isinstance(event, ZeroConcentratedEvent))
    sampled: dict[tuple[float, float], int] = {}
    for event in events:
        if isinstance(event, PoissonGaussianEvent) and event.probability < 1:
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


def within(events: Sequence[PrivacyEvent], allowed: PoissonGaussianEvent) -> bool:
    """Return whether there are noisy steps, no more than `allowed`, each with as much noise and as small a sample.

    That is enough for them to cost no more, and needs no accountant.
    """
    steps = [event for event in events if isinstance(event, PoissonGaussianEvent)]
    return (
        0 < sum(event.count for event in steps) <= allowed.count
        and len(steps) == len(events)
        and all(event.noise_multiplier >= allowed.noise_multiplier for event in steps)
        and all(event.probability <= allowed.probability for event in steps)
    )


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

    At most one ten-thousandth more than the least. Raises `Unaffordable`. `spent` can take seconds, and is called
    about ten times.
    """
    from scipy.optimize import brentq

    def excess(log_noise: float) -> float:  # nearly linear
        return math.log(min(max(spent(math.exp(log_noise)), 1e-12), 1e12) / epsilon)

    high = 1.0
    if spent(high) > epsilon:
        while spent(high) > epsilon:
            if high == MAX_NOISE:
                raise _unaffordable(epsilon)
            high = min(2 * high, MAX_NOISE)
        low = high / 2
    else:
        low = high / 2
        while spent(low) <= epsilon:
            if low <= MIN_NOISE:
                return MIN_NOISE
            high, low = low, low / 2
    found = math.exp(brentq(excess, math.log(low), math.log(high), xtol=_CLOSE / 4))
    while spent(found) > epsilon:
        found *= 1 + _CLOSE / 4
    return min(found, high)


def _unaffordable(epsilon: float) -> Unaffordable:
    return Unaffordable(
        f"epsilon {epsilon:g} needs noise of more than {MAX_NOISE:g} clip norms in each round: "
        "allow a larger epsilon or fewer rounds"
    )


def _alone(event: GaussianEvent) -> float:
    """Return the noise multiplier of the one Gaussian mechanism that costs as much as all of an event's."""
    return event.noise_multiplier / math.sqrt(event.count)


def _composed(accountant: Any, events: Sequence[PrivacyEvent], delta: float) -> float:
    for event in events:
        accountant.compose(_library_event(event))
    return float(accountant.get_epsilon(delta))


def _renyi_accountant(events: Sequence[PrivacyEvent]) -> Any:
    """Return the accountant that knows all events; of samples it computes whole orders alone, which always succeeds."""
    from dp_accounting.rdp import RdpAccountant

    return RdpAccountant(_ORDERS) if any(isinstance(e, PoissonGaussianEvent) for e in events) else RdpAccountant()


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
