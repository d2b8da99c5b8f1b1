"""What a federated model is measured against: the same recipe on pooled data, and at each site alone.

Every model is scored on the union of the sites' test rows, so the numbers of one table can be compared.
"""

from collections.abc import Mapping, Sequence

import numpy as np

from undersong.recipes.protocol import TRAINING_ROUND, Dataset, GrowingRecipe, Params, Recipe, RecipeError, Tensors
from undersong.shared.learning.metrics import evaluation_layout, metrics_of

Scores = dict[str, float]


def pool(sites: Sequence[Dataset]) -> Dataset:
    """Return all sites' rows as one data set, each row in the split that it has at its site; raises `RecipeError`."""
    first = sites[0]
    if any(site.columns != first.columns for site in sites):
        raise RecipeError("the sites' columns differ")
    starts = np.cumsum([0, *(len(site.label) for site in sites[:-1])])
    return Dataset(
        name=first.name,
        columns=first.columns,
        features=np.concatenate([site.features for site in sites]),
        label=np.concatenate([site.label for site in sites]),
        train=np.concatenate([site.train + start for site, start in zip(sites, starts, strict=True)]),
        test=np.concatenate([site.test + start for site, start in zip(sites, starts, strict=True)]),
        label_name=first.label_name,
    )


def train_in_one_place(recipe: Recipe, data: Dataset, params: Params, *, rounds: int, seed: int = 0) -> Tensors:
    """Return the recipe's own course without a federation: statistics, version 0, then `rounds` times local
    training.
    """
    if recipe.spec.grows is not None and isinstance(recipe, GrowingRecipe):
        return recipe.grow(data, params, rounds).tensors
    context = {"statistics": list(recipe.statistics(data, params, seed))} if recipe.spec.statistics else {}
    model = recipe.initial(data.shape, params, context, seed).tensors
    for number in range(rounds):
        here = {**context, TRAINING_ROUND: [float(number), float(rounds)]}
        model = recipe.train(model, data, params, here, seed + number, lambda _: None).tensors
    return model


def score(recipe: Recipe, model: Tensors, data: Dataset, params: Params) -> Scores:
    """Metrics over the data set's test rows."""
    return metrics_of(evaluation_layout(recipe.spec, params), recipe.evaluate(model, data, params, {}))


def compare(
    recipe: Recipe,
    sites: Mapping[str, Dataset],
    params: Params,
    *,
    rounds: int,
    seed: int = 0,
    federated: Tensors | None = None,
) -> dict[str, Scores]:
    """Scores over the union of test rows by name: ``federated`` (if given), ``pooled``, and each site's own model."""
    union = pool(list(sites.values()))
    models = {} if federated is None else {"federated": federated}
    models["pooled"] = train_in_one_place(recipe, union, params, rounds=rounds, seed=seed)
    for name, data in sites.items():
        models[name] = train_in_one_place(recipe, data, params, rounds=rounds, seed=seed)
    return {name: score(recipe, model, union, params) for name, model in models.items()}
