"""``python -m services.registry api | worker | migrate | rotate-identity | new-seal-key``."""

import argparse

from services.registry.settings import RegistrySettings
from services.registry.wiring import build_app, open_contents, open_database
from services.registry.worker import work
from shared.database.migrations import migrate
from shared.faults import arm
from shared.queues import worker_loop
from shared.telemetry.logs import configure_logging
from shared.telemetry.metrics import serve_metrics
from shared.telemetry.traces import configure_tracing
from shared.web.rotation import COMMANDS, rotate
from shared.web.server import serve
from shared.web.settings import load_settings


def main(arguments: list[str] | None = None) -> None:
    """Run one command."""
    parser = argparse.ArgumentParser(prog="python -m services.registry", description=__doc__)
    parser.add_argument("command", choices=["api", "worker", "migrate", *COMMANDS])
    command = parser.parse_args(arguments).command
    settings = load_settings(RegistrySettings)
    configure_logging("registry", settings.log_level, json=settings.log_json)
    configure_tracing("registry", settings.otel_endpoint)
    arm(f"registry.{command}")
    settings.data_dir.mkdir(parents=True, exist_ok=True)
    if command == "migrate" or settings.migrate_on_start:
        migrate(settings.database, "registry")
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
    elif command in COMMANDS:
        rotate(command, settings)


async def _work(settings: RegistrySettings) -> None:
    database = open_database(settings)
    try:
        await work(settings, database, open_contents(settings, database))
    finally:
        await database.close()


if __name__ == "__main__":
    main()
