"""A model version that was loaded to predict: its file and its evidence are checked, then rows become predictions.

Heavy packages (numpy, the recipe's own) are imported when a model is loaded.
"""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from undersong.client.frames import is_frame
from undersong.client.showing import html_of
from undersong.client.types import Version
from undersong.errors import RowsError, UndersongError
from undersong.shared.errors import Refusal
from undersong.shared.transparency.audit import CheckResult, audit
from undersong.shared.transparency.evidence import Evidence

if TYPE_CHECKING:
    import pandas as pd

    from undersong.recipes.prediction import Predictor
    from undersong.shared.wire.columns import Column

INSTALL: Final = "pip install 'undersong[agent]'"


@dataclass(frozen=True, slots=True)
class LoadedModel:
    """A checked version, ready to predict. `columns` are those that it reads, `findings` what was checked."""

    version_id: str
    federation_id: str
    content_digest: str
    columns: "tuple[Column, ...]"
    predictor: "Predictor"
    findings: list[CheckResult]

    @property
    def task(self) -> str:
        """What is predicted: binary, multiclass, regression or survival."""
        return str(self.predictor.task)

    @property
    def classes(self) -> tuple[str, ...]:
        """The label's classes in order; none where a number is predicted."""
        return self.predictor.class_names()

    def predict(self, rows: "Sequence[Mapping[str, Any]] | pd.DataFrame") -> Any:
        """Return a prediction for each row, prepared as the recipe prepares its own rows.

        Of a data frame it is one with the same index: columns `class` and `probability_CLASS`, or `value`, or
        `log_hazard_ratio`. Of a list of records, {column: value}, it is a list of records: `class` and `probabilities`
        by class, or `value`, or `log_hazard_ratio`. Each column that the model reads must be there; empty cells (None,
        NaN, "") are missing values, other columns are not read. Raises RowsError with a place for each fault.
        """
        from undersong.recipes.rows import columns_of_records

        if is_frame(rows):
            from undersong.client.frames import columns_of_frame, predictions_frame

            with _refusals():
                values = columns_of_frame(rows, self.columns)
            return predictions_frame(self.answers(values, len(rows)), rows.index, self.heads())
        if isinstance(rows, str | bytes | Mapping) or not isinstance(rows, Sequence):
            kind = type(rows).__name__
            raise RowsError(f"rows are a data frame of pandas or a list of records, and this is {kind}", [])
        with _refusals():
            values = columns_of_records(rows, self.columns)
        return self.answers(values, len(rows))

    def predict_file(self, path: Path, missing: Sequence[str] = ()) -> Iterator[dict[str, Any]]:
        """Yield a record for each row of a CSV, JSON lines, Parquet or npz file, as `predict` does; raises RowsError.

        missing: texts that stand for missing values, beside an empty cell. A part of the file is read at a time.
        """
        from undersong.recipes.row_files import read_rows

        first = 0
        with _refusals():
            for values in read_rows(path, self.columns, missing):
                count = max((len(cells) for cells in values.values()), default=0)
                yield from self.answers(values, count, first)
                first += count

    def heads(self) -> list[str]:
        """Return the names of the columns of a table of predictions."""
        if self.classes:
            return ["class", *(f"probability_{name}" for name in self.classes)]
        return ["log_hazard_ratio" if self.task == "survival" else "value"]

    def answers(self, values: Mapping[str, Sequence[Any]], count: int, first: int = 0) -> list[dict[str, Any]]:
        """Return a record for each of `count` rows from the model's columns; raises RowsError.

        first: the number of the first row, for messages.
        """
        from undersong.recipes.rows import check_cells

        with _refusals():
            check_cells(values, self.columns, first)
            return self.predictor.predict(values) if count else []

    def _repr_html_(self) -> str:
        """Return a table, for notebooks."""
        told = {"task": self.task, "classes": self.classes, "columns": [column.name for column in self.columns]}
        return html_of(f"LoadedModel {self.version_id}", {**told, "checks passed": len(self.findings)})


@contextmanager
def _refusals() -> Iterator[None]:
    """Say what a recipe refuses, and a package that is not there, as UndersongError."""
    try:
        yield
    except Refusal as refusal:
        told = "; ".join([refusal.detail, *getattr(refusal, "__notes__", [])])
        raise RowsError(told, [(each.path, each.message) for each in refusal.errors]) from refusal
    except ModuleNotFoundError as error:
        if (error.name or "undersong").startswith("undersong"):
            raise
        said = f"the model's recipe needs {error.name}, which is not installed"
        raise UndersongError(said, remedy=INSTALL) from error


def loaded(
    content: bytes, evidence: Evidence, version: Version, ca_fingerprint: str | None, recipes: Sequence[Path] = ()
) -> LoadedModel:
    """Return a version's model as `checked` does; the evidence must be about the model that the registry names."""
    made = checked(content, evidence, version.id, ca_fingerprint, recipes)
    model_id = evidence.logged.record.manifest.manifest.model_id
    if model_id != version.model_id:
        raise UndersongError(f"{version.id} was made as a version of {model_id}, not of {version.model_id}")
    return made


def checked(
    content: bytes, evidence: Evidence, version_id: str, ca_fingerprint: str | None, recipes: Sequence[Path] = ()
) -> LoadedModel:
    """Return a version's model after all checks of its evidence, and that `content` is the file which it is about.

    ca_fingerprint: of the federation's authority; without it nothing is proved, and the version is refused. recipes:
    files of own recipes, which are imported, and so run. Raises UndersongError.
    """
    from undersong.recipes.prediction import predictor_of
    from undersong.recipes.rows import inputs_of

    findings = audit(evidence, ca_fingerprint, version_id)
    failed = [finding for finding in findings if not finding.passed]
    if failed:
        more = f" (and {len(failed) - 1} more)" if len(failed) > 1 else ""
        said = f"the evidence of {version_id} does not verify: {failed[0].check}: {failed[0].sentence}{more}"
        raise UndersongError(said, remedy=f"undersong verify {version_id} shows all checks")
    made = next((version for version in evidence.versions if version.id == version_id), None)
    if made is None:
        raise UndersongError(f"the evidence is about {evidence.subject}, and not about the version {version_id}")
    digest = hashlib.sha256(content).hexdigest()
    if digest != made.content_digest:
        said = f"the file is not version {version_id}: its SHA-256 is {digest}, and {made.content_digest} was signed"
        raise UndersongError(said, remedy=f"undersong model pull {version_id}")
    plan = evidence.logged.record.manifest.manifest
    with _refusals():
        predictor = predictor_of(content, plan.recipe, plan.data, recipes)
        columns = inputs_of(predictor.tensors, plan.data)
    return LoadedModel(version_id, plan.federation_id, digest, columns, predictor, findings)
