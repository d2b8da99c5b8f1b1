"""`undersong recipe …`: a recipe of one's own: written, checked, and named for policies."""

import asyncio
import json
import re
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from undersong.cli import common, owners
from undersong.cli.bars import bars
from undersong.cli.jobs import read_spec
from undersong.errors import UndersongError
from undersong.progress import headline
from undersong.shared.names import hint

if TYPE_CHECKING:
    from undersong.own_recipes.check import RecipeCheck
    from undersong.shared.ids import Digest

app = typer.Typer(no_args_is_help=True, help="Recipes of your own: write, check and sign them.")
RecipeFile = Annotated[Path, typer.Argument(dir_okay=False, exists=True, help="A recipe's file.")]
_NAME: Final = re.compile(r"[a-z][a-z0-9_]{0,62}")


@app.command()
def new(
    name: Annotated[str, typer.Argument(help="The recipe's name, and its file's: NAME.py.")],
    kind: Annotated[
        str,
        typer.Option("--kind", help="torch (module and loss), sklearn (linear model) or numpy (two functions)."),
    ] = "torch",
) -> None:
    """Write a complete recipe of about twenty lines, to change, into this folder."""
    from undersong.own_recipes.templates import TEMPLATES

    if kind not in TEMPLATES:
        raise UndersongError(f"{kind!r} is no kind{hint(kind, TEMPLATES)}", remedy=f"choose {', '.join(TEMPLATES)}")
    if not _NAME.fullmatch(name):
        raise UndersongError(f"{name!r} is no name of a recipe", remedy="take letters, digits and _, in lower case")
    file = Path(f"{name}.py")
    try:
        with file.open("x", encoding="utf-8") as out:
            out.write(TEMPLATES[kind].format(name=name.replace("_", "-")))
    except FileExistsError:
        raise UndersongError(f"{file} is there already", remedy="take another name") from None
    common.console.print(f"{file} is written", markup=False, soft_wrap=True)
    common.next_step(f"undersong recipe check {common.quoted(file)}")


@app.command("from-flower")
def from_flower(
    folder: Annotated[Path, typer.Argument(file_okay=False, exists=True, help="The folder of a Flower app.")],
    out: Annotated[
        Path | None, typer.Option("--out", dir_okay=False, help="The recipe's file; without it NAME.py of the app.")
    ] = None,
    initial: Annotated[
        str | None, typer.Option("--initial", help="What makes the first model: package.module:function of the app.")
    ] = None,
    metric: Annotated[
        list[str] | None, typer.Option("--metric", help="A metric that evaluations return; several times for several.")
    ] = None,
    train_config: Annotated[
        list[str] | None,
        typer.Option(
            "--train-config",
            help="NAME=VALUE or NAME=SETTING of the app: what its ServerApp sends with each round, such as lr=0.01.",
        ),
    ] = None,
) -> None:
    """Write the recipe of a Flower app: one file with the app's files as they are."""
    from undersong.own_recipes.flower_app import app_files, recipe_text

    files = app_files(folder)
    text = recipe_text(
        files, initial=initial, metrics=tuple(metric or ()), train_config=dict(map(_setting, train_config or ()))
    )
    file = Path(f"{folder.resolve().name.replace('-', '_')}.py") if out is None else out
    try:
        with file.open("x", encoding="utf-8") as made:
            made.write(text)
    except FileExistsError:
        raise UndersongError(f"{file} is there already", remedy="name another with --out") from None
    common.console.print(f"{file} is written, with {len(files)} files of the app", markup=False, soft_wrap=True)
    common.next_step(f"undersong recipe check {common.quoted(file)} --data datasets.yaml")


def _setting(text: str) -> tuple[str, Any]:
    name, equals, value = text.partition("=")
    if not name or not equals:
        raise UndersongError(f"{text!r} is no setting", remedy="write NAME=VALUE, such as lr=0.01")
    try:
        return name, json.loads(value)
    except ValueError:
        return name, value


@app.command()
def check(
    file: RecipeFile,
    data: Annotated[
        Path | None,
        typer.Option("--data", dir_okay=False, exists=True, help="A datasets.yaml; without it rows are made."),
    ] = None,
    dataset: Annotated[str | None, typer.Option("--dataset", help="Which of its data sets.")] = None,
    job: Annotated[
        Path | None,
        typer.Option("--job", dir_okay=False, exists=True, help="A job's file, for its recipe.params."),
    ] = None,
    closed: Annotated[
        bool, typer.Option("--closed/--open", help="Run nothing where a part of the confinement is missing.")
    ] = True,
    as_json: common.AsJson = False,
) -> None:
    """Run a recipe as sites do, in a confined process, and print each fault with what helps; exits with 1 where there
    is one.
    """
    from undersong.own_recipes.check import check_recipe

    params = _params(job)
    common.quiet_logs()
    with tempfile.TemporaryDirectory(prefix="undersong-check-") as folder, bars() as bar_of:
        work = check_recipe(
            file.absolute(),
            Path(folder).resolve(),
            bar_of("training"),
            data=data,
            dataset=dataset,
            params=params,
            required=closed,
        )
        found = asyncio.run(work)
    if as_json:
        common.print_json(asdict(found))
    else:
        _print(file, found)
    if found.faults:
        raise typer.Exit(1)


def _params(job: Path | None) -> dict[str, Any]:
    part = {} if job is None else read_spec(job).get("recipe")
    params = part.get("params") if isinstance(part, dict) else None
    return params if isinstance(params, dict) else {}


def _print(file: Path, found: "RecipeCheck") -> None:
    for fault in found.faults:
        line = f"{file}: fault: {fault.step}: {fault.message}; {fault.remedy}"
        common.console.print(line, markup=False, soft_wrap=True)
    if found.metrics is not None:
        said = f"after 3 rounds with {found.parameters} parameters: {headline(found.metrics)}"
        common.console.print(f"{file}: {said}", markup=False, soft_wrap=True)
    if not found.faults:
        common.console.print(f"{file}: no fault", markup=False, soft_wrap=True)
        common.next_step(f"undersong recipe digest {common.quoted(file)}")


@app.command()
def digest(
    files: Annotated[
        list[Path], typer.Argument(metavar="FILE...", dir_okay=False, exists=True, help="Files of recipes.")
    ],
) -> None:
    """Print the lines by which a policy allows recipes, each with the digest of its code; nothing is run."""
    for file in files:
        typer.echo(f"- {{digest: {_digest(file)}}}  # {file.name}")
    common.complaints.print("these lines go under `recipes` in policy.yaml", markup=False)


@app.command()
def sign(file: RecipeFile, key: owners.KeyPath = None, passphrase_file: owners.PassphraseFile = None) -> None:
    """Sign a recipe's code, in FILE.sig beside it: sites whose policy names the signer allow it."""
    from undersong.shared.identity.signed_recipes import recipe_signature_file, sign_recipe

    unlocked = owners.unlock(key, passphrase_file)
    sign_recipe(file, _digest(file), unlocked)
    said = f"{file} is signed by {unlocked.public}, in {recipe_signature_file(file).name}: give sites both files"
    common.console.print(said, markup=False, soft_wrap=True)
    typer.echo(f"- {{signer: {unlocked.public}}}")
    common.complaints.print("this line goes under `recipes` in policy.yaml", markup=False)


def _digest(file: Path) -> "Digest":
    from undersong.recipes.protocol import source_digest

    return source_digest(file)
