"""The audits over real rows, in the recipe's real child process."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.shared.transparency.bundles import Federation
from tests.undersong.audit.conftest import MEMORISES
from undersong.audit import inversion
from undersong.audit.findings import AuditKind, Claim, Verdict, verdict_of
from undersong.audit.running import AuditPlan, AuditSubject, run_audits
from undersong.client.types import Version
from undersong.errors import UndersongError
from undersong.shared.learning.tensors import Model, Schema
from undersong.shared.secagg.private import plan_noisy
from undersong.shared.wire.manifest import RoundManifest
from undersong.shared.wire.privacy import PrivacyTerms

pytestmark = pytest.mark.process
Round = Callable[..., RoundManifest]
Subjects = Callable[..., AuditSubject]


class Bars:
    """Progress as it was told, by title."""

    def __init__(self) -> None:
        self.told: dict[str, list[float]] = {}

    def __call__(self, title: str) -> Callable[[float], None]:
        return self.told.setdefault(title, []).append


async def test_a_model_that_remembers_its_rows_is_found_out(
    tmp_path: Path, declarations: Path, round_of: Round, subject_of: Subjects, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(inversion, "ROWS", 20)
    subject, bars = subject_of(round_of(MEMORISES)), Bars()
    found = {
        one.kind: one
        for one in await run_audits(subject, AuditPlan(declarations, shadows=6, seed=1), tmp_path / "t", bars)
    }
    assert set(found) == set(AuditKind) - {AuditKind.ONE_RUN_MECHANISM}
    assert verdict_of(list(found.values())) is Verdict.NO_CLAIM
    loss, lira = (found[kind].figures for kind in (AuditKind.LOSS_THRESHOLD, AuditKind.LIRA_OFFLINE))
    assert loss["members"] + loss["others"] == 200
    assert loss["auc"]["low"] > 0.55
    assert lira["auc"]["low"] > 0.55
    assert lira["shadow_models"] == 6
    assert found[AuditKind.ONE_RUN_TRAINING].epsilon_lower_bound > 0.1
    inverted = found[AuditKind.GRADIENT_INVERSION].figures
    assert inverted["in_clear"]["found"]["value"] > 0.9
    assert inverted["masked"]["found"]["high"] < 0.35
    assert inverted["in_clear"]["similarity"] > 0.95
    for kind, told in bars.told.items():
        assert kind == AuditKind.ONE_RUN_MECHANISM or (told == sorted(told) and told[-1] == 1.0), kind


@pytest.mark.exhaustive
async def test_a_given_claim_that_training_exceeds_is_broken(
    tmp_path: Path, declarations: Path, round_of: Round, subject_of: Subjects
) -> None:
    subject = subject_of(round_of(MEMORISES), claim=Claim(0.05, 1e-6, given=True))
    plan = AuditPlan(declarations, only=(AuditKind.ONE_RUN_TRAINING,), seed=1)
    (found,) = await run_audits(subject, plan, tmp_path / "t", Bars())
    assert found.broken


@pytest.mark.exhaustive
async def test_noise_of_the_round_keeps_the_claim_in_training_too(
    tmp_path: Path, declarations: Path, round_of: Round, subject_of: Subjects
) -> None:
    """Noise enters the model round by round as the manifest says, and what canaries give away stays below."""
    terms = PrivacyTerms.model_validate(
        {"model": "distributed", "unit": "site", "noise_multiplier": 3.0, "delta": 1e-5, "epsilon": 2.5,
         "rounds": 3, "min_sites": 2}
    )  # fmt: skip
    encoding = plan_noisy(summands=3, clip_norm=1.0, modulus_bits=32, terms=terms)
    asked = round_of({"epochs": 3}, number=3, privacy=terms, encoding=encoding)
    subject = subject_of(asked, 3, claim=Claim.of(terms))
    plan = AuditPlan(declarations, only=(AuditKind.ONE_RUN_TRAINING, AuditKind.ONE_RUN_MECHANISM), seed=1)
    mechanism, training = await run_audits(subject, plan, tmp_path / "t", Bars())
    assert (mechanism.kind, training.kind) == (AuditKind.ONE_RUN_MECHANISM, AuditKind.ONE_RUN_TRAINING)
    assert training.figures["with_noise"]
    assert training.figures["rounds"] == 3
    assert training.claim == Claim.of_row(terms)
    assert training.claim.epsilon > 1.9 * Claim.of(terms).epsilon, "one row can move an update by two clip norms"
    assert (mechanism.confidence, training.confidence) == (0.975, 0.975), "both bounds hold together with 95 %"
    assert not training.broken


@pytest.mark.parametrize(
    ("changes", "plan", "said"),
    [
        ({}, {"dataset": "wart"}, "declares no data set wart; did you mean 'ward'"),
        ({"recipe": {"name": "tabular", "digest": "00" * 32}}, {}, "installed here with other code"),
        ({"recipe": {"name": "mine", "digest": "00" * 32}}, {}, "recipe 'mine' is unknown here"),
    ],
)
async def test_what_cannot_be_audited_is_said_with_the_remedy(
    tmp_path: Path,
    declarations: Path,
    round_of: Round,
    subject_of: Subjects,
    changes: dict[str, Any],
    plan: dict[str, Any],
    said: str,
) -> None:
    subject = subject_of(round_of({}))
    subject = AuditSubject(subject.version, subject.manifest.model_copy(update=_recipe(changes)), subject.target, None)
    only = (AuditKind.LOSS_THRESHOLD,)
    with pytest.raises(UndersongError) as refused:
        await run_audits(subject, AuditPlan(declarations, only=only, **plan), tmp_path / "t", Bars())
    assert said in refused.value.message
    assert refused.value.remedy


def _recipe(changes: dict[str, Any]) -> dict[str, Any]:
    from undersong.shared.wire.manifest import RecipeRef

    return {"recipe": RecipeRef.model_validate(changes["recipe"])} if changes else {}


@pytest.mark.exhaustive
async def test_noise_of_the_recipe_itself_is_part_of_what_is_audited(
    tmp_path: Path, declarations: Path, round_of: Round, subject_of: Subjects
) -> None:
    """A job that protects records trains with its noise in the audit too, or every such claim would seem broken."""
    steps = {"clip_norm": 1.0, "probability": 0.1, "count": 100}
    terms = PrivacyTerms.model_validate(
        {"model": "record", "unit": "record", "noise_multiplier": 50.0, "delta": 1e-5, "epsilon": 0.1,
         "rounds": 1, "min_sites": 2, "steps": steps}
    )  # fmt: skip
    subject = subject_of(round_of(MEMORISES, privacy=terms), claim=Claim.of(terms))
    plan = AuditPlan(declarations, only=(AuditKind.ONE_RUN_TRAINING, AuditKind.ONE_RUN_MECHANISM), seed=1)
    (found,) = await run_audits(subject, plan, tmp_path / "t", Bars())
    assert (found.kind, found.claim) == (AuditKind.ONE_RUN_TRAINING, Claim.of(terms))
    assert found.figures["with_noise"]
    assert found.epsilon_lower_bound < 0.5


def test_evidence_is_checked_before_anything_is_audited() -> None:
    """The manifest says which noise is claimed: one that was changed, or of a round without training, is refused."""
    tensors = {"weight": np.zeros(2, np.float32)}
    target, federation = Model(Schema.of(tensors), tensors), Federation()
    trained = federation.bundle("train", "pairwise")
    version = Version(id=trained.subject, model_id="mdl_1", number=4, content_digest="ab" * 32)
    assert AuditSubject.of(version, trained, target, None).claim is None
    assert AuditSubject.of(version, trained, target, Claim(1.0, 1e-6, given=True)).claim == Claim(1.0, 1e-6, given=True)
    head = trained.logged.head.model_copy(update={"size": trained.logged.head.size + 1})
    changed = trained.model_copy(update={"logged": trained.logged.model_copy(update={"head": head})})
    with pytest.raises(UndersongError, match="does not hold: log-head"):
        AuditSubject.of(version, changed, target, None)
    first = federation.bundle("initialise", "sealed")
    with pytest.raises(UndersongError, match="its round was initialise"):
        AuditSubject.of(version.model_copy(update={"id": first.subject}), first, target, None)
