"""What a scientist may ask of the data of a federation."""

from collections.abc import Mapping
from itertools import pairwise
from typing import Annotated, Any, Final, Literal, Self

from pydantic import Field, StringConstraints, model_validator

from undersong.shared.statistics.measures import MAX_BINS, Value
from undersong.shared.wire.forms import Document

Name = Annotated[str, StringConstraints(min_length=1, max_length=200, pattern=r"^[^\x00-\x1f\x7f]+$")]
Range = tuple[Value, Value]
ENDLESS: Final = 1e15
"""A time after all others."""
Columns = Annotated[tuple[Name, ...], Field(min_length=1, max_length=200)]


class _Query(Document):
    """What every query has; `name` is how its result is called."""

    name: Name | None = Field(default=None, description="What the result is called; without it query and columns")

    @property
    def title(self) -> str:
        """What to call it."""
        named: tuple[str, ...] = getattr(self, "columns", ()) or (getattr(self, "column", getattr(self, "target", "")),)
        return self.name or f"{getattr(self, 'query', '').replace('_', '-')} of {', '.join(named)}"

    @property
    def numbers(self) -> tuple[str, ...]:
        """The columns that must hold numbers."""
        return ()

    @property
    def either(self) -> tuple[str, ...]:
        """The columns that may hold numbers or categories."""
        return ()

    @property
    def categories(self) -> tuple[str, ...]:
        """The columns that must hold categories."""
        return ()


class Moment(_Query):
    """How many values, their sum, mean or variance, for each column; `ranges` leaves values outside out."""

    query: Literal["count", "sum", "mean", "variance"] = Field(description="What is computed of each column")
    columns: Columns = Field(description="Number columns")
    ranges: dict[Name, Range] = Field(
        default_factory=dict, description="Per column the lowest and highest value that counts"
    )

    @model_validator(mode="after")
    def _ranges_fit(self) -> Self:
        _distinct(self.columns)
        for name, bounds in self.ranges.items():
            _rising(bounds, f"the range of {name}")
            if name not in self.columns:
                raise ValueError(f"there is a range for {name}, which is not among the columns")
        return self

    @property
    def numbers(self) -> tuple[str, ...]:
        """The columns that must hold numbers."""
        return self.columns


class Histogram(_Query):
    """Counts of equal bins over `range`, or between `edges`; without either, the range is found first."""

    query: Literal["histogram"] = Field(description="Counts by intervals of one column")
    column: Name = Field(description="A number column")
    bins: int = Field(default=10, ge=1, le=1000, strict=True, description="Number of equal intervals")
    range: Range | None = Field(
        default=None, description="Lowest and highest value; without it a first round finds them"
    )
    edges: tuple[Value, ...] | None = Field(
        default=None, min_length=2, max_length=1001, description="Edges of the intervals, rising, in place of `range`"
    )

    @model_validator(mode="after")
    def _edges_fit(self) -> Self:
        if self.range is not None and self.edges is not None:
            raise ValueError("give a range or edges, not both")
        _rising(self.range, "the range")
        _rising(self.edges, "edges")
        return self

    @property
    def numbers(self) -> tuple[str, ...]:
        """The columns that must hold numbers."""
        return (self.column,)


class Quantiles(_Query):
    """Values below which these shares lie, from a dyadic tree of 2**depth leaves over `range`."""

    query: Literal["quantiles"] = Field(description="Quantiles of one column")
    column: Name = Field(description="A number column")
    probabilities: tuple[Annotated[float, Field(ge=0, le=1, strict=True)], ...] = Field(
        default=(0.25, 0.5, 0.75), min_length=1, max_length=99, description="Shares of the values below each quantile"
    )
    range: Range | None = Field(
        default=None, description="Lowest and highest value; without it a first round finds them"
    )
    depth: int = Field(
        default=10,
        ge=1,
        le=MAX_BINS.bit_length() - 1,
        strict=True,
        description="The range is counted in 2**depth equal intervals: more are more exact, and more sums",
    )

    @model_validator(mode="after")
    def _range_fits(self) -> Self:
        _rising(self.range, "the range")
        return self

    @property
    def numbers(self) -> tuple[str, ...]:
        """The columns that must hold numbers."""
        return (self.column,)


class Contingency(_Query):
    """Counts by one or two columns. A number column needs its `values` or the `edges` of its intervals."""

    query: Literal["contingency"] = Field(description="A table of counts")
    columns: tuple[Name, ...] = Field(min_length=1, max_length=2, description="One column, or two that are crossed")
    values: dict[Name, Annotated[tuple[Value, ...], Field(min_length=1, max_length=1000)]] = Field(
        default_factory=dict, description="Per number column the values that are counted"
    )
    edges: dict[Name, Annotated[tuple[Value, ...], Field(min_length=2, max_length=1001)]] = Field(
        default_factory=dict, description="Per number column the edges of intervals that are counted, rising"
    )

    @model_validator(mode="after")
    def _sides_fit(self) -> Self:
        _distinct(self.columns)
        for name in (*self.values, *self.edges):
            if name not in self.columns:
                raise ValueError(f"{name} is not among the columns")
            if name in self.values and name in self.edges:
                raise ValueError(f"give values or edges of {name}, not both")
        for name, edges in self.edges.items():
            _rising(edges, f"the edges of {name}")
        return self

    @property
    def numbers(self) -> tuple[str, ...]:
        """The columns that must hold numbers."""
        return tuple(name for name in self.columns if name in self.values or name in self.edges)

    @property
    def either(self) -> tuple[str, ...]:
        """The columns that may hold numbers or categories."""
        return tuple(name for name in self.columns if name not in self.numbers)


class Correlation(_Query):
    """Pearson's correlations over rows in which all columns are known."""

    query: Literal["correlation"] = Field(description="Correlations of every pair of columns")
    columns: Annotated[tuple[Name, ...], Field(min_length=2, max_length=100, description="Number columns")]

    @model_validator(mode="after")
    def _columns_differ(self) -> Self:
        _distinct(self.columns)
        return self

    @property
    def numbers(self) -> tuple[str, ...]:
        """The columns that must hold numbers."""
        return self.columns


class PrincipalComponents(_Query):
    """Directions in which standardised columns vary most, over rows in which all columns are known."""

    query: Literal["pca"] = Field(description="Principal components of columns in standard deviations")
    columns: Annotated[tuple[Name, ...], Field(min_length=2, max_length=100, description="Number columns")]
    components: int = Field(default=2, ge=1, le=100, strict=True, description="How many; at most one for each column")

    @model_validator(mode="after")
    def _columns_fit(self) -> Self:
        _distinct(self.columns)
        if self.components > len(self.columns):
            raise ValueError(
                f"{len(self.columns)} columns have at most {len(self.columns)} components, not {self.components}"
            )
        return self

    @property
    def numbers(self) -> tuple[str, ...]:
        """The columns that must hold numbers."""
        return self.columns


class Regression(_Query):
    """Least squares of `target` on `features`; a category becomes indicators, its first text the reference."""

    query: Literal["regression"] = Field(description="A linear regression")
    target: Name = Field(description="The number column that is explained")
    features: Annotated[
        tuple[Name, ...],
        Field(min_length=1, max_length=100, description="Columns that explain it: numbers or categories"),
    ]
    ridge: float = Field(default=0.0, ge=0, le=1e6, strict=True, description="L2 penalty; 0 for none")

    @model_validator(mode="after")
    def _columns_differ(self) -> Self:
        _distinct((*self.features, self.target))
        return self

    @property
    def numbers(self) -> tuple[str, ...]:
        """The columns that must hold numbers."""
        return (self.target,)

    @property
    def either(self) -> tuple[str, ...]:
        """The columns that may hold numbers or categories."""
        return self.features


class KMeans(_Query):
    """Groups of similar rows, in columns scaled by mean and deviation; a round for each step."""

    query: Literal["k_means"] = Field(description="Clusters of similar rows")
    columns: Annotated[tuple[Name, ...], Field(min_length=1, max_length=50, description="Number columns")]
    clusters: int = Field(default=3, ge=2, le=50, strict=True, description="Number of clusters")
    iterations: int = Field(default=20, ge=1, le=100, strict=True, description="The most steps; each takes a round")
    starts: int = Field(default=4, ge=1, le=16, strict=True, description="Random starts, of which the best counts")
    seed: int = Field(default=0, ge=0, lt=2**53, strict=True, description="Seed of the starts")

    @model_validator(mode="after")
    def _columns_differ(self) -> Self:
        _distinct(self.columns)
        return self

    @property
    def numbers(self) -> tuple[str, ...]:
        """The columns that must hold numbers."""
        return self.columns


class _Fit(_Query):
    """A model that Newton's method fits, a round for each step, as exactly as over all rows in one place."""

    features: Annotated[
        tuple[Name, ...],
        Field(min_length=1, max_length=100, description="Columns that explain it: numbers or categories"),
    ]
    ridge: float = Field(default=0.0, ge=0, le=1e6, strict=True, description="L2 penalty; 0 for none")
    iterations: int = Field(default=20, ge=1, le=100, strict=True, description="The most steps; each takes a round")

    @property
    def either(self) -> tuple[str, ...]:
        """The columns that may hold numbers or categories."""
        return self.features


class GeneralisedRegression(_Fit):
    """A logistic or Poisson regression of `target` on `features`; a category becomes indicators."""

    query: Literal["logistic_regression", "poisson_regression"] = Field(description="A generalised linear model")
    target: Name = Field(description="The number column that is explained: 0 or 1 (logistic), counts (Poisson)")
    exposure: Name | None = Field(
        default=None, description="For poisson_regression a number column above zero that the mean is in proportion to"
    )

    @model_validator(mode="after")
    def _columns_fit(self) -> Self:
        if self.exposure is not None and self.query != "poisson_regression":
            raise ValueError("an exposure is for a poisson_regression")
        _distinct((*self.features, *self.numbers))
        return self

    @property
    def numbers(self) -> tuple[str, ...]:
        """The columns that must hold numbers."""
        return (self.target,) if self.exposure is None else (self.target, self.exposure)


class CoxRegression(_Fit):
    """A proportional hazards model in which each site has a baseline hazard of its own (stratified by site)."""

    query: Literal["cox_regression"] = Field(description="A Cox model of the time to an event")
    time: Name = Field(description="The number column with the time to the event, or to the end of observation")
    event: Name = Field(description="The number column that is 1 where the event came, 0 where observation ended")

    @model_validator(mode="after")
    def _columns_differ(self) -> Self:
        _distinct((*self.features, self.time, self.event))
        return self

    @property
    def title(self) -> str:
        """What to call it."""
        return self.name or f"cox-regression of {self.time}"

    @property
    def numbers(self) -> tuple[str, ...]:
        """The columns that must hold numbers."""
        return (self.time, self.event)


class KaplanMeier(_Query):
    """The share that is free of an event over time, on a grid of times; for each category of `group`, if given."""

    query: Literal["kaplan_meier"] = Field(description="A Kaplan-Meier curve")
    time: Name = Field(description="The number column with the time to the event, or to the end of observation")
    event: Name = Field(description="The number column that is 1 where the event came, 0 where observation ended")
    until: float = Field(gt=0, le=1e15, strict=True, description="The end of the curve, in the unit of `time`")
    steps: int = Field(
        default=100,
        ge=1,
        le=10_000,
        strict=True,
        description="Equal intervals up to `until` in which events are counted; exact where each holds one value",
    )
    group: Name | None = Field(default=None, description="A category column: a curve for each, and a log-rank test")

    @model_validator(mode="after")
    def _columns_differ(self) -> Self:
        _distinct((self.time, self.event, *((self.group,) if self.group is not None else ())))
        if not (self.until / self.steps > 1e-300 and self.until < ENDLESS):
            raise ValueError(f"until must be below {ENDLESS:g} and more than 1e-300 for each step: use another unit")
        return self

    @property
    def title(self) -> str:
        """What to call it."""
        return self.name or f"kaplan-meier of {self.time}" + (f" by {self.group}" if self.group is not None else "")

    @property
    def numbers(self) -> tuple[str, ...]:
        """The columns that must hold numbers."""
        return (self.time, self.event)

    @property
    def categories(self) -> tuple[str, ...]:
        """The columns that must hold categories."""
        return () if self.group is None else (self.group,)


Fit = GeneralisedRegression | CoxRegression
Linear = Correlation | PrincipalComponents | Regression
Query = Moment | Histogram | Quantiles | Contingency | Linear | KMeans | Fit | KaplanMeier
QUERIES: Final[Mapping[str, type[Any]]] = {
    "count": Moment,
    "sum": Moment,
    "mean": Moment,
    "variance": Moment,
    "histogram": Histogram,
    "quantiles": Quantiles,
    "contingency": Contingency,
    "correlation": Correlation,
    "pca": PrincipalComponents,
    "regression": Regression,
    "k_means": KMeans,
    "logistic_regression": GeneralisedRegression,
    "poisson_regression": GeneralisedRegression,
    "cox_regression": CoxRegression,
    "kaplan_meier": KaplanMeier,
}


def _distinct(names: tuple[str, ...]) -> None:
    if len(set(names)) != len(names):
        raise ValueError("a column is named twice")


def _rising(values: tuple[float, ...] | None, what: str) -> None:
    if values is not None and not all((high - low) / 2 > 0 for low, high in pairwise(values)):  # halves are computed
        raise ValueError(f"{what} must rise")
