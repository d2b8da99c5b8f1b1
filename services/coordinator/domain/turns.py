"""Sites that take turns, so that the servers' noise can be correlated over a job's rounds (the matrix mechanism).

Each site has one of `separation` turns: in row n of the noise the sites of turn n modulo the separation train. So
between two participations of one site are always as many rows as the servers' noise is correlated over, which is what
its cost rests on; each site's agent checks that for itself.
"""

import math
from collections.abc import Iterable, Sequence
from typing import Final

from undersong.services.coordinator.domain import parts
from undersong.services.coordinator.domain.cohort import rank
from undersong.services.coordinator.domain.findings import Findings
from undersong.shared.errors import Invalid
from undersong.shared.ids import SiteId
from undersong.shared.secagg.engines import ENGINES, names_of
from undersong.shared.wire.privacy import MOST_ROWS, CorrelatedNoise, PrivacyTerms

MATRIX: Final = "matrix"
_DRAW: Final = "turns"


class NoiseRowsSpent(Invalid):
    """Every row of the job's noise was given: its sites may take part in no further round."""


def settle_turns(
    asked: parts.PrivacyPart,
    cohort: parts.CohortPart | None,
    *,
    sites: int | None,
    rounds: int,
    trains: bool,
    findings: Findings,
) -> CorrelatedNoise | None:
    """Return how a job's noise is correlated over its rounds; None where it is not, or the findings say what is wrong.

    sites: how many can take part, None where that is not known. trains: whether the noise protects sites' updates.
    """
    if asked.mechanism != MATRIX:
        if asked.separation is not None:
            findings.error("/privacy/separation", "sites take turns with mechanism: matrix alone")
        return None
    before, turns = len(findings.errors), asked.separation
    _check_place(asked, cohort, trains=trains, findings=findings)
    if turns is None:
        said = f"give the rounds from one turn of a site to its next{_most(cohort, sites)}"
        findings.error("/privacy/separation", said)
        return None
    if cohort is not None and sites is not None and sites < turns * cohort.min:
        findings.error(
            "/privacy/separation",
            f"{sites} sites in {turns} turns are fewer than cohort.min, which is {cohort.min}, in each"
            + _most(cohort, sites),
        )
    if trains and rounds < turns:
        findings.error("/privacy/separation", f"at most rounds, which is {rounds}: every site has a turn")
    times = math.ceil(rounds / turns)
    if turns * times > MOST_ROWS:
        findings.error("/rounds", f"at most {MOST_ROWS} with mechanism matrix: noise of each is made from all before")
    if len(findings.errors) > before:
        return None
    return CorrelatedNoise(separation=turns, participations=times)


def _check_place(
    asked: parts.PrivacyPart, cohort: parts.CohortPart | None, *, trains: bool, findings: Findings
) -> None:
    """Check that servers add the noise, to updates, and that nothing else chooses the sites."""
    if asked.model != "server":
        findings.error(
            "/privacy/mechanism",
            "only servers can correlate their noise over rounds: set model: server, with "
            + names_of(facts for facts in ENGINES.values() if facts.adds_noise),
        )
    elif not trains:
        findings.error(
            "/privacy/mechanism",
            "noise is correlated over rounds that train, and statistics have one round: leave it out",
        )
    if asked.adaptive_clip is not None:
        findings.error("/privacy/adaptive_clip", "noise correlated over rounds needs one clip norm in all of them")
    if cohort is not None and cohort.fraction != 1.0:
        findings.error("/cohort/fraction", "privacy.separation says which sites are asked in a round: leave it out")


def _most(cohort: parts.CohortPart | None, sites: int | None) -> str:
    """Return ": at most 6 with 20 sites", as far as it is known."""
    if cohort is None or sites is None or sites < 2 * cohort.min:
        return ": there must be at least twice as many sites as cohort.min"
    return f": at most {sites // cohort.min} with {sites} sites"


def turn_size(sites: int, separation: int, most: int | None) -> int:
    """Return how many sites have one turn at most: the same number for all rounds, as their noise has one grid."""
    return min(math.ceil(sites / separation), most or sites)


def in_turn(
    candidates: Iterable[SiteId], eligible: Sequence[SiteId], noise: CorrelatedNoise, row: int, seed: int
) -> list[SiteId]:
    """Return the candidates whose turn it is in row 1, 2 …; a site that joined after the submission has one, too."""
    ranked = sorted(eligible, key=lambda site: rank(seed, _DRAW, site))
    turns = {site: place % noise.separation for place, site in enumerate(ranked)}

    def turn(site: SiteId) -> int:
        found = turns.get(site)
        return int.from_bytes(rank(seed, _DRAW, site)[:8], "big") % noise.separation if found is None else found

    return [site for site in candidates if turn(site) == (row - 1) % noise.separation]


def row_of(terms: PrivacyTerms | None, row: int) -> int | None:
    """Return the row of noise of a job's next round that trains; None where its noise has none.

    Raises `NoiseRowsSpent`.
    """
    if terms is None or terms.correlated is None:
        return None
    if row > terms.correlated.rows:
        raise NoiseRowsSpent(f"all {terms.correlated.rows} rows of the job's noise were given")
    return row
