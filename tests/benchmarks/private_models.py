"""What noise costs MNIST's accuracy, by simulation: a hundred sites, and the set-up of TensorFlow Federated's tutorial.

A hundred sites of 600 images each take part in every round, with engine `pairwise` and noise for each site that all of
them add: what is claimed could be deployed without a change. The model is softmax regression.

The tutorial (Learning with differential privacy, TFF) trains McMahan's 2NN on EMNIST's 3,383 writers, about 100 images
each; 120 of them are tossed for in each of 100 rounds, one pass in batches of 20 at a learning rate of 0.01, with noise
of 1.2 clip norms by one trusted server: (2, 1e-5). Here MNIST's images are dealt at random to as many clients, 17 or 18
each, so that five passes make about as many steps; the clip norm is fixed, and not adapted as there. Amplification by
tosses is claimed in both, and by no deployed job.
"""

from collections.abc import Iterator
from typing import Any, Final

from tests.benchmarks.figures import Figure
from tests.benchmarks.group_simulation import simulated
from tests.benchmarks.mnist import FILE, RECIPE, mnist, mnist_job
from undersong.simulate import Run

SITES: Final = 100
SITE_ROUNDS: Final = 20
SITE_CLIP: Final = 0.3
WRITERS, ASKED, ROUNDS = 3383, 120, 100
CLIP: Final = 0.1
TUTORIAL: Final = (0.805 - 0.7956) / 0.805
"""The tutorial's relative loss of accuracy at (2, 1e-5)."""


def figures() -> Iterator[Figure]:
    """Yield the figures; none without the data."""
    if FILE.exists():
        yield from map(_hundred_sites, (2.0, 8.0))
        yield _tutorial()


def _hundred_sites(epsilon: float) -> Figure:
    run = _run(
        SITE_ROUNDS,
        {"learning_rate": 0.1, "batch_size": 20, "hidden": []},
        {"clients": SITES},
        cohort={"min": SITES},
        update={"clip_norm": SITE_CLIP},
        privacy={"model": "distributed", "epsilon": epsilon, "delta": 1e-3},
    )
    note = f"each site, delta 1e-3; {SITE_ROUNDS} rounds of softmax regression, noise {_noise(run):.2f} clip norms"
    return Figure(f"privacy.mnist100.acc_eps{epsilon:.0f}", run.metrics["accuracy"], "", note=note)


def _tutorial() -> Figure:
    params, conditions = {"learning_rate": 0.01, "epochs": 5, "batch_size": 20}, {"clients": WRITERS}
    tossed = {**conditions, "sample": f"poisson:{ASKED / WRITERS}", "noise_servers": 1}
    noisy = _run(
        ROUNDS,
        params,
        tossed,
        engine="twoserver",
        update={"clip_norm": CLIP},
        privacy={"model": "server", "epsilon": 2.0, "delta": 1e-5},
    )
    exact = _run(ROUNDS, params, tossed)
    best, found = exact.metrics["accuracy"], noisy.metrics["accuracy"]
    note = f"(2, 1e-5): {best:.4f} without noise, {found:.4f} with noise of {_noise(noisy):.2f}; TFF .805, .7956"
    return Figure("privacy.tff_tutorial.relative_loss", (best - found) / best, "", TUTORIAL, "at most", note)


def _run(rounds: int, params: dict[str, Any], conditions: dict[str, Any], **changes: Any) -> Run:
    job = mnist_job("private", rounds, strategy={"weighting": "equal"}, evaluation={"every": rounds}, **changes)
    job["recipe"] = {"name": "two-layer", "params": params}
    return simulated(job, mnist(), workers=2, recipes=[RECIPE], **conditions)


def _noise(run: Run) -> float:
    return run.job.privacy.noise_multiplier if run.job.privacy is not None else 0.0
