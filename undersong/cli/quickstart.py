"""`undersong quickstart`: one's own files, a site for each, and a model that all of them train."""

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from undersong.cli import common
from undersong.cli.jobs import follow
from undersong.cli.platform import wait_for_signal
from undersong.errors import UndersongError
from undersong.progress import headline
from undersong.shared.yaml_texts import dump_document

if TYPE_CHECKING:
    from undersong.local import Platform
    from undersong.quickstart import Plan


class LabelTask(StrEnum):
    """What the label is."""

    BINARY = "binary"
    MULTICLASS = "multiclass"
    REGRESSION = "regression"


class TableModel(StrEnum):
    """A model of recipe `tabular`."""

    LOGISTIC = "logistic"
    MLP = "mlp"


def quickstart(
    data: Annotated[
        list[Path], typer.Option("--data", exists=True, dir_okay=False, help="A site's file; once per site.")
    ],
    label: Annotated[str, typer.Option("--label", help="The column that the model is to predict.")],
    name: Annotated[str, typer.Option("--name", help="Of the data set, the job and the model.")] = "quickstart",
    model: Annotated[TableModel, typer.Option("--model", help="A linear model, or one with a hidden layer.")] = (
        TableModel.LOGISTIC
    ),
    task: Annotated[
        LabelTask | None, typer.Option("--task", help="What the label is; by default as its values say.")
    ] = None,
    rounds: Annotated[int, typer.Option("--rounds", min=1, max=500, help="Rounds of training.")] = 20,
    home: Annotated[Path, typer.Option("--home", help="A new folder for the platform's state.")] = Path(".quickstart"),
    stay: Annotated[bool, typer.Option("--stay", help="Keep the platform and its dashboard open afterwards.")] = False,
) -> None:
    """Train a model over your own files on this machine, a site for each, and print the commands that do it by hand."""
    if home.exists() and not (home.is_dir() and not any(home.iterdir())):
        raise UndersongError(
            f"{home} is not a new folder",
            remedy=f"name another: --home, or go on with it: undersong up --home {common.quoted(home)}",
        )
    from undersong.local import Platform
    from undersong.quickstart import plan  # brings numpy, which no other command needs

    made = plan(data, label, name=name, model=str(model), task=task and str(task), rounds=rounds)
    common.console.print(made.predicted, markup=False, soft_wrap=True)
    for column, reason in made.unused.items():
        common.console.print(f"column {column} is not used: {reason}", markup=False, soft_wrap=True)
    told = "types, categories and missing values are guesses: read, and correct, each site's datasets.yaml"
    common.console.print(told, markup=False, soft_wrap=True)
    with Platform(home, write_profile=True, report=_report) as platform:
        _run(platform, made, name)
        if stay:
            common.console.print(
                f"dashboard {platform.dashboard_url}, token {platform.home / 'secrets' / 'admin-token'}"
            )
            common.console.print("Ctrl-C stops everything.", style="dim")
            wait_for_signal()
    if not stay:
        common.next_step(f"undersong up --home {common.quoted(home)} starts it again, sites and model included")


def _run(platform: "Platform", made: "Plan", name: str) -> None:
    """Enrol the sites, train, check the evidence, each after the commands that do it by hand; Exit where it fails."""
    home, client = platform.home, platform.client
    _show(f"undersong up --home {common.quoted(home)}")
    sites = home / "sites"
    for site, draft in made.drafts.items():
        folder = sites / site
        config, declared = common.quoted(folder / "agent.yaml"), common.quoted(folder / "datasets.yaml")
        label, file = common.quoted(made.job["data"]["label"]), common.quoted(made.files[site])
        _show(f"undersong site enroll {site} --out {common.quoted(folder)}")
        _show(f"undersong data init {file} --name {common.quoted(name)} --label {label} --into {declared}")
        _show(f"undersong agent run --config {config}")
        folder.mkdir(parents=True)
        (folder / "datasets.yaml").write_text(draft)
        platform.add_site(site)
    platform.wait_sites_online(len(made.drafts))
    job_file = home / "job.yaml"
    job_file.write_text(dump_document(made.job))
    _show(f"undersong job submit {common.quoted(job_file)} --watch")
    job = follow(client, client.submit_job(made.job).id)
    if job.version_id is None:
        raise UndersongError(f"job {job.id} succeeded without a model version")
    from undersong.cli.evidence import show
    from undersong.verify import verify_now

    _show(f"undersong model pull {common.quoted(name)} --out {common.quoted(home / 'model.safetensors')}")
    version = client.version(job.version_id)
    client.download(version.id, home / "model.safetensors")
    common.console.print(f"{home / 'model.safetensors'}: {headline(version.metrics)}, over rows that no training saw")
    _show(f"undersong verify {common.quoted(name)}")
    found = verify_now(version.id, client, None)
    show(found)
    if not found.verified:
        raise typer.Exit(1)


def _report(line: str) -> None:
    common.console.print(line, style="dim", markup=False)


def _show(line: str) -> None:
    common.console.print(f"$ {line}", style="bold", markup=False, soft_wrap=True)
