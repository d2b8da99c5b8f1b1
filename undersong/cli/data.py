"""`undersong data …`: declare data sets and look at how sites declare them."""

import asyncio
import json
import re
import tempfile
from collections.abc import Sequence
from pathlib import Path
from textwrap import indent
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from undersong.cli import common
from undersong.cli.bars import bars
from undersong.client.types import ColumnComparison, Comparison
from undersong.errors import UndersongError
from undersong.shared.files import read_text
from undersong.shared.wire.columns import Column
from undersong.shared.yaml_texts import dump_document, load_document

if TYPE_CHECKING:
    from undersong.recipes.datasets import DatasetEntry
    from undersong.recipes.mock import MockDescription

_EMPTY_LIST: Final = re.compile(r"^datasets: *\[ *\](?= *(#.*)?$)", re.MULTILINE)
Ranges = dict[str, tuple[float, float]]
app = typer.Typer(no_args_is_help=True, help="Data sets: declare a file, compare the sites.")


@app.command()
def init(
    file: Annotated[
        Path,
        typer.Argument(
            exists=True, dir_okay=False, help="The file: CSV, JSON lines or texts (.gz too), Parquet or .npz."
        ),
    ],
    name: Annotated[str | None, typer.Option("--name", help="The data set's name; the file's own by default.")] = None,
    label: Annotated[str | None, typer.Option("--label", help="The column that models are to predict.")] = None,
    url_file: Annotated[
        Path | None,
        typer.Option("--url-file", dir_okay=False, help="The file holds a query; this one the URL of its database."),
    ] = None,
    into: Annotated[
        Path | None, typer.Option("--into", dir_okay=False, help="Add it to this datasets.yaml instead of printing it.")
    ] = None,
) -> None:
    """Write a datasets.yaml entry for a file; read it and correct it before the agent uses it."""
    from undersong.recipes.datasets import BadDataset  # brings numpy, which no other command needs
    from undersong.recipes.draft import draft_text

    def drafted(*, head: bool) -> str:
        if url_file is None:
            return draft_text(file, name, label, head=head)
        return _query_draft(file, url_file, name or file.stem, label, head=head)

    try:
        if into is None:
            typer.echo(drafted(head=True), nl=False)
            return
        before = read_text(into) if into.exists() else ""
        added = drafted(head=not before.strip())
        entry = _add(into, before, added)
    except OSError as error:
        raise UndersongError(f"{into or file}: {error.strerror}") from None
    except BadDataset as refusal:
        raise UndersongError(f"{file}: {refusal.explain()}", remedy="correct the file, or see docs/data.md") from None
    typer.echo(f"written: read it, correct it, then {into} is what the agent uses")
    if told := _about_policy(entry, into.with_name("policy.yaml")):
        typer.echo(told)


def _query_draft(file: Path, url_file: Path, name: str, label: str | None, *, head: bool) -> str:
    """Return an entry for a query, with types from a snapshot of its rows that is erased again."""
    from undersong.recipes.draft import draft_text
    from undersong.recipes.options import SqlOptions
    from undersong.services.agent.site.querying import NoSnapshot, QueryRequest, take_snapshot

    if ":/" in str(url_file):
        said = "--url-file is the path of a file that holds the database's URL, and no URL: it has a password"
        raise UndersongError(said, remedy="write the URL into a file that only you can read")
    try:
        query = read_text(file).strip()
        limits = SqlOptions(url_file=url_file, query=query)
    except ValueError:  # bytes that are no text, or nothing, or far too much
        raise UndersongError(f"{file} holds no query", remedy="write one SELECT into it, in UTF-8") from None
    with tempfile.TemporaryDirectory(prefix="undersong-query-") as folder:
        rows = Path(folder) / "rows.parquet"
        try:
            take_snapshot(QueryRequest(str(url_file), query, limits.row_limit, limits.timeout_s, str(rows)))
        except NoSnapshot as refusal:
            raise UndersongError(str(refusal), remedy=f"correct {file} or {url_file}") from None
        lines = draft_text(rows, name, label, head=head).splitlines(keepends=True)
    said = json.dumps({"url_file": str(url_file.resolve()), "query": query}, ensure_ascii=False)
    made = {"    kind: ": "    kind: sql\n", "    path: ": f"    sql: {said}\n"}
    return "".join(next((new for old, new in made.items() if line.startswith(old)), line) for line in lines)


def _about_policy(entry: "DatasetEntry", file: Path) -> str:
    """Return what to do so that the site's policy, perhaps in this file, names a data set; "" where it does."""
    from undersong.services.agent.policy import file as policies

    wanted = {entry.name: {"columns": [column.name for column in entry.offered]}}
    lines = dump_document(wanted, default_flow_style=None, width=2**20)
    add = "add this under datasets, without columns that no recipe may read:\n" + indent(lines.rstrip("\n"), "  ")
    try:
        named = entry.name in policies.load(file)[0].datasets if file.exists() else None
    except policies.PolicyError as error:
        return f"the site's policy must name it too, and cannot be read: {error}; correct it, and {add}"
    if named is None:
        return f"a site that has a policy.yaml already must name it there too, or no job can use it: {add}"
    return "" if named else f"{file} does not name it yet, so no job can use it: {add}"


def _add(into: Path, before: str, added: str) -> "DatasetEntry":
    """Append an entry as text, so that comments stay, and return it.

    UndersongError, and no change, where it cannot be read there.
    """
    from undersong.recipes.datasets import BadDataset, read_declarations

    part = into.with_name(into.name + ".part")
    old = read_declarations(into) if before.strip() else None
    open_list = _EMPTY_LIST.sub("datasets:", before, count=1)
    part.write_text((open_list.rstrip("\n") + "\n" if before.strip() else "") + added)
    try:
        new = read_declarations(part)
        known = {} if old is None else old.entries
        if new.faults.keys() - (old.faults.keys() if old is not None else set()) or len(new.entries) != len(known) + 1:
            told = "; ".join(new.reasons().values()) or "the entry would not be read there"
            raise UndersongError(f"nothing was added to {into}: {told}", remedy="choose a name with --name")
        part.replace(into)
        return next(entry for name, entry in new.entries.items() if name not in known)
    except BadDataset:
        raise UndersongError(
            f"nothing was added to {into}: nothing can be appended to its list as it is written",
            remedy="write each data set on lines of its own below `datasets:`; without --into the entry is printed",
        ) from None
    finally:
        part.unlink(missing_ok=True)


@app.command()
def mock(
    dataset: Annotated[str, typer.Argument(help="The data set's name.")],
    data: Annotated[
        Path | None, typer.Option("--data", dir_okay=False, exists=True, help="Its datasets.yaml, for the owner.")
    ] = None,
    rows: Annotated[int, typer.Option(min=10, max=10**6, help="How many rows the twin has.")] = 500,
    describe: Annotated[
        bool, typer.Option("--describe", help="Print what would be drawn, to be changed by hand.")
    ] = False,
    description: Annotated[
        Path | None, typer.Option("--from", dir_okay=False, exists=True, help="Draw what this file describes.")
    ] = None,
    ranges: Annotated[
        list[str] | None, typer.Option("--range", help="Draw a column from these: age=18,90. May be given again.")
    ] = None,
    out: Annotated[Path | None, typer.Option("--out", "-o", help="A new folder (default: mock-NAME).")] = None,
    epsilon: Annotated[
        float | None,
        typer.Option("--epsilon", help="For the owner: draw by noisy counts of the rows, charged to the ledger."),
    ] = None,
    delta: Annotated[
        float | None, typer.Option("--delta", help="With --epsilon; by default that of the data set's budget, or 1e-6.")
    ] = None,
    config: Annotated[
        Path,
        typer.Option("--config", dir_okay=False, help="With --epsilon: agent.yaml of a site whose agent is stopped."),
    ] = Path("agent.yaml"),
    seed: Annotated[int, typer.Option(min=0, help="The same seed draws the same rows.")] = 0,
    federation: common.FederationName = None,
    profile: common.ProfileName = None,
) -> None:
    """Make a twin of a data set without real rows, to try jobs with: undersong job try.

    Each column is drawn by itself, from declared types, categories and ranges alone. Without --data the sites' common
    schema is used as the platform knows it, which has no ranges. With --epsilon, shares of categories and of parts of
    declared ranges follow from the real rows, with noise for each row; the site's policy and ledger decide, and each
    twin is charged.
    """
    from undersong.recipes import mock as twins  # brings numpy, which no other command needs
    from undersong.recipes.datasets import BadDataset

    try:
        place = out or Path(f"mock-{dataset}")
        if not describe:
            twins.check_place(place)
        if epsilon is not None:
            if data is not None or description is not None:
                raise UndersongError("--epsilon goes with neither --data nor --from", remedy="name the site: --config")
            made = _noised(dataset, config, epsilon, delta, rows, _ranges(ranges or ()))
        else:
            made = _described(dataset, data, description, rows, federation, profile)
            made = twins.with_ranges(made, _ranges(ranges or ()))
        if describe:
            typer.echo(dump_document(twins.description_document(made)), nl=False)
            return
        written = twins.write_mock(made, place, seed)
    except BadDataset as refusal:
        raise UndersongError(refusal.explain(), remedy="see undersong data mock --help") from None
    common.console.print(f"{written.parent}: {made.rows} rows that were drawn, none is real", markup=False)
    common.next_step(f"undersong job try job.yaml --data {common.quoted(written)}")


def _noised(
    dataset: str, config: Path, epsilon: float, delta: float | None, rows: int, ranges: Ranges
) -> "MockDescription":
    from undersong.audit.noised_twin import noised_twin
    from undersong.cli.ledgers import opened
    from undersong.shared.wire.privacy import MAX_EPSILON, MIN_DELTA

    if not 0 < epsilon <= MAX_EPSILON or not (delta is None or MIN_DELTA <= delta < 1):
        said = f"epsilon must be more than 0, at most {MAX_EPSILON:g}, and delta from {MIN_DELTA:g} to less than 1"
        raise UndersongError(said, remedy="--epsilon 0.5")
    with (
        opened(config, charges=True) as (ledger, rule, settings),
        tempfile.TemporaryDirectory(prefix="undersong-twin-") as folder,
        bars() as bar_of,
    ):
        place, files = Path(folder).resolve() / "trainer", settings.datasets
        work = noised_twin(files, ledger, rule, dataset, epsilon, delta, rows, ranges, place, bar_of("counting"))
        made = asyncio.run(work)
    told = f"charged to the ledger: epsilon {made.epsilon:g} at delta {made.delta:g} for each record of {dataset}"
    common.complaints.print(told, markup=False)
    if made.unasked:
        said = f"drawn as declared, because no range is declared: {', '.join(made.unasked)}"
        common.complaints.print(said, markup=False)
    return made.description


def _ranges(given: Sequence[str]) -> Ranges:
    made: Ranges = {}
    for text in given:
        name, _, ends = text.rpartition("=")
        try:
            low, high = map(float, ends.split(","))
        except ValueError:
            raise UndersongError(f"{text!r} is no range", remedy="write it as column=lowest,highest") from None
        made[name] = (low, high)
    return made


def _numbers(column: ColumnComparison) -> str | None:
    """Return the least special kind of numbers that a site tells of; None where no site tells."""
    told = {own.get("numbers") for own in column.declared.values()}
    return next((kind for kind in ("real", "whole", "binary") if kind in told), None)


def _described(
    dataset: str, data: Path | None, description: Path | None, rows: int, federation: str | None, profile: str | None
) -> "MockDescription":
    """Return what to draw: as a file says, as the owner declares, or as the platform knows the sites' schema."""
    from undersong.recipes import mock as twins

    if description is not None:
        return twins.read_description(load_document(read_text(description)))
    if data is not None:
        from undersong.audit.trainer import declared

        return twins.describe_entry(declared(data, dataset), rows)
    with common.connect(profile) as client:
        found = client.compare_data(client.federation(federation).id, dataset)
    columns = [
        Column.model_validate({**column.agreed, "numbers": _numbers(column)})
        for column in found.columns
        if column.agreed is not None
    ]
    labels = {label for label in found.labels.values() if label is not None}
    label = labels.pop() if len(labels) == 1 else None
    known = label if any(column.name == label for column in columns) else None
    return twins.describe(dataset, columns, known, {}, rows)


@app.command()
def compare(
    dataset: Annotated[str, typer.Argument(help="The data set's name at the sites.")],
    federation: common.FederationName = None,
    profile: common.ProfileName = None,
    as_json: common.AsJson = False,
) -> None:
    """Show how the sites declare a data set, column by column, and which sites lack it.

    Exits with 1 unless all sites that have it have the same columns.
    """
    with common.connect(profile) as client:
        found = client.compare_data(client.federation(federation).id, dataset)
    if as_json:
        common.print_json(found.model_dump(mode="json"))
    else:
        _print(found)
    if not found.matches:
        raise typer.Exit(1)


def _print(found: Comparison) -> None:
    rows = {
        "column": lambda column: column.name,
        "type": lambda column: ", ".join(dict.fromkeys(own["type"] for own in column.declared.values())),
        "state": lambda column: column.state,
        "details": lambda column: "; ".join([*_missing(column), *column.faults, *column.notes]) or _form(column.agreed),
    }
    common.console.print(f"{found.dataset} at {', '.join(found.sites)}", markup=False, soft_wrap=True)
    for site, reason in found.absent.items():
        common.console.print(f"not at {site}: {reason}", markup=False, soft_wrap=True)
    common.show(found.columns, rows, as_json=False, empty="no columns are declared")
    labels = {site: label or "none" for site, label in found.labels.items()}
    one = len(set(labels.values())) == 1
    said = next(iter(labels.values())) if one else ", ".join(f"{label} at {site}" for site, label in labels.items())
    common.console.print(f"label: {said}", markup=False, soft_wrap=True)
    common.console.print(_verdict(found), style="bold", markup=False, soft_wrap=True)


def _verdict(found: Comparison) -> str:
    if found.matches:
        return "the sites match"
    partial = [column.name for column in found.columns if column.state == "partial"]
    if len(set(found.labels.values())) > 1 or any(column.state == "different" for column in found.columns):
        return "the sites do not match"
    return f"not all sites have {', '.join(partial)}: jobs leave that out unless they list it; all else matches"


def _missing(column: ColumnComparison) -> list[str]:
    return [f"missing at {', '.join(column.missing)}"] if column.missing else []


def _form(agreed: dict[str, Any] | None) -> str:
    """Return what a column holds, where there is something to say beyond its type."""
    known = agreed or {}
    texts = known.get("categories") or known.get("channels") or []
    shape = "x".join(map(str, known.get("shape") or []))
    return ", ".join([*([shape] if shape else []), *texts[:10], *(["…"] if len(texts) > 10 else [])])
