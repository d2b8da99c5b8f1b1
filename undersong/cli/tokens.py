"""`undersong token …` and `undersong user …`."""

import re
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Annotated, Any

import typer

from undersong.cli import common, pending
from undersong.cli.lookup import find_token, find_user
from undersong.client.types import Token, User
from undersong.errors import UndersongError
from undersong.shared.web.scopes import SCOPES

app = typer.Typer(no_args_is_help=True, help="API tokens of people and programs.")
users = typer.Typer(no_args_is_help=True, help="People and programs that use the API.")
OfUser = Annotated[str | None, typer.Option("--user", help="Whose, by name or id; without it, your own.")]
ROLES = ("admin", "scientist", "owner", "auditor")


@app.command()
def create(
    name: Annotated[str, typer.Argument(help="Who will use it.")],
    role: Annotated[str, typer.Option("--role", help="admin, scientist, owner or auditor.")] = "scientist",
    expires: Annotated[
        str | None, typer.Option("--expires", help="Its life: 12h, 30d or never. [default: 90d]")
    ] = None,
    days: Annotated[int | None, typer.Option("--days", min=1, help="The same in days.")] = None,
    scope: Annotated[
        list[str] | None,
        typer.Option("--scope", help="What it is for, as jobs:read; again for more. Default: all that the role may."),
    ] = None,
    user_name: Annotated[
        str | None, typer.Option("--user", help="Make it for this user, who is there already, by name or id.")
    ] = None,
    federation: common.FederationName = None,
    profile: common.ProfileName = None,
    as_json: common.AsJson = False,
) -> None:
    """Make a user with one role and a token, which is shown once."""
    if role not in ROLES:
        raise UndersongError(f"no role is called {role!r}", remedy=f"one of: {', '.join(ROLES)}")
    body: dict[str, Any] = {"name": name, "expires_in_s": _life(expires, days)}
    if scope:
        body["scopes"] = _known(scope)
    with common.connect(profile) as client:
        if user_name is not None:
            user = find_user(client, user_name)
        else:
            where = None if federation is None and role == "admin" else client.federation(federation).id
            user = client.create_user(name, [{"role": role, "federation_id": where}])
        token = client.create_token({**body, "user_id": user.id})
    if as_json:
        common.print_json(token.model_dump(mode="json"))
    else:
        common.console.print(token.token or "", soft_wrap=True)
        common.complaints.print("shown once: keep it safe", style="dim")


@app.command("list")
def list_(user_name: OfUser = None, profile: common.ProfileName = None, as_json: common.AsJson = False) -> None:
    """Your tokens, or as an administrator another user's; what they are is stored nowhere."""
    with common.connect(profile) as client:
        columns = {
            "name": lambda token: token.name,
            "state": _state,
            "scopes": lambda token: ", ".join(token.scopes) if token.scopes else "all",
            "made": lambda token: token.created_at,
            "last used": lambda token: token.last_used_at or "never",
            "expires": lambda token: token.expires_at.date() if token.expires_at else "never",
            "id": lambda token: token.id,
        }
        found = client.tokens(None if user_name is None else find_user(client, user_name).id)
        common.show(found, columns, as_json=as_json, empty="none yet: undersong token create NAME")


@app.command()
def revoke(
    name: Annotated[str, typer.Argument(metavar="TOKEN", help="The token, by name or id; `token list` shows both.")],
    user_name: OfUser = None,
    profile: common.ProfileName = None,
) -> None:
    """End a token: at once at the coordinator, within seconds elsewhere. Again changes nothing."""
    with common.connect(profile) as client:
        if name.startswith("tok_"):
            token_id = name
        else:
            user_id = None if user_name is None else find_user(client, user_name).id
            token_id = find_token(client.tokens(user_id), name).id
        if pending.done_or_asked(client, "token.revoke", token_id, lambda: client.revoke_token(token_id)):
            common.console.print(f"token {name} is revoked", markup=False)


@users.command("list")
def list_users(profile: common.ProfileName = None, as_json: common.AsJson = False) -> None:
    """Everybody who may use the API, with their roles."""
    with common.connect(profile) as client:
        federations = {} if as_json else {found.id: found.name for found in client.federations()}
        columns = {
            "name": lambda user: user.name,
            "roles": lambda user: "revoked" if user.revoked_at else _roles(user, federations),
            "made": lambda user: user.created_at,
            "id": lambda user: user.id,
        }
        common.show(client.users(), columns, as_json=as_json, empty="none yet: undersong token create NAME")


@users.command("revoke")
def revoke_user(
    name: Annotated[str, typer.Argument(metavar="USER", help="The user, by name or id.")],
    profile: common.ProfileName = None,
) -> None:
    """End a user with all tokens and roles; jobs and entries stay. Again changes nothing."""
    with common.connect(profile) as client:
        user = find_user(client, name)
        if pending.done_or_asked(client, "user.revoke", user.id, lambda: client.revoke_user(user.id)):
            common.console.print(f"user {user.name} is revoked, with all tokens", markup=False)


@users.command("roles")
def set_roles(
    name: Annotated[str, typer.Argument(metavar="USER", help="The user, by name or id.")],
    role: Annotated[
        list[str], typer.Option("--role", help="ROLE of all federations, or ROLE:FEDERATION; again for more.")
    ],
    profile: common.ProfileName = None,
) -> None:
    """Give a user exactly these roles; a sign-on reads those of its groups again."""
    with common.connect(profile) as client:
        user, roles = find_user(client, name), []
        for each in role:
            word, _, where = each.partition(":")
            if word not in ROLES:
                raise UndersongError(f"no role is called {word!r}", remedy=f"one of: {', '.join(ROLES)}")
            roles.append({"role": word, "federation_id": client.federation(where).id if where else None})
        told = {"roles": roles}
        if pending.done_or_asked(client, "user.roles", user.id, lambda: client.set_roles(user.id, roles), told):
            common.console.print(f"user {user.name} has the roles {', '.join(role)}", markup=False)


def _life(expires: str | None, days: int | None) -> int | None:
    """Return the seconds of a token's life; None for one without an end."""
    if expires is not None and days is not None:
        raise UndersongError("--expires and --days are given, and mean the same", remedy="leave --days out")
    if expires == "never":
        return None
    found = re.fullmatch(r"([1-9][0-9]{0,4})(m|h|d)", f"{days or 90}d" if expires is None else expires)
    if found is None:
        raise UndersongError(f"--expires {expires}", remedy="a number of minutes, hours or days, as 30d, or never")
    return int(found[1]) * {"m": 60, "h": 3_600, "d": 86_400}[found[2]]


def _known(scopes: Sequence[str]) -> list[str]:
    """Return the scopes; raises UndersongError for one that does not exist."""
    unknown = [scope for scope in scopes if scope not in SCOPES]
    if unknown:
        raise UndersongError(f"no scope is called {', '.join(unknown)}", remedy=f"one of: {', '.join(SCOPES)}")
    return sorted(set(scopes))


def _state(token: Token) -> str:
    if token.revoked_at is not None:
        return "revoked"
    return "expired" if token.expires_at is not None and token.expires_at <= datetime.now(UTC) else "in force"


def _roles(user: User, federations: Mapping[str, str]) -> str:
    scopes = ((role["role"], role.get("federation_id")) for role in user.roles)
    return ", ".join(f"{role} of {federations.get(at, at) if at else 'all federations'}" for role, at in scopes)
