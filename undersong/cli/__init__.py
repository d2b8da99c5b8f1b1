"""The command line: a module per noun; failures are one line with a remedy and an exit code."""

import sys
from typing import Annotated

import typer

from undersong import __version__
from undersong.cli import (
    agents,
    api,
    audits,
    backups,
    common,
    consents,
    data,
    demo,
    doctor,
    evidence,
    federations,
    jobs,
    ledgers,
    login,
    membership,
    models,
    owners,
    pending,
    platform,
    policies,
    predictions,
    privacy,
    privacy_documents,
    quickstart,
    recipes,
    schedules,
    serving,
    simulations,
    sites,
    stats,
    sweeps,
    tokens,
    webhooks,
)
from undersong.errors import UndersongError
from undersong.shared.files import NotAFile

app = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="Undersong: organisations that cannot pool data learn together.",
)
app.command("up")(platform.up)
app.command("demo")(demo.demo)
app.command("quickstart")(quickstart.quickstart)
app.command("doctor")(doctor.doctor)
app.command("backup")(backups.backup)
app.command("restore")(backups.restore)
app.command("evidence")(evidence.evidence)
app.command("verify")(evidence.verify)
app.command("predict")(predictions.predict)
models.app.command("export")(predictions.export)
app.command("audit")(audits.audit)
app.command("simulate")(simulations.simulate)
app.command("serve")(serving.serve)
app.command("datasheet")(privacy_documents.datasheet)
app.command("datamap")(privacy_documents.datamap)
app.command("login")(login.login)
app.command("logout")(login.logout)
app.command("api")(api.api)
app.command("changes")(membership.changes)
sites.app.command()(membership.invite)
sites.app.command()(membership.invitations)
sites.app.command()(membership.approve)
sites.app.command()(membership.certificates)
sites.app.command()(membership.resume)
app.add_typer(federations.app, name="federation")
app.add_typer(sites.app, name="site")
app.add_typer(agents.app, name="agent")
app.add_typer(policies.app, name="policy")
app.add_typer(owners.app, name="owner")
app.add_typer(ledgers.app, name="ledger")
app.add_typer(consents.app, name="consent")
app.add_typer(jobs.app, name="job")
app.add_typer(models.app, name="model")
app.add_typer(data.app, name="data")
app.add_typer(recipes.app, name="recipe")
app.add_typer(stats.app, name="stats")
app.add_typer(sweeps.app, name="sweep")
app.add_typer(privacy.app, name="privacy")
app.add_typer(schedules.app, name="schedule")
app.add_typer(webhooks.app, name="webhook")
app.add_typer(tokens.app, name="token")
app.add_typer(tokens.users, name="user")
app.add_typer(pending.app, name="pending")


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(__version__)
        raise typer.Exit


@app.callback()
def options(
    _version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="The version of this command.")
    ] = False,
) -> None:
    """Exit codes: 0 done; 1 refused or failed; 2 wrong usage, or no usable profile; 3 the platform did not start; 4 a
    service does not answer; 130 Ctrl-C.
    """


@app.command()
def version() -> None:
    """The version of this command."""
    typer.echo(__version__)


def main() -> None:
    """Run the command line; expected failures print one line and leave with their exit code."""
    try:
        app()
    except UndersongError as error:
        common.complain(error)
        sys.exit(error.exit_code)
    except NotAFile as error:
        common.complain(UndersongError(str(error), remedy="name a file"))
        sys.exit(UndersongError.exit_code)
    except ModuleNotFoundError as error:
        if (error.name or "undersong").partition(".")[0] == "undersong":
            raise
        remedy = (
            "pip install 'undersong[embedded]' for a platform on this machine, 'undersong[agent]' for a site's agent"
        )
        common.complain(UndersongError(f"this needs {error.name}, which is not installed", remedy=remedy))
        sys.exit(UndersongError.exit_code)
    except OSError as error:
        if error.filename is None:
            raise
        said = f"{error.filename}: {error.strerror}"
        common.complain(UndersongError(said, remedy="name a path that can be read and written, or correct its rights"))
        sys.exit(UndersongError.exit_code)
    except EOFError:
        said = "standard input ended where an answer was needed"
        common.complain(UndersongError(said, remedy="name a file with the token: --token-file"))
        sys.exit(UndersongError.exit_code)
    except KeyboardInterrupt:
        sys.exit(130)
