"""`undersong backup` and `undersong restore`: an embedded platform, whole."""

from pathlib import Path
from typing import Annotated

import typer

from undersong import backup as backups
from undersong.cli import common

Home = Annotated[Path, typer.Option("--home", help="The platform's folder.")]
Data = Annotated[Path, typer.Argument(help="Folder of databases and blobs.")]
Keys = Annotated[Path, typer.Argument(help="Folder of key files, identities and tokens: keep it elsewhere.")]


def backup(data: Data, keys: Keys, home: Home = Path(".home")) -> None:
    """Copy the platform of this machine, running or not, into two new folders."""
    made = backups.back_up(home, data, keys)
    common.console.print(f"{made.files} files, {made.size / 2**20:.1f} MiB in {made.seconds:.1f} s")
    common.console.print(f"  data  {data}\n  keys  {keys}: without them the data opens nothing; keep the two apart")


def restore(
    data: Data,
    keys: Keys,
    home: Home = Path(".home"),
    sites: Annotated[
        bool, typer.Option("--sites/--no-sites", help="Also the agents; not where they live on elsewhere.")
    ] = True,
) -> None:
    """Rebuild a platform in an empty folder from a backup; agents will refuse what they have answered since."""
    made_at = backups.restore(data, keys, home, sites=sites)
    common.console.print(f"restored what was backed up at {made_at.isoformat(sep=' ')} into {home}")
    common.next_step(f"undersong up --home {common.quoted(home)}")
