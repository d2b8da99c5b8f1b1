"""Recipe `null`: gives the model back as it came, to measure what a round costs beside training."""

# ruff: noqa: ARG002  (every recipe takes what the protocol names, used or not)

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from undersong.recipes.protocol import (
    Context,
    Dataset,
    DataShape,
    Params,
    Progress,
    Tensors,
    TrainResult,
    source_digest,
)
from undersong.shared.learning.metrics import layout_length
from undersong.shared.learning.tensors import Model, Schema
from undersong.shared.wire.profiles import RecipeSpec, Task

_HERE: Final = Path(__file__).parent
_PARAMETERS: Final = 1000


class Null:
    """See the module."""

    def __init__(self) -> None:
        self.spec: RecipeSpec = RecipeSpec(
            name="null",
            version="1",
            digest=source_digest(_HERE / "null.py", _HERE / "protocol.py"),
            task=Task.BINARY,
            params_schema={
                "type": "object",
                "additionalProperties": False,
                "properties": {"parameters": {"type": "integer", "minimum": 1, "maximum": 2**31}},
            },
            description="Returns the model unchanged; for benchmarks.",
        )

    def statistics(self, data: Dataset, params: Params, seed: int) -> npt.NDArray[np.float64]:
        """Return the number of rows."""
        return np.array([float(data.train.size)])

    def initial(self, shape: DataShape, params: Params, context: Context, seed: int) -> Model:
        """`params.parameters` zeros."""
        tensors = {"weights": np.zeros(int(params.get("parameters", _PARAMETERS)), np.float32)}
        return Model(Schema.of(tensors), tensors)

    def train(
        self,
        model: Tensors,
        data: Dataset,
        params: Params,
        context: Context,
        seed: int,
        progress: Progress,
    ) -> TrainResult:
        """Nothing changes."""
        progress(1.0)
        return TrainResult(dict(model), max(1, data.train.size), 0.0)

    def evaluate(self, model: Tensors, data: Dataset, params: Params, context: Context) -> npt.NDArray[np.float64]:
        """Return counts the rows, and nothing else."""
        sums = np.zeros(layout_length(Task.BINARY))
        sums[0] = data.test.size
        return sums

    def predict(self, model: Tensors, rows: Mapping[str, Any], params: Params) -> npt.NDArray[np.float64]:
        """Zeros."""
        return np.zeros(max((len(values) for values in rows.values()), default=0))


RECIPE: Final = Null()
