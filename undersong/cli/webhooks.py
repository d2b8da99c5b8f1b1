"""`undersong webhook …`."""

from typing import Annotated

import typer

from undersong.cli import common
from undersong.client import Client
from undersong.client.types import WebhookDelivery
from undersong.errors import UndersongError

app = typer.Typer(no_args_is_help=True, help="Addresses that are told what happens to jobs.")
WebhookId = Annotated[
    str, typer.Argument(metavar="WEBHOOK", help="The webhook's id or address; `webhook list` shows both.")
]
STATES = ("waiting", "delivered", "dead")


@app.command()
def create(
    url: Annotated[str, typer.Argument(help="Within an origin that the operator allows.")],
    events: Annotated[list[str], typer.Option("--event", "-e", help="For example job.failed; may come several times.")],
    federation: common.FederationName = None,
    profile: common.ProfileName = None,
    as_json: common.AsJson = False,
) -> None:
    """Make a webhook; the secret with which its messages are signed is shown once."""
    with common.connect(profile) as client:
        made = client.create_webhook(url, events, federation)
    if as_json:
        common.print_json(made.model_dump(mode="json"))
    else:
        common.console.print(made.secret or "", soft_wrap=True)
        common.complaints.print("the secret is shown once: give it to the receiver", style="dim")
        common.next_step(f"undersong webhook test {made.id}")


@app.command("list")
def list_(
    federation: common.FederationName = None, profile: common.ProfileName = None, as_json: common.AsJson = False
) -> None:
    """The webhooks of a federation, with what waits and what was given up."""
    columns = {
        "address": lambda one: one.url,
        "events": lambda one: ", ".join(one.events),
        "waiting": lambda one: one.waiting,
        "given up": lambda one: one.dead,
        "made": lambda one: one.created_at,
        "id": lambda one: one.id,
    }
    with common.connect(profile) as client:
        found = client.webhooks(federation)
    common.show(found, columns, as_json=as_json, empty="none yet: undersong webhook create URL --event job.failed")


@app.command()
def delete(webhook: WebhookId, federation: common.FederationName = None, profile: common.ProfileName = None) -> None:
    """Delete a webhook with what is on its way to it. Again changes nothing."""
    with common.connect(profile) as client:
        client.delete_webhook(_id(client, webhook, federation))
    common.console.print(f"webhook {webhook} is deleted", markup=False)


@app.command("test")
def send_test(
    webhook: WebhookId,
    federation: common.FederationName = None,
    profile: common.ProfileName = None,
    as_json: common.AsJson = False,
) -> None:
    """Send a test message; `webhook deliveries` shows what came back."""
    with common.connect(profile) as client:
        made = client.test_webhook(_id(client, webhook, federation))
    if as_json:
        common.print_json(made.model_dump(mode="json"))
    else:
        common.next_step(f"undersong webhook deliveries {made.webhook_id}")


@app.command()
def deliveries(
    webhook: WebhookId,
    state: Annotated[str | None, typer.Option("--state", help=f"Only {', '.join(STATES)}.")] = None,
    federation: common.FederationName = None,
    profile: common.ProfileName = None,
    as_json: common.AsJson = False,
) -> None:
    """What was delivered to a webhook in the last 30 days, what waits, and what was given up (dead) after a day."""
    if state is not None and state not in STATES:
        raise UndersongError(f"no state is called {state!r}", remedy=f"one of: {', '.join(STATES)}")
    columns = {
        "event": lambda one: one.type,
        "state": lambda one: one.state,
        "attempts": lambda one: one.attempts,
        "answer": lambda one: one.answer,
        "since": lambda one: one.created_at,
        "next attempt": _next,
        "job": lambda one: one.job_id,
        "id": lambda one: one.id,
    }
    with common.connect(profile) as client:
        found = client.deliveries(_id(client, webhook, federation), state)
    common.show(found, columns, as_json=as_json, empty="nothing yet: undersong webhook test WEBHOOK")


@app.command()
def requeue(
    delivery: Annotated[str, typer.Argument(metavar="DELIVERY", help="Its id; `webhook deliveries` shows it.")],
    profile: common.ProfileName = None,
) -> None:
    """Try again to deliver what was given up."""
    if not delivery.startswith("dlv_"):
        raise UndersongError(
            f"{delivery!r} is no delivery's id", remedy="undersong webhook deliveries WEBHOOK --state dead shows them"
        )
    with common.connect(profile) as client:
        found = client.requeue_delivery(delivery)
    common.console.print(f"delivery {found.id} is {found.state}", markup=False)


def _next(delivery: WebhookDelivery) -> str:
    return "–" if delivery.next_attempt_at is None else f"{delivery.next_attempt_at:%H:%M:%S} UTC"


def _id(client: Client, webhook: str, federation: str | None) -> str:
    """Return the id of the webhook with this id or address."""
    if webhook.startswith("whk_"):
        return webhook
    found = [one.id for one in client.webhooks(federation) if one.url == webhook]
    if len(found) == 1:
        return found[0]
    what = f"{len(found)} webhooks have the address {webhook}" if found else f"no webhook has the address {webhook}"
    raise UndersongError(what, remedy="undersong webhook list shows their ids")
