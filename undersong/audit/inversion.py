"""Gradient inversion: what one site's update shows of the row it was trained on, in clear and masked.

Source: Geiping, Bauermeister, Dröge and Moeller, Inverting Gradients (NeurIPS 2020), proposition 3.1: where the first
layer is linear with a bias, the gradient of a weight divided by that of its bias is the layer's input, exactly. Here
the update of a site with a single row, the worst case, is inverted so. A row counts as found when of all rows its
inputs are the most similar to the reconstruction.
"""

import secrets
from collections.abc import Callable
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from undersong.audit.findings import AuditFinding, AuditKind
from undersong.audit.trainer import Trainer
from undersong.recipes import table
from undersong.recipes.protocol import Dataset, RecipeError
from undersong.services.agent.runner.protocol import Progress
from undersong.shared.learning.tensors import Array, Model, Schema, difference, unflatten
from undersong.shared.privacy.membership import clopper_pearson
from undersong.shared.secagg.compression import Compressor, grid_of
from undersong.shared.secagg.engines import engine_facts
from undersong.shared.secagg.quantise import encode
from undersong.shared.wire.manifest import RoundManifest

ROWS: Final = 50
Values = npt.NDArray[np.float64]


async def audit_inversion(
    trainer: Trainer,
    manifest: RoundManifest,
    target: Model,
    data: Dataset,
    progress: Progress,
    random: np.random.Generator,
) -> AuditFinding | None:
    """Return how many of `ROWS` rows are found; None for a model without inputs of known form and a first layer."""
    inputs = _inputs(target, data)
    layer = None if inputs is None else _first_layer(target.schema, inputs.shape[1])
    if inputs is None or layer is None or manifest.encoding is None:
        return None
    compressor = Compressor.of(manifest, target.schema.parameters, target.schema.length)
    rows = random.choice(data.train, min(ROWS, data.train.size), replace=False)
    clear: list[Values | None] = []
    masked: list[Values | None] = []
    for place, row in enumerate(rows):
        after = await trainer.train(target, np.array([row]), int(random.integers(2**62)))
        update = difference(target.schema, after.tensors, target.tensors)
        clear.append(_reconstruct(target, layer, _sent(update, manifest, compressor, _as_it_is)))
        masked.append(_reconstruct(target, layer, _sent(update, manifest, compressor, _masked)))
        progress((place + 1) / rows.size)
    seen = engine_facts(manifest.engine).sees_updates
    figures: dict[str, Any] = {"rows": int(rows.size), "candidates": len(inputs), "aggregator_sees_updates": seen}
    for name, found in (("in_clear", clear), ("masked", masked)):
        figures[name] = _compared(found, rows, inputs)
    shown = figures["in_clear"]["found"], figures["masked"]["found"]
    sentence = (
        f"from one update in clear {shown[0]['value']:.0%} of {rows.size} rows are found among {len(inputs):,}, "
        f"from the masked one {shown[1]['value']:.0%} (chance {1 / len(inputs):.2%})"
        + ("; with this job's engine the aggregator sees each update in clear" if seen else "")
    )
    return AuditFinding(AuditKind.GRADIENT_INVERSION, sentence, figures)


def _inputs(target: Model, data: Dataset) -> Values | None:
    """Return each row as the model's first layer reads it, float64[n, k]."""
    try:
        if not set(table.FIXED) <= set(target.tensors):
            return None
        return table.inputs(target.tensors, data.columns, data.features).astype(np.float64)
    except RecipeError:
        return None


def _first_layer(schema: Schema, inputs: int) -> tuple[str, str] | None:
    """Return the names of the weight [h, inputs] and bias [h] of the layer that reads the inputs."""
    shapes = {spec.name: spec.shape for spec in schema.trained}
    for name, shape in shapes.items():
        bias = name.removesuffix("weight") + "bias"
        if len(shape) == 2 and shape[1] == inputs and shapes.get(bias) == shape[:1]:
            return name, bias
    return None


def _as_it_is(words: Array) -> Array:
    return words


def _masked(words: Array) -> Array:
    """Return the words plus a mask that is uniform modulo the ring, as one that no party knows is."""
    mask = np.frombuffer(secrets.token_bytes(words.nbytes), words.dtype)
    return np.asarray(words + mask)


def _sent(
    update: npt.NDArray[np.float32], manifest: RoundManifest, compressor: Compressor, mask: Callable[[Array], Array]
) -> Values:
    """Return what an onlooker reads from the words that leave a site, as real numbers, one for each coordinate."""
    sent = compressor.compress(update)
    if manifest.encoding is None:
        raise ValueError("a round of training without an encoding")
    encoding = grid_of(manifest.encoding, manifest.compression, sent.size)
    words = mask(encode(sent, 1, encoding, key=secrets.token_bytes(32)).ring[: sent.size])
    modulus = 2.0**encoding.modulus_bits
    real = words.astype(np.float64) % modulus
    read = np.where(real < modulus / 2, real, real - modulus) / encoding.scale
    if manifest.compression is None:
        return read
    return compressor.expand(read.astype(np.float32)).astype(np.float64)


def _reconstruct(target: Model, layer: tuple[str, str], update: Values) -> Values | None:
    base = {name: np.zeros_like(values) for name, values in target.tensors.items()}
    made = unflatten(target.schema, update.astype(target.schema.master), base)
    weight, bias = (made[name].astype(np.float64) for name in layer)
    unit = int(np.argmax(np.abs(bias)))
    return None if bias[unit] == 0 else weight[unit] / bias[unit]


def _compared(found: list[Values | None], rows: npt.NDArray[np.int64], inputs: Values) -> dict[str, Any]:
    unit = inputs / np.maximum(np.linalg.norm(inputs, axis=1, keepdims=True), 1e-12)
    likeness, hits = [], 0
    for made, row in zip(found, rows, strict=True):
        direction = np.zeros(inputs.shape[1]) if made is None else made / max(float(np.linalg.norm(made)), 1e-300)
        similar = unit @ direction
        likeness.append(float(similar[row]))
        hits += bool(similar[row] > 0 and similar[row] >= similar.max() - 1e-9)
    share = clopper_pearson(hits, len(rows))
    return {
        "similarity": float(np.mean(likeness)),
        "found": {"value": share.value, "low": share.low, "high": share.high},
    }
