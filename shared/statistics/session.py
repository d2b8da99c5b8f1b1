"""All queries of one job, step by step: what to ask next, given everything that was opened so far."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from pydantic import TypeAdapter, ValidationError

from undersong.shared.errors import Invalid
from undersong.shared.statistics import models, newton, queries, survival, tallies
from undersong.shared.statistics.measures import SALT, Asked, Kind, Measure
from undersong.shared.statistics.queries import Query
from undersong.shared.statistics.results import Result
from undersong.shared.statistics.sensitivity import unit_of, with_noise
from undersong.shared.statistics.steps import Setting, Steps, Unusable, Withheld

_STEPS: Final[Mapping[type, Callable[[Any, Setting], Steps[Any]]]] = {
    queries.Moment: tallies.moment,
    queries.Histogram: tallies.histogram,
    queries.Quantiles: tallies.quantiles,
    queries.Contingency: tallies.contingency,
    queries.Correlation: models.correlation,
    queries.PrincipalComponents: models.principal_components,
    queries.Regression: models.regression,
    queries.KMeans: models.k_means,
    queries.GeneralisedRegression: newton.fit,
    queries.CoxRegression: newton.fit,
    queries.KaplanMeier: survival.kaplan_meier,
}
_KINDS: Final[Mapping[type, frozenset[Kind]]] = {
    queries.Moment: frozenset({"moments"}),
    queries.Histogram: frozenset({"histogram"}),
    queries.Quantiles: frozenset({"histogram"}),
    queries.Contingency: frozenset({"table"}),
    queries.Correlation: frozenset({"moments", "products"}),
    queries.PrincipalComponents: frozenset({"moments", "products"}),
    queries.Regression: frozenset({"moments", "products"}),
    queries.KMeans: frozenset({"moments", "clusters"}),
    queries.GeneralisedRegression: frozenset({"moments", "likelihood"}),
    queries.CoxRegression: frozenset({"moments", "likelihood"}),
    queries.KaplanMeier: frozenset({"table"}),
}
"""The measures that a query's rounds ask, beside the range that it may have to find first."""
_RESULT: Final[TypeAdapter[Result]] = TypeAdapter(Result)


class SumsMisfit(Invalid):
    """The opened sums are not those that were asked for."""


class QuerySession:
    """The queries of a job. Measures that several queries ask for are asked once."""

    def __init__(self, asked: Sequence[Query], setting: Setting, history: Iterable[Sequence[float]] = ()) -> None:
        """Go through what was opened before; raises `SumsMisfit`."""
        self._setting = setting
        self._queries = tuple(asked)
        self._kinds = tuple(sorted(frozenset[Kind]().union(*map(_kinds_of, asked))))
        self._runs = [_STEPS[type(query)](query, setting) for query in asked]
        self._answers: list[Result | None] = [None] * len(self._runs)
        self._wanted: list[Measure | None] = [None] * len(self._runs)
        for place in range(len(self._runs)):
            self._send(place, None)
        for sums in history:
            self.take(sums)

    @property
    def asked(self) -> Asked | None:
        """What the next round asks; nothing when every query is answered."""
        unique = dict.fromkeys(measure for measure in self._wanted if measure is not None)
        if not unique:
            return None
        return Asked(
            measures=tuple(unique),
            min_cell=self._setting.min_cell,
            min_sites=self._setting.min_sites,
            job_measures=self._kinds,
        )

    @property
    def results(self) -> tuple[Result, ...]:
        """The answers so far, in the queries' order."""
        return tuple(answer for answer in self._answers if answer is not None)

    def take(self, sums: Sequence[float], noise: float | None = None) -> None:
        """Take in what a round opened; raises `SumsMisfit`.

        noise: standard deviation of the noise on each sum, in its unit (see `undersong.shared.statistics.sensitivity`).
        """
        asked = self.asked
        vector = np.asarray(sums, np.float64)
        if asked is None or vector.shape != (asked.length,):
            wanted = 0 if asked is None else asked.length
            raise SumsMisfit(f"{vector.size} sums came, {wanted} were asked for")
        found: dict[Measure, npt.NDArray[np.float64]] = {}
        start = SALT
        for measure in asked.measures:
            found[measure] = vector[start : start + measure.length]
            start += measure.length
        for place, measure_of in enumerate(tuple(self._wanted)):
            if measure_of is not None:
                self._send(place, found[measure_of])
                answer = self._answers[place]
                if noise is not None and answer is not None and answer.status == "ok":
                    deviation = noise * unit_of(measure_of, asked.measures)
                    self._answers[place] = with_noise(answer, measure_of, found[measure_of], deviation)

    def _send(self, place: int, sums: npt.NDArray[np.float64] | None) -> None:
        """Move one query on. Sums that no honest sites give make its answer unusable, and never the job stuck."""
        run, self._wanted[place] = self._runs[place], None
        try:
            self._wanted[place] = next(run) if sums is None else run.send(sums)
        except StopIteration as end:
            self._answers[place] = end.value
        except Withheld as why:
            self._answers[place] = self._without(place, "withheld", str(why))
        except Unusable as why:
            self._answers[place] = self._without(place, "unusable", str(why))
        except (ValidationError, ValueError, ArithmeticError, np.linalg.LinAlgError):
            self._answers[place] = self._without(place, "unusable", "the sums fit no data: some site gave wrong ones")

    def _without(self, place: int, status: str, note: str) -> Result:
        query = self._queries[place]
        known = {name: getattr(query, name) for name in ("column", "target") if hasattr(query, name)}
        return _RESULT.validate_python(
            {"name": query.title, "query": query.query, "status": status, "note": note, **known}
        )


def _kinds_of(query: Query) -> frozenset[Kind]:
    """Return the kinds of measures that any round of this query can ask."""
    kinds = _KINDS[type(query)]
    match query:
        case queries.Histogram(range=None, edges=None) | queries.Quantiles(range=None):
            return kinds | {"ranges"}
    return kinds
