"""The command line of the keys service: ``python -m services.keys api|worker|migrate|bootstrap|helper|…``."""

import argparse
import asyncio
import sys
from pathlib import Path

from services.keys.authority import reseal
from services.keys.helper import wiring as helper
from services.keys.helper.settings import HelperSettings
from services.keys.operators import OPERATOR_FILE, Bootstrap
from services.keys.settings import KeysSettings
from services.keys.wiring import assemble, build_app, open_database
from services.keys.worker import work
from shared.database.migrations import migrate
from shared.faults import arm
from shared.identity.authority import write_private
from shared.identity.sealing import Sealer, add_key, drop_old_keys
from shared.queues import Streams, worker_loop
from shared.telemetry.logs import configure_logging
from shared.telemetry.metrics import serve_metrics
from shared.telemetry.traces import configure_tracing
from shared.web.server import serve
from shared.web.settings import load_settings
from shared.wire.helper import HELPER


def main(arguments: list[str] | None = None) -> None:
    """Run one command."""
    parser = argparse.ArgumentParser(prog="python -m services.keys", description=__doc__)
    parser.add_argument(
        "command",
        choices=[
            "api",
            "worker",
            "migrate",
            "bootstrap",
            "new-operator-token",
            "new-seal-key",
            "reseal",
            "helper",
            "helper-migrate",
            "helper-restored",
        ],
    )
    parser.add_argument("--out", type=Path, help="where bootstrap and new-operator-token write their files (0600)")
    chosen = parser.parse_args(arguments)
    if chosen.command in ("bootstrap", "new-operator-token") and chosen.out is None:
        parser.error(f"{chosen.command} needs --out DIR")
    if chosen.command.startswith("helper"):  # another process, another store, another identity
        run_helper(load_settings(HelperSettings), chosen.command)
        return
    settings = load_settings(KeysSettings)
    configure_logging("keys", settings.log_level, json=settings.log_json)
    configure_tracing("keys", settings.otel_endpoint)
    arm(f"keys.{chosen.command}")
    run(chosen.command, settings, chosen.out)


def run_helper(settings: HelperSettings, command: str) -> None:
    """Bring the helper's schema to its head, erase what a restored copy must not use again, or be the helper."""
    arm(f"keys.{HELPER}")
    configure_logging(HELPER, settings.log_level, json=settings.log_json)
    configure_tracing(HELPER, settings.otel_endpoint)
    settings.data_dir.mkdir(parents=True, exist_ok=True)
    if command != "helper" or settings.migrate_on_start:
        migrate(settings.database, helper.PACKAGE)
    if command == "helper-restored":
        voided = asyncio.run(helper.void_rounds(settings))
        sys.stdout.write(f"{voided} rounds are void\n")
    elif command == "helper":
        serve(
            helper.build_app(settings),
            settings.host,
            settings.port,
            limits=settings.limits,
            proxies=settings.trusted_proxies,
            tls_file=settings.tls_file,
        )


def run(command: str, settings: KeysSettings, out: Path | None) -> None:
    """Run the command with these settings."""
    settings.data_dir.mkdir(parents=True, exist_ok=True)
    if command == "migrate" or settings.migrate_on_start or command == "bootstrap":
        migrate(settings.database, "keys")
    if command == "api":
        serve(
            build_app(settings),
            settings.host,
            settings.port,
            limits=settings.limits,
            proxies=settings.trusted_proxies,
            tls_file=settings.tls_file,
        )
    elif command == "worker":
        if settings.worker_metrics_port is not None:
            serve_metrics(settings.worker_metrics_port, settings.host)
        worker_loop(_work(settings))
    elif command == "bootstrap" and out is not None:
        _say(asyncio.run(_bootstrap(settings, out)))
    elif command == "new-operator-token" and out is not None:
        _say([asyncio.run(_new_operator_token(settings, out))])
    elif command == "new-seal-key":
        asyncio.run(_new_seal_key(settings))
    elif command == "reseal":
        asyncio.run(_reseal(settings))


async def _work(settings: KeysSettings) -> None:
    database, streams = open_database(settings), Streams(settings.redis)
    components = await assemble(settings, database)
    try:
        await work(settings, database, streams, components.enrolments)
    finally:
        await streams.close()
        await database.close()


async def _bootstrap(settings: KeysSettings, out: Path) -> list[Path]:
    database = open_database(settings)
    try:
        components = await assemble(settings, database)
        return await Bootstrap(database, components.operators, components.enrolments).run(out)
    finally:
        await database.close()


async def _new_operator_token(settings: KeysSettings, out: Path) -> Path:
    """Replace the operator's token; all earlier ones end now."""
    database = open_database(settings)
    try:
        components = await assemble(settings, database)
        path = out / OPERATOR_FILE
        out.mkdir(parents=True, exist_ok=True)  # noqa: ASYNC240  (one local call, before anything is served)
        write_private(path, (await components.operators.create(revoke_others=True)).encode() + b"\n")
        return path
    finally:
        await database.close()


async def _new_seal_key(settings: KeysSettings) -> None:
    """Put a new key first, re-seal everything, then forget the older keys; a crash in between loses nothing."""
    add_key(settings.seal_key)
    await _reseal(settings)
    drop_old_keys(settings.seal_key)


async def _reseal(settings: KeysSettings) -> None:
    """Bring everything under the first key of a file that somebody else writes."""
    database = open_database(settings)
    try:
        await reseal(database, Sealer(settings.seal_key))
    finally:
        await database.close()


def _say(paths: list[Path]) -> None:
    for path in paths:
        sys.stdout.write(f"wrote {path}\n")


if __name__ == "__main__":
    main()
