"""`undersong api`: one request of the REST API, as the profile's user."""

from pathlib import Path
from typing import Annotated, Any, Final
from urllib.parse import parse_qsl, urlsplit

import typer

from undersong.cli import common
from undersong.cli.jobs import read_spec
from undersong.client import Client
from undersong.client.calls import Call
from undersong.errors import UndersongError
from undersong.shared.names import hint

METHODS: Final = ("GET", "POST", "PUT", "DELETE")
SERVICES: Final = ("coordinator", "registry", "keys", "aggregator")
_DESCRIBED: Final = "docs/openapi, which lists the operations of each service"


def api(
    method: Annotated[str, typer.Argument(help="GET, POST, PUT or DELETE.")],
    path: Annotated[str, typer.Argument(help="For example /v1/jobs or '/v1/jobs?state=running'.")],
    service: Annotated[str, typer.Option("--service", "-s", help=f"One of {', '.join(SERVICES)}.")] = "coordinator",
    body: Annotated[
        Path | None, typer.Option("--body", "-b", help="A JSON or YAML file with the request's body; - for stdin.")
    ] = None,
    every: Annotated[bool, typer.Option("--all", help="Read every page of a list, and print its items.")] = False,
    profile: common.ProfileName = None,
) -> None:
    """Make one request as the profile's user, and print the answer as JSON.

    A POST carries an idempotency key; requests are repeated while a service is away. The keys service gets the
    operator's token, the others the user's. What sites and services sign is refused to people.
    """
    call = _call(service, method.upper(), path, body)
    with common.connect(profile) as client:
        common.print_json(_items(client, call) if every else client.send(call))


def _call(service: str, method: str, path: str, body: Path | None) -> Call[Any]:
    if service not in SERVICES:
        raise UndersongError(f"no service is called {service!r}{hint(service, SERVICES)}", remedy=f"see {_DESCRIBED}")
    if method not in METHODS:
        raise UndersongError(f"{method!r} is no method of the API", remedy=f"one of: {', '.join(METHODS)}")
    if body is not None and method in ("GET", "DELETE"):
        raise UndersongError(f"a {method} has no body", remedy="leave out --body; what it asks for is in the path")
    address = urlsplit(path)
    if address.scheme or address.netloc or not address.path.startswith("/v1/") or "/../" in f"{address.path}/":
        raise UndersongError(f"{path!r} is no path of the API", remedy="a path such as /v1/jobs")
    query = parse_qsl(address.query, keep_blank_values=True)
    if len({name for name, _ in query}) < len(query):
        raise UndersongError("the path names one parameter twice", remedy="name each parameter once")
    if any(ord(letter) <= ord(" ") or ord(letter) > ord("~") for letter in address.path) or address.fragment:
        raise UndersongError(f"{path!r} is no path of the API", remedy="write other letters percent-encoded")
    sent = read_spec(body, example=_DESCRIBED) if body is not None else ({} if method == "POST" else None)
    return Call(service, method, address.path.removeprefix("/v1"), object, body=sent, query=dict(query))


def _items(client: Client, call: Call[Any]) -> list[Any]:
    """Return the items of every page of a list; raises UndersongError where the answer is no list."""
    if call.method != "GET":
        raise UndersongError("--all reads lists", remedy="it goes with GET")
    found: list[Any] = []
    after: str | int | None = None
    seen: set[str | int] = set()
    while True:
        page = client.send(call if after is None else Call(**{**vars(call), "query": {**call.query, "after": after}}))
        if not isinstance(page, dict) or not isinstance(page.get("items"), list):
            raise UndersongError(f"{call.method} {call.path} answers no list with pages", remedy="leave out --all")
        found += page["items"]
        after = page.get("next")
        if after is None:
            return found
        if after in seen:
            raise UndersongError(f"{call.method} {call.path} names a page that was read before")
        seen.add(after)
