"""Sites train with seeds of their own: other batches, and noise that averages out."""

from pathlib import Path

import numpy as np
import pytest

from tests.shared.wire.manifests import manifest
from undersong.recipes import fitting
from undersong.recipes.protocol import Dataset
from undersong.recipes.tabular import RECIPE
from undersong.services.agent.rounds.making import _order
from undersong.shared.ids import SiteId
from undersong.shared.wire.manifest import RoundKind, RoundManifest
from undersong.shared.wire.profiles import Column

SITES, ROUNDS, ROWS = 8, 24, 60
NAMES = [SiteId(f"site_{at}") for at in range(SITES)]


def seed_for(made: RoundManifest, site: SiteId) -> int:
    return _order(made, site, None, None, Path("task")).seed


def test_a_site_has_its_own_seed_which_another_attempt_repeats() -> None:
    seeds = {(number, site): seed_for(manifest(seed=number), site) for number in range(50) for site in NAMES}
    assert len(set(seeds.values())) == len(seeds)
    assert all(0 <= seed < 2**63 for seed in seeds.values())
    assert seed_for(manifest(seed=3, attempt=2, round_id="rnd_2"), NAMES[0]) == seeds[3, NAMES[0]]


def test_the_first_model_is_the_same_whichever_site_makes_it() -> None:
    first = manifest(RoundKind.INITIALISE, model=None, encoding=None)
    assert {seed_for(first, site) for site in NAMES} == {first.seed}


def test_sites_with_equally_many_rows_draw_different_batches() -> None:
    seeds = [seed_for(manifest(), site) for site in NAMES]
    batches = [next(fitting._batches(np.arange(ROWS), 16, np.random.default_rng(seed))) for seed in seeds]
    assert len({tuple(rows) for rows in batches}) == SITES


@pytest.fixture(scope="module")
def rows() -> Dataset:
    random = np.random.default_rng(0)
    x = random.normal(size=(ROWS, 4))
    label = (x @ [1.0, -1, 0.5, 0] + random.normal(size=ROWS) > 0).astype(float)
    columns = tuple(Column(name=name, type="number") for name in "abcd")
    return Dataset("d", columns, x, label, np.arange(ROWS), np.arange(0), "y")


def test_the_noise_of_batches_averages_out_over_sites(rows: Dataset) -> None:
    """The same rows at every site: what differs between rounds is noise, and eight sites have less."""
    params = {"batch_size": 4, "learning_rate": 0.5}
    context = {"statistics": RECIPE.statistics(rows, params, 0).tolist()}
    first = RECIPE.initial(rows.shape, params, context, 0).tensors

    def change(seed: int) -> np.ndarray:
        trained = RECIPE.train(first, rows, params, context, seed, lambda _: None).tensors
        return (trained["0.weight"] - first["0.weight"]).ravel()

    manifests = [manifest(seed=number) for number in range(ROUNDS)]
    shared = np.array([change(made.seed) for made in manifests])
    own = np.array([np.mean([change(seed_for(made, site)) for site in NAMES], axis=0) for made in manifests])
    noise = own.var(axis=0).sum() / shared.var(axis=0).sum()
    assert noise < 2.5 / SITES, "one seed for all sites gives 1, independent ones 1/8"
