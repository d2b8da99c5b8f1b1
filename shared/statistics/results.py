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


class PrincipalComponent(Found):
    """One direction: its variance, the share of all, and a weight for each column (their squares add up to one)."""

    variance: float
    share: float
    weights: tuple[float, ...] = ()


class PrincipalComponentsResult(_Result):
    """Principal components over complete rows, the largest first, of columns less `means`, in `deviations`.

    A row's score is the sum of its weighted columns. The weight that is largest in size is positive.
    """

    query: Literal["pca"] = "pca"
    columns: tuple[str, ...] = ()
    rows: float | None = None
    means: tuple[float, ...] = ()
    deviations: tuple[float, ...] = ()
    components: tuple[PrincipalComponent, ...] = ()


class Coefficient(Found):
    """One term of a linear model with its standard error and 95 % interval; null with ridge."""

    term: str
    value: float
    error: float | None = None
    low: float | None = None
    high: float | None = None
    t: float | None = None
    p: float | None = Field(default=None, description="Of the test that it is zero: two-sided, by the normal law.")


class RegressionResult(_Result):
    """A linear model over complete rows."""

    query: Literal["regression"] = "regression"
    target: str
    rows: float | None = None
    terms: tuple[Coefficient, ...] = ()
    r2: float | None = None
    residual: float | None = Field(default=None, description="Standard deviation of the residuals.")


class FitResult(_Result):
    """A model that Newton's method fitted over complete rows. `log_likelihood` leaves out what no coefficient changes.

    likelihood_ratio: twice what the log-likelihood gained over the model without terms, on `freedom` degrees of
    freedom.
    concordance: of pairs within sites (Cox).
    """

    query: Literal["logistic_regression", "poisson_regression", "cox_regression"]
    rows: float | None = None
    events: float | None = Field(default=None, description="The sum of the response: events, or counts.")
    terms: tuple[Coefficient, ...] = ()
    log_likelihood: float | None = None
    likelihood_ratio: float | None = None
    freedom: int | None = None
    concordance: float | None = None
    steps: int = 0


class SurvivalPoint(Found):
    """The share that is free of the event after `time`, with its 95 % interval; `at_risk`: those observed then."""

    time: float
    survival: float
    low: float | None = None
    high: float | None = None
    at_risk: float | None = None
    events: float | None = Field(default=None, description="Since the point before.")


class SurvivalCurve(Found):
    """One group's curve. A point is shown where, since the one before, no event or enough of them came."""

    group: str | None = None
    rows: float | None = None
    events: float | None = None
    median: tuple[float, float] | None = Field(default=None, description="Between which times half had the event.")
    points: tuple[SurvivalPoint, ...] = ()
    note: str = ""


class KaplanMeierResult(_Result):
    """Kaplan-Meier curves, and the log-rank test of groups being alike."""

    query: Literal["kaplan_meier"] = "kaplan_meier"
    until: float | None = None
    curves: tuple[SurvivalCurve, ...] = ()
    log_rank: float | None = Field(default=None, description="The statistic; chi-squared on one less than groups.")
    p: float | None = None


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
    | PrincipalComponentsResult
    | RegressionResult
    | KMeansResult
    | FitResult
    | KaplanMeierResult,
    Field(discriminator="query"),
]
