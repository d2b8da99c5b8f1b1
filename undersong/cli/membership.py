"""`undersong site invite|invitations|approve|certificates|resume` and `undersong changes`."""

from collections.abc import Sequence
from itertools import chain, count
from pathlib import Path
from typing import Annotated, Final

import typer

from undersong.cli import common
from undersong.client import Client
from undersong.client.types import Invitation, Site
from undersong.errors import UndersongError
from undersong.local.sites import write_private_bytes
from undersong.shared.files import check_writable, read_bytes
from undersong.shared.start_kit import StartKit

SiteName = Annotated[str, typer.Argument(help="Site, by name or id.")]
_SUFFIX: Final = ".tar.gz"
SHORT = 16  # letters of a fingerprint: what people read to each other


def invite(
    name: Annotated[str, typer.Argument(help="The site; one with this name that is there already is invited again.")],
    out: Annotated[Path | None, typer.Option("--out", help="The kit's file. Default: undersong-NAME.tar.gz")] = None,
    owner: Annotated[str, typer.Option("--owner", help="Who answers for a new site's data.")] = "",
    expires_in_s: Annotated[int, typer.Option("--expires-in-s", min=60, help="How long the token is good.")] = 86_400,
    federation: common.FederationName = None,
    profile: common.ProfileName = None,
    as_json: common.AsJson = False,
) -> None:
    """Invite a site, also one that lost its key: write a start kit with its files, commands and one enrolment token."""
    with common.connect(profile) as client:
        known = client.profile
        site = _site_to_invite(client, name, owner, federation, out)
        made = client.invite_site(site.id, expires_in_s)
        kit = StartKit(
            name=site.name,
            site_id=site.id,
            token=made.token,
            expires_at=made.expires_at,
            urls=known.urls(),
            ca_pem=read_bytes(Path(known.ca_file)) if known.ca_file else b"",
            needs_approval=made.needs_approval,
        )
    file = (out or _unused(kit.file_name)).resolve()
    write_private_bytes(file, kit.archive())
    if as_json:
        told = made.model_dump(mode="json", exclude={"token"})
        common.print_json({"site": site.model_dump(mode="json"), "kit": str(file), "invitation": told})
        return
    common.console.print(f"site {site.name} ({site.id}) is invited; its start kit is {file}", markup=False)
    line = f"the kit holds one secret, the enrolment token: single-use, until {made.expires_at:%Y-%m-%d %H:%M} UTC"
    common.console.print(line, markup=False)
    common.next_step("send it to the site over a channel that you trust; README.txt in it has the commands")
    if made.needs_approval:
        common.next_step(f"when its agent asks: undersong site approve {common.quoted(site.name)}")


def _site_to_invite(client: Client, name: str, owner: str, federation: str | None, out: Path | None) -> Site:
    """Return the site, made where there is none; first it is checked that the kit can be written."""
    where = client.federation(federation).id
    found = [site for site in client.sites(where) if name in (site.id, site.name)]
    if out is not None and out.exists():
        raise UndersongError(f"{out} exists", remedy="name another file: --out")
    check_writable((out or Path("kit")).resolve())
    return found[0] if found else client.create_site(where, name, owner or name)


def _unused(name: str) -> Path:
    """Return a file of this name, or with a number where an earlier kit of the site lies there."""
    whole = Path(name)
    numbered = (Path(f"{name.removesuffix(_SUFFIX)}-{number}{_SUFFIX}") for number in count(2))
    return next(file for file in chain([whole], numbered) if not file.exists())


def invitations(
    name: Annotated[str | None, typer.Argument(help="Only of this site, by name or id.")] = None,
    profile: common.ProfileName = None,
    as_json: common.AsJson = False,
) -> None:
    """Invitations, and the keys of sites that wait for the approval of the operator of the keys service."""
    with common.connect(profile) as client:
        found = client.invitations(None if name is None else _id_of(client, name))
        names = {} if as_json or not client.profile.token else {site.id: site.name for site in client.sites()}
    columns = {
        "site": lambda each: names.get(each.site_id, each.site_id),
        "state": lambda each: each.state,
        "key": lambda each: each.fingerprint,
        "invited by": lambda each: each.invited_by,
        "until": lambda each: f"{each.expires_at:%Y-%m-%d %H:%M} UTC",
        "id": lambda each: each.id,
    }
    common.show(found, columns, as_json=as_json, empty="none yet: undersong site invite NAME")


def approve(
    name: SiteName,
    fingerprint: Annotated[
        str | None,
        typer.Option("--fingerprint", help=f"The key's, as the site told it: all of it, or its first {SHORT} letters."),
    ] = None,
    profile: common.ProfileName = None,
) -> None:
    """Approve the key of an invited site, as operator of the keys service; its earlier certificates end."""
    with common.connect(profile) as client:
        waiting = _waiting(client.invitations(_id_of(client, name)), name)
        told = str(waiting.fingerprint)
        if fingerprint is None:
            common.console.print(f"{name}, invited by {waiting.invited_by}, asks with the key", markup=False)
            common.console.print(told, markup=False, soft_wrap=True)
            typer.confirm("Does the site itself tell the same?", abort=True)
        elif len(fingerprint) < SHORT:
            raise UndersongError(
                f"{len(fingerprint)} letters of a fingerprint can be met by another key",
                remedy=f"ask the site for at least the first {SHORT} letters",
            )
        elif not told.startswith(fingerprint.lower()):
            raise UndersongError(
                f"the key that waits is {told}, another than {fingerprint}",
                remedy="do not approve it; ask the site for its key, and invite it again",
            )
        done = client.approve_invitation(waiting.id, told)
    common.console.print(f"the key of {name} is {done.state}: its agent gets its certificate by itself", markup=False)


def _waiting(found: Sequence[Invitation], name: str) -> Invitation:
    for each in found:
        if each.state == "waiting":
            return each
    states = ", ".join(sorted({each.state for each in found})) or "none was made"
    raise UndersongError(
        f"no key of {name} waits for approval (invitations: {states})",
        remedy="start its agent; `undersong site invitations` shows when it has asked",
    )


def _id_of(client: Client, name: str) -> str:
    """Return a site's id; an operator of the keys service alone, who cannot ask for names, gives the id."""
    return name if name.startswith("site_") else common.find_site(client, name).id


def certificates(name: SiteName, profile: common.ProfileName = None, as_json: common.AsJson = False) -> None:
    """A site's certificates with their ends, and a warning where one ends soon."""
    with common.connect(profile) as client:
        site = common.find_site(client, name)
        found = client.site_certificates(site.id)
    columns = {
        "key": lambda each: each.keyid[:SHORT],
        "state": lambda each: each.state,
        "since": lambda each: f"{each.not_before:%Y-%m-%d}",
        "until": lambda each: f"{each.not_after:%Y-%m-%d %H:%M} UTC",
        "reason": lambda each: each.reason,
    }
    common.show(found, columns, as_json=as_json, empty=f"none yet: undersong site invite {common.quoted(name)}")
    if found and found[0].state in ("due", "ends-soon", "ended"):
        line = f"warning: {site.name} has not renewed its certificate: is its agent running? Else it must enrol again"
        common.complaints.print(f"{line}: undersong site invite {common.quoted(site.name)}", markup=False)


def resume(name: SiteName, profile: common.ProfileName = None) -> None:
    """Let a suspended site take part again."""
    with common.connect(profile) as client:
        site = common.find_site(client, name)
        client.unsuspend_site(site.id)
    common.console.print(f"site {site.name} may take part again", markup=False)


def changes(
    most: Annotated[int, typer.Option("--most", min=1, help="How many, the newest.")] = 50,
    profile: common.ProfileName = None,
    as_json: common.AsJson = False,
) -> None:
    """Who changed what about sites, people and their rights; for administrators and auditors."""
    columns = {
        "when": lambda each: f"{each.at:%Y-%m-%d %H:%M:%S}",
        "who": lambda each: each.actor,
        "what": lambda each: " ".join(filter(None, (each.action, each.data.get("what")))),
        "of": lambda each: each.data.get("name", each.subject),
        "id": lambda each: each.subject,
    }
    with common.connect(profile) as client:
        common.show(client.audit_entries(most), columns, as_json=as_json, empty="none yet")
