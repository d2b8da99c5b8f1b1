"""What a site's owner can demand of rounds of engine `pairwise`: the section `pairwise` of its policy file."""

import sys
from enum import StrEnum
from typing import Final

from pydantic import Field

from undersong.shared.secagg.floors import Floors, Objection, OwnerSection
from undersong.shared.secagg.pairwise.graph import UnsafeTopology, plan
from undersong.shared.wire.manifest import RoundManifest

SMALL: Final = 128
_TEXT: Final = """\
pairwise:  # what rounds of engine pairwise must be planned for; a round that is planned for less is refused
  min_corrupt: {min_corrupt:g}  # share of sites that may collude with the aggregator
  min_threshold: {min_threshold}  # nothing of this site opens without so many sites
  quorum: {quorum}  # survivors sign their set: required (rounds of up to 128 sites) | always | optional (WEAKER)
  allow_no_colluders: {allowed}  # true consents to rounds planned for no colluding site, once min_corrupt is 0
"""


class Quorum(StrEnum):
    """In which rounds the survivors must sign their set themselves."""

    REQUIRED = "required"  # up to SMALL sites
    ALWAYS = "always"
    OPTIONAL = "optional"


class PairwiseFloors(OwnerSection):
    """What rounds of engine `pairwise` must be planned for, whatever the platform plans."""

    min_corrupt: float = Field(
        default=0.1,
        ge=0,
        lt=1,
        description="Least share of sites, working together against the others, that a round must be planned for",
    )
    min_threshold: int = Field(default=3, ge=2, description="Fewest sites without whom no sum is opened")
    quorum: Quorum = Field(
        default=Quorum.REQUIRED,
        description="Rounds in which the survivors must sign the survivor set: `required` in those of up to 128 sites, "
        "`always`, `optional`",
    )
    allow_no_colluders: bool = Field(
        default=False, description="Whether rounds planned for no colluding site are allowed"
    )

    @property
    def quorum_up_to(self) -> int:
        """The largest round in which survivors must sign their set."""
        return {Quorum.REQUIRED: SMALL, Quorum.ALWAYS: sys.maxsize, Quorum.OPTIONAL: 0}[self.quorum]

    def floors(self) -> Floors:
        """Return what the roster is judged by."""
        return Floors(min_threshold=self.min_threshold, quorum_up_to=self.quorum_up_to)

    def leniency(self) -> dict[str, float]:
        """Return for each field a number that is larger where the field's value allows more."""
        return {
            "min_corrupt": -self.min_corrupt,
            "min_threshold": -self.min_threshold,
            "quorum": -self.quorum_up_to,
            "allow_no_colluders": float(self.allow_no_colluders),
        }

    def text(self) -> str:
        """Return the section with a comment on each line."""
        value = self.model_dump(mode="json")
        return _TEXT.format(**value, allowed=str(self.allow_no_colluders).lower())

    def objections(self, manifest: RoundManifest) -> list[Objection]:
        """Return what speaks against the plan; the roster, which is known later, is judged by `floors`."""
        params, size, found = manifest.engine_params, len(set(manifest.cohort)), list[Objection]()
        corrupt, dropout = (_share(params.get(name)) for name in ("corrupt", "dropout"))
        quorum = params.get("quorum") is True
        if corrupt == 0 and not self.allow_no_colluders:
            detail = "the round is planned for no colluding site, to which this site has not consented"
            found.append(Objection("policy-corrupt", detail + _floor("min_corrupt: 0` and `allow_no_colluders: true")))
        elif corrupt < self.min_corrupt:
            detail = (
                f"the round is planned for {corrupt:.1%} colluding sites, this site asks for {self.min_corrupt:.1%}"
            )
            found.append(Objection("policy-corrupt", detail + _floor(f"min_corrupt: {corrupt:.3g}")))
        if size <= self.quorum_up_to and not quorum:
            detail = f"the survivors of this round of {size} sites do not sign their set, this site asks for it"
            found.append(Objection("policy-quorum", detail + _floor("quorum: optional")))
        try:
            threshold = plan(size, corrupt, dropout, trusted_witness=not quorum).threshold
        except UnsafeTopology as error:
            return [*found, Objection("policy-threshold", f"the round cannot be planned: {error}")]
        if threshold < self.min_threshold:
            detail = f"{threshold} sites could open this round, this site asks for {self.min_threshold}"
            found.append(Objection("policy-threshold", detail + _floor(f"min_threshold: {threshold}")))
        return found


def _floor(value: str) -> str:
    return f": to allow it, put `{value}` under `pairwise` in policy.yaml"


def _share(value: object) -> float:
    """Return a share of clients as a manifest names it; 0 for what is none, which the engine refuses by name."""
    return float(value) if isinstance(value, int | float) and 0 <= value < 1 else 0.0
