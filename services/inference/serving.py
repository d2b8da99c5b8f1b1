"""The version that is served: nothing of it is used before its evidence verifies and the file is the signed content."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from undersong.recipes.labels import label_scale
from undersong.recipes.prediction import Predictor, predictor_of
from undersong.recipes.rows import inputs_of
from undersong.recipes.table import BORDERS, COLUMNS, MEAN, SCALE, input_names, model_borders
from undersong.services.inference.domain.drift import ColumnBins, edges_around, thinned
from undersong.services.inference.settings import InferenceSettings
from undersong.shared.errors import Forbidden
from undersong.shared.files import read_bytes, read_input
from undersong.shared.ids import digest_of
from undersong.shared.transparency.audit import CheckResult, audit_file, fingerprint_of, holds
from undersong.shared.transparency.evidence import Evidence, VersionEvidence
from undersong.shared.wire.columns import Column
from undersong.shared.wire.manifest import RoundManifest
from undersong.shared.wire.profiles import Task

PREDICTION: Final = ""  # what no column is called
_TREES: Final = (
    "trees.borders",
    "trees.border_counts",
)  # of recipe trees, whose file stays as it is for its digest's sake
_TENTHS: Final = tuple(tenth / 10 for tenth in range(11))
Tensors = dict[str, npt.NDArray[Any]]


class EvidenceRefused(Forbidden):
    """The evidence does not verify, or is about another version or none."""


class ModelDiffers(Forbidden):
    """The model file is not the content that the evidence is about."""


@dataclass(frozen=True, slots=True)
class ServedVersion:
    """A verified version: its predictor, the columns that it takes, and the checks that its evidence passed."""

    evidence: VersionEvidence
    manifest: RoundManifest
    predictor: Predictor
    columns: tuple[Column, ...]
    checks: tuple[CheckResult, ...]
    authority: str

    def predict(self, rows: Mapping[str, Sequence[Any]]) -> list[dict[str, Any]]:
        """Return an answer for each row; values far outside those trained on may give one that is not finite."""
        with np.errstate(all="ignore"):
            return self.predictor.predict(rows)

    @property
    def bins(self) -> tuple[ColumnBins, ...]:
        """How features and predictions are counted for drift."""
        return (*_feature_bins(self.predictor.tensors, self.columns), _prediction_bins(self.predictor))


def load_version(settings: InferenceSettings) -> ServedVersion:
    """Return the version of the settings' files; each is read once, and what was checked is what is used.

    Raises EvidenceRefused, ModelDiffers, RecipeError where the version cannot predict here, and OSError.
    """
    data = read_input(settings.evidence_file)
    findings = audit_file(data, settings.ca_fingerprint, settings.version)
    if not holds(findings):
        faults = " ".join(finding.sentence for finding in findings if not finding.passed)
        raise EvidenceRefused(
            f"{settings.evidence_file} does not verify: {faults} Nothing is served; look at `undersong verify VERSION "
            f"--evidence {settings.evidence_file} --ca FINGERPRINT`, and set INFERENCE_CA_FINGERPRINT to what the "
            "federation published"
        )
    found = Evidence.unpack(data)
    made, manifest = found.logged.record.result.version_id, found.logged.record.manifest.manifest
    version = next((each for each in found.versions if each.id == made), None)
    if version is None:
        raise EvidenceRefused(f"{settings.evidence_file} is about a round that made no version; nothing is served")
    content = read_bytes(settings.model_file)
    if (digest := digest_of(content)) != version.content_digest:
        raise ModelDiffers(
            f"{settings.model_file} has the SHA-256 {digest}, and version {version.id} is {version.content_digest}: "
            "it is another file or was changed; nothing is served. Get it again: undersong model pull"
        )
    paths = () if settings.recipe_file is None else (settings.recipe_file,)
    predictor = predictor_of(content, manifest.recipe, manifest.data, paths)
    columns = inputs_of(predictor.tensors, manifest.data)
    _try(predictor, columns)
    return ServedVersion(version, manifest, predictor, columns, tuple(findings), fingerprint_of(found) or "")


def _try(predictor: Predictor, columns: tuple[Column, ...]) -> None:
    """Predict one row: a model that cannot raises RecipeError here, and the first request waits for no import."""
    row: dict[str, list[Any]] = {}
    for column in columns:
        zero: Any = "" if column.type == "text" else np.zeros(column.shape or (1, 8, 8), np.float32)
        row[column.name] = [(column.categories or ("",))[0] if column.type == "category" else zero]
        if column.type == "number":
            row[column.name] = [0.0]
    predictor.predict(row)


def _feature_bins(tensors: Tensors, columns: tuple[Column, ...]) -> list[ColumnBins]:
    edges = _edges(tensors, [column for column in columns if column.type == "number"], columns)
    return [
        ColumnBins(column.name, categories=column.categories or ())
        if column.type == "category"
        else ColumnBins(column.name, edges=edges.get(column.name, ()))
        for column in columns
        if column.type in ("number", "category")
    ]


def _edges(tensors: Tensors, numbers: list[Column], columns: tuple[Column, ...]) -> dict[str, tuple[float, ...]]:
    """Return edges by the borders of intervals that the model holds, else around the mean of all sites."""
    names = [column.name for column in numbers]
    if BORDERS in tensors:
        return {name: thinned(edges) for name, edges in zip(names, model_borders(tensors) or (), strict=True)}
    borders, sizes = _TREES
    if borders in tensors:
        parts = np.split(np.asarray(tensors[borders], np.float64), np.cumsum(tensors[sizes])[:-1])
        return {name: thinned(edges) for name, edges in zip(names, parts, strict=True)}
    if COLUMNS not in tensors or MEAN not in tensors:
        return {}
    mean, scale, inputs = tensors[MEAN], tensors[SCALE], input_names(columns)
    if mean.size != len(inputs) or (not mean.any() and (scale == 1).all()):
        return {}  # used unscaled: nothing is known of the sites' values
    return {name: edges_around(float(mean[at]), float(scale[at])) for name in names for at in [inputs.index(name)]}


def _prediction_bins(predictor: Predictor) -> ColumnBins:
    if predictor.task is Task.BINARY:
        return ColumnBins(PREDICTION, edges=_TENTHS)
    if predictor.task is Task.MULTICLASS:
        return ColumnBins(PREDICTION, categories=predictor.class_names())
    mean, scale = label_scale(predictor.tensors) if predictor.task is Task.REGRESSION else (0.0, 1.0)
    return ColumnBins(PREDICTION, edges=edges_around(mean, scale))
