"""`undersong data …`: declare data sets and look at how sites declare them."""

from pathlib import Path
from typing import Annotated, Any

import typer
import yaml

from undersong.errors import UndersongError

app = typer.Typer(no_args_is_help=True, help="Data sets: declare a file.")


@app.command()
def init(
    file: Annotated[Path, typer.Argument(exists=True, dir_okay=False, help="The file that holds the rows.")],
    name: Annotated[str | None, typer.Option("--name", help="The data set's name; the file's own by default.")] = None,
) -> None:
    """Print a datasets.yaml entry for a file; read it and correct it before the agent uses it."""
    typer.echo(yaml.safe_dump({"datasets": [_draft(file, name)]}, sort_keys=False, allow_unicode=True), nl=False)


def _draft(file: Path, name: str | None) -> dict[str, Any]:
    from recipes.datasets import BadDataset  # brings numpy, which no other command needs
    from recipes.draft import draft_entry

    try:
        return draft_entry(file, name)
    except BadDataset as refusal:
        raise UndersongError(refusal.detail, remedy="correct the file, or write the entry by hand") from None
