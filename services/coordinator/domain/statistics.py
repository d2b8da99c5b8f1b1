"""Statistics jobs: are they ones that can run, and what does their next round ask?"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

from pydantic import ValidationError

from undersong.services.coordinator.domain import parts
from undersong.services.coordinator.domain.columns import agreed_column, all_categories, check_listed, declared_columns
from undersong.services.coordinator.domain.evaluation import check_no_enough
from undersong.services.coordinator.domain.findings import Findings, parse_fields
from undersong.services.coordinator.domain.privacy import Protected, settle_terms
from undersong.services.coordinator.domain.protection import check_cohort, check_protection
from undersong.services.coordinator.domain.recipes import find_recipe
from undersong.services.coordinator.domain.sites import SiteFacts, having, holders_of, profile_of, schema_of
from undersong.services.coordinator.domain.spec import StatisticsSpec
from undersong.services.coordinator.domain.validation import Resolved, ValidJob, World
from undersong.shared.documents import document_faults, pointer
from undersong.shared.errors import Refusal
from undersong.shared.names import hint
from undersong.shared.secagg.private import plan_multiples
from undersong.shared.statistics.measures import MAX_SUMS, SALT, Asked
from undersong.shared.statistics.queries import (
    QUERIES,
    Contingency,
    CoxRegression,
    GeneralisedRegression,
    Histogram,
    KaplanMeier,
    KMeans,
    Moment,
    Quantiles,
    Query,
    Regression,
)
from undersong.shared.statistics.query_sizes import most_rounds, most_sums, terms_of
from undersong.shared.statistics.session import QuerySession
from undersong.shared.statistics.steps import Setting
from undersong.shared.wire.columns import agree
from undersong.shared.wire.privacy import PrivacyTerms, PrivacyUnit
from undersong.shared.wire.profiles import Column

RECIPE: Final = "statistics"
MAX_TERMS: Final = 500
LEAST_BITS: Final = 16
MOST_PROVED_BITS: Final = 2**18
_NEEDED: Final = f"the field 'query' is missing; it is one of {', '.join(QUERIES)}"
MAX_CENTRES: Final = 4096
"""Numbers of all k-means centres: they travel in each round's manifest."""


def judge_statistics(document: Mapping[str, Any], world: World) -> ValidJob:
    """Return the verdict on a document of kind `statistics`; raises `JobInvalid` with every error that was found."""
    findings = Findings()
    queries = _queries(document["queries"], findings) if "queries" in document else {}
    plain = {**document, "queries": [{"query": "mean", "columns": ["_"]}]} if "queries" in document else document
    parsed = parse_fields(plain, StatisticsSpec, findings)
    if not world.federation_known and "federation_id" in parsed:
        findings.error("/federation_id", "there is no such federation")
    check_protection(parsed.get("cohort"), parsed.get("engine"), world.engines, findings)
    check_no_enough(parsed.get("cohort"), findings)
    if parsed.get("min_cell") == 1:
        findings.warn("/min_cell", "a count of one is shown as it is: it may be one person")
    resolved = _resolve(parsed, queries, world, findings)
    terms = _settle_privacy(parsed, queries, resolved, world, findings)
    if findings.errors or resolved is None:
        raise findings.refusal()
    resolved = resolved.model_copy(update={"privacy": terms})
    spec = StatisticsSpec.model_validate(document)
    _check_noise_fits(spec, resolved, findings)
    return ValidJob(spec, resolved, tuple(findings.warnings))


def session_of(spec: StatisticsSpec, resolved: Resolved, history: Sequence[Sequence[float]] = ()) -> QuerySession:
    """Return the job's queries after these rounds; raises `SumsMisfit`."""
    columns = {column.name: column for column in resolved.columns}
    noisy = resolved.privacy is not None
    return QuerySession(spec.queries, Setting(columns, spec.min_cell, spec.cohort.min, noisy), history)


def rounds_of(spec: StatisticsSpec) -> int:
    """Return how many rounds the job takes at most."""
    if spec.privacy.noisy:
        return 1  # what would need a second one is refused
    return max(most_rounds(query) for query in spec.queries)


def _queries(given: object, findings: Findings) -> dict[int, Query]:
    """Return the queries that are well formed, by their place; the others' errors go to the findings."""
    if not isinstance(given, Sequence) or isinstance(given, str) or not 1 <= len(given) <= 50:
        findings.error("/queries", "a list of 1 to 50 queries is needed")
        return {}
    found: dict[int, Query] = {}
    for place, document in enumerate(given):
        kind = document.get("query") if isinstance(document, Mapping) else None
        if not isinstance(kind, str) or kind not in QUERIES:
            said = f"there is no query {kind!r}{hint(kind, QUERIES)}" if isinstance(kind, str) else _NEEDED
            findings.error(pointer(["queries", place, "query"]), said)
            continue
        try:
            found[place] = QUERIES[kind].model_validate(document)
        except ValidationError as error:
            findings.errors += document_faults(error, QUERIES[kind], ["queries", place])
    return found


def _settle_privacy(
    parsed: Mapping[str, Any],
    queries: Mapping[int, Query],
    resolved: Resolved | None,
    world: World,
    findings: Findings,
) -> PrivacyTerms | None:
    """Calibrate the job's noise, where it asks for some: all queries are then answered in one round."""
    asked: parts.PrivacyPart | None = parsed.get("privacy")
    if asked is None or not asked.noisy:
        if asked is not None:
            settle_terms(asked, None, None, Protected(PrivacyUnit.RECORD, None, 1, statistics=True), findings)
        return None
    for at, query in queries.items():
        if (why := _unbounded(query)) is not None:
            findings.error(pointer(["queries", at]), why)
    if asked.model == "record":
        findings.error("/privacy/model", "a recipe adds that noise as it trains; for statistics name distributed")
    rows = resolved.rows if resolved is not None else None
    if resolved is not None and rows is None:
        rows = len(resolved.eligible)
        findings.warn(
            "/privacy/delta",
            "not every site says how many rows it has: see that delta is far less than 1 / rows of all sites",
        )
    facts = world.engines.get(parsed.get("engine", ""))
    if facts is not None and facts.proves_counts:
        findings.warn("/privacy", f"with noise {facts.name} proves no range of a site's counts: one site could lie")
    protected = Protected(PrivacyUnit.RECORD, rows, 1, statistics=True)
    return settle_terms(asked, parsed.get("cohort"), facts, protected, findings)


def _check_noise_fits(spec: StatisticsSpec, resolved: Resolved, findings: Findings) -> None:
    """Raise `JobInvalid` where the job's one round has no room for its noise."""
    asked, largest = session_of(spec, resolved).asked, len(resolved.eligible)
    if resolved.privacy is None or asked is None:
        return
    try:
        summands = min(largest, spec.cohort.max or largest)
        plan_multiples(summands=summands, length=asked.length, terms=resolved.privacy)
    except Refusal as refusal:
        findings.error("/privacy", refusal.detail)
        raise findings.refusal() from refusal


def _unbounded(query: Query) -> str | None:
    """Return why noise cannot hide one row in this query's answer, and the remedy; None where it can."""
    match query:
        case Moment():
            open_ended = [name for name in query.columns if name not in query.ranges]
            if open_ended:
                named = ", ".join(open_ended)
                return f"nothing bounds what one row can add to {named}: give ranges, lowest and highest value of each"
        case Histogram(range=None, edges=None) | Quantiles(range=None):
            return f"a range that is looked for is exact: give the range of {query.column}"
        case Histogram() | Quantiles() | Contingency():
            return None
        case _:  # a query is offered with noise where this function says so
            return f"there is no {query.query} with noise: ask for counts, means, variances, histograms or tables"
    return None


def _resolve(
    parsed: Mapping[str, Any], queries: Mapping[int, Query], world: World, findings: Findings
) -> Resolved | None:
    data: parts.StatisticsData | None = parsed.get("data")
    active = [site for site in world.sites if site.active and site.profile is not None]
    recipe = find_recipe(RECIPE, "/kind", active, findings)
    if data is None or recipe is None:
        return None
    able = [site for site in holders_of(data.dataset, active, findings) if recipe in profile_of(site).recipes]
    wanted = [place for at, query in queries.items() for place in _places(at, query)]
    eligible = having(wanted, data.dataset, able, findings) if able else []
    # Where a misspelt column leaves no site, the other columns are still judged.
    asked = eligible or able
    check_listed(data.categories, data.dataset, able, findings)
    paths = {name: path for path, name in reversed(wanted)}
    together = {name: texts for name, path in paths.items() if (texts := _together(path, name, data, asked, findings))}
    listed = {**together, **data.categories}
    columns = {
        name: agreed_column(path, name, data.dataset, asked, listed.get(name), findings) for name, path in paths.items()
    }
    check_cohort(parsed.get("cohort"), eligible, findings)
    counts = _rows(data.dataset, eligible)
    known = {name: column for name, column in columns.items() if column is not None}
    _check_queries(queries, known, findings)
    return Resolved(
        recipe=recipe,
        features=tuple(sorted(known)),
        label=None,
        weight_unit=1,
        eligible=tuple(sorted(site.id for site in eligible)),
        columns=tuple(known[name] for name in sorted(known)),
        listed=tuple(sorted(set(listed) & set(known))),
        most_rows=max(counts, default=None),
        rows=sum(counts) if counts else None,
    )


def _together(
    path: str, name: str, data: parts.StatisticsData, sites: Sequence[SiteFacts], findings: Findings
) -> tuple[str, ...] | None:
    """Return all categories of a column where sites list different ones: a site counts none of those it lacks."""
    declared = declared_columns(data.dataset, name, sites)
    if name in data.categories or len({frozenset(column.categories or ()) for column in declared.values()}) <= 1:
        return None
    if {column.type for column in declared.values()} != {"category"}:
        return None
    for fault in agree(declared).faults:
        findings.warn(path, f"{fault}; without that, all of them are counted")
    return all_categories(declared)


def _rows(dataset: str, sites: Sequence[SiteFacts]) -> list[int]:
    """Return each site's number of rows; none of them where a site does not say how many it has."""
    rows = [schema_of(site, dataset).rows for site in sites]
    return [] if None in rows else [count for count in rows if count is not None]


def count_bits(asked: Asked, resolved: Resolved) -> int | None:
    """Return how many bits hold each site's numbers, if they are counts that a proof can bound at a reasonable
    price.
    """
    if not asked.counts_only or resolved.most_rows is None:
        return None
    bits = max(LEAST_BITS, resolved.most_rows.bit_length())
    return bits if asked.length * bits <= MOST_PROVED_BITS and bits <= 40 else None


def _places(at: int, query: Query) -> Iterator[tuple[str, str]]:
    """Yield where in the document each column is named."""
    for field in ("column", "target", "time", "event", "exposure", "group"):
        if getattr(query, field, None) is not None:
            yield pointer(["queries", at, field]), getattr(query, field)
    for field in ("columns", "features"):
        for place, name in enumerate(getattr(query, field, ())):
            yield pointer(["queries", at, field, place]), name


def _check_queries(queries: Mapping[int, Query], columns: Mapping[str, Column], findings: Findings) -> None:
    """Check that each query fits its columns' types, and that all fit into a round."""
    whole = SALT
    for at, query in queries.items():
        fits = True
        for path, name in _places(at, query):
            column = columns.get(name)
            problem = None if column is None else _misfit(query, column)
            if problem is not None:
                findings.error(path, problem)
            fits = fits and column is not None and problem is None
        if fits:
            places = {name: len(columns[name].categories or (name,)) for _, name in _places(at, query)}
            whole += most_sums(query, places)
            _check_size(at, query, places, findings)
    if whole > MAX_SUMS:
        findings.error("/queries", f"a round would open {whole} numbers, more than {MAX_SUMS}: ask for less")


def _misfit(query: Query, column: Column) -> str | None:
    """Return what is wrong with this column in this query."""
    name = column.name
    if name in query.numbers:
        if column.type == "number":
            return None
        if column.type == "category" and isinstance(query, GeneralisedRegression | CoxRegression | KaplanMeier):
            hint = "; sites can declare it as a number, with `values` that map its texts to 0 and 1"
        else:
            hint = "; ask for a contingency" if column.type == "category" else ""
        return f"{name!r} is a {column.type}, and {query.query} needs numbers{hint}"
    if column.type == "number" and name in query.categories:
        return f"{name!r} holds numbers, and the group of a {query.query} is a category"
    if column.type == "category" or (column.type == "number" and name in getattr(query, "features", ())):
        return None
    if column.type == "number":
        return f"{name!r} holds numbers: give its values or the edges of its intervals"
    return f"{name!r} is a {column.type}, of which there are no statistics"


def _check_size(at: int, query: Query, places: Mapping[str, int], findings: Findings) -> None:
    if isinstance(query, Regression | GeneralisedRegression | CoxRegression) and terms_of(query, places) > MAX_TERMS:
        findings.error(pointer(["queries", at, "features"]), f"{terms_of(query, places)} terms, more than {MAX_TERMS}")
    if isinstance(query, KMeans) and query.starts * query.clusters * len(query.columns) > MAX_CENTRES:
        findings.error(
            pointer(["queries", at, "clusters"]),
            f"starts × clusters × columns is more than {MAX_CENTRES}: ask for fewer",
        )
