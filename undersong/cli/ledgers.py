"""`undersong ledger …`: what rounds cost a site's data in privacy, beside its agent."""

import json
import sqlite3
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from undersong.cli import common
from undersong.errors import UndersongError
from undersong.shared.clock import utc_text
from undersong.shared.errors import Refusal
from undersong.shared.files import read_bytes

if TYPE_CHECKING:
    from undersong.cli.ledger_heads import LedgerOwner
    from undersong.services.agent.domain.budgets import PrivacyRule
    from undersong.services.agent.ledger.accounts import Spending
    from undersong.services.agent.ledger.book import Ledger
    from undersong.services.agent.ledger.entries import Chain, Line
    from undersong.services.agent.settings import AgentSettings

app = typer.Typer(no_args_is_help=True, help="A site's privacy ledger: what each round cost, and what is left.")
Config = Annotated[
    Path, typer.Option("--config", exists=True, dir_okay=False, help="The site's agent.yaml, as for `agent run`.")
]
AGENT_YAML = Path("agent.yaml")
_MOST_EVENT = 200
ADVICE = "if it is explained: stop the agent, undersong ledger adopt --reason WHY"


@app.command()
def show(
    config: Config = AGENT_YAML,
    lines: Annotated[int, typer.Option("--lines", min=0, help="So many of the newest lines.")] = 20,
    as_json: common.AsJson = False,
) -> None:
    """Show what is spent and left of each budget, and the newest lines."""
    from undersong.services.agent.ledger.accounts import accounts

    with opened(config) as (ledger, rule, _):
        chain, fault = ledger.look()
        found = accounts(chain, rule, ledger.now())
        newest = ledger.lines()[-lines:] if lines else []
    if as_json:
        shown = [{**line.document(), "hash": digest} for line, digest in newest]
        common.print_json({"fault": fault, "accounts": [each.document() for each in found], "lines": shown})
        return
    if fault is not None:
        common.complaints.print(f"the ledger cannot be relied on: {fault}; {ADVICE}", markup=False)
    if not found:
        common.console.print("nothing was charged yet, and the policy has no budgets", style="dim")
        return
    common.console.print(_account_table(found))
    if newest:
        common.console.print()
        common.console.print(_line_table([line for line, _ in newest]))


@app.command()
def export(
    config: Config = AGENT_YAML,
    out: Annotated[
        Path | None, typer.Option("--out", dir_okay=False, help="Write it to this file; standard output by default.")
    ] = None,
) -> None:
    """Print the whole ledger as JSON, with every line's hash, for an auditor; `verify --file` checks it."""
    from undersong.services.agent.ledger.accounts import accounts, exported

    with opened(config) as (ledger, rule, settings):
        chain, fault = ledger.look()
        found, site = accounts(chain, rule, ledger.now()), _holder(settings).site_id
        document = exported(ledger.lines(), fault, found, ledger.secret(), site)
    if out is None:
        common.print_json(document)
        return
    out.write_text(json.dumps(document, indent=2) + "\n")
    common.console.print(f"{len(document['lines'])} lines written to {out}", markup=False)


@app.command()
def verify(
    config: Config = AGENT_YAML,
    file: Annotated[
        Path | None, typer.Option("--file", exists=True, dir_okay=False, help="An exported ledger instead.")
    ] = None,
    against: Annotated[
        Path | None,
        typer.Option(
            "--against",
            exists=True,
            dir_okay=False,
            help="What others were told of it: a datasheet (`datasheet --json`), or heads (`ledger heads --json`).",
        ),
    ] = None,
    site: Annotated[str | None, typer.Option("--site", help="Whose ledger it is, where the file does not say.")] = None,
    ca: Annotated[
        str | None,
        typer.Option(
            "--ca", help="SHA-256 fingerprint of the federation's authority; by default that of the site's certificate."
        ),
    ] = None,
) -> None:
    """Check that no line was changed, taken out or cut off; exits with 1 where one was.

    An agent compares its ledger with the transparency log by itself, at each start and every few minutes. An exported
    ledger is checked by itself: with --against it is compared with what was said of it before, so that lines that are
    missing at its end, and a ledger that was rewritten, are seen as well. Heads that it does not keep because its owner
    adopted it are told with that line's date and reason, where a later head in the log commits to the line.
    """
    from undersong.cli.ledger_heads import LedgerOwner, told_in, unlike_told

    if file is not None:
        chain, secret, holder = _from_file(file)
        fault = chain.fault
    else:
        with opened(config) as (ledger, _, settings):
            (chain, fault), secret, holder = ledger.look(), ledger.secret(), _holder(settings)
    if fault is not None:
        raise UndersongError(f"the ledger does not hold: {fault}", remedy=ADVICE)
    common.console.print(f"{chain.head.seq} lines hold; the last one is {chain.head.hash}", markup=False)
    if against is None:
        return
    told = told_in(against, LedgerOwner(site or holder.site_id, ca or holder.authority))
    found = unlike_told(chain, secret, told)
    for why in found.faults:
        raise UndersongError(f"the ledger is not the one that {against} tells of: {why}", remedy=ADVICE)
    for explained in found.adopted:
        common.complaints.print(f"it does not keep {explained}", markup=False, soft_wrap=True)
    if told.heads:
        kept = "all else that" if found.adopted else "what"
        count, last = len(told.heads), told.heads[-1].lines
        said = f"it keeps {kept} {against} tells of it: {count} heads, the last one of {last}"
        common.console.print(f"{said} lines", markup=False, soft_wrap=True)
    else:
        common.console.print(f"{against} tells of no head: none was in the log then", markup=False, soft_wrap=True)


@app.command()
def heads(
    name: Annotated[str, typer.Argument(metavar="SITE", help="Site, by name or id.")],
    profile: common.ProfileName = None,
    as_json: common.AsJson = False,
) -> None:
    """Print the heads of a site's ledger in the transparency log, for an auditor; where they go back is said.

    A head tells how many lines the ledger had, and commits to them without telling what is in them. With --json the
    certificates and the log's proofs are there as well, with which `undersong ledger verify --against` checks them.
    """
    from undersong.cli.ledger_heads import proven_heads
    from undersong.shared.transparency.ledger_heads import LoggedLedgerHead, backward

    with common.connect(profile) as client:
        site_id = common.find_site(client, name).id
        if as_json:
            proven = proven_heads(client, site_id)
            found = [LoggedLedgerHead(head=each.head, index=each.index) for each in proven.items]
        else:
            found = client.ledger_heads(site_id)
    for why in backward([each.head for each in found]):
        common.complaints.print(f"{why}; its owner's lines say why: undersong ledger show", markup=False)
    if as_json:
        common.print_json(proven.model_dump(mode="json"))
        return
    if not found:
        common.console.print("no head of this site's ledger is in the log", style="dim")
        return
    table = Table(box=None, header_style="bold", pad_edge=False)
    for title in ("log entry", "lines", "commitment"):
        table.add_column(title, overflow="fold")
    for each in found:
        table.add_row(str(each.index), str(each.head.lines), each.head.commitment)
    common.console.print(table)


@app.command()
def adopt(
    reason: Annotated[str, typer.Option("--reason", help="What happened, for the ledger and its auditors.")],
    config: Config = AGENT_YAML,
    as_json: common.AsJson = False,
) -> None:
    """Take a damaged ledger into use again, once it is known what happened; the agent must be stopped.

    A line says what is missing and why. Lines that do not hold are kept in a file, and what they charged is charged
    again; whatever was held is final.
    """
    from undersong.services.agent.ledger.adoption import adopt as go_on

    with opened(config, alone=True) as (ledger, _, settings):
        aside = settings.data_dir / f"ledger-aside-{datetime.now(UTC):%Y%m%dT%H%M%S}.json"
        added = go_on(ledger, reason.strip(), aside)
    if as_json:
        common.print_json([line.document() for line in added])
    elif not added:
        common.console.print("the ledger holds: there is nothing to adopt")
    else:
        common.console.print(f"adopted: {added[0].reason}", markup=False, soft_wrap=True)
        if aside.exists():
            common.console.print(f"the lines that did not hold are in {aside}", markup=False, soft_wrap=True)


@contextmanager
def opened(
    config: Path, *, alone: bool = False, charges: bool = False
) -> Iterator[tuple["Ledger", "PrivacyRule", "AgentSettings"]]:
    """Open the ledger of a site's folder; UndersongError where it has none, or its agent runs and must not.

    `charges`: something will be charged, so a policy that cannot be read is an error.
    """
    from undersong.services.agent.domain.budgets import PrivacyRule
    from undersong.services.agent.ledger.book import Ledger
    from undersong.services.agent.ledger.mark import LedgerMark
    from undersong.services.agent.loop import alone as held
    from undersong.services.agent.policy.file import PolicyError
    from undersong.services.agent.policy.owners import load_policy
    from undersong.services.agent.repository.state import AgentState
    from undersong.services.agent.settings import ConfigError, load
    from undersong.services.agent.site.description import with_same_files

    common.quiet_logs()
    with ExitStack() as stack:
        try:
            settings = load(config)
            if alone or charges:
                stack.enter_context(held(settings))
            there = (settings.data_dir / "agent.sqlite").exists()
            state = AgentState(settings.data_dir) if there else None
        except ConfigError as error:
            remedy = "stop the agent first, or name the site's agent.yaml with --config"
            raise UndersongError(str(error), remedy=remedy) from None
        if state is None:
            raise UndersongError(f"{settings.data_dir} has no state", remedy="run the agent once: undersong agent run")
        stack.callback(state.close)
        try:
            rule = with_same_files(load_policy(settings)[0], settings).privacy
        except PolicyError as error:
            if charges:
                raise UndersongError(str(error), remedy="undersong policy lint; its budgets decide") from None
            common.complaints.print(f"shown without budgets: {error}", markup=False)
            rule = PrivacyRule()
        try:
            yield Ledger(state.store, LedgerMark(settings.high_water)), rule, settings
        except sqlite3.Error as error:
            raise UndersongError(
                f"{settings.data_dir}: {error}", remedy="put a backup of this folder back, then undersong ledger verify"
            ) from error


def _from_file(file: Path) -> "tuple[Chain, bytes | None, LedgerOwner]":
    from undersong.cli.ledger_heads import LedgerOwner
    from undersong.services.agent.ledger.accounts import checked, secret_in

    try:
        document = json.loads(read_bytes(file))
        chain, secret = checked(document), secret_in(document)
    except (ValueError, RecursionError) as error:
        raise UndersongError(f"{file}: {error}", remedy="name a file of `undersong ledger export`") from None
    site = document.get("site_id")
    return chain, secret, LedgerOwner(site if isinstance(site, str) else None, None)


def _holder(settings: "AgentSettings") -> "LedgerOwner":
    """Return whose folder it is, and its authority; unknown before the agent has enrolled."""
    from undersong.cli.ledger_heads import LedgerOwner
    from undersong.shared.identity.authority import Identity, keyid_of

    try:
        identity = Identity.load(settings.data_dir / "identity")
    except (OSError, ValueError, Refusal):
        return LedgerOwner(None, None)
    return LedgerOwner(identity.subject.name, keyid_of(identity.ca_certificate))


def _account_table(found: "list[Spending]") -> Table:
    from undersong.services.agent.ledger.accounts import bar

    table = Table(box=None, header_style="bold", pad_edge=False)
    for title in ("data set", "unit", "period", "epsilon", "", "of", "delta", "held", "final", "void", "exact answers"):
        table.add_column(title, overflow="fold")
    for each in found:
        budget = each.budget
        table.add_row(
            each.dataset,
            str(each.unit),
            f"{budget.period_days} days" if budget is not None else "ever",
            f"{each.epsilon:.4g}",
            bar(each.epsilon / budget.epsilon) if budget is not None else "",
            f"{budget.epsilon:g}" if budget is not None else "no budget",
            f"{each.delta:g}",
            str(each.held),
            str(each.final),
            str(each.void),
            f"{each.exact}, without bound: ∞" if each.exact else "none",
        )
    return table


def _line_table(lines: "list[Line]") -> Table:
    table = Table(box=None, header_style="bold", pad_edge=False)
    for title in (
        "line",
        "time",
        "state",
        "charge",
        "data set",
        "unit",
        "cost",
        "epsilon after",
        "job",
        "round",
        "why",
    ):
        table.add_column(title, overflow="fold")
    for line in lines:
        after = "∞" if line.epsilon_after is None else f"{line.epsilon_after:.4g}"
        place = f"{line.kind} {line.number}/{line.attempt}"
        about = (line.dataset, line.unit, _cost(line), after, line.job_id, place) if line.event else ("",) * 6
        table.add_row(str(line.seq), utc_text(line.at_ms), str(line.state), str(line.charge), *about, line.reason)
    return table


def _cost(line: "Line") -> str:
    try:
        event = dict(json.loads(line.event))
        name = str(event.pop("event", "?"))
        if event.get("count") == 1:
            del event["count"]
        known = {"noise_multiplier": "z"}
        return " ".join([name, *(f"{known.get(key, key)}={value:.4g}" for key, value in event.items())])
    except (ValueError, TypeError, RecursionError):  # an edited line
        return line.event[:_MOST_EVENT]
