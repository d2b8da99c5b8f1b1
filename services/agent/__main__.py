"""`python -m undersong.services.agent --config agent.yaml [run|init|enrol|rotate|status|receipts|accept-log]`."""

from __future__ import annotations

import argparse
import asyncio
import json
import signal
import sqlite3
import sys
from collections.abc import Coroutine, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from undersong.services.agent.memory import leave_out

if __name__ == "__main__":  # before anything is imported that would load them
    leave_out()

import httpx
import yaml

from undersong.services.agent.consent.inbox import Inbox
from undersong.services.agent.domain.budgets import PrivacyRule
from undersong.services.agent.domain.rules import Detail, TaskFailure
from undersong.services.agent.ledger.accounts import accounts
from undersong.services.agent.ledger.book import Ledger
from undersong.services.agent.ledger.mark import LedgerMark
from undersong.services.agent.loop import EXCLUDED, Agent, http_client
from undersong.services.agent.policy import file as policies
from undersong.services.agent.policy.owners import OwnerMark
from undersong.services.agent.repository.alarms import Alarms
from undersong.services.agent.repository.state import AgentState
from undersong.services.agent.settings import AgentSettings, ConfigError, load
from undersong.services.agent.site.description import ensure_policy, with_same_files
from undersong.services.agent.site.device import check_device
from undersong.services.agent.transparency.receipts import ReceiptBook
from undersong.shared.errors import Refusal
from undersong.shared.faults import arm
from undersong.shared.files import NotAFile
from undersong.shared.identity.authority import Identity
from undersong.shared.identity.enrol import ensure_identity, rotate_now
from undersong.shared.secagg.engines import ENGINES
from undersong.shared.telemetry.logs import configure_logging
from undersong.shared.telemetry.traces import configure_tracing
from undersong.shared.terminal import shown

SETTINGS_ERROR = 2


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; 0, or 2 with one clear line when a person must act first."""
    options = parser().parse_args(arguments)
    try:
        if options.command == "init":
            write_config(options)
        settings = load(options.config)
        configure_logging("agent", settings.log_level.upper())
        arm(f"agent.{settings.data_dir.parent.name}")
        configure_tracing("agent", settings.otel_endpoint)
        return int(COMMANDS[options.command](settings, options))
    except (ConfigError, Refusal, TaskFailure, NotAFile) as error:
        sys.stderr.write(shown(f"agent: {getattr(error, 'detail', None) or error}\n"))
        return SETTINGS_ERROR


def parser() -> argparse.ArgumentParser:
    """Return the command line."""
    made = argparse.ArgumentParser(prog="python -m undersong.services.agent", description="One site's agent.")
    made.add_argument("--config", type=Path, default=Path("agent.yaml"), help="the agent's settings")
    commands = made.add_subparsers(dest="command")
    made.set_defaults(command="run")
    commands.add_parser("run", help="serve (the default)")
    init = commands.add_parser("init", help="write agent.yaml and an explicit policy.yaml where they are missing")
    for service in ("coordinator", "aggregator", "keys", "registry"):
        init.add_argument(f"--{service}-url", help="for agent.yaml")
    init.add_argument("--enrol-token-file", help="for agent.yaml: the file of the single-use token")
    init.add_argument("--datasets", help="path of datasets.yaml")
    init.add_argument("--min-cohort", type=int, default=3, help="for policy.yaml: the fewest sites in a sum")
    reports = [detail.value for detail in Detail]
    init.add_argument(
        "--reports",
        choices=reports,
        default=Detail.LOCATION.value,
        help="for policy.yaml: how much of a recipe's failure the platform is told",
    )
    enrol = commands.add_parser("enrol", help="exchange the enrolment token for a certificate")
    enrol.add_argument("--wait-s", type=float, default=60.0, help="seconds to wait for the keys service")
    commands.add_parser("rotate", help="a new key and certificate before its time")
    commands.add_parser("status", help="what this agent is and what it has answered")
    commands.add_parser("accept-log", help="forget alarms about the transparency log, once they are explained")
    receipts = commands.add_parser("receipts", help="proofs that this site's updates went into the sums unchanged")
    receipts.add_argument("--json", action="store_true", help="one JSON document")
    return made


def write_config(options: argparse.Namespace) -> None:
    """Write a first agent.yaml from the options, if there is none."""
    if options.config.exists():
        return
    names = ("coordinator_url", "aggregator_url", "keys_url", "registry_url", "enrol_token_file", "datasets")
    given = {name: getattr(options, name) for name in names if getattr(options, name)}
    options.config.parent.mkdir(parents=True, exist_ok=True)
    options.config.write_text(yaml.safe_dump({"data_dir": "state", **given}, sort_keys=False))


def run(settings: AgentSettings, _options: argparse.Namespace) -> int:
    """Serve until SIGTERM or SIGINT."""
    check_device(settings)
    return until_stopped(Agent(settings).run())


def init(settings: AgentSettings, options: argparse.Namespace) -> int:
    """Write the policy."""
    settings.data_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
    written = asyncio.run(ensure_policy(settings, min_cohort=options.min_cohort, reports=Detail(options.reports)))
    policies.load(settings.policy)
    sys.stdout.write(f"{settings.policy} {'written: read it' if written else 'is there and valid'}\n")
    return 0


def enrol(settings: AgentSettings, options: argparse.Namespace) -> int:
    """Get a certificate, unless there is one."""
    identity = asyncio.run(_enrol(settings, options.wait_s))
    holder = identity.holder
    sys.stdout.write(f"enrolled as {holder.subject.uri} until {holder.not_after.isoformat()}\n")
    return 0


async def _enrol(settings: AgentSettings, patience_s: float) -> Identity:
    async with http_client(settings) as http:
        return await ensure_identity(
            http, settings.keys_url, settings.data_dir / "identity", settings.enrol_token_file, patience_s=patience_s
        )


def rotate(settings: AgentSettings, _options: argparse.Namespace) -> int:
    """Exchange the key; a running agent takes it up within a minute."""

    async def exchange() -> Identity:
        async with http_client(settings) as http:
            return await rotate_now(http, settings.keys_url, settings.data_dir / "identity")

    holder = asyncio.run(exchange()).holder
    sys.stdout.write(f"{holder.subject.uri}: {holder.keyid} until {holder.not_after.isoformat()}\n")
    return 0


def status(settings: AgentSettings, _options: argparse.Namespace) -> int:
    """Print what is known here, as JSON; nothing is asked of the platform."""
    sys.stdout.write(json.dumps(status_of(settings), indent=2) + "\n")
    return 0


def status_of(settings: AgentSettings) -> dict[str, Any]:
    """Identity, contributions, receipts, and what a person should look at."""
    try:
        holder = Identity.load(settings.data_dir / "identity").holder
        party: dict[str, Any] | None = {
            "site": holder.subject.name,
            "federation": holder.subject.federation_id,
            "keyid": holder.keyid,
            "not_after": holder.not_after.isoformat(),
        }
    except FileNotFoundError:
        party = None
    found: dict[str, Any] = {"identity": party, "contributions": {}, "recent": [], "receipts": {}, "mismatches": []}
    found["excluded"], found["alarms"] = [], []
    with opened(settings) as state:
        if state is not None:
            book = ReceiptBook(state)
            mismatches = [dated(entry) for entry in book.listed() if entry["state"] == "mismatch"]
            recent = [dated(entry) for entry in state.recent(10)]
            known = {"contributions": state.counts(), "recent": recent, "receipts": book.counts()}
            excluded = state.fact(EXCLUDED)
            found["excluded"] = excluded if isinstance(excluded, list) else []
            told = state.fact("closed")
            closed = {str(name): str(how) for name, how in told.items()} if isinstance(told, dict) else {}
            found["alarms"] = [dated(entry) for entry in Alarms(state).listed()]
            found |= {**known, "mismatches": mismatches, "epoch": state.highest_epoch(), "closed": closed}
            found["unread"] = state.fact("unread") or {}
            found["ledger"] = _ledger(settings, state)
            found["consents"] = Inbox(state.store, settings.owners, OwnerMark(settings.owner_mark)).waiting()
    told = [f"{entry['kind']}: {entry['detail']}; {entry['remedy']}" for entry in found["alarms"]]
    if damage := found.get("ledger", {}).get("fault"):
        told.append(f"the ledger cannot be relied on: {damage}; see `undersong ledger verify`")
    told += [f"job {name} waits for consent: see `undersong consent show`" for name in found.get("consents", [])]
    told += warnings(settings, len(found["mismatches"]), found.get("closed", {}))
    told += [f"data set {name}: {why}" for name, why in found.get("unread", {}).items()]
    return {**found, "warnings": [*told, *(_exclusion(entry) for entry in found["excluded"])]}


def _ledger(settings: AgentSettings, state: AgentState) -> dict[str, Any]:
    """Return what is spent of each budget, and why the ledger cannot be relied on, if so."""
    rule = PrivacyRule()
    if settings.policy.exists():
        rule = with_same_files(policies.load(settings.policy)[0], settings).privacy
    ledger = Ledger(state.store, LedgerMark(settings.high_water))
    chain, fault = ledger.look()
    return {"fault": fault, "budgets": [each.document() for each in accounts(chain, rule, ledger.now())]}


def _exclusion(entry: dict[str, Any]) -> str:
    why = entry.get("message") or "no detail was given"
    return f"job {entry['job_id']} goes on without this site ({entry['code']}): {why}"


def warnings(settings: AgentSettings, mismatches: int, closed: dict[str, str]) -> list[str]:
    """Return what a person should know, in plain words."""
    found = []
    if mismatches:
        found.append(f"{mismatches} receipts do not match what this site sent: see `receipts`")
    allowed = policies.load(settings.policy)[0].engines if settings.policy.exists() else frozenset[str]()
    weak = [ENGINES[name] for name in sorted(allowed) if ENGINES[name].sees_updates]
    found += [
        f"the policy allows engine {facts.name}, which is weak: {facts.wording.seen_by} of this site" for facts in weak
    ]
    if left := ", ".join(sorted(name for name, state in closed.items() if state == "open")):
        found.append(f"this machine does not close to recipes: {left}; see docs/threat-model.md, or use runner: docker")
    return found


def accept_log(settings: AgentSettings, _options: argparse.Namespace) -> int:
    """Forget the alarms and what was seen of the log: a person has found out what happened."""
    with opened(settings) as state:
        cleared = Alarms(state).clear() if state is not None else 0
    sys.stdout.write(f"{cleared} alarms forgotten; the transparency log is read again from its beginning\n")
    return 0


def receipts(settings: AgentSettings, options: argparse.Namespace) -> int:
    """List the receipts; 1 when one does not match."""
    with opened(settings) as state:
        listed = [dated(entry) for entry in ReceiptBook(state).listed()] if state is not None else []
    if options.json:
        sys.stdout.write(json.dumps({"items": listed}, indent=2) + "\n")
    for entry in [] if options.json else listed:
        words = (entry["state"], entry["updated_at"][:19], entry["round_id"], entry["kind"], entry["engine"])
        line = "  ".join([*words, entry["body_digest"][:16], entry["reason"] or ""]).rstrip()
        sys.stdout.write(shown(line) + "\n")
    return 1 if any(entry["state"] == "mismatch" for entry in listed) else 0


def dated(entry: dict[str, Any]) -> dict[str, Any]:
    """Return a row with its time readable."""
    return {**entry, "updated_at": datetime.fromtimestamp(float(entry["updated_at"]), UTC).isoformat()}


@contextmanager
def opened(settings: AgentSettings) -> Iterator[AgentState | None]:
    """Open the state, if there is one; ConfigError where it cannot be read."""
    if not (settings.data_dir / "agent.sqlite").exists():
        yield None
        return
    try:
        state = AgentState(settings.data_dir)
    except sqlite3.Error as error:
        raise ConfigError(f"{settings.data_dir}: {error}") from error
    try:
        yield state
    except sqlite3.Error as error:
        raise ConfigError(f"{settings.data_dir}: {error}") from error
    finally:
        state.close()


def until_stopped(work: Coroutine[Any, Any, None]) -> int:
    """Run until the work ends or a signal asks to stop."""

    async def supervised() -> int:
        task = asyncio.ensure_future(work)
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, task.cancel)
        try:
            await task
        except asyncio.CancelledError:
            return 0
        return 0

    return asyncio.run(supervised())


COMMANDS = {
    "run": run, "init": init, "enrol": enrol, "rotate": rotate, "status": status, "receipts": receipts,
    "accept-log": accept_log,
}  # fmt: skip

if __name__ == "__main__":
    try:
        sys.exit(main())
    except httpx.TransportError as error:
        sys.exit(shown(f"agent: {error}"))
