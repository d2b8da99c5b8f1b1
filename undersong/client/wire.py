"""What both clients share about HTTP: headers, problems as exceptions, when to try again."""

import contextlib
import json
import math
import random
import ssl
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, TypeVar
from urllib.parse import quote

import httpx
from pydantic import ValidationError

from undersong import __version__
from undersong.client.calls import Call
from undersong.client.types import Event
from undersong.errors import ApiError, ProfileError, UndersongError, UnreachableError
from undersong.profile import Profile
from undersong.shared.identity.transport import around_proxies, trust
from undersong.shared.ids import new_id
from undersong.shared.transparency.datasheet import DatasheetInvalid, SignedDatasheet, check_datasheet

T = TypeVar("T")

ATTEMPTS: Final = 8
PATIENCE_S: Final = 300.0  # a job is followed across an absence of the coordinator of this length
IDLE_S: Final = (
    20.0  # an event stream that is silent for longer is opened again: the coordinator writes every few seconds
)
TIMEOUT: Final = httpx.Timeout(30.0, connect=5.0)
TRY_AGAIN: Final = frozenset({429, 502, 503, 504})
MOMENT_S: Final = 0.05  # with less time left nothing is asked again
_EMPTY: Final[dict[str, Any]] = {}


def client_options(
    profile: Profile, timeout: float | httpx.Timeout = TIMEOUT, *, own_transport: bool = False
) -> dict[str, Any]:
    """Return keyword arguments for httpx: trust, time limits, no redirects.

    With a transport of the caller's own, trust and proxies are that transport's matter.
    """
    network = {} if own_transport else {"verify": _trust(profile), "mounts": around_proxies()}
    return {**network, "timeout": timeout, "headers": {"user-agent": f"undersong/{__version__}"}}


def _trust(profile: Profile) -> ssl.SSLContext | bool:
    if profile.ca_trust not in ("", "only", "added"):
        raise ProfileError(f"ca_trust is {profile.ca_trust!r}", remedy="only or added: `undersong login --ca-trust …`")
    file = Path(profile.ca_file) if profile.ca_file else None
    try:
        return trust(file, profile.urls().values(), "added" if profile.ca_trust == "added" else "only")
    except OSError as error:
        raise ProfileError(
            f"{profile.ca_file} holds no certificate to trust: {error}",
            remedy="name the platform's ca.pem: `undersong login --ca-file …` or UNDERSONG_CA_FILE",
        ) from error


def base_url(profile: Profile, service: str) -> str:
    """Return the service's base url; ProfileError when the profile does not name it."""
    url = profile.urls().get(service)
    if url is None:
        raise ProfileError(
            f"the profile names no {service} service", remedy=f"add it with `undersong login --{service}-url …`"
        )
    return url.rstrip("/")


def request_options(profile: Profile, call: Call[Any]) -> dict[str, Any]:
    """Return method, url, headers and body; made once per call so that repeats carry the same idempotency key."""
    token = profile.operator_token if call.service == "keys" else profile.token
    headers = {"accept": "application/json"}
    if token:
        headers["authorization"] = f"Bearer {token}"
    if call.method == "POST":
        headers["idempotency-key"] = new_id("req")
    options: dict[str, Any] = {
        "method": call.method,
        "url": f"{base_url(profile, call.service)}/v1{call.path}",
        "headers": headers,
        "params": dict(call.query),
    }
    if call.body is not None:
        options["json"] = dict(call.body)
    return options


def event_stream(profile: Profile, job_id: str, last_id: str) -> tuple[str, dict[str, str]]:
    """Return address and headers of a job's event stream, behind the event `last_id`."""
    headers = {"accept": "text/event-stream", "authorization": f"Bearer {profile.token}"}
    if last_id:
        headers["last-event-id"] = last_id
    return f"{base_url(profile, 'coordinator')}/v1/jobs/{quote(job_id, safe='')}/events", headers


def distrusts(error: Exception) -> bool:
    """Return whether it was for the other side's certificate; trying again would only meet the same."""
    return "CERTIFICATE_VERIFY_FAILED" in str(error)


def delay_s(attempt: int, response: httpx.Response | None) -> float:
    """Return how long to wait before attempt `attempt` + 1: what the service asks for, else 0.1 s doubling, with
    jitter.
    """
    asked = 0.0
    if response is not None:
        with contextlib.suppress(ValueError):
            asked = float(response.headers.get("retry-after", "0"))
    asked = asked if asked > 0 else 0.0  # NaN is not
    return float(max(min(asked, 10.0), min(0.1 * 2**attempt, 3.0) * random.uniform(0.5, 1.0)))  # noqa: S311  (jitter)


def within(timeout: httpx.Timeout, until: float) -> httpx.Timeout:
    """Return the time limits, none of them beyond `until` (monotonic seconds)."""
    left = max(until - time.monotonic(), MOMENT_S)
    return (
        httpx.Timeout(
            **{name: left if value is None else min(value, left) for name, value in timeout.as_dict().items()}
        )
        if left < math.inf
        else timeout
    )


def further(call: Call[Any], cursor: str, seen: set[str]) -> str:
    """Return the cursor of the next page and note it; ApiError where that page was read before."""
    if cursor in seen:
        raise ApiError(
            200,
            "unexpected-answer",
            "Unexpected answer",
            f"{call.service} answered {call.method} {call.path} with a page that was read before: the list has no end",
        )
    seen.add(cursor)
    return cursor


def parse(call: Call[T], response: httpx.Response) -> T:
    """Return the typed answer; ApiError for a refusal."""
    raise_for_problem(response)
    try:
        return call.parse(response.json() if response.content else _EMPTY)
    except (ValidationError, ValueError) as error:
        raise ApiError(response.status_code, "unexpected-answer", "Unexpected answer", _short(call, error)) from error


def _short(call: Call[Any], error: Exception) -> str:
    return (
        f"{call.service} answered {call.method} {call.path} in an unknown shape: {' '.join(str(error).split())[:300]}"
    )


def raise_for_problem(response: httpx.Response) -> None:
    """Raise the problem document (RFC 9457) that a refusal carries; the body must have been read."""
    if response.is_success or response.status_code == 304:
        return
    try:
        document = response.json()
    except ValueError:
        document = {}
    if not isinstance(document, dict):
        document = {}
    status = response.status_code
    slug = str(document.get("type", "")).rsplit("/", 1)[-1].rsplit(":", 1)[-1]
    errors = [
        (str(item.get("path", "")), str(item.get("message", "")))
        for item in document.get("errors") or []
        if isinstance(item, dict)
    ]
    title = str(document.get("title", response.reason_phrase))
    raise ApiError(status, slug, title, str(document.get("detail", "")) or f"{status} {title}", errors)


def is_passing(error: Exception) -> bool:
    """Return whether it may go away by itself: nothing answers, or the service is at fault; a refusal stays one."""
    return not isinstance(error, ApiError) or error.status in TRY_AGAIN or error.status >= 500


@dataclass
class Outage:
    """How long the coordinator has not answered while a job is followed, and whether that was told."""

    job_id: str
    timeout_s: float | None = None
    heard: float = field(default_factory=time.monotonic)
    told: bool = False
    until: float = field(init=False)

    def __post_init__(self) -> None:
        self.until = math.inf if self.timeout_s is None else self.heard + self.timeout_s

    def check(self) -> None:
        """Raise UndersongError when the job was followed for as long as its caller waits."""
        if time.monotonic() + MOMENT_S > self.until:
            raise UndersongError(
                f"job {self.job_id} has not ended within {self.timeout_s or 0:g} s",
                remedy=f"`undersong job watch {self.job_id}` goes on",
            )

    def ends(self) -> None:
        """Note that it answers."""
        self.heard, self.told = time.monotonic(), False

    def begins(self, error: Exception) -> bool:
        """Return whether this failure is the first; raises it where it is a refusal, or after `PATIENCE_S`; see
        `check`.
        """
        if is_passing(error):
            self.check()
        if not is_passing(error) or time.monotonic() > self.heard + PATIENCE_S:
            raise error
        first, self.told = not self.told, True
        return first


def unreachable(call_url: str, error: Exception) -> UnreachableError:
    """Return the one-line failure for a service that does not answer."""
    remedy = "is the platform up? `undersong doctor` looks"
    if "CERTIFICATE_VERIFY_FAILED" in str(error):
        remedy = "name the platform's ca.pem: `undersong login --ca-file …` or UNDERSONG_CA_FILE"
    return UnreachableError(f"{call_url} does not answer ({type(error).__name__}: {error})", remedy=remedy)


def checked_datasheet(signed: SignedDatasheet, version_id: str, ca_fingerprint: str) -> SignedDatasheet:
    """Return a datasheet that this federation's coordinator signed for this version; raises UndersongError."""
    try:
        sheet = check_datasheet(signed, ca_fingerprint)
    except DatasheetInvalid as error:
        remedy = "compare the fingerprint of the authority with the one that your federation published"
        raise UndersongError(
            f"the datasheet of {version_id} cannot be trusted: {error.detail}", remedy=remedy
        ) from error
    if sheet.subject.version_id != version_id:
        raise UndersongError(f"the datasheet is about {sheet.subject.version_id}, not about {version_id}")
    return signed


@dataclass
class EventParser:
    """Server-sent events, line by line, into `Event` values.

    Their data is the event as the API tells it ({number, type, actor, data, created_at}); `Event.data` is its `data`.
    """

    last_id: str = ""
    _fields: dict[str, list[str]] = field(default_factory=dict)

    def feed(self, line: str) -> Iterator[Event]:
        """Take one line without its end; yields an event when the line completes one."""
        if line:
            name, _, value = line.partition(":")
            if name:
                self._fields.setdefault(name, []).append(value.removeprefix(" "))
            return
        fields, self._fields = self._fields, {}
        self.last_id = fields.get("id", [self.last_id])[-1]
        if "data" in fields:
            yield self._event(fields)

    def _event(self, fields: dict[str, list[str]]) -> Event:
        try:
            told = json.loads("\n".join(fields["data"]))
        except ValueError:
            told = {}
        data = told.get("data") if isinstance(told, dict) else None
        return Event(
            id=self.last_id, type=fields.get("event", ["message"])[-1], data=data if isinstance(data, dict) else {}
        )
