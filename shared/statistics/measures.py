"""Measures: what a site adds up in one round of statistics. Documents of a manifest, judged by a site's policy.

| measure | sums |
| --- | --- |
| moments | rows; for each column: sites, known, outside, sum, squares |
| ranges | for each column: sites, known, then counts by size (`undersong.shared.statistics.ranges`) |
| histogram | sites, rows, known, below, above, counts of the bins |
| table | sites, rows, then one count for each cell; the last place of an axis is "missing or other" |
| products | sites, rows, complete rows, sum of each term, upper triangle of the products of terms |
| clusters | sites, rows, complete rows; for each start: sizes [k], sums [k, p], squared distances [k] |
| likelihood | sites, rows, complete rows, sum of responses, log-likelihood, sum of each term, gradient [k], upper |
| | triangle of the information [k, k], concordant pairs, compared pairs |

`sites` is 1 where this site has something to add, so that a sum over rows of one single site can be told and withheld.
A value v enters as (v - centre) / scale: 64-bit fixed point is finest where values are about one.
"""

from math import prod
from typing import Annotated, Final, Literal, Self, get_args

from pydantic import Field, TypeAdapter, ValidationError, model_validator

from undersong.shared.errors import Invalid
from undersong.shared.wire.forms import Document, Name

MAX_SUMS: Final = 200_000
"""More numbers than this are no statistic."""
SALT: Final = 6
"""Random numbers of `salt_bits` that each site adds in front of its sums. The transparency log holds a digest of what
was opened; without them, who sees all cells but small ones could find those by trying."""
MAX_BINS: Final = 2**14
MAGNITUDES: Final = 2 * 61 * 8 + 1
"""Counts by size: 61 octaves of 8 steps on each side of zero."""

Value = Annotated[float, Field(ge=-1e15, le=1e15, strict=True)]
Scale = Annotated[float, Field(gt=0, le=1e15, strict=True)]


class MeasureInvalid(Invalid):
    """These are no measures that a site could take."""


class Scaled(Document):
    """A number column as it is added up; values outside [low, high] are left out and counted."""

    column: Name
    centre: Value = 0.0
    scale: Scale = 1.0
    low: Value | None = None
    high: Value | None = None


class Axis(Document):
    """One side of a table: a category's texts, a number's values, or the edges of a number's intervals."""

    column: Name
    texts: tuple[str, ...] = Field(default=(), max_length=10_000)
    values: tuple[Value, ...] = Field(default=(), max_length=10_000)
    edges: tuple[Value, ...] = Field(default=(), max_length=MAX_BINS + 1)
    complete: bool = False
    """Whether a known value outside `values` is refused, where it would mean that the column holds something else."""

    @model_validator(mode="after")
    def _one_kind(self) -> Self:
        if sum(bool(part) for part in (self.texts, self.values, self.edges)) != 1:
            raise ValueError("an axis has texts, values or edges")
        if self.edges and (len(self.edges) < 2 or list(self.edges) != sorted(set(self.edges))):
            raise ValueError("edges must rise")
        return self

    @property
    def size(self) -> int:
        """How many places it has, "missing or other" among them."""
        return 1 + (len(self.edges) - 1 if self.edges else len(self.texts) + len(self.values))


class Term(Document):
    """A column of a linear model: a scaled number, or with `text` the indicator of that category."""

    column: Name
    centre: Value = 0.0
    scale: Scale = 1.0
    text: str | None = None


class Moments(Document):
    """Counts, sums and sums of squares."""

    measure: Literal["moments"] = "moments"
    columns: tuple[Scaled, ...] = Field(min_length=1, max_length=1000)

    @property
    def length(self) -> int:
        """How many sums."""
        return 1 + 5 * len(self.columns)

    @property
    def reads(self) -> frozenset[str]:
        """The columns that it reads."""
        return frozenset(column.column for column in self.columns)


class Ranges(Document):
    """How large a column's values are, roughly."""

    measure: Literal["ranges"] = "ranges"
    columns: tuple[Name, ...] = Field(min_length=1, max_length=50)

    @property
    def length(self) -> int:
        """How many sums."""
        return len(self.columns) * (2 + MAGNITUDES)

    @property
    def reads(self) -> frozenset[str]:
        """The columns that it reads."""
        return frozenset(self.columns)


class HistogramCounts(Document):
    """Counts of equal bins from `low` to `high`, or of those between `edges`."""

    measure: Literal["histogram"] = "histogram"
    column: Name
    low: Value = 0.0
    high: Value = 1.0
    bins: int = Field(default=1, ge=1, le=MAX_BINS)
    edges: tuple[Value, ...] = Field(default=(), max_length=MAX_BINS + 1)

    @model_validator(mode="after")
    def _rises(self) -> Self:
        if self.low >= self.high:
            raise ValueError("low must be less than high")
        if self.edges and (len(self.edges) != self.bins + 1 or list(self.edges) != sorted(set(self.edges))):
            raise ValueError("edges must rise, one more than bins")
        return self

    @property
    def length(self) -> int:
        """How many sums."""
        return 5 + self.bins

    @property
    def reads(self) -> frozenset[str]:
        """The columns that it reads."""
        return frozenset((self.column,))


class Table(Document):
    """Counts by up to three columns."""

    measure: Literal["table"] = "table"
    axes: tuple[Axis, ...] = Field(min_length=1, max_length=3)

    @property
    def length(self) -> int:
        """How many sums."""
        return 2 + prod(axis.size for axis in self.axes)

    @property
    def reads(self) -> frozenset[str]:
        """The columns that it reads."""
        return frozenset(axis.column for axis in self.axes)


class Products(Document):
    """Sums and products of terms over rows in which all of them are known."""

    measure: Literal["products"] = "products"
    terms: tuple[Term, ...] = Field(min_length=1, max_length=500)

    @property
    def length(self) -> int:
        """How many sums."""
        count = len(self.terms)
        return 3 + count + count * (count + 1) // 2

    @property
    def reads(self) -> frozenset[str]:
        """The columns that it reads."""
        return frozenset(term.column for term in self.terms)


class Clusters(Document):
    """One step of k-means from several starts: `starts` is [start][cluster][column], in scaled units."""

    measure: Literal["clusters"] = "clusters"
    columns: tuple[Scaled, ...] = Field(min_length=1, max_length=100)
    starts: tuple[tuple[tuple[Value, ...], ...], ...] = Field(min_length=1, max_length=64)

    @model_validator(mode="after")
    def _is_whole(self) -> Self:
        sizes = {len(start) for start in self.starts}
        if sizes == {0} or len(sizes) != 1:
            raise ValueError("every start has the same number of clusters")
        if {len(centre) for start in self.starts for centre in start} != {len(self.columns)}:
            raise ValueError("a centre has one number for each column")
        return self

    @property
    def length(self) -> int:
        """How many sums."""
        return 3 + len(self.starts) * len(self.starts[0]) * (len(self.columns) + 2)

    @property
    def reads(self) -> frozenset[str]:
        """The columns that it reads."""
        return frozenset(column.column for column in self.columns)


class Likelihood(Document):
    """The log-likelihood of a model at `coefficients`, with gradient and information, over complete rows.

    Coefficients are those of the scaled terms, the intercept first where the family has one. `response` is 0 or 1
    (logistic, cox) or a count. pairs: whether concordant pairs are counted too (cox).
    See `undersong.shared.statistics.likelihood`.
    """

    measure: Literal["likelihood"] = "likelihood"
    family: Literal["logistic", "poisson", "cox"]
    terms: tuple[Term, ...] = Field(min_length=1, max_length=500)
    response: Term
    time: Name | None = None
    exposure: Name | None = None
    coefficients: tuple[Annotated[float, Field(ge=-1e6, le=1e6, strict=True)], ...] = Field(min_length=1)
    pairs: bool = False

    @model_validator(mode="after")
    def _is_whole(self) -> Self:
        if (self.time is not None) != (self.family == "cox"):
            raise ValueError("family cox has a time, and no other")
        if (self.exposure is not None and self.family != "poisson") or (self.pairs and self.family != "cox"):
            raise ValueError("an exposure is of family poisson, pairs are of family cox")
        if len(self.coefficients) != len(self.terms) + self.intercepts:
            raise ValueError("there is a coefficient for each term, and for the intercept")
        return self

    @property
    def intercepts(self) -> int:
        """How many coefficients come before those of the terms."""
        return 0 if self.family == "cox" else 1

    @property
    def length(self) -> int:
        """How many sums."""
        count = len(self.coefficients)
        return 5 + len(self.terms) + count + count * (count + 1) // 2 + 2

    @property
    def reads(self) -> frozenset[str]:
        """The columns that it reads."""
        named = (self.response.column, self.time, self.exposure, *(term.column for term in self.terms))
        return frozenset(name for name in named if name is not None)


Measure = Moments | Ranges | HistogramCounts | Table | Products | Clusters | Likelihood
Kind = Literal["moments", "ranges", "histogram", "table", "products", "clusters", "likelihood"]
MEASURES: Final[tuple[Kind, ...]] = get_args(Kind)


class Asked(Document):
    """What one round of a statistics job asks: the parameters of the recipe `statistics`.

    `min_cell` and `min_sites` are what the job promises about everything that will be shown of it; `job_measures` are
    the kinds of measures that any of its rounds can ask, so that a site answers about the whole job at its first round.
    """

    measures: tuple[Annotated[Measure, Field(discriminator="measure")], ...] = Field(min_length=1, max_length=200)
    min_cell: int = Field(ge=1, le=10**6)
    min_sites: int = Field(ge=1, le=10**6)
    job_measures: tuple[Kind, ...] = Field(max_length=len(MEASURES))
    salt_bits: int = Field(default=40, ge=16, le=40)

    @model_validator(mode="after")
    def _is_a_statistic(self) -> Self:
        if self.length > MAX_SUMS:
            raise ValueError(f"{self.length} sums in one round, more than {MAX_SUMS}")
        if hidden := {measure.measure for measure in self.measures} - set(self.job_measures):
            raise ValueError(f"measures asked and not among the job's: {', '.join(sorted(hidden))}")
        return self

    @property
    def length(self) -> int:
        """How many sums there are, the salt among them."""
        return SALT + sum(measure.length for measure in self.measures)

    @property
    def counts_only(self) -> bool:
        """Whether every sum is a count of rows, so that a proof can bound it."""
        return all(isinstance(measure, HistogramCounts | Table | Ranges) for measure in self.measures)

    @property
    def reads(self) -> frozenset[str]:
        """The columns that they read."""
        return frozenset[str]().union(*(measure.reads for measure in self.measures))


_ASKED: Final = TypeAdapter(Asked)


def asked_of(params: object) -> Asked:
    """Return what a manifest's parameters ask; raises `MeasureInvalid`."""
    try:
        return _ASKED.validate_python(params)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False, include_context=False)[0]
        raise MeasureInvalid(f"{'.'.join(map(str, first['loc']))}: {first['msg']}") from error
