"""`undersong site …`."""

from pathlib import Path
from typing import Annotated, Any

import typer

from undersong.cli import common, pending
from undersong.client import Client
from undersong.client.types import Job, Site
from undersong.local.sites import SiteFolder
from undersong.shared.files import check_writable
from undersong.shared.wire.profiles import ProfileFault

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
    check_writable(folder.config)
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
        check_writable(folder.config)
        valid = [found for found in client.certificates(site.id) if found["revoked_at"] is None]
        for found in valid:
            client.revoke_certificate(found["keyid"], "enrolled again")
        token = client.create_enrolment_token("site", site.id, site.federation_id, expires_in_s).token
        known = client.profile
        begun = _begun(client, site)
        there = folder.config.exists()
        if there:
            folder.write_token(token)
            folder.write_addresses(known.urls(), known.ca_file)
        else:
            folder.write(known.urls(), token=token, ca_file=known.ca_file)
    if as_json:
        jobs = [job.id for job in begun]
        document = {
            "site": site.model_dump(mode="json"),
            "config": str(folder.config),
            "revoked": len(valid),
            "begun_jobs": jobs,
        }
        common.print_json(document)
        return
    common.console.print(f"certificates of {site.name} revoked: {len(valid)}", markup=False)
    _warn(site, begun)
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
def show(
    name: Annotated[str, typer.Argument(help="Site, by name or id.")],
    profile: common.ProfileName = None,
    as_json: common.AsJson = False,
) -> None:
    """One site: its state, its agent, and what its agent told."""
    with common.connect(profile) as client:
        site = common.find_site(client, name)
    if as_json:
        common.print_json(site.model_dump(mode="json"))
        return
    told = site.profile or {}
    rows: dict[str, object] = {
        "name": site.name,
        "id": site.id,
        "owner": site.owner,
        "state": _liveness(site),
        "seen": site.last_seen_at,
        "agent": told.get("agent_version"),
        "data sets": _datasets(site),
        "recipes": ", ".join(str(entry.get("name", "?")) for entry in told.get("recipes", [])),
    }
    for key, value in rows.items():
        common.console.print(f"{key:<10} {common.text(value)}", markup=False, soft_wrap=True)
    for fault in _faults(site):
        said = f"{fault.get('code', '?')}: {ProfileFault.model_validate(fault).sentence}"
        line = f"{said}; its owner sees why with `undersong doctor --agent`"
        common.console.print(line, markup=False, soft_wrap=True)
    for alarm in told.get("alarms", []):
        common.console.print(f"alarm: {alarm.get('kind')}: {alarm.get('detail')}", markup=False, soft_wrap=True)


@app.command()
def suspend(
    name: Annotated[str, typer.Argument(help="Site, by name or id.")],
    lift: Annotated[bool, typer.Option("--lift", help="Let it take part again.")] = False,
    profile: common.ProfileName = None,
) -> None:
    """Keep a site out of new rounds, or let it back."""
    with common.connect(profile) as client:
        site = common.find_site(client, name)
        if lift:
            client.unsuspend_site(site.id)
            common.console.print(f"site {site.name} may take part again", markup=False)
        elif pending.done_or_asked(client, "site.suspend", site.id, lambda: client.suspend_site(site.id)):
            common.console.print(f"site {site.name} is suspended", markup=False)


def _begun(client: Client, site: Site) -> list[Job]:
    """Return the jobs that are not over, in which the site has committed to its number of samples."""
    open_ = [job for job in client.jobs(site.federation_id) if not job.finished and _counts_samples(job)]
    return [job for job in open_ if any(part.site_id == site.id and part.done for part in client.participation(job.id))]


def _counts_samples(job: Job) -> bool:
    """Return whether sites commit to their numbers of samples: where the job trains, and a number has a weight."""
    weight = (job.spec.get("update") or {}).get("max_weight", 1)
    equal = (job.spec.get("strategy") or {}).get("weighting") == "equal"
    return job.spec.get("kind", "train") == "train" and isinstance(weight, int) and weight > 1 and not equal


def _warn(site: Site, begun: list[Job]) -> None:
    """Tell which jobs a site that lost its state folder blocks, and what to do."""
    if not begun:
        return
    line = (
        f"warning: {site.name} has begun {len(begun)} jobs that are not over. If its state folder is lost, it cannot "
        "go on in them (sample-count-changed): a job goes on without it where cohort.min allows, else it pauses"
    )
    common.complaints.print(line, markup=False)
    for job in begun:
        need = (job.spec.get("cohort") or {}).get("min", "?")
        common.complaints.print(f"  {job.name} ({job.id}), {job.state}, needs {need} sites", markup=False)
    line = (
        "where the state folder is kept or put back: undersong job resume JOB. Where it is lost and the job needs the "
        "site: undersong job cancel JOB, and submit it again, with or without the site; its model.version_id "
        "names the version to go on from"
    )
    common.complaints.print(line, markup=False)


def _tell(site: Site, folder: SiteFolder, declared: bool) -> None:
    line = f"site {site.name} ({site.id}); its agent's files are in {folder.path}"
    common.console.print(line, markup=False, soft_wrap=True)
    if not declared:
        common.next_step(f"say what data it has in {folder.path / 'datasets.yaml'}")
    common.next_step(f"beside the data: undersong agent run --config {common.quoted(folder.config)}")


def _liveness(site: Site) -> str:
    if alarms := (site.profile or {}).get("alarms"):
        return "alarm: " + ", ".join(str(alarm.get("kind", "?")) for alarm in alarms)
    if site.state not in ("active", "unknown"):
        return site.state
    blocked = [str(fault.get("code", "?")) for fault in _faults(site) if fault.get("dataset") is None]
    return ", ".join(["online" if site.online else "away", *blocked])


def _faults(site: Site) -> list[dict[str, Any]]:
    """Return what the site's agent told that it cannot read; reasons are in its own log."""
    return [fault for fault in (site.profile or {}).get("faults") or [] if isinstance(fault, dict)]


def _unreadable(site: Site) -> list[str]:
    return [f"{fault['dataset']} (unreadable)" for fault in _faults(site) if fault.get("dataset") is not None]


def _datasets(site: Site) -> str:
    found = (site.profile or {}).get("datasets", [])
    return ", ".join([*(str(entry.get("name", "?")) for entry in found), *_unreadable(site)])
