"""`undersong pending …`: changes that one person asks for and another confirms."""

from collections.abc import Callable, Mapping
from typing import Annotated, Any

import typer

from undersong.cli import common
from undersong.client import ApiError, Client
from undersong.client.types import PendingAction
from undersong.errors import UndersongError

app = typer.Typer(no_args_is_help=True, help="Changes that take two persons, where the two-person rule is on.")
ActionId = Annotated[str, typer.Argument(metavar="ID", help="As `undersong pending list` shows it.")]
ACTIONS = ("site.suspend", "user.revoke", "token.revoke")


def done_or_asked(
    client: Client, action: str, subject: str, do: Callable[[], object], data: Mapping[str, Any] | None = None
) -> bool:
    """Do it, or where it takes two persons ask for it and tell who goes on; whether it is done."""
    try:
        do()
    except ApiError as refusal:
        if refusal.slug != "second-person-needed":
            raise
        _tell(client.request_action(action, subject, data))
        return False
    return True


def _tell(asked: PendingAction) -> None:
    until = "" if asked.expires_at is None else f" until {asked.expires_at:%Y-%m-%d %H:%M} UTC"
    common.console.print(f"{asked.action} of {asked.name} waits for a second person{until}", markup=False)
    common.next_step(f"another person of the role: undersong pending confirm {asked.id}")


@app.command()
def request(
    action: Annotated[str, typer.Argument(help=f"One of: {', '.join(ACTIONS)}; roles: `undersong user roles`.")],
    subject: Annotated[str, typer.Argument(help="The id of the site, user or token.")],
    reason: Annotated[str, typer.Option("--reason", help="For the second person.")] = "",
    profile: common.ProfileName = None,
    as_json: common.AsJson = False,
) -> None:
    """Ask for a change; what waits for the same already is shown."""
    if action not in ACTIONS:
        raise UndersongError(f"no such change: {action}", remedy=f"one of: {', '.join(ACTIONS)}")
    with common.connect(profile) as client:
        asked = client.request_action(action, subject, reason=reason)
    if as_json:
        common.print_json(asked.model_dump(mode="json"))
    else:
        _tell(asked)


@app.command("list")
def list_(
    all_: Annotated[bool, typer.Option("--all", help="Also what waits no longer.")] = False,
    profile: common.ProfileName = None,
    as_json: common.AsJson = False,
) -> None:
    """What waits for a second person; for administrators and owners."""
    columns = {
        "what": lambda each: f"{each.action} {each.name}",
        "state": lambda each: each.state,
        "asked by": lambda each: f"{each.requester}{' (you)' if each.mine else ''}",
        "reason": lambda each: each.reason,
        "until": lambda each: f"{each.expires_at:%Y-%m-%d %H:%M} UTC",
        "decided by": lambda each: each.decider,
        "id": lambda each: each.id,
    }
    with common.connect(profile) as client:
        found = [each for each in client.pending_actions() if all_ or each.state == "waiting"]
    common.show(found, columns, as_json=as_json, empty="nothing waits")


@app.command()
def confirm(action_id: ActionId, profile: common.ProfileName = None) -> None:
    """Confirm what another person asked for: it is done at once. Again changes nothing."""
    with common.connect(profile) as client:
        done = client.confirm_action(action_id)
    common.console.print(f"{done.action} of {done.name} is {done.state}: it is done", markup=False)


@app.command()
def withdraw(action_id: ActionId, profile: common.ProfileName = None) -> None:
    """Withdraw what waits, or refuse what another person asked for. Again changes nothing."""
    with common.connect(profile) as client:
        done = client.withdraw_action(action_id)
    common.console.print(f"{done.action} of {done.name} is {done.state}", markup=False)
