"""DP-SGD inside recipes: what one record can change is bounded, noise has its size, samples are what is accounted."""

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis.strategies import floats, integers
from sklearn.datasets import load_digits

from tests.effort import examples
from undersong.recipes import image, tabular
from undersong.recipes.noisy_steps import GRID, clipped, grid_of, poisson_sample, set_noisy_gradients
from undersong.recipes.protocol import Dataset, RecipeError
from undersong.shared.learning.metrics import evaluation_layout, metrics_of
from undersong.shared.wire.privacy import RECORD_NOISE, RecordNoise
from undersong.shared.wire.profiles import Column


def dataset(rows: int = 2000) -> Dataset:
    random = np.random.default_rng(0)
    x = random.normal(0, 1, (rows, 3))
    y = (x @ [2.0, -1.0, 0.5] > 0).astype(float)
    columns = tuple(Column(name=name, type="number") for name in "abc")
    return Dataset("made", columns, x, y, np.arange(rows - 500), np.arange(rows - 500, rows), "y")


def context(noise: RecordNoise) -> dict[str, list[float]]:
    return {RECORD_NOISE: list(noise)}


@settings(max_examples=examples(30), deadline=None)
@given(integers(1, 400), floats(1e-3, 1e3), floats(1e-6, 1e6), integers(0, 2**32))
def test_no_record_moves_the_sum_by_more_than_the_grid(length: int, clip_norm: float, scale: float, seed: int) -> None:
    import torch  # not at the top: each worker collects this file

    gradients = torch.from_numpy(np.random.default_rng(seed).normal(0, scale, (5, length)).astype(np.float32))
    gradients[1] = 0
    gradients[2, 0], gradients[3, 0] = math.nan, math.inf
    taken = clipped(gradients, clip_norm, GRID).numpy().astype(object)
    assert all(sum(int(v) ** 2 for v in row) <= GRID**2 for row in taken)
    assert not taken[1].any()
    norm = float(torch.linalg.vector_norm(gradients[0].double()))
    whole = gradients[0].double().numpy() * min(1.0, clip_norm / norm)
    near = (1 + math.sqrt(length)) / GRID + 3e-5  # a step of the grid each, and the margin
    assert np.abs(taken[0].astype(float) / GRID - whole / clip_norm).max() < near


def test_a_sample_is_poisson_and_fresh_each_time() -> None:
    counts = [len(poisson_sample(10_000, 0.05)) for _ in range(200)]
    assert abs(np.mean(counts) - 500) < 6 * math.sqrt(475 / 200)
    assert 0.6 < np.var(counts) / 475 < 1.6
    assert not np.array_equal(poisson_sample(1000, 0.5), poisson_sample(1000, 0.5))
    assert np.array_equal(poisson_sample(10, 1.0), np.arange(10))
    assert len(poisson_sample(0, 0.5)) == 0


def test_without_noise_worth_mention_it_is_the_gradient_of_the_mean() -> None:
    import torch  # not at the top: each worker collects this file

    random = np.random.default_rng(1)
    x = torch.from_numpy(random.normal(0, 1, (300, 4)).astype(np.float32))
    y = torch.from_numpy(random.normal(0, 1, 300).astype(np.float32))
    module = torch.nn.Linear(4, 1)

    def loss(said: torch.Tensor, truth: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.mse_loss(said[:, 0], truth)

    loss(module(x), y).backward()
    exact = [parameter.grad.clone() for parameter in module.parameters()]
    set_noisy_gradients(module, loss, x, y, RecordNoise(0.001, 100.0, 1.0, 1))
    for parameter, wanted in zip(module.parameters(), exact, strict=True):
        assert torch.allclose(parameter.grad, wanted, atol=5 * 0.001 * 100 / 300)


def test_noise_of_a_step_has_the_size_that_is_accounted_for() -> None:
    import torch  # not at the top: each worker collects this file

    module = torch.nn.Linear(2000, 2, bias=False)
    x, y = torch.zeros(50, 2000), torch.zeros(50)
    set_noisy_gradients(
        module, lambda said, truth: (said[:, 0] - truth).pow(2).mean(), x, y, RecordNoise(1.5, 2.0, 0.2, 1)
    )
    drawn = module.weight.grad.numpy()
    assert drawn.std() == pytest.approx(1.5 * 2.0 / (0.2 * 50), rel=0.06)  # 4000 draws: 5 standard errors


def test_tabular_learns_with_noise_and_reports_what_it_did() -> None:
    data, noise = dataset(), RecordNoise(1.0, 1.0, 0.1, 60)
    params = {"learning_rate": 0.5, "momentum": 0.5, "proximal_mu": 0.01}
    first = tabular.RECIPE.initial(data.shape, params, {}, 0).tensors
    made = tabular.RECIPE.train(first, data, params, context(noise), 3, lambda _: None)
    assert made.events == (noise.event,)
    assert made.loss == 0.0, "a mean loss would be exact"
    sums = tabular.RECIPE.evaluate(made.tensors, data, params, {})
    assert metrics_of(evaluation_layout(tabular.RECIPE.spec, params), sums)["auc"] > 0.95
    again = tabular.RECIPE.train(first, data, params, context(noise), 3, lambda _: None)
    assert any(not np.array_equal(again.tensors[name], made.tensors[name]) for name in made.tensors), "noise by seed"


def test_images_need_a_model_that_looks_at_each_alone() -> None:
    x, y = load_digits(return_X_y=True)
    pictures = (x.reshape(-1, 1, 8, 8) / 16).astype(np.float32)
    data = Dataset(
        "d", (Column(name="x", type="image"),), pictures, y.astype(float), np.arange(1200), np.arange(1200, 1700), "y"
    )
    noise, params = RecordNoise(0.6, 1.0, 0.2, 60), {"channels": [8, 16], "learning_rate": 1.0}
    batch = image.RECIPE.initial(data.shape, params, {}, 0).tensors
    with pytest.raises(RecipeError, match="over batches"):
        image.RECIPE.train(batch, data, params, context(noise), 1, lambda _: None)
    params |= {"normalisation": "group"}
    group = image.RECIPE.initial(data.shape, params, {}, 0).tensors
    made = image.RECIPE.train(group, data, params, context(noise), 1, lambda _: None)
    assert made.events == (noise.event,)
    found = metrics_of(
        evaluation_layout(image.RECIPE.spec, params), image.RECIPE.evaluate(made.tensors, data, params, {})
    )
    assert found["accuracy"] > 0.6


def test_noise_that_the_grid_has_no_room_for_is_refused() -> None:
    assert grid_of(RecordNoise(1.0, 1.0, 0.5, 1), 10**6) == GRID
    assert grid_of(RecordNoise(1000.0, 1.0, 0.5, 1), 100) < GRID
    with pytest.raises(RecipeError, match="more epsilon"):
        grid_of(RecordNoise(10_000.0, 1.0, 0.5, 1), 10**8)


def test_an_empty_sample_is_a_step_of_noise_alone() -> None:
    data, params = replace(dataset(), train=np.arange(2)), {"learning_rate": 0.1}
    first = tabular.RECIPE.initial(data.shape, params, {}, 0).tensors
    noise = RecordNoise(1.0, 1.0, 0.001, 3)
    assert tabular.RECIPE.train(first, data, params, context(noise), 1, lambda _: None).events == (noise.event,)
