"""Recipe `statistics`: adds up what a statistics job asks for, and makes no model."""

# ruff: noqa: ARG002  (every recipe takes what the protocol names, used or not)

import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, NoReturn

import numpy as np
import numpy.typing as npt

from undersong.recipes.protocol import (
    Context,
    Dataset,
    DataShape,
    Model,
    Params,
    Progress,
    RecipeError,
    Tensors,
    TrainResult,
    source_digest,
)
from undersong.shared.errors import Refusal
from undersong.shared.statistics.counting import Rows, count
from undersong.shared.statistics.measures import MEASURES, SALT, asked_of
from undersong.shared.wire.profiles import RecipeSpec, Task

_HERE: Final = Path(__file__).parent
_SCHEMA: Final[dict[str, Any]] = {
    "type": "object",
    "additionalProperties": False,
    "required": ["measures", "min_cell", "min_sites", "job_measures"],
    "properties": {
        "measures": {"type": "array", "minItems": 1, "items": {"type": "object"}},
        "min_cell": {"type": "integer", "minimum": 1},
        "min_sites": {"type": "integer", "minimum": 1},
        "job_measures": {"type": "array", "items": {"enum": list(MEASURES)}},
        "salt_bits": {"type": "integer", "minimum": 16, "maximum": 40},
    },
}


class Statistics:
    """See the module."""

    def __init__(self) -> None:
        files = [_HERE / name for name in ("statistics.py", "protocol.py")]
        self.spec: RecipeSpec = RecipeSpec(
            name="statistics",
            version="1",
            digest=source_digest(*files),
            task=Task.SUMMARY,
            params_schema=_SCHEMA,
            statistics=True,
            description="Counts, sums and products over declared columns, for jobs of kind statistics.",
        )

    def statistics(self, data: Dataset, params: Params, seed: int) -> npt.NDArray[np.float64]:
        """Return the sums over all rows of what `params` asks, behind random numbers (see `measures.SALT`)."""
        try:
            asked = asked_of(params)
            rows = Rows(data.columns, data.features)
            sums = [count(measure, rows) for measure in asked.measures]
        except Refusal as refusal:
            raise RecipeError(refusal.detail) from refusal
        salt = np.array([float(secrets.randbits(asked.salt_bits)) for _ in range(SALT)])
        return np.concatenate([salt, *sums])

    def initial(self, shape: DataShape, params: Params, context: Context, seed: int) -> Model:
        """There is none."""
        return self._no_model()

    def train(
        self, model: Tensors, data: Dataset, params: Params, context: Context, seed: int, progress: Progress
    ) -> TrainResult:
        """There is nothing to train."""
        return self._no_model()

    def evaluate(self, model: Tensors, data: Dataset, params: Params, context: Context) -> npt.NDArray[np.float64]:
        """There is nothing to evaluate."""
        return self._no_model()

    def predict(self, model: Tensors, rows: Mapping[str, Any], params: Params) -> npt.NDArray[np.float64]:
        """There is nothing to predict."""
        return self._no_model()

    def _no_model(self) -> NoReturn:
        raise RecipeError("the recipe statistics makes no model; a job of kind statistics uses it")


RECIPE: Final = Statistics()
