"""A one-run audit of a round's noise: the mechanism of the signed manifest, with the code that draws the real noise.

Each canary is a site whose update is as long as the clip norm allows, in a coordinate of its own, and that takes part
by a fair coin. The sum of all rounds is what every party sees; its coordinates are independent, so one run audits all
canaries at once (Steinke, Nasr and Jagielski 2023). Of the noise only what is accounted for is drawn: one server's
(the other may look), or that of the fewest sites whose noise is counted on.
"""

import math
import secrets
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from undersong.audit.findings import CONFIDENCE, AuditFinding, AuditKind, Claim
from undersong.services.agent.runner.protocol import Progress
from undersong.shared.privacy import noise
from undersong.shared.privacy.accounting import epsilon_of
from undersong.shared.privacy.auditing import epsilon_lower_bound, guess, plan_one_run
from undersong.shared.secagg.private import coordinates_of, event_of, noise_of_server, noise_of_site
from undersong.shared.secagg.quantise import encode
from undersong.shared.wire.manifest import Encoding, RoundKind, RoundManifest
from undersong.shared.wire.privacy import PrivacyModel

MOST_DRAWS: Final = 2 * 10**9
"""Draws of noise in one audit: about ten seconds."""
MOST_CANARIES: Final = 10**6
FEWEST_CANARIES: Final = 1000


@dataclass(frozen=True, slots=True)
class Noise:
    """What one round adds: `draws` of a standard deviation `sigma`, in steps of the grid."""

    sigma: float
    draws: int

    @property
    def total(self) -> float:
        """Standard deviation of their sum."""
        return self.sigma * math.sqrt(self.draws)


def noise_of(manifest: RoundManifest, length: int) -> Noise | None:
    """Return the noise that the claim counts on; None in a round without noise, or with the recipe's own."""
    terms = manifest.privacy
    if terms is None or terms.model is PrivacyModel.RECORD or manifest.kind is not RoundKind.TRAIN:
        return None
    length = coordinates_of(manifest, length)
    if terms.model is PrivacyModel.SERVER:
        return Noise(noise_of_server(manifest, length), 1)
    return Noise(noise_of_site(manifest, length), terms.min_sites if terms.model is PrivacyModel.DISTRIBUTED else 1)


def add_noise(into: npt.NDArray[np.int64], wanted: Noise) -> None:
    """Add a round's noise to int64[d] in place, by the platform's own sampler, with fresh keys."""
    for _ in range(wanted.draws):
        noise.add_discrete_gaussian(into, wanted.sigma, secrets.token_bytes(noise.KEY_BYTES))


def audit_mechanism(
    manifest: RoundManifest, length: int, progress: Progress, *, confidence: float = CONFIDENCE
) -> AuditFinding | None:
    """Return what the noise of a job's training rounds refutes; None where no site or server adds noise.

    `length`: coordinates of the real model, on which the sensitivity depends.
    """
    wanted, terms, encoding = noise_of(manifest, length), manifest.privacy, manifest.encoding
    if wanted is None or terms is None or encoding is None:
        return None
    step = _longest(encoding)
    signal = math.sqrt(terms.rounds) * step / wanted.total
    affordable = MOST_DRAWS // (terms.rounds * wanted.draws)
    plan = plan_one_run(
        signal, terms.delta, most_canaries=max(FEWEST_CANARIES, min(MOST_CANARIES, affordable)), confidence=confidence
    )
    random = np.random.default_rng(secrets.randbits(128))
    coins = random.random(plan.canaries) < 0.5
    total = terms.rounds * step * coins.astype(np.int64)
    for number in range(terms.rounds):
        add_noise(total, wanted)
        progress((number + 1) / terms.rounds)
    made = guess(total.astype(np.float64), coins, plan.guesses)
    bound = epsilon_lower_bound(made, terms.delta, confidence)
    claim = Claim.of(terms)
    event = event_of(manifest, coordinates_of(manifest, length))
    figures = {
        "canaries": made.canaries,
        "guesses": made.guesses,
        "right": made.right,
        "rounds": terms.rounds,
        "noise_multiplier": terms.noise_multiplier,
        "accounted_epsilon": None if event is None else epsilon_of([event] * terms.rounds, terms.delta),
        "bound_expected_with_half_the_noise": plan.expected_at_half,
    }
    blind = plan.expected_at_half <= claim.epsilon
    sentence = (
        f"{made.right:,} of {made.guesses:,} guesses about {made.canaries:,} canary sites were right, so epsilon is at "
        f"least {bound:.2f} at delta {terms.delta:g}; the claim is {claim.epsilon:.3g}"
        + ("; a claim as large as this could not be refuted even with half the noise" if blind else "")
    )
    return AuditFinding(AuditKind.ONE_RUN_MECHANISM, sentence, figures, bound, claim, confidence)


def _longest(encoding: Encoding) -> int:
    """Return the integer that the real quantiser makes of one coordinate as long as the clip norm."""
    vector = np.array([encoding.clip_norm or 0.0, 0.0], np.float32)
    made = encode(vector, 1, encoding, key=secrets.token_bytes(32)).ring
    return int(made[0])
