"""Membership inference on a version: by the loss alone, and by LiRA with shadow models of the recipe's own making."""

from dataclasses import asdict
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from undersong.audit.findings import CONFIDENCE, AuditFinding, AuditKind
from undersong.audit.trainer import Trainer
from undersong.recipes.protocol import Dataset
from undersong.services.agent.runner.protocol import Progress
from undersong.shared.learning.tensors import Model
from undersong.shared.privacy.membership import (
    MembershipFigures,
    confidences,
    halves,
    membership_figures,
    offline_scores,
)

MOST_ROWS: Final = 20_000
"""Rows of each kind that are looked at; of more a sample is."""
Values = npt.NDArray[np.float64]


class Membership:
    """Both attacks on one model; `regression` losses are squared errors, no logarithms of probabilities."""

    def __init__(self, trainer: Trainer, data: Dataset, *, regression: bool, random: np.random.Generator) -> None:
        self._trainer, self._regression, self._random = trainer, regression, random
        members, others = _sample(data.train, random), _sample(data.test, random)
        self._rows = np.concatenate([members, others])
        self._inside = np.arange(self._rows.size) < members.size
        self._losses: Values = np.zeros(0)

    async def loss_threshold(self, target: Model, progress: Progress) -> AuditFinding:
        """Take the rows with the smallest losses for members."""
        self._losses = await self._trainer.losses(target, self._rows, progress)
        found = membership_figures(-self._losses, self._inside, CONFIDENCE)
        return AuditFinding(AuditKind.LOSS_THRESHOLD, _sentence("the loss alone", found), figures_of(found))

    async def lira(self, shadows: int, rounds: int, progress: Progress) -> AuditFinding:
        """Compare each row's loss with its losses under shadow models that did not see it; after `loss_threshold`."""
        taught = halves(shadows, self._rows.size, self._random)
        seen = np.empty((shadows, self._rows.size))
        for number, chosen in enumerate(taught):
            seed = int(self._random.integers(2**62))
            model = await self._trainer.course(self._rows[chosen], rounds, seed, _part(progress, number, shadows))
            seen[number] = await self._trainer.losses(model, self._rows, _unheard)
            progress((number + 1) / shadows)
        scores = offline_scores(self._scores(self._losses), self._scores(seen), taught)
        found = membership_figures(scores, self._inside, CONFIDENCE)
        figures = figures_of(found) | {"shadow_models": shadows}
        return AuditFinding(AuditKind.LIRA_OFFLINE, _sentence(f"LiRA with {shadows} shadow models", found), figures)

    def _scores(self, losses: Values) -> Values:
        return -losses if self._regression else confidences(losses)


def figures_of(found: MembershipFigures) -> dict[str, Any]:
    """Return an attack's figures as a document."""
    return {
        "members": found.members,
        "others": found.others,
        "auc": asdict(found.area),
        "true_positives": [{"false_positive_rate": one.rate, **asdict(one.members)} for one in found.caught],
        "log_roc": [list(point) for point in found.curve],
    }


def _sentence(attack: str, found: MembershipFigures) -> str:
    area, low = found.area, found.caught[-1]
    return (
        f"{attack} tells {found.members:,} training rows from {found.others:,} others with AUC {area.value:.3f} "
        f"({area.low:.3f} to {area.high:.3f}; 0.5 is chance) and finds {low.members.value:.1%} of them "
        f"({low.members.low:.1%} to {low.members.high:.1%}) at a false positive rate of {low.rate:.0%}"
    )


def _sample(rows: npt.NDArray[np.int64], random: np.random.Generator) -> npt.NDArray[np.int64]:
    return rows if rows.size <= MOST_ROWS else np.sort(random.choice(rows, MOST_ROWS, replace=False))


def _part(progress: Progress, done: int, of: int) -> Progress:
    return lambda share: progress((done + share) / of)


def _unheard(_: float) -> None:
    """Ignore the progress of scoring rows."""
