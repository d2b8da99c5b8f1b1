"""What rounds released of the data, and what the noisy ones cost together: for datasheets, and for each data set."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Final

from undersong.shared.errors import Refusal
from undersong.shared.privacy.accounting import epsilon_of, merge
from undersong.shared.secagg.private import coordinates_of, event_of
from undersong.shared.wire.manifest import RoundManifest
from undersong.shared.wire.privacy import NonPrivateEvent, PrivacyEvent, PrivacyTerms, PrivacyUnit

MOST_TIGHT: Final = 3
"""Different events whose cost is computed tightly for a page: each of sampled steps takes a second."""


@dataclass(frozen=True)
class Release:
    """A round that used data and whose sum was opened.

    contributors: None of a round that failed while its sum was being opened: what was seen of it is not known. length:
    of the model, where its round told it.
    """

    manifest: RoundManifest
    contributors: int | None = None
    length: int | None = None

    @cached_property
    def event(self) -> PrivacyEvent:
        """What the round cost; an exact answer where its noise bounds nothing."""
        try:
            found = event_of(self.manifest, coordinates_of(self.manifest, self.length or self.manifest.length or 1))
        except Refusal:
            return NonPrivateEvent()
        return found or NonPrivateEvent()

    @property
    def unit(self) -> PrivacyUnit | None:
        """Whose contribution its noise protects; None of an exact answer."""
        terms = self.manifest.privacy
        return None if terms is None or isinstance(self.event, NonPrivateEvent) else terms.unit


@dataclass(frozen=True, slots=True)
class UnitCost:
    """What `releases` noisy releases cost one unit together; `delta` is the strictest that one was planned with."""

    unit: PrivacyUnit
    releases: int
    events: tuple[PrivacyEvent, ...]
    delta: float

    @property
    def epsilon(self) -> float | None:
        """Their epsilon at `delta`; None where there is no bound. Of many different events up to half a percent more.

        Computed anew at each call.
        """
        return finite(epsilon_of(self.events, self.delta, quick=len(self.events) > MOST_TIGHT))


def costs_of(releases: Iterable[Release]) -> list[UnitCost]:
    """Return what the noisy ones among the releases cost, for each unit that their noise protects."""
    noisy = [release for release in releases if release.unit is not None]
    own = {id(release) for release in charged(noisy)}
    return together(
        UnitCost(release.unit, 1, (release.event,) if id(release) in own else (), release.manifest.privacy.delta)
        for release in noisy
        if release.unit is not None and release.manifest.privacy is not None
    )


def charged(noisy: Sequence[Release]) -> list[Release]:
    """Return the releases with noise that one unit pays for at most: all, but of sites that take turns their own.

    Of rows of correlated noise these are as many as lie a separation apart, which the sites' ledgers hold them to; each
    row of the same terms costs the same. A job whose terms changed has sequences of its own for each.
    """
    found = [release for release in noisy if release.manifest.noise_row is None]
    turns: dict[tuple[str, PrivacyTerms], list[Release]] = {}
    for release in noisy:
        terms = release.manifest.privacy
        if release.manifest.noise_row is not None and terms is not None and terms.correlated is not None:
            turns.setdefault((release.manifest.job_id, terms), []).append(release)
    for (_, terms), rounds in turns.items():
        rows = [release.manifest.noise_row or 0 for release in rounds]
        separation = 1 if terms.correlated is None else terms.correlated.separation
        apart = math.ceil((max(rows) - min(rows) + 1) / separation)
        found += rounds[: min(apart, terms.charged)]
    return found


def together(costs: Iterable[UnitCost]) -> list[UnitCost]:
    """Return the costs of each unit as one; what protects different units is never added up."""
    by_unit: dict[PrivacyUnit, list[UnitCost]] = {}
    for cost in costs:
        by_unit.setdefault(cost.unit, []).append(cost)
    return [
        UnitCost(
            unit,
            sum(cost.releases for cost in found),
            tuple(merge([event for cost in found for event in cost.events])),
            min(cost.delta for cost in found),
        )
        for unit, found in sorted(by_unit.items())
    ]


def exact_of(releases: Iterable[Release]) -> list[Release]:
    """Return the releases that no noise bounds."""
    return [release for release in releases if release.unit is None]


def finite(epsilon: float) -> float | None:
    """Return a number that a document can hold; None where there is no bound."""
    return epsilon if math.isfinite(epsilon) else None
