"""`undersong model …`."""

import tempfile
from collections.abc import Mapping, Sequence
from http import HTTPStatus
from pathlib import Path
from typing import Annotated, Any

import typer

from undersong.cli import common
from undersong.cli.lookup import find_pulled, find_version
from undersong.client import ApiError, Client
from undersong.client.types import Model, Version
from undersong.progress import headline
from undersong.shared.files import check_writable

app = typer.Typer(no_args_is_help=True, help="Models and their immutable versions.")
ModelName = Annotated[str, typer.Argument(metavar="MODEL", help="Model, by name or id.")]
ModelOrVersion = Annotated[
    str, typer.Argument(metavar="MODEL[:VERSION]", help="Model, by name or id, or a version's id.")
]
VersionName = Annotated[str, typer.Option("--version", help="Number, id or alias; default: the newest.")]


@app.command("list")
def list_(
    federation: common.FederationName = None, profile: common.ProfileName = None, as_json: common.AsJson = False
) -> None:
    """Models."""
    with common.connect(profile) as client:
        chosen = client.federation(federation).id if federation else None
        models = client.models(chosen)
        versions = {} if as_json else {model.id: client.versions(model.id) for model in models}
        newest = {key: max(found, key=lambda v: v.number) for key, found in versions.items() if found}
        columns = {
            "name": lambda m: m.name,
            "versions": lambda m: m.versions if m.versions is not None else len(versions[m.id]),
            "newest": lambda m: newest[m.id].number if m.id in newest else None,
            "aliases": lambda m: _aliases(m, versions[m.id]),
            "metrics": lambda m: _measured(versions[m.id]),
            "made": lambda m: newest[m.id].created_at if m.id in newest else m.created_at,
            "id": lambda m: m.id,
        }
        empty = "none yet: undersong job submit job.yaml makes the first"
        common.show(models, columns, as_json=as_json, empty=empty)


@app.command("show")
def show_(name: ModelName, profile: common.ProfileName = None, as_json: common.AsJson = False) -> None:
    """The versions of a model."""
    with common.connect(profile) as client:
        model = common.find_model(client, name)
        columns = {
            "number": lambda v: v.number,
            "aliases": lambda v: ", ".join(sorted(key for key, to in model.aliases.items() if to == v.id)),
            "metrics": lambda v: headline(v.metrics),
            "kind": lambda v: v.lineage.get("kind"),
            "contributors": lambda v: v.lineage.get("contributors"),
            "made": lambda v: v.created_at,
            "privacy": lambda v: "claim-broken" if v.claim_broken else None,
            "digest": lambda v: v.content_digest[:16],
            "id": lambda v: v.id,
        }
        versions = client.versions(model.id)
        common.show(versions, columns, as_json=as_json, empty="no version yet: undersong job watch JOB")
        trained = [version for version in versions if version.lineage.get("kind") in ("initialise", "train")]
        if trained and not as_json:
            newest = max(trained, key=lambda version: version.number)
            _print_data(newest.lineage.get("data") or {})
            told = {version.id: version for version in versions if version.claim_broken} | {newest.id: newest}
            for version_id in told:
                _print_audits(client.version(version_id))


def _print_audits(version: Version) -> None:
    """Print what audits of a version found, and who told it."""
    for audit in version.audits:
        head = f"version {version.number}, {audit.document.get('kind')} by {audit.recorded_by}"
        broken = "claim-broken: " if audit.broken else ""
        said = f"{head}: {broken}{audit.document.get('sentence')}"
        common.console.print(said, style="bold red" if audit.broken else None, markup=False, soft_wrap=True)


def _print_data(data: Mapping[str, Any]) -> None:
    """Print what the newest version was trained on, and which columns it does not read."""
    if data.get("features"):
        common.console.print(f"features: {', '.join(data['features'])}", markup=False, soft_wrap=True)
        common.console.print(f"label: {data.get('label') or 'none'}", markup=False, soft_wrap=True)
    for column in data.get("columns") or []:
        if column["name"] == data.get("label") and column.get("categories"):
            common.console.print(f"classes in order: {', '.join(column['categories'])}", markup=False, soft_wrap=True)
    for column in data.get("unused") or []:
        common.console.print(f"not used: {column['name']} ({column['reason']})", markup=False, soft_wrap=True)


@app.command()
def pull(
    name: Annotated[
        str, typer.Argument(metavar="MODEL[:VERSION]|JOB", help="Model or job, by name or id, or a version's id.")
    ],
    out: Annotated[Path | None, typer.Option("--out", "-o", help="File (default: NAME-NUMBER.safetensors).")] = None,
    version: VersionName = "",
    last_good: Annotated[
        bool, typer.Option("--last-good", help="Where its stored file is damaged: the latest earlier one that is not.")
    ] = False,
    profile: common.ProfileName = None,
    as_json: common.AsJson = False,
) -> None:
    """Download a version as safetensors; its digest is checked before the file appears.

    Of a job it is the last version that the job made, also when it is paused or failed.
    """
    with common.connect(profile) as client:
        model, chosen = find_pulled(client, name, version)
        if last_good and (good := client.good_version(chosen.id)).id != chosen.id:
            said = f"version {chosen.number} is damaged at the registry: version {good.number} is the last good one"
            common.complaints.print(said, markup=False)
            chosen = good
        target = out or Path(f"{model.name}-{chosen.number}.safetensors")
        check_writable(target)
        digest = client.download(chosen.id, target)
    if as_json:
        common.print_json({"file": str(target), "version_id": chosen.id, "number": chosen.number, "digest": digest})
    else:
        common.console.print(f"{target}: {model.name} version {chosen.number}, sha256 {digest}", markup=False)


@app.command()
def promote(
    name: ModelOrVersion,
    version: VersionName = "",
    alias: Annotated[str, typer.Option("--alias", help="Which alias to point at the version.")] = "champion",
    reason: Annotated[str, typer.Option("--reason", help="Why, for the registry's audit trail.")] = "",
    profile: common.ProfileName = None,
) -> None:
    """Point an alias at a version."""
    with common.connect(profile) as client:
        model, chosen = find_version(client, name, version)
        client.set_alias(model.id, alias, chosen.id, reason)
        common.console.print(f"{model.name}: {alias} is now version {chosen.number} ({chosen.id})")


@app.command()
def history(name: ModelName, profile: common.ProfileName = None, as_json: common.AsJson = False) -> None:
    """Who moved the aliases of a model, when and why, newest first."""
    with common.connect(profile) as client:
        model = common.find_model(client, name)
        numbers = {version.id: f"version {version.number}" for version in client.versions(model.id)}
        names = _names_of_people(client)
        columns = {
            "when": lambda one: one.at,
            "alias": lambda one: one.alias,
            "to": lambda one: numbers.get(one.version_id, one.version_id) if one.version_id else "removed",
            "from": lambda one: numbers.get(one.before, one.before),
            "by": lambda one: names.get(one.by, one.by),
            "reason": lambda one: one.reason,
        }
        empty = f"none yet: undersong model promote {common.quoted(model.name)}"
        common.show(client.alias_changes(model.id), columns, as_json=as_json, empty=empty)


@app.command()
def diff(
    first: ModelOrVersion,
    second: ModelOrVersion,
    profile: common.ProfileName = None,
    as_json: common.AsJson = False,
) -> None:
    """What distinguishes two versions: metrics, and how far each tensor moved; both files are downloaded."""
    from undersong.model_difference import difference  # brings numpy

    with common.connect(profile) as client, tempfile.TemporaryDirectory(prefix="undersong-diff-") as folder:
        versions, files = [], []
        for place, name in enumerate((first, second)):
            _, found = find_version(client, name)
            versions.append(found)
            files.append(Path(folder) / f"{place}.safetensors")
            client.download(found.id, files[-1])
        moved = difference(*files)
    names = versions[0].metrics | versions[1].metrics
    metrics = {name: [version.metrics.get(name) for version in versions] for name in names}
    if as_json:
        told = {"versions": [version.id for version in versions], "metrics": metrics}
        common.print_json(told | {"tensors": [each.model_dump(mode="json") for each in moved]})
        return
    for name, (before, after) in metrics.items():
        common.console.print(f"{name}: {_short(before)} → {_short(after)}", markup=False)
    columns = {
        "tensor": lambda one: one.name,
        "shape": lambda one: one.shape,
        "norm": lambda one: _short(one.norm),
        "change": lambda one: _short(one.change),
        "relative": lambda one: None if one.relative is None else f"{one.relative:.2%}",
    }
    common.show(moved, columns, as_json=False, empty="neither has a tensor")


def _short(value: object) -> str:
    """Return a number with four digits, for people; --json has all."""
    return f"{value:.4g}" if isinstance(value, float) else common.text(value)


def _names_of_people(client: Client) -> dict[str, str]:
    """Return the names of users by id: all that the caller may know, at least their own."""
    me = client.me()
    try:
        return {user.id: user.name for user in client.users()}
    except ApiError as refusal:
        if refusal.status != HTTPStatus.FORBIDDEN:
            raise
        return {me.id: me.name}


def _aliases(model: Model, versions: Sequence[Version]) -> str:
    numbers = {version.id: version.number for version in versions}
    return ", ".join(f"{alias} → {numbers.get(to, to)}" for alias, to in sorted(model.aliases.items()))


def _measured(versions: Sequence[Version]) -> str:
    """Return the newest known metrics and their version as text."""
    measured = [version for version in versions if version.metrics]
    if not measured:
        return ""
    last = max(measured, key=lambda version: version.number)
    return f"{headline(last.metrics)} (version {last.number})"
