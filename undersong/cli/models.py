"""`undersong model …`."""

from pathlib import Path
from typing import Annotated

import typer

from undersong.cli import common
from undersong.client import Client
from undersong.client.types import Model, Version
from undersong.errors import UndersongError

app = typer.Typer(no_args_is_help=True, help="Models and their immutable versions.")
ModelName = Annotated[str, typer.Argument(help="Model, by name or id.")]
VersionName = Annotated[str, typer.Option("--version", help="Number, id or alias; default: the newest.")]


@app.command("list")
def list_(
    federation: common.FederationName = None, profile: common.ProfileName = None, as_json: common.AsJson = False
) -> None:
    """Models."""
    with common.connect(profile) as client:
        chosen = common.find_federation(client, federation).id if federation else None
        columns = {"name": lambda m: m.name, "aliases": lambda m: _aliases(m), "id": lambda m: m.id}
        empty = "none yet: undersong job submit job.yaml makes the first"
        common.show(client.models(chosen), columns, as_json=as_json, empty=empty)


@app.command("show")
def show_(name: ModelName, profile: common.ProfileName = None, as_json: common.AsJson = False) -> None:
    """The versions of a model."""
    with common.connect(profile) as client:
        columns = {
            "number": lambda v: v.number,
            "kind": lambda v: v.lineage.get("kind"),
            "contributors": lambda v: v.lineage.get("contributors"),
            "made": lambda v: v.created_at,
            "digest": lambda v: v.content_digest[:16],
            "id": lambda v: v.id,
        }
        versions = client.versions(common.find_model(client, name).id)
        common.show(versions, columns, as_json=as_json, empty="no version yet: undersong job watch JOB")


@app.command()
def pull(
    name: ModelName,
    out: Annotated[Path | None, typer.Option("--out", "-o", help="File (default: NAME-NUMBER.safetensors).")] = None,
    version: VersionName = "",
    profile: common.ProfileName = None,
    as_json: common.AsJson = False,
) -> None:
    """Download a version as safetensors; its digest is checked before the file appears."""
    with common.connect(profile) as client:
        model = common.find_model(client, name)
        chosen = _find_version(client, model, version)
        target = out or Path(f"{model.name}-{chosen.number}.safetensors")
        digest = client.download(chosen.id, target)
    if as_json:
        common.print_json({"file": str(target), "version_id": chosen.id, "number": chosen.number, "digest": digest})
    else:
        common.console.print(f"{target}: {model.name} version {chosen.number}, sha256 {digest}")


@app.command()
def promote(
    name: ModelName,
    version: VersionName = "",
    alias: Annotated[str, typer.Option("--alias", help="Which alias to point at the version.")] = "champion",
    profile: common.ProfileName = None,
) -> None:
    """Point an alias at a version."""
    with common.connect(profile) as client:
        model = common.find_model(client, name)
        chosen = _find_version(client, model, version)
        client.set_alias(model.id, alias, chosen.id)
        common.console.print(f"{model.name}: {alias} is now version {chosen.number} ({chosen.id})")


def _aliases(model: Model) -> str:
    return ", ".join(sorted(model.aliases))


def _find_version(client: Client, model: Model, wanted: str) -> Version:
    versions = client.versions(model.id)
    if not versions:
        raise UndersongError(f"{model.name} has no version yet", remedy="undersong job list shows what trains it")
    if not wanted:
        return max(versions, key=lambda version: version.number)
    named = {model.aliases.get(wanted, wanted), wanted}
    for version in versions:
        if version.id in named or str(version.number) == wanted:
            return version
    raise UndersongError(f"{model.name} has no version {wanted!r}", remedy=f"undersong model show {model.name}")
