"""`undersong site …`."""

from pathlib import Path
from typing import Annotated

import typer

from undersong.cli import common
from undersong.client.types import Site
from undersong.local.sites import SiteFolder

app = typer.Typer(no_args_is_help=True, help="Members of a federation, and their agents.")


@app.command()
def enroll(
    name: Annotated[str, typer.Argument(help="What the site is called.")],
    out: Annotated[Path | None, typer.Option("--out", help="Folder for the agent's files (default: NAME).")] = None,
    owner: Annotated[str, typer.Option("--owner", help="Who answers for the site's data.")] = "",
    datasets: Annotated[
        Path | None, typer.Option("--datasets", exists=True, dir_okay=False, help="A datasets.yaml to copy there.")
    ] = None,
    policy: Annotated[
        Path | None, typer.Option("--policy", exists=True, dir_okay=False, help="A policy.yaml to copy there.")
    ] = None,
    expires_in_s: Annotated[int, typer.Option("--expires-in-s", min=60, help="How long the token is good.")] = 86_400,
    federation: common.FederationName = None,
    profile: common.ProfileName = None,
    as_json: common.AsJson = False,
) -> None:
    """Add a site and write everything that its agent needs, with a single-use enrolment token."""
    folder = SiteFolder((out or Path(name)).resolve())
    with common.connect(profile) as client:
        site = client.create_site(client.federation(federation).id, name, owner)
        token = client.create_enrolment_token("site", site.id, site.federation_id, expires_in_s).token
        known = client.profile
        folder.write(known.urls(), token=token, datasets=datasets, policy=policy, ca_file=known.ca_file)
    if as_json:
        common.print_json({"site": site.model_dump(mode="json"), "config": str(folder.config)})
        return
    _tell(site, folder, datasets is not None)


@app.command("re-enroll")
def re_enroll(
    name: Annotated[str, typer.Argument(help="Site, by name or id.")],
    out: Annotated[
        Path | None, typer.Option("--out", help="Folder of the agent's files (default: the site's name).")
    ] = None,
    expires_in_s: Annotated[int, typer.Option("--expires-in-s", min=60, help="How long the token is good.")] = 86_400,
    profile: common.ProfileName = None,
    as_json: common.AsJson = False,
) -> None:
    """Give a site whose key or certificate is lost a new enrolment token, and revoke its certificates.

    The site keeps its id and history. In a folder that has an agent.yaml only token and addresses are new; its state,
    data declarations and policy stay.
    """
    with common.connect(profile) as client:
        site = common.find_site(client, name)
        folder = SiteFolder((out or Path(site.name)).resolve())
        valid = [found for found in client.certificates(site.id) if found["revoked_at"] is None]
        for found in valid:
            client.revoke_certificate(found["keyid"], "enrolled again")
        token = client.create_enrolment_token("site", site.id, site.federation_id, expires_in_s).token
        known = client.profile
        there = folder.config.exists()
        if there:
            folder.write_token(token)
            folder.write_addresses(known.urls(), known.ca_file)
        else:
            folder.write(known.urls(), token=token, ca_file=known.ca_file)
    if as_json:
        document = {"site": site.model_dump(mode="json"), "config": str(folder.config), "revoked": len(valid)}
        common.print_json(document)
        return
    common.console.print(f"certificates of {site.name} revoked: {len(valid)}", markup=False)
    if there:
        line = f"its new token is in {folder.path / 'enrol-token'}: a running agent takes it up within a minute"
        common.console.print(line, markup=False, soft_wrap=True)
        common.next_step(f"where no agent runs: undersong agent run --config {common.quoted(folder.config)}")
    else:
        _tell(site, folder, declared=False)


@app.command("list")
def list_(
    federation: common.FederationName = None, profile: common.ProfileName = None, as_json: common.AsJson = False
) -> None:
    """Sites with their liveness."""
    with common.connect(profile) as client:
        chosen = client.federation(federation).id if federation else None
        columns = {
            "name": lambda site: site.name,
            "state": _liveness,
            "seen": lambda site: site.last_seen_at,
            "data sets": _datasets,
            "id": lambda site: site.id,
        }
        common.show(client.sites(chosen), columns, as_json=as_json, empty="none yet: undersong site enroll NAME")


@app.command()
def suspend(
    name: Annotated[str, typer.Argument(help="Site, by name or id.")],
    lift: Annotated[bool, typer.Option("--lift", help="Let it take part again.")] = False,
    profile: common.ProfileName = None,
) -> None:
    """Keep a site out of new rounds, or let it back."""
    with common.connect(profile) as client:
        site = common.find_site(client, name)
        (client.unsuspend_site if lift else client.suspend_site)(site.id)
        common.console.print(f"site {site.name} {'may take part again' if lift else 'is suspended'}")


def _tell(site: Site, folder: SiteFolder, declared: bool) -> None:
    line = f"site {site.name} ({site.id}); its agent's files are in {folder.path}"
    common.console.print(line, markup=False, soft_wrap=True)
    if not declared:
        common.next_step(f"say what data it has in {folder.path / 'datasets.yaml'}")
    common.next_step(f"beside the data: undersong agent run --config {common.quoted(folder.config)}")


def _liveness(site: Site) -> str:
    if alarms := (site.profile or {}).get("alarms"):
        return "alarm: " + ", ".join(str(alarm.get("kind", "?")) for alarm in alarms)
    return site.state if site.state not in ("active", "unknown") else ("online" if site.online else "away")


def _datasets(site: Site) -> str:
    found = (site.profile or {}).get("datasets", [])
    return ", ".join(str(entry.get("name", "?")) for entry in found)
