"""A one-run audit of training: canaries are rows with random labels, in by coin, and the recipe trains once.

A canary's score is its loss under the model: what was trained with a random label fits it better. In a job whose sites
or servers add noise, each round's update is clipped, rounded and made noisy as the job's manifest says.
"""

import secrets
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from undersong.audit.findings import CONFIDENCE, AuditFinding, AuditKind, Claim
from undersong.audit.mechanism import Noise, add_noise, noise_of
from undersong.audit.trainer import Trainer
from undersong.errors import UndersongError
from undersong.recipes.protocol import Dataset
from undersong.services.agent.runner.protocol import Progress
from undersong.shared.learning.tensors import Model, difference, flatten, unflatten
from undersong.shared.privacy.auditing import epsilon_lower_bound, guess
from undersong.shared.secagg.quantise import encode
from undersong.shared.wire.manifest import Encoding, RoundManifest

MOST_CANARIES: Final = 1000
FEWEST_CANARIES: Final = 20
GUESSED: Final = 0.4
"""The share of all canaries whose coins are guessed."""
Values = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class NoisyRounds:
    """How a job's noise enters the model: what each round adds, and how an update becomes integers."""

    noise: Noise
    encoding: Encoding
    sites: int

    @classmethod
    def of(cls, manifest: RoundManifest, length: int) -> "NoisyRounds | None":
        """Return what the manifest says; None where neither sites nor servers add noise."""
        added = noise_of(manifest, length)
        if added is None or manifest.encoding is None or manifest.privacy is None:
            return None
        return cls(added, manifest.encoding, manifest.privacy.min_sites)

    def apply(self, before: Model, after: Model) -> Model:
        """Return the next model of a job in which only this site's update is not zero."""
        update = difference(before.schema, after.tensors, before.tensors)
        ring = encode(update, 1, self.encoding, key=secrets.token_bytes(32)).ring[: update.size]
        total = ring.view(ring.dtype.str.replace("u", "i")).astype(np.int64)
        add_noise(total, self.noise)
        moved = flatten(before.schema, before.tensors) + total / (self.encoding.scale * self.sites)
        return Model(before.schema, unflatten(before.schema, moved.astype(before.schema.master), before.tensors))


async def audit_training(
    trainer: Trainer,
    data: Dataset,
    rounds: int,
    claim: Claim | None,
    noisy: NoisyRounds | None,
    progress: Progress,
    *,
    regression: bool,
    random: np.random.Generator,
    confidence: float = CONFIDENCE,
) -> AuditFinding:
    """Train once with canaries, and return what the guesses about the coins refute. UndersongError."""
    rows = random.permutation(np.concatenate([data.train, data.test]))
    count = min(MOST_CANARIES, rows.size // 2)
    if count < FEWEST_CANARIES:
        raise UndersongError(
            f"data set {data.name} has {rows.size} rows, too few for {FEWEST_CANARIES} canaries",
            remedy="audit with more rows",
        )
    canaries, rest = rows[:count], rows[count:]
    coins = random.random(count) < 0.5
    label = data.label.copy()
    known = data.label if regression else np.unique(data.label)
    label[canaries] = random.choice(known, count)
    taught = np.sort(np.concatenate([rest, canaries[coins]]))
    seed = int(random.integers(2**62))
    if noisy is None:
        model = await trainer.course(taught, rounds, seed, progress, label=label)
    else:
        model = await _noisy_course(trainer, taught, rounds, seed, noisy, label, progress)
    losses = await trainer.losses(model, canaries, _unheard, label=label)
    made = guess(-losses, coins, int(GUESSED * count))
    delta = 0.0 if claim is None else claim.delta
    bound = epsilon_lower_bound(made, delta, confidence)
    figures = {
        "canaries": made.canaries,
        "guesses": made.guesses,
        "right": made.right,
        "rounds": rounds,
        "delta": delta,
        "with_noise": noisy is not None or trainer.noise is not None,
    }
    sentence = (
        f"{made.right} of {made.guesses} guesses about {made.canaries} rows with random labels were right, so one "
        f"row's epsilon is at least {bound:.2f} at delta {delta:g}"
        + (f"; the claim for one row is {claim.epsilon:.3g}" if claim is not None else "")
    )
    return AuditFinding(AuditKind.ONE_RUN_TRAINING, sentence, figures, bound, claim, confidence)


async def _noisy_course(
    trainer: Trainer,
    rows: npt.NDArray[np.int64],
    rounds: int,
    seed: int,
    noisy: NoisyRounds,
    label: Values,
    progress: Progress,
) -> Model:
    model = await trainer.course(rows, 0, seed, _unheard, label=label)
    for number in range(rounds):
        after = await trainer.train(model, rows, seed + number, label=label)
        model = noisy.apply(model, after)
        progress((number + 1) / rounds)
    return model


def _unheard(_: float) -> None:
    """Ignore the progress of a short step."""
