"""Which sites take part in a round: a pure function of the candidates, the rule and the round's name."""

import hashlib
import math
from collections.abc import Iterable
from dataclasses import dataclass

from undersong.shared.ids import SiteId


@dataclass(frozen=True, slots=True)
class CohortRule:
    """How many sites a round takes: a fraction of the candidates, at least `min`, at most `max`."""

    min: int
    max: int | None = None
    fraction: float = 1.0
    seed: int = 0


def choose(candidates: Iterable[SiteId], rule: CohortRule, draw: str) -> tuple[SiteId, ...]:
    """Return the chosen sites in sorted order, or nothing when there are fewer than the rule's minimum.

    `draw` names the round ("train/3/1"); the same seed, draw and candidates choose the same sites, and every
    candidate is as likely as any other.
    """
    ranked = sorted(set(candidates), key=lambda site: rank(rule.seed, draw, site))
    if len(ranked) < rule.min:
        return ()
    wanted = max(rule.min, math.ceil(rule.fraction * len(ranked)))
    if rule.max is not None:
        wanted = min(wanted, rule.max)
    return tuple(sorted(ranked[:wanted]))


def derive_seed(seed: int, draw: str) -> int:
    """Return a seed of 63 bits for one round of one job."""
    return int.from_bytes(hashlib.sha256(f"seed/{seed}/{draw}".encode()).digest()[:8], "big") >> 1


def rank(seed: int, draw: str, site: SiteId) -> bytes:
    """Return a site's place in a draw, as 32 bytes that compare in any order of sites."""
    return hashlib.sha256(f"cohort/{seed}/{draw}/{site}".encode()).digest()
