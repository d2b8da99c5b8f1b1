"""`undersong predict` and `undersong model export`."""

import os
import secrets
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from undersong.cli import common
from undersong.errors import UndersongError
from undersong.shared.files import check_writable
from undersong.shared.spreadsheets import csv_text

if TYPE_CHECKING:
    from undersong.client.loaded import LoadedModel

MODEL_FILE = ".safetensors"
Subject = Annotated[
    str,
    typer.Argument(
        metavar="MODEL", help="NAME (its newest version), NAME@ALIAS, NAME:NUMBER, a version's id, or a pulled file."
    ),
]
Evidence = Annotated[
    Path | None,
    typer.Option("--evidence", exists=True, dir_okay=False, help="Of a pulled file; by default what lies beside it."),
]
Fingerprint = Annotated[
    str | None, typer.Option("--ca", help="SHA-256 fingerprint of the federation's authority, from elsewhere.")
]
Recipes = Annotated[
    list[Path] | None, typer.Option("--recipe", exists=True, help="Source of a recipe of your own, which will run.")
]


def predict(
    model: Subject,
    file: Annotated[Path, typer.Argument(metavar="FILE", help="Rows: .csv, .jsonl, .parquet or .npz.")],
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="Write predictions here: .csv or .parquet. Default: print CSV.")
    ] = None,
    missing: Annotated[
        list[str] | None, typer.Option("--missing", metavar="TEXT", help="A text that stands for a missing value: NA.")
    ] = None,
    evidence: Evidence = None,
    ca: Fingerprint = None,
    recipe: Recipes = None,
    profile: common.ProfileName = None,
    as_json: common.AsJson = False,
) -> None:
    """Predict each row of a file by a model version, whose evidence and file are checked first.

    The file has the columns of the data set, as sites have them; other columns are not read. A fault in any row is told
    with its place, and nothing is written.
    """
    if out is not None:
        _check_kind(out)
        check_writable(out)
    found = load(model, evidence, ca, recipe, profile)
    answers = list(found.predict_file(file, missing or ()))
    if out is not None:
        _write(out, found.heads(), answers)
        if not as_json:
            common.console.print(f"{out}: {len(answers):,} predictions of {found.version_id}", markup=False)
    if as_json:
        told = {"rows": len(answers), "file": str(out)} if out is not None else {"predictions": answers}
        common.print_json({"version_id": found.version_id, "task": found.task} | told)
    elif out is None:
        typer.echo(csv_text([found.heads(), *_table(answers)]), nl=False)


def export(
    model: Subject,
    out: Annotated[Path, typer.Option("--out", "-o", help="What is written: a file, with mlflow a folder.")],
    form: Annotated[
        Literal["onnx", "torch", "mlflow"],
        typer.Option("--format", help="ONNX; a program of PyTorch (torch.export); a model folder of MLflow with ONNX."),
    ] = "onnx",
    evidence: Evidence = None,
    ca: Fingerprint = None,
    recipe: Recipes = None,
    profile: common.ProfileName = None,
) -> None:
    """Write a version as a file that predicts without this platform, its preparation inside.

    The version's evidence and file are checked first, and the export is compared with the recipe's own predictions.
    """
    from undersong.model_export import export_model  # brings numpy

    check_writable(out)
    found = load(model, evidence, ca, recipe, profile)
    export_model(found, form, out)
    common.console.print(f"{out}: {found.version_id} as {form}", markup=False)


def load(
    model: str, evidence: Path | None, ca: str | None, recipes: Sequence[Path] | None, profile: str | None
) -> "LoadedModel":
    """Return the version that a person names, by the platform or as a file; raises UndersongError and OSError."""
    path = Path(model)
    if path.suffix == MODEL_FILE or path.is_file():
        from undersong.client.offline import load_file

        return load_file(path, evidence=evidence, ca=ca, recipes=recipes or ())
    if evidence is not None:
        raise UndersongError(f"{model} is no file, and --evidence is that of a pulled file", remedy="leave it out")
    with common.connect(profile) as client:
        return client.load_model(model, ca=ca, recipes=recipes or ())


def _check_kind(out: Path) -> None:
    if out.suffix not in {".csv", ".parquet"}:
        raise UndersongError(f"predictions are written as CSV or Parquet, not as {out.name}", remedy="--out FILE.csv")


def _table(answers: Iterable[dict[str, Any]]) -> Iterable[list[Any]]:
    from undersong.client.frames import table_row

    return (table_row(answer) for answer in answers)


def _write(out: Path, heads: Sequence[str], answers: Sequence[dict[str, Any]]) -> None:
    """Write all predictions, or nothing."""
    part = out.with_name(f".{out.name}.{secrets.token_hex(8)}")
    try:
        if out.suffix == ".parquet":
            import pyarrow as pa
            from pyarrow import parquet

            columns = list(zip(*_table(answers), strict=True)) or [()] * len(heads)
            parquet.write_table(pa.table(dict(zip(heads, map(list, columns), strict=True))), part)
        else:
            part.write_text(csv_text([heads, *_table(answers)]), "utf-8", newline="")
        os.replace(part, out)  # noqa: PTH105 (a file that is there is replaced at once)
    finally:
        part.unlink(missing_ok=True)
