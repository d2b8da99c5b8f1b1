"""`undersong federation …`."""

from typing import Annotated

import typer

from undersong.cli import common

app = typer.Typer(no_args_is_help=True, help="Organisations that learn together.")


@app.command()
def create(
    name: Annotated[str, typer.Argument(help="What it is called.")],
    profile: common.ProfileName = None,
    as_json: common.AsJson = False,
) -> None:
    """Make a federation."""
    with common.connect(profile) as client:
        common.show_one(client.create_federation(name), as_json=as_json)


@app.command("list")
def list_(profile: common.ProfileName = None, as_json: common.AsJson = False) -> None:
    """The federations that you may see."""
    with common.connect(profile) as client:
        columns = {"name": lambda f: f.name, "id": lambda f: f.id, "made": lambda f: f.created_at}
        common.show(client.federations(), columns, as_json=as_json, empty="none yet: undersong federation create NAME")
