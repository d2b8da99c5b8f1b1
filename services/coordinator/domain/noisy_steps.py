"""Noise inside a recipe: how many steps it takes in a round, over how large samples, so that every site does the same.

A step's sample has `batch_size` records at the smallest site, in the mean. The probability that follows holds at every
site, and with it the number of steps in `epochs`: what is promised depends on no site's number of rows.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any, Final

from undersong.services.coordinator.domain import parts
from undersong.services.coordinator.domain.findings import Findings
from undersong.services.coordinator.domain.recipes import check_record_params
from undersong.shared.wire.privacy import MOST_COUNT, NoisySteps
from undersong.shared.wire.profiles import RecipeSpec

CLIP_NORM: Final = 1.0
_MODEL: Final = "/privacy/model"


def settle_steps(
    asked: parts.PrivacyPart,
    recipe: RecipeSpec,
    params: Mapping[str, Any],
    rows: Sequence[int | None],
    rounds: int,
    findings: Findings,
) -> NoisySteps | None:
    """Return the noisy steps of each round of a job whose recipe is to add them; None where the findings say why not.

    `rows`: each site's number of rows, where it says how many it has. `rounds`: how many rounds the job has.
    """
    if recipe.record_params is None:
        findings.error(
            _MODEL,
            f"the recipe {recipe.name!r} adds no noise as it trains; server, distributed and local protect sites",
        )
        return None
    known = [count for count in rows if count is not None]
    if not known or len(known) < len(rows):
        findings.error(_MODEL, "not every site says how many rows it has, from which the size of samples follows")
        return None
    given = with_defaults(recipe, params)
    if not check_record_params(recipe, given, findings):
        return None
    epochs, size = given.get("epochs"), given.get("batch_size")
    if not (isinstance(epochs, int) and isinstance(size, int) and epochs > 0 and size >= 0):
        findings.error(_MODEL, f"the recipe {recipe.name!r} has no parameters epochs and batch_size to count steps by")
        return None
    smallest = max(1, min(known))
    probability = size / smallest if 0 < size < smallest else 1.0
    clip_norm = CLIP_NORM if asked.clip_norm is None else asked.clip_norm
    count = math.ceil(epochs / probability)
    if count * rounds > MOST_COUNT:
        findings.error(
            "/recipe/params/batch_size",
            f"{rounds} rounds of {count} noisy steps are more than {MOST_COUNT}: give larger batches, fewer epochs or "
            "fewer rounds",
        )
        return None
    return NoisySteps(count=count, probability=probability, clip_norm=clip_norm)


def with_defaults(recipe: RecipeSpec, params: Mapping[str, Any]) -> dict[str, Any]:
    """Return the parameters with the defaults that the recipe's schema names."""
    properties = recipe.params_schema.get("properties")
    named = properties.items() if isinstance(properties, Mapping) else ()
    defaults = {name: entry["default"] for name, entry in named if isinstance(entry, Mapping) and "default" in entry}
    return {**defaults, **params}
