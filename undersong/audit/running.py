"""All audits of one version, one after the other."""

import secrets
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np

from undersong.audit.canaries import NoisyRounds, audit_training
from undersong.audit.findings import CONFIDENCE, AuditFinding, AuditKind, Claim
from undersong.audit.inversion import audit_inversion
from undersong.audit.mechanism import audit_mechanism, noise_of
from undersong.audit.membership import Membership
from undersong.audit.trainer import Trainer, declared, rows_of
from undersong.client.types import Version
from undersong.errors import UndersongError
from undersong.recipes.protocol import Dataset
from undersong.services.agent.runner.protocol import Progress
from undersong.shared.learning.tensors import Model
from undersong.shared.transparency.audit import audit, fingerprint_of
from undersong.shared.transparency.evidence import Evidence
from undersong.shared.wire.manifest import RoundKind, RoundManifest
from undersong.shared.wire.privacy import PrivacyModel
from undersong.shared.wire.profiles import Task

FEWEST_SHADOWS: Final = 4
MOST_SHADOWS: Final = 1024
Bars = Callable[[str], Progress]
"""Makes a progress bar of this title."""


@dataclass(frozen=True, slots=True)
class AuditSubject:
    """The version that is audited, the round that made it, and what is claimed of it."""

    version: Version
    manifest: RoundManifest
    target: Model
    claim: Claim | None

    @classmethod
    def of(cls, version: Version, evidence: Evidence, target: Model, given: Claim | None) -> "AuditSubject":
        """Return the subject; a given claim takes the place of the round's own.

        UndersongError where a check of the evidence fails, or the version was not trained.
        """
        for check in audit(evidence, fingerprint_of(evidence), version.id):
            if not check.passed:
                raise UndersongError(
                    f"the evidence about version {version.number} does not hold: {check.check}: {check.sentence}",
                    remedy=f"undersong verify {version.id}",
                )
        manifest = evidence.logged.record.manifest.manifest
        if manifest.kind is not RoundKind.TRAIN:
            raise UndersongError(
                f"version {version.number} was not trained on rows: its round was {manifest.kind}",
                remedy="audit a later version",
            )
        terms = manifest.privacy
        return cls(version, manifest, target, given or (Claim.of(terms) if terms is not None else None))


@dataclass(frozen=True, slots=True)
class AuditPlan:
    """Which audits to run, on which rows, with how much effort; a `seed` repeats the draws of coins and rows."""

    declarations: Path
    dataset: str | None = None
    shadows: int = 16
    only: Sequence[AuditKind] = tuple(AuditKind)
    own: Sequence[Path] = ()
    device: str = "auto"
    seed: int | None = None


async def run_audits(subject: AuditSubject, plan: AuditPlan, folder: Path, bars: Bars) -> list[AuditFinding]:
    """Run the audits that the plan names, as far as they apply; UndersongError."""
    manifest = subject.manifest
    wanted = manifest.data if plan.dataset is None else manifest.data.model_copy(update={"dataset": plan.dataset})
    entry = declared(plan.declarations, wanted.dataset)
    data = rows_of(entry, wanted)
    files = entry.sources
    found: list[AuditFinding | None] = []
    confidence, length = confidence_of(subject, plan), subject.target.schema.length
    if AuditKind.ONE_RUN_MECHANISM in plan.only:
        bar = bars(AuditKind.ONE_RUN_MECHANISM)
        found.append(audit_mechanism(manifest, length, bar, confidence=confidence))
    noise = None if manifest.privacy is None else manifest.privacy.record_noise
    if not set(plan.only) - {AuditKind.ONE_RUN_MECHANISM}:
        return [finding for finding in found if finding is not None]
    async with Trainer(
        folder, plan.declarations, files, manifest.recipe, wanted, plan.own, plan.device, noise
    ) as trainer:
        found += await _with_recipe(subject, plan, trainer, data, bars, confidence)
    return [finding for finding in found if finding is not None]


async def _with_recipe(
    subject: AuditSubject, plan: AuditPlan, trainer: Trainer, data: Dataset, bars: Bars, confidence: float
) -> list[AuditFinding | None]:
    random = np.random.default_rng(secrets.randbits(128) if plan.seed is None else plan.seed)
    manifest, rounds = subject.manifest, max(1, subject.manifest.number)
    if manifest.recipe.params.get("task") == Task.SURVIVAL or "concordance" in subject.version.metrics:
        raise UndersongError(
            "a row of task survival has no loss of its own: audits of rows compare losses of single rows",
            remedy=f"audit what was added to sums: --only {AuditKind.ONE_RUN_MECHANISM}",
        )
    regression = _is_regression(subject.version, manifest)
    found: list[AuditFinding | None] = []
    if AuditKind.ONE_RUN_TRAINING in plan.only:
        noisy = NoisyRounds.of(manifest, subject.target.schema.length)
        bar = bars(AuditKind.ONE_RUN_TRAINING)
        found.append(
            await audit_training(
                trainer, data, rounds, _claim_of_training(subject, noisy), noisy, bar,
                regression=regression, random=random, confidence=confidence,
            )
        )  # fmt: skip
    if {AuditKind.LOSS_THRESHOLD, AuditKind.LIRA_OFFLINE} & set(plan.only):
        attack = Membership(trainer, data, regression=regression, random=random)
        found.append(await attack.loss_threshold(subject.target, bars(AuditKind.LOSS_THRESHOLD)))
        if AuditKind.LIRA_OFFLINE in plan.only:
            found.append(await attack.lira(plan.shadows, rounds, bars(AuditKind.LIRA_OFFLINE)))
    if AuditKind.GRADIENT_INVERSION in plan.only:
        bar = bars(AuditKind.GRADIENT_INVERSION)
        found.append(await audit_inversion(trainer, manifest, subject.target, data, bar, random))
    return found


def confidence_of(subject: AuditSubject, plan: AuditPlan) -> float:
    """Return the confidence of each lower bound, so that all that may refute a claim are right together with 95 %."""
    noisy = noise_of(subject.manifest, subject.target.schema.length) is not None
    both = {AuditKind.ONE_RUN_MECHANISM, AuditKind.ONE_RUN_TRAINING} <= set(plan.only)
    return 1 - (1 - CONFIDENCE) / 2 if noisy and both else CONFIDENCE


def _claim_of_training(subject: AuditSubject, noisy: NoisyRounds | None) -> Claim | None:
    """Return what is claimed of one row of the audited training; None where its noise is not that of a claim."""
    claim, terms = subject.claim, subject.manifest.privacy
    if claim is None or claim.given or claim.model is PrivacyModel.RECORD:
        return claim
    return Claim.of_row(terms) if noisy is not None and terms is not None else None


def _is_regression(version: Version, manifest: RoundManifest) -> bool:
    task = manifest.recipe.params.get("task")
    return task == "regression" or (task is None and "rmse" in version.metrics)
