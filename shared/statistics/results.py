"""What a query's answer is. A number that may not be shown is null, and the answer says so."""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from undersong.shared.statistics.measures import Axis


class Found(BaseModel):
    """A part of an answer. Numbers are finite; a client passes over what only a newer service says."""

    model_config = ConfigDict(frozen=True, extra="ignore", allow_inf_nan=False)


class _Result(Found):
    """What every answer has. `status` is withheld for too few rows or sites, unusable where the data give none."""

    name: str
    status: Literal["ok", "withheld", "unusable"] = "ok"
    note: str = ""
    noise: float | None = Field(default=None, description="Standard deviation of the noise on each count, if there is.")


class ColumnMoments(Found):
    """One column's numbers; those that were not asked for, and those that may not be shown, are null."""

    column: str
    known: float | None = None
    missing: float | None = None
    outside: float | None = None
    sum: float | None = None
    mean: float | None = None
    variance: float | None = None
    deviation: float | None = None
    withheld: bool = False
    note: str = ""
    noise: float | None = Field(default=None, description="Standard deviation of the noise on each count, if there is.")
    sum_noise: float | None = None
    mean_noise: float | None = None
    variance_noise: float | None = None


class MomentResult(_Result):
    """Count, sum, mean or variance (of a sample) by column."""

    query: Literal["count", "sum", "mean", "variance"]
    columns: tuple[ColumnMoments, ...] = ()


class HistogramResult(_Result):
    """Counts between edges; a hidden count is null."""

    query: Literal["histogram"] = "histogram"
    column: str
    total: float | None = None
    edges: tuple[float, ...] = ()
    counts: tuple[float | None, ...] = ()
    below: float | None = None
    above: float | None = None


class QuantileValue(Found):
    """One quantile: an interval, and the value if rows are spread evenly in it; null outside the range."""

    probability: float
    low: float | None = None
    high: float | None = None
    value: float | None = None


class QuantilesResult(_Result):
    """Quantiles from a dyadic tree over `range`."""

    query: Literal["quantiles"] = "quantiles"
    column: str
    total: float | None = None
    range: tuple[float, float] | None = None
    values: tuple[QuantileValue, ...] = ()


class ContingencyResult(_Result):
    """Counts by axis, the last place of each being "missing or other"; totals beside them; hidden ones are null."""

    query: Literal["contingency"] = "contingency"
    axes: tuple[Axis, ...] = ()
    labels: tuple[tuple[str, ...], ...] = ()
    cells: tuple[tuple[float | None, ...], ...] = ()
    row_totals: tuple[float | None, ...] = ()
    column_totals: tuple[float | None, ...] = ()
    total: float | None = None


class CorrelationResult(_Result):
    """Pearson's correlations over complete rows; null where a column does not vary."""

    query: Literal["correlation"] = "correlation"
    columns: tuple[str, ...] = ()
    rows: float | None = None
    matrix: tuple[tuple[float | None, ...], ...] = ()


class Coefficient(Found):
    """One term of a linear model with its standard error and 95 % interval; null with ridge."""

    term: str
    value: float
    error: float | None = None
    low: float | None = None
    high: float | None = None
    t: float | None = None


class RegressionResult(_Result):
    """A linear model over complete rows."""

    query: Literal["regression"] = "regression"
    target: str
    rows: float | None = None
    terms: tuple[Coefficient, ...] = ()
    r2: float | None = None
    residual: float | None = Field(default=None, description="Standard deviation of the residuals.")


class Cluster(Found):
    """One group: how many rows, and its centre in the columns' own units; null where too few."""

    size: float | None = None
    centre: tuple[float | None, ...] = ()


class KMeansResult(_Result):
    """Groups of rows, the largest first; `inertia` is the mean squared distance in deviations."""

    query: Literal["k_means"] = "k_means"
    columns: tuple[str, ...] = ()
    rows: float | None = None
    steps: int = 0
    settled: bool = False
    inertia: float | None = None
    clusters: tuple[Cluster, ...] = ()


Result = Annotated[
    MomentResult
    | HistogramResult
    | QuantilesResult
    | ContingencyResult
    | CorrelationResult
    | RegressionResult
    | KMeansResult,
    Field(discriminator="query"),
]
