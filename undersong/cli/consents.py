"""`undersong consent …`: what waits for the approval of the owner of a site's data."""

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from undersong.cli import common, owners
from undersong.errors import UndersongError
from undersong.shared.clock import utc_text
from undersong.shared.files import read_text
from undersong.shared.names import hint
from undersong.shared.terminal import shown

if TYPE_CHECKING:
    from undersong.services.agent.consent.inbox import Inbox, InboxEntry
    from undersong.services.agent.domain.rules import Policy
    from undersong.services.agent.settings import AgentSettings

app = typer.Typer(no_args_is_help=True, help="The owner's inbox: jobs that wait for consent, beside the agent.")
ConfigPath = Annotated[Path, typer.Option("--config", dir_okay=False, help="The agent's agent.yaml.")]
RequestName = Annotated[
    str, typer.Argument(metavar="REQUEST", help="A request: its job's name or id, or the first letters of its digest.")
]
Note = Annotated[str | None, typer.Option("--note", help="A few words for those who read it later; stays here.")]
_LEAST_DIGEST = 6
_SHOWN_DIGEST = 12
_MOST_NAMED = 5


@contextmanager
def _inbox(config: Path) -> "Iterator[tuple[Inbox, AgentSettings]]":
    from undersong.services.agent.consent.inbox import NotDecided, opened_inbox
    from undersong.services.agent.settings import ConfigError, load

    common.quiet_logs()
    try:
        settings = load(config)
        with opened_inbox(settings) as inbox:
            yield inbox, settings
    except ConfigError as error:
        raise UndersongError(str(error), remedy=f"name the agent's settings: --config, now {config}") from None
    except NotDecided as error:
        raise UndersongError(str(error), remedy="undersong consent show REQUEST says what holds now") from None


def _find(inbox: "Inbox", name: str) -> "InboxEntry":
    """Return the one request of this name; UndersongError where there is none, or more than one.

    Who submits a job chooses its name: of several, the newest may be one that its owner has not read.
    """
    with suppress(KeyError):
        return inbox.entry(name)
    entries = inbox.entries()
    found = [
        entry
        for entry in entries
        if name in (entry.request.job.name, entry.request.job_id)
        or (len(name) >= _LEAST_DIGEST and entry.digest.startswith(name))
    ]
    if not found:
        known = {entry.request.job.name for entry in entries}
        raise UndersongError(f"there is no request {name}{hint(name, known)}", remedy="undersong consent list")
    if len(found) > 1:
        named = ", ".join(f"{entry.digest[:_SHOWN_DIGEST]} ({_state(entry)})" for entry in found[:_MOST_NAMED])
        more = f" and {len(found) - _MOST_NAMED} more" if len(found) > _MOST_NAMED else ""
        raise UndersongError(
            f"{len(found)} requests are called {name}: {named}{more}",
            remedy="read them, and name the one that is meant by its digest (undersong consent list)",
        )
    return found[0]


@app.command("list")
def list_requests(
    config: ConfigPath = Path("agent.yaml"),
    most: Annotated[int, typer.Option("--most", min=1, max=1000, help="So many of the newest requests.")] = 50,
    as_json: common.AsJson = False,
) -> None:
    """List the requests, the newest first."""
    with _inbox(config) as (inbox, _):
        found = inbox.entries(most + 1)
    entries = found[:most]
    if as_json:
        common.print_json([_document(entry) for entry in entries])
        return
    if not entries:
        common.console.print("nothing was asked yet: with `consent: new` in policy.yaml, jobs wait here", style="dim")
        return
    for entry in entries:
        job = entry.request.job
        line = f"{entry.digest[:_SHOWN_DIGEST]}  {_state(entry):<22}  {job.name}  by {job.requester}"
        common.console.print(shown(line), markup=False, soft_wrap=True)
    if len(found) > most:
        common.console.print(f"earlier requests are not listed: --most {min(1000, 2 * most)}", style="dim")


@app.command()
def show(
    request: RequestName,
    source: Annotated[bool, typer.Option("--source", help="Print the recipe's source as well.")] = False,
    config: ConfigPath = Path("agent.yaml"),
    as_json: common.AsJson = False,
) -> None:
    """Show a request; fields that differ from the one that was approved last are marked with *."""
    from undersong.services.agent.consent.costs import costs, ledger_of
    from undersong.services.agent.consent.requests import changes, fields_of
    from undersong.services.agent.consent.sources import recipe_source

    with _inbox(config) as (inbox, settings):
        entry = _find(inbox, request)
        before = inbox.last_approved(entry)
        policy = _policy(settings)
        spent = [] if policy is None else list(costs(entry.request, ledger_of(settings, inbox.store), policy.privacy))
    old = None if before is None else fields_of(before.request)
    new = fields_of(entry.request)
    changed = set(changes(old, new))
    if as_json:
        common.print_json({**_document(entry), "changed": sorted(changed)})
        return
    lines = [("state", _state(entry)), *new.items(), *spent]
    for name, value in lines:
        common.console.print(
            shown(f"{'*' if name in changed else ' '} {name:<22} {common.text(value)}"), markup=False, soft_wrap=True
        )
        if name in changed and old is not None:
            said = f"  {'':<22} approved before: {common.text(old.get(name))}"
            common.console.print(shown(said), markup=False, soft_wrap=True)
    for each in entry.decisions:
        said = f"  {each.decision} by {each.key[:16]} at {utc_text(each.at_ms)}{f': {each.note}' if each.note else ''}"
        common.console.print(shown(said), markup=False, soft_wrap=True)
    found = recipe_source(settings, entry.request.recipe, entry.request.recipe_digest) if source else None
    if source:
        told = f"{found[0]}:\n{found[1]}" if found is not None else "the recipe's code is not here, or was replaced"
        typer.echo(shown(told))


@app.command()
def approve(
    request: RequestName,
    runs: Annotated[
        int | None, typer.Option("--runs", min=1, help="Rounds that may be run; by default all that are planned.")
    ] = None,
    until: Annotated[
        datetime | None, typer.Option("--until", help="Until when, as 2027-01-31 or 2027-01-31T18:00:00 (UTC).")
    ] = None,
    job_name: Annotated[
        str | None, typer.Option("--job-name", help="The job's name, which a costly request asks for.")
    ] = None,
    note: Note = None,
    key: owners.KeyPath = None,
    passphrase_file: owners.PassphraseFile = None,
    config: ConfigPath = Path("agent.yaml"),
) -> None:
    """Approve a request with the owner's key: its rounds are run from now on."""
    with _inbox(config) as (inbox, settings):
        entry = _find(inbox, request)
        _confirm(entry, _policy(settings), job_name)
        until_ms = None if until is None else round(until.replace(tzinfo=UTC).timestamp() * 1000)
        unlocked = owners.unlock(key, passphrase_file)
        decided = inbox.decide(entry.digest, unlocked, "approve", runs=runs, until_ms=until_ms, note=note)
    _print(decided)


@app.command()
def deny(
    request: RequestName,
    note: Note = None,
    key: owners.KeyPath = None,
    passphrase_file: owners.PassphraseFile = None,
    config: ConfigPath = Path("agent.yaml"),
) -> None:
    """Deny a request: its rounds are refused, until owners approve it after all."""
    _refuse("deny", request, note, key, passphrase_file, config)


@app.command()
def revoke(
    request: RequestName,
    note: Note = None,
    key: owners.KeyPath = None,
    passphrase_file: owners.PassphraseFile = None,
    config: ConfigPath = Path("agent.yaml"),
) -> None:
    """Take an approval back: from the next round on, the job's rounds are refused."""
    _refuse("revoke", request, note, key, passphrase_file, config)


@app.command()
def page(config: ConfigPath = Path("agent.yaml")) -> None:
    """Print the address of the running agent's page, which serves this inbox to a browser on this machine.

    The address holds a token: who has it, and an owner's passphrase, can decide.
    """
    from undersong.services.agent.settings import ConfigError, load

    try:
        file = load(config).data_dir / "consent-page"
    except ConfigError as error:
        raise UndersongError(str(error), remedy=f"name the agent's settings: --config, now {config}") from None
    if not file.exists():
        remedy = "put `consent_page: {port: 0, keys: [FILE]}` into agent.yaml, and start the agent"
        raise UndersongError("the agent serves no page", remedy=remedy)
    typer.echo(read_text(file).strip())


def _refuse(
    decision: str, request: str, note: str | None, key: Path | None, passphrase_file: Path | None, config: Path
) -> None:
    with _inbox(config) as (inbox, _):
        entry = _find(inbox, request)
        decided = inbox.decide(entry.digest, owners.unlock(key, passphrase_file), decision, note=note)
    _print(decided)


def _confirm(entry: "InboxEntry", policy: "Policy | None", typed: str | None) -> None:
    """Ask for the job's name where it may cost much of a budget; UndersongError unless it is right."""
    from undersong.services.agent.consent.requests import LARGE_SHARE

    if policy is None or not entry.request.large(policy.privacy):
        return
    name = entry.request.job.name
    said = f"The job may cost more than {LARGE_SHARE:.0%} of the budget. Type its name to approve it"
    if (typed or typer.prompt(said, err=True)) != name:
        raise UndersongError("that is not the job's name: nothing is approved", remedy="undersong consent show REQUEST")


def _policy(settings: "AgentSettings") -> "Policy | None":
    from undersong.services.agent.policy.file import PolicyError
    from undersong.services.agent.policy.owners import load_policy
    from undersong.services.agent.site.description import with_same_files

    try:
        return with_same_files(load_policy(settings)[0], settings)
    except PolicyError as error:
        common.complaints.print(f"budgets are not known: {error}", markup=False)
        return None


def _state(entry: "InboxEntry") -> str:
    now = entry.standing
    if now.state == "asked" and now.need > 1:
        return f"asked, {now.approvals} of {now.need}"
    if now.runs is not None:
        until = f", until {utc_text(now.until_ms)}" if now.until_ms is not None else ""
        return f"{now.state}, {now.runs_left} of {now.runs} runs left{until}"
    return str(now.state)


def _print(entry: "InboxEntry") -> None:
    line = f"{entry.digest[:_SHOWN_DIGEST]} {entry.request.job.name}: {_state(entry)}"
    common.console.print(shown(line), markup=False, soft_wrap=True)


def _document(entry: "InboxEntry") -> dict[str, Any]:
    return {
        "digest": entry.digest,
        "state": str(entry.standing.state),
        "approvals": entry.standing.approvals,
        "need": entry.standing.need,
        "used": entry.standing.used,
        "runs": entry.standing.runs,
        "until_ms": entry.standing.until_ms,
        "automatic": entry.automatic,
        "request": entry.request.model_dump(mode="json"),
        "decisions": [each.model_dump(mode="json") for each in entry.decisions],
    }
