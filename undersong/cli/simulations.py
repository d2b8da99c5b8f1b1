"""`undersong simulate`: a job over many clients on this machine."""

import json
from pathlib import Path
from typing import Annotated

import typer

from undersong.cli import common, job_page
from undersong.cli.bars import bars
from undersong.cli.jobs import SpecFile, read_spec
from undersong.progress import headline


def simulate(
    file: SpecFile,
    data: Annotated[
        list[Path] | None,
        typer.Option(
            "--data", dir_okay=False, exists=True, help="The datasets.yaml with the rows; several are clients."
        ),
    ] = None,
    clients: Annotated[int | None, typer.Option("--clients", help="How many clients the rows are dealt to.")] = None,
    partition: Annotated[
        str, typer.Option("--partition", help="How rows are dealt: iid, dirichlet:A, shards:K or by:COLUMN.")
    ] = "iid",
    sample: Annotated[
        str | None,
        typer.Option("--sample", help="The share of clients asked in a round, or poisson:Q; the job's by default."),
    ] = None,
    drop: Annotated[float, typer.Option("--drop", help="The probability that an asked client does not answer.")] = 0.0,
    slow: Annotated[
        str | None,
        typer.Option("--slow", help="How slow clients are: lognormal:S, or SHARE:FACTOR; with it time is simulated."),
    ] = None,
    round_s: Annotated[
        float | None,
        typer.Option("--round-s", help="With --slow: seconds of an ordinary client for a round; 60 by default."),
    ] = None,
    seed: Annotated[int | None, typer.Option("--seed", help="Seed of everything; the job's by default.")] = None,
    engine: Annotated[
        str, typer.Option("--engine", help="quantised: integers as deployed; plain: floats that are not rounded.")
    ] = "quantised",
    noise_servers: Annotated[
        int, typer.Option("--noise-servers", help="With privacy.model server: 2 as deployed, 1 as a trusted server.")
    ] = 2,
    workers: Annotated[
        str, typer.Option("--workers", help="Processes: auto for one on each core, 0 for none; or ray, ray:ADDRESS.")
    ] = "auto",
    recipe: Annotated[
        list[Path] | None, typer.Option("--recipe", exists=True, help="Source of a recipe of your own.")
    ] = None,
    out: Annotated[
        Path, typer.Option("--out", "-o", file_okay=False, help="Folder of results; the same again goes on there.")
    ] = Path("run"),
    as_json: common.AsJson = False,
) -> None:
    """Run a training job over many simulated clients on this machine: no platform is asked, no budget is spent.

    Recipes, quantiser, strategies and the cost of noise are the deployed ones. What was interrupted goes on where it
    was.
    """
    from undersong.simulate import simulate as run_simulation  # brings numpy and the coordinator's rules
    from undersong.simulate.checkpoints import standing
    from undersong.simulate.runs import RUN, SECONDS

    spec = read_spec(file)
    common.quiet_logs()
    if (before := standing(out)) is not None:
        common.complaints.print(before, markup=False, soft_wrap=True)
    with bars() as bar_of:
        run = run_simulation(
            spec,
            data or [Path("datasets.yaml")],
            clients=clients,
            partition=partition,
            sample=sample,
            drop=drop,
            slow=slow,
            round_s=round_s,
            seed=seed,
            engine=engine,
            noise_servers=noise_servers,
            workers=workers,
            out=out,
            recipes=recipe or (),
            report=bar_of("simulating"),
        )
    if as_json:
        common.print_json(json.loads((run.folder / RUN).read_text()))
        return
    common.console.print(f"simulated, {run.simulated['clients']} clients:", end=" ", markup=False)
    job_page.show(run.job, run.rounds, (), all_rounds=False)
    rows = run.frame()
    said = f"{headline(run.metrics)}; " if run.metrics else ""
    if rows and SECONDS in rows[-1]:
        said += f"{rows[-1][SECONDS]:,.0f} simulated seconds; "
    common.console.print(f"{said}{run.plot}, {run.model}, {run.folder / RUN}", markup=False, soft_wrap=True)
