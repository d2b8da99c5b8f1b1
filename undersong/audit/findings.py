"""What an audit found, as documents for people, scripts, the registry and the datasheet."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Final

from undersong.shared.privacy.accounting import epsilon_of
from undersong.shared.secagg.private import expected_event
from undersong.shared.wire.privacy import MAX_EPSILON, MIN_NOISE, PrivacyModel, PrivacyTerms, PrivacyUnit

CONFIDENCE: Final = 0.95


class AuditKind(StrEnum):
    """The audits there are."""

    LOSS_THRESHOLD = "loss-threshold"
    LIRA_OFFLINE = "lira-offline"
    ONE_RUN_TRAINING = "one-run-training"
    ONE_RUN_MECHANISM = "one-run-mechanism"
    GRADIENT_INVERSION = "gradient-inversion"


class Verdict(StrEnum):
    """What the audits say of the claim: CLAIM_BROKEN where a lower bound is above it, NOT_REFUTED where none is."""

    CLAIM_BROKEN = "claim-broken"
    NOT_REFUTED = "not-refuted"
    NO_CLAIM = "no-claim"


@dataclass(frozen=True, slots=True)
class Claim:
    """The epsilon at a delta that a version is said to have; `given` by the auditor and not by the version itself."""

    epsilon: float
    delta: float
    unit: PrivacyUnit | None = None
    model: PrivacyModel | None = None
    given: bool = False

    @classmethod
    def of(cls, terms: PrivacyTerms) -> "Claim":
        """Return the claim of a round's terms, which is that of its whole job."""
        return cls(terms.epsilon, terms.delta, terms.unit, terms.model)

    @classmethod
    def of_row(cls, terms: PrivacyTerms) -> "Claim":
        """Return what noise that protects sites claims of one row of a site.

        Without the row the site sends another update, two clip norms away at most, and not none, which is one away: the
        cost is that of half the noise.
        """
        event = expected_event(terms.model, max(terms.noise_multiplier / 2, MIN_NOISE), terms.rounds)
        epsilon = min(epsilon_of([event], terms.delta), MAX_EPSILON)  # more refutes nothing
        return cls(epsilon, terms.delta, PrivacyUnit.RECORD, terms.model)

    def document(self) -> dict[str, Any]:
        """For the registry and scripts."""
        found = {"epsilon": self.epsilon, "delta": self.delta}
        return found | ({"unit": str(self.unit)} if self.unit is not None else {})


@dataclass(frozen=True, slots=True)
class AuditFinding:
    """What one audit found. `epsilon_lower_bound`: the epsilon that it refutes; None for an audit that bounds none.

    `claim`: what the bound speaks about, where it does. `sentence` says it in words.
    """

    kind: AuditKind
    sentence: str
    figures: Mapping[str, Any] = field(default_factory=dict)
    epsilon_lower_bound: float | None = None
    claim: Claim | None = None
    confidence: float = CONFIDENCE

    @property
    def broken(self) -> bool:
        """Whether the claim is refuted."""
        bound = self.epsilon_lower_bound
        return self.claim is not None and bound is not None and bound > self.claim.epsilon

    def document(self) -> dict[str, Any]:
        """Return what the registry takes."""
        return {
            "kind": str(self.kind),
            "sentence": self.sentence,
            "figures": dict(self.figures),
            "confidence": self.confidence,
            "epsilon_lower_bound": self.epsilon_lower_bound,
            "claim": None if self.claim is None else self.claim.document(),
        }


def verdict_of(findings: Sequence[AuditFinding]) -> Verdict:
    """Return what all audits together say."""
    if any(finding.broken for finding in findings):
        return Verdict.CLAIM_BROKEN
    spoken = any(finding.claim is not None and finding.epsilon_lower_bound is not None for finding in findings)
    return Verdict.NOT_REFUTED if spoken else Verdict.NO_CLAIM
