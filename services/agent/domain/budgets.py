"""What the owner's policy says about noise: which mechanisms, how much epsilon in which time, and how often. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from undersong.shared.wire.manifest import RoundKind, RoundManifest
from undersong.shared.wire.privacy import PrivacyModel, PrivacyUnit

MAX_ATTEMPTS = 5
"""Attempts at one round with noise that a site answers where its policy does not say otherwise."""
MECHANISMS = tuple(model for model in PrivacyModel if model is not PrivacyModel.NONE)


@dataclass(frozen=True, slots=True)
class Budget:
    """The epsilon at `delta` that rounds with noise may cost together within any `period_days` days."""

    unit: PrivacyUnit
    epsilon: float
    delta: float
    period_days: int

    @property
    def period_ms(self) -> int:
        """Length of the period in milliseconds."""
        return self.period_days * 86_400_000


@dataclass(frozen=True, slots=True)
class PrivacyRule:
    """The policy's part `privacy`.

    require: rounds without noise are refused. max_participations: in so many rounds of one kind of a job this site
    takes part. min_separation: after a round with number n it takes part in number n + min_separation at the earliest;
    manifests number all rounds of a job, of whichever kind; where noise is correlated over rounds, the rows of it are
    counted, which are the rounds that train. max_attempts: so many attempts at one round with noise are answered.
    min_colluding: so many colluding sites must be assumed where sites add the noise together. same_files: of a data set
    the others that read a file of it: rounds on any of them are spent of the budgets of all.
    """

    require: bool = False
    mechanisms: frozenset[PrivacyModel] = frozenset(MECHANISMS)
    budgets: Mapping[str, tuple[Budget, ...]] = field(default_factory=dict)  # by data set
    max_participations: int | None = None
    min_separation: int | None = None
    max_attempts: int = MAX_ATTEMPTS
    min_colluding: int = 0
    same_files: Mapping[str, frozenset[str]] = field(default_factory=dict)

    def names(self, dataset: str) -> list[str]:
        """Return the data set and those that read a file of it, by name."""
        return sorted({dataset, *self.same_files.get(dataset, ())})

    def budget(self, dataset: str, unit: PrivacyUnit) -> Budget | None:
        """Return the budget of this data set for this unit, where there is one."""
        return next((each for each in self.budgets.get(dataset, ()) if each.unit is unit), None)

    def objections(self, manifest: RoundManifest) -> list[str]:
        """Return why the policy refuses this round, whatever was spent before."""
        terms, dataset = manifest.privacy, manifest.data.dataset
        if manifest.kind is RoundKind.INITIALISE:
            return []
        if terms is None:
            exact = (
                "the round has no privacy terms, so its sum would be exact, and this site requires noise: "
                "submit the job with a `privacy` section, or put `require: false` under `privacy` in policy.yaml"
            )
            return [exact] if self.require else []
        found = []
        if terms.model not in self.mechanisms:
            found.append(
                f"noise of model {terms.model} is not allowed here: to allow it, add the line `- {terms.model}` under "
                "`mechanisms` of `privacy` in policy.yaml"
            )
        if terms.model is PrivacyModel.DISTRIBUTED and terms.colluding < self.min_colluding:
            found.append(
                f"the round's noise is enough only if no more than {terms.colluding} sites collude, and this site asks "
                f"for {self.min_colluding}: submit the job with `colluding: {self.min_colluding}` under `privacy`, or "
                "lower `min_colluding` of `privacy` in policy.yaml"
            )
        promised = terms.correlated
        if promised is not None and promised.separation < (self.min_separation or 0):
            found.append(
                f"sites take turns of {promised.separation} rounds, and this site asks for {self.min_separation} from "
                f"one of its rounds to the next: to allow it, put `min_separation: {promised.separation}` under "
                "`privacy` in policy.yaml"
            )
        others = self.budgets.get(dataset)
        if others and self.budget(dataset, terms.unit) is None:
            found.append(
                f"data set {dataset} has no budget for unit {terms.unit}, only for {others[0].unit}: to allow the "
                "round, add one under `budgets` of `privacy` in policy.yaml"
            )
        return found
