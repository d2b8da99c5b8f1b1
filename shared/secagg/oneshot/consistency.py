"""Whether what sites dealt lies on polynomials of the right degree, and whose answers do not fit. Pure, on integers.

Each custodian answers one word for each site: a random combination of its share's words, behind a mask that was dealt
with them. The words of one site, at the custodians' points, lie on a polynomial of degree t - 1 if and only if its
shares do, up to a chance of 2**-63. With t + 2 answers and more, a single custodian that lies about many sites is told
from a site that deals badly; with t + 1 it is not.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import combinations

from undersong.shared.fields.plain64 import P
from undersong.shared.ids import SiteId
from undersong.shared.lattice.shamir import weights
from undersong.shared.secagg.engine import SHARES_DISPUTED, Fault, RoundSpoiled
from undersong.shared.secagg.oneshot.messages import Checked

SHARES_INCONSISTENT = "shares-inconsistent"


@dataclass(frozen=True, slots=True)
class Openers:
    """The custodians that can open the sum, and the sites of which one of the others says that it cannot."""

    custodians: tuple[int, ...]
    faults: tuple[Fault, ...] = ()


def judge(answers: Mapping[int, Checked], sites: frozenset[SiteId], threshold: int) -> Openers:
    """Return who can open the sum over these sites; raises RoundSpoiled, naming sites, where too few can."""
    complete = {index: said.words for index, said in answers.items() if sites <= said.words.keys()}
    disputed = _unusable(answers, sites)
    if len(complete) < threshold:
        raise RoundSpoiled(
            f"{len(complete)} custodians can use every site's share, and {threshold} are needed", disputed
        )
    for chosen in _largest_first(sorted(complete), threshold):
        if all(_consistent({k: complete[k][site] for k in chosen}, threshold) for site in sites):
            return Openers(chosen, (*disputed, *_differing(complete, chosen, sites, threshold)))
    bad = [site for site in sorted(sites) if not _consistent({k: w[site] for k, w in complete.items()}, threshold)]
    code = SHARES_INCONSISTENT if len(complete) > threshold + 1 else SHARES_DISPUTED
    raise RoundSpoiled(
        f"the shares that {', '.join(bad)} dealt to the custodians do not belong to one key",
        [Fault(site, code, "its shares do not lie on one polynomial of the right degree") for site in bad],
    )


def _largest_first(indices: list[int], threshold: int) -> Iterator[tuple[int, ...]]:
    """Yield the sets of custodians that check each other; where all there are is t of them, that one."""
    for size in range(len(indices), min(threshold, len(indices) - 1), -1):
        yield from combinations(indices, size)


def _consistent(words: Mapping[int, int], threshold: int) -> bool:
    """Return whether words by custodian lie on one polynomial of degree t - 1."""
    points = tuple(index + 1 for index in sorted(words))
    values = [words[point - 1] for point in points]
    base = points[:threshold]
    return all(
        sum(w * v for w, v in zip(weights(base, point), values, strict=False)) % P == value
        for point, value in zip(points[threshold:], values[threshold:], strict=True)
    )


def _unusable(answers: Mapping[int, Checked], sites: frozenset[SiteId]) -> list[Fault]:
    """Return the sites whose shares a custodian cannot use, unless it says that of half of them and more."""
    found: dict[SiteId, str] = {}
    for index, said in sorted(answers.items()):
        named = {site: reason for site, reason in said.unusable.items() if site in sites}
        if 2 * len(named) < len(sites):
            found.update({site: f"custodian {index + 1}: {reason}" for site, reason in named.items()})
    return [Fault(site, SHARES_DISPUTED, reason) for site, reason in sorted(found.items())]


def _differing(
    complete: Mapping[int, Mapping[SiteId, int]], chosen: tuple[int, ...], sites: frozenset[SiteId], threshold: int
) -> list[Fault]:
    """Return the sites whose share at a custodian that was left out does not fit, unless that is so of half of them."""
    faults = []
    for index in sorted(complete.keys() - set(chosen)):
        base = chosen[:threshold]
        odd = [
            site for site in sorted(sites) if not _consistent({k: complete[k][site] for k in (*base, index)}, threshold)
        ]
        if 2 * len(odd) < len(sites):
            faults += [Fault(site, SHARES_DISPUTED, f"its share at custodian {index + 1} does not fit") for site in odd]
    return faults
