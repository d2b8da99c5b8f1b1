"""Group `privacy`: noise for a million coordinates, the epsilon of a thousand charges, and what noise costs a model.

The charges are of the kinds that a site's ledger holds: servers' noise of many strengths, and noise added by the sites
themselves. None is in the library's cache: each repetition has other strengths. Times are of the CPU, medians.

The model is the hospital example's, trained by four hospitals with noise for each record (the recipe's own, drawn for
each of three runs), scored on the union of their test rows; the median run counts. Published for the same hospitals by
FLamby (du Terrail et al., NeurIPS 2022), also for each record: .702 at epsilon 1, .700 at 5, delta 1e-3.
"""

import os
import statistics
import time
from collections.abc import Callable, Sequence

import numpy as np

from tests.benchmarks import private_models
from tests.benchmarks.figures import Figure
from tests.examples.test_hospital import HOSPITAL
from undersong.recipes.catalogue import load_recipe
from undersong.recipes.reference import pool, score
from undersong.services.coordinator.domain.privacy import calibrated
from undersong.shared.learning.tensors import Model, difference, flatten, load, save, unflatten
from undersong.shared.privacy.accounting import epsilon_of
from undersong.shared.privacy.noise import add_discrete_gaussian
from undersong.shared.wire.privacy import (
    RECORD_NOISE,
    GaussianEvent,
    NoisySteps,
    PrivacyEvent,
    PrivacyModel,
    RecordNoise,
    ZeroConcentratedEvent,
)

LENGTH, CHARGES = 1_000_000, 1000
SAMPLED, COUNTED = 21, 11
DELTA = 1e-6
ROUNDS, RUNS, PUBLISHED = 5, 3, {1: 0.702, 5: 0.700}
STEPS = NoisySteps(count=4, probability=0.2, clip_norm=1.0)
PARAMS = {"model": "logistic", "epochs": 1, "batch_size": 32, "learning_rate": 0.5}


def measure() -> list[Figure]:
    """The group's figures."""
    out = np.zeros(LENGTH, np.int64)
    sampled = _median(lambda _: add_discrete_gaussian(out, 1600.0, os.urandom(32)), SAMPLED)
    gaussian = _median(lambda turn: epsilon_of(_charges(turn, mixed=False), DELTA), COUNTED)
    mixed = _median(lambda turn: epsilon_of(_charges(turn, mixed=True), DELTA), COUNTED)
    return [
        Figure("privacy.sampler_ms.d1m", sampled, "ms", 10, "at most", "CPU; sigma 1600, key stream included"),
        Figure(
            "privacy.pld_1000_charges_ms", mixed, "ms", 50, "at most", "CPU; Gaussian and zero-concentrated, merged"
        ),
        Figure("privacy.gaussian_1000_charges_ms", gaussian, "ms", note="CPU; Gaussians alone, in closed form"),
        *(_heart(epsilon, published) for epsilon, published in PUBLISHED.items()),
        *private_models.figures(),
    ]


def _heart(epsilon: int, published: float) -> Figure:
    noise = calibrated(PrivacyModel.RECORD, epsilon, 1e-3, ROUNDS, STEPS)
    found = statistics.median(_accuracy(noise, run) for run in range(RUNS))
    note = f"delta 1e-3, each record; noise {noise:.2f}; columns are standardised by exact sums"
    return Figure(f"privacy.heart.acc_eps{epsilon}", found, "", published, "at least", note)


def _accuracy(noise: float, run: int) -> float:
    """Train in this process: the engines sum exactly, so the mean of changes is what they would open."""
    recipe, sites = load_recipe("tabular"), HOSPITAL.site_data()
    together = pool(list(sites.values()))
    context = {RECORD_NOISE: list(RecordNoise(noise, STEPS.clip_norm, STEPS.probability, float(STEPS.count)))}
    sums = sum(recipe.statistics(data, PARAMS, 0) for data in sites.values())
    model = load(save(recipe.initial(together.shape, PARAMS, {"statistics": list(sums)}, 0)))
    for number in range(ROUNDS):
        changes = []
        for place, data in enumerate(sites.values()):
            seed = 1000 * run + 10 * number + place
            trained = recipe.train(model.tensors, data, PARAMS, context, seed, lambda _: None)
            changes.append(difference(model.schema, trained.tensors, model.tensors))
        after = flatten(model.schema, model.tensors) + np.mean(changes, axis=0, dtype=np.float32)
        model = load(save(Model(model.schema, unflatten(model.schema, after, model.tensors))))
    return score(recipe, model.tensors, together, PARAMS)["accuracy"]


def _charges(turn: int, *, mixed: bool) -> Sequence[PrivacyEvent]:
    strengths = 20.0 + turn + np.arange(CHARGES) / CHARGES
    made: list[PrivacyEvent] = []
    for place, strength in enumerate(strengths.tolist()):
        if mixed and place % 2:
            made.append(ZeroConcentratedEvent(rho=0.5 / strength**2))
        else:
            made.append(GaussianEvent(noise_multiplier=strength))
    return made


def _median(work: Callable[[int], object], repeats: int) -> float:
    work(-1)  # imports, tables
    took = []
    for turn in range(repeats):
        began = time.process_time()
        work(turn)
        took.append(time.process_time() - began)
    return statistics.median(took) * 1000
