"""`undersong stats …`."""

from typing import Annotated, Any

import typer

from undersong.cli import common, figures
from undersong.cli.following import follow_job
from undersong.cli.jobs import JobId, SpecFile, read_spec
from undersong.cli.lookup import find_job
from undersong.client import Client
from undersong.client.types import Job
from undersong.errors import UndersongError
from undersong.progress import JobProgress

app = typer.Typer(no_args_is_help=True, help="Statistics over all sites, of which only sums are opened.")
Kind = Annotated[
    str,
    typer.Argument(
        help="count, sum, mean, variance, histogram, quantiles, contingency, correlation, pca, regression, "
        "logistic_regression, poisson_regression, cox_regression, kaplan_meier or k_means."
    ),
]
ONE_COLUMN = {"histogram": "column", "quantiles": "column", "kaplan_meier": "time"}
FITS = ("regression", "logistic_regression", "poisson_regression", "cox_regression")


@app.command()
def ask(
    query: Kind,
    columns: Annotated[
        list[str], typer.Argument(help="The columns; for a regression the features, for a curve the time.")
    ],
    dataset: Annotated[str, typer.Option("--dataset", "-d", help="The data set, by its name at the sites.")],
    range_: Annotated[
        tuple[float, float] | None, typer.Option("--range", help="Lowest and highest value; others are left out.")
    ] = None,
    bins: Annotated[int | None, typer.Option(help="How many bins a histogram has.")] = None,
    edges: Annotated[list[str] | None, typer.Option(help="20,40,60 or, for a contingency, age=20,40,60.")] = None,
    values: Annotated[list[str] | None, typer.Option(help="For a contingency with numbers: target=0,1.")] = None,
    probability: Annotated[list[float] | None, typer.Option("--probability", "-p", help="Of a quantile.")] = None,
    target: Annotated[str | None, typer.Option(help="What a regression predicts.")] = None,
    exposure: Annotated[str | None, typer.Option(help="For Poisson: what the mean is in proportion to.")] = None,
    time: Annotated[str | None, typer.Option(help="For Cox: the time to the event, or of observation.")] = None,
    event: Annotated[str | None, typer.Option(help="For Cox and Kaplan-Meier: 1 where the event came.")] = None,
    until: Annotated[float | None, typer.Option(help="Where a Kaplan-Meier curve ends.")] = None,
    steps: Annotated[int | None, typer.Option(help="In how many intervals its events are counted.")] = None,
    group: Annotated[str | None, typer.Option(help="A category: a curve for each.")] = None,
    ridge: Annotated[float | None, typer.Option(help="Keeps a regression's coefficients small.")] = None,
    clusters: Annotated[int | None, typer.Option("--clusters", "-k", help="How many groups k-means makes.")] = None,
    components: Annotated[int | None, typer.Option(help="How many principal components.")] = None,
    min_cell: Annotated[int | None, typer.Option(help="Counts below this are not shown.")] = None,
    min_sites: Annotated[int | None, typer.Option(help="Sums of fewer sites are not opened.")] = None,
    engine: Annotated[str | None, typer.Option(help="How sums are kept secret.")] = None,
    federation: common.FederationName = None,
    profile: common.ProfileName = None,
    as_json: common.AsJson = False,
) -> None:
    """Ask one question, wait, and show the answer."""
    wanted: dict[str, Any] = {"query": query, **_columns(query, columns, target)}
    wanted |= _given(exposure=exposure, time=time, event=event, until=until, steps=steps, group=group)
    wanted |= _given(bins=bins, ridge=ridge, clusters=clusters, components=components)
    wanted |= _given(probabilities=probability or None)
    wanted |= _ranges(query, columns, range_) | _sides(query, edges, values)
    spec: dict[str, Any] = {
        "kind": "statistics",
        "name": f"{query} of {', '.join([*columns, *([target] if target else [])])}"[:200],
        "data": {"dataset": dataset},
        "queries": [wanted],
        **_given(min_cell=min_cell, engine=engine, cohort=None if min_sites is None else {"min": min_sites}),
    }
    with common.connect(profile) as client:
        job = client.submit_job(spec, federation=federation)
        _warn(job)
        follow(client, job.id, quiet=as_json)
        _show(client, job.id, as_json=as_json)


@app.command()
def submit(
    file: SpecFile,
    watch_it: Annotated[bool, typer.Option("--watch", "-w", help="Stay, and show the answers.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only check it; every fault at once.")] = False,
    federation: common.FederationName = None,
    profile: common.ProfileName = None,
    as_json: common.AsJson = False,
) -> None:
    """Ask the questions of a file."""
    spec = read_spec(file)
    if spec.setdefault("kind", "statistics") != "statistics":
        remedy = f"undersong job submit {common.quoted(file)}"
        raise UndersongError(f"{file} is of kind {spec['kind']}", remedy=remedy)
    with common.connect(profile) as client:
        if dry_run:
            found = client.validate_job(spec, federation=federation)
            common.console.print(f"the job is valid: {len(found.features)} columns at {len(found.sites)} sites")
            if found.privacy is not None:
                common.console.print(f"  privacy: {found.privacy.sentence}", markup=False, soft_wrap=True)
            return
        job = client.submit_job(spec, federation=federation)
        _warn(job)
        if not watch_it:
            if as_json:
                common.print_json(job.model_dump(mode="json"))
            else:
                common.console.print(f"job {job.id} is {job.state}")
                common.next_step(f"undersong stats show {job.id}")
            return
        follow(client, job.id, quiet=as_json)
        _show(client, job.id, as_json=as_json)


@app.command("show")
def show_(job_id: JobId, profile: common.ProfileName = None, as_json: common.AsJson = False) -> None:
    """What a statistics job has found so far."""
    with common.connect(profile) as client:
        _show(client, find_job(client, job_id).id, as_json=as_json)


@app.command()
def watch(job_id: JobId, profile: common.ProfileName = None, as_json: common.AsJson = False) -> None:
    """Show the progress until the job ends, then its answers."""
    with common.connect(profile) as client:
        job = find_job(client, job_id)
        follow(client, job.id, quiet=as_json)
        _show(client, job.id, as_json=as_json)


@app.command("list")
def list_(
    federation: common.FederationName = None, profile: common.ProfileName = None, as_json: common.AsJson = False
) -> None:
    """Statistics jobs."""
    with common.connect(profile) as client:
        chosen = client.federation(federation).id if federation else None
        rows = [job for job in client.jobs(chosen) if job.spec.get("kind") == "statistics"]
        columns = {
            "name": lambda job: job.name,
            "state": lambda job: job.state,
            "reason": lambda job: job.reason,
            "queries": lambda job: len(job.spec.get("queries", [])),
            "made": lambda job: job.created_at,
            "id": lambda job: job.id,
        }
        common.show(rows, columns, as_json=as_json, empty="none yet: undersong stats ask mean COLUMN --dataset NAME")


def follow(client: Client, job_id: str, *, quiet: bool = False) -> Job:
    """Show progress until the job ends; UndersongError when it does not succeed."""
    job = client.job(job_id)
    follow_job(
        client,
        job,
        total=job.progress.get("rounds"),
        done=lambda seen: seen.answered,
        note=_note,
        quiet=quiet,
        transient=True,
    )
    job = client.job(job_id)
    common.require_success(job)
    return job


def _note(seen: JobProgress) -> str:
    newest = seen.newest
    return "" if newest is None else f"{newest.got} of {newest.cohort} sites"


def _show(client: Client, job_id: str, *, as_json: bool) -> None:
    found = client.results(job_id)
    if as_json:
        common.print_json(found.model_dump(mode="json"))
        return
    if not found.results:
        common.console.print(f"nothing yet: the job is {found.state}", style="dim")
    figures.show_all(found, common.console, f"job {job_id}")


def _warn(job: Job) -> None:
    for warning in job.warnings:
        common.complaints.print(f"  warning: {warning.get('path', '/')}: {warning.get('message', '')}", markup=False)


def _columns(query: str, columns: list[str], target: str | None) -> dict[str, Any]:
    if query in FITS:
        return {"features": columns, **_given(target=target)}
    if target is not None:
        raise UndersongError("--target is for a regression")
    if query in ONE_COLUMN:
        if len(columns) != 1:
            raise UndersongError(f"{query} takes one column", remedy=f"undersong stats ask {query} {columns[0]} …")
        return {ONE_COLUMN[query]: columns[0]}
    return {"columns": columns}


def _ranges(query: str, columns: list[str], bounds: tuple[float, float] | None) -> dict[str, Any]:
    if bounds is None:
        return {}
    return {"range": bounds} if query in ONE_COLUMN else {"ranges": dict.fromkeys(columns, bounds)}


def _sides(query: str, edges: list[str] | None, values: list[str] | None) -> dict[str, Any]:
    """`--edges` and `--values`, by column where the query wants them so."""
    if query == "histogram" and edges:
        return {"edges": _numbers(edges[0])}
    return _given(edges=_named(edges), values=_named(values))


def _named(given: list[str] | None) -> dict[str, list[float]] | None:
    made = {}
    for text in given or []:
        name, equals, numbers = text.partition("=")
        if not equals:
            raise UndersongError(f"{text!r} names no column", remedy="write it as column=1,2,3")
        made[name] = _numbers(numbers)
    return made or None


def _numbers(text: str) -> list[float]:
    try:
        return [float(number) for number in text.split(",")]
    except ValueError as error:
        raise UndersongError(f"{text!r} is no list of numbers", remedy="write it as 1,2,3") from error


def _given(**options: Any) -> dict[str, Any]:
    return {name: value for name, value in options.items() if value is not None}
