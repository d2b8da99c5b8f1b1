"""Who is looking: a sealed cookie that holds the person's API token, and the proof that a post came from our own page.

The cookie is AES-256-GCM under the coordinator's key file, so every API process can open it. The token inside is looked
up at each request, and so is whether the session was ended: revoking the token, or signing out, ends it at once.
"""

import base64
import binascii
import hmac
import json
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final, Self
from urllib.parse import parse_qs, urlsplit

from fastapi import Request, Response

from undersong.shared.errors import Forbidden, TooLarge
from undersong.shared.identity.sealing import SealBrokenError, Sealer

COOKIE: Final = "undersong_session"
FLOW_COOKIE: Final = "undersong_signon_"  # one for each sign-on that was begun: tabs do not meet
PATH: Final = "/dashboard"
LASTS: Final = timedelta(hours=12)  # one working day
_PLACE: Final = ("dashboard", "session", "cookie")
_FORM_LIMIT: Final = 8192  # bytes; our own forms stay under 1 KiB


class ForeignPost(Forbidden):
    """The form was not sent from this dashboard's own page."""


@dataclass(frozen=True, slots=True)
class Session:
    """A signed-in browser."""

    token: str
    csrf: str
    until: datetime
    id: str
    sign_on: bool = False

    @classmethod
    def begin(cls, token: str, now: datetime, *, sign_on: bool = False) -> Self:
        """Return a fresh session for a token that was just checked, or that a sign-on made for it."""
        return cls(token, secrets.token_urlsafe(24), now + LASTS, secrets.token_urlsafe(24), sign_on)

    def check(self, form: Mapping[str, str]) -> None:
        """Raise ForeignPost unless the form carries this session's own mark."""
        if not hmac.compare_digest(form.get("csrf", "").encode(), self.csrf.encode()):
            raise ForeignPost("Load the page again and repeat.")


@dataclass(frozen=True, slots=True)
class Jar:
    """How the browser keeps the session: over HTTPS under a name that no other host or path can set (``__Host-``)."""

    sealer: Sealer
    secure: bool

    @property
    def name(self) -> str:
        """The cookie's name."""
        return f"__Host-{COOKIE}" if self.secure else COOKIE

    @property
    def _where(self) -> dict[str, Any]:
        """The name's prefix asks for the path; over plain HTTP the cookie goes to our pages only."""
        path = "/" if self.secure else PATH
        return {"path": path, "secure": self.secure, "httponly": True, "samesite": "strict"}

    def write(self, response: Response, session: Session) -> None:
        """Hand the session to the browser: not readable by scripts, never sent from another site's page."""
        until = session.until.isoformat()
        plain = json.dumps([session.token, session.csrf, until, session.id, session.sign_on]).encode()
        value = base64.urlsafe_b64encode(self.sealer.seal(plain, *_PLACE)).decode()
        response.set_cookie(self.name, value, max_age=int(LASTS.total_seconds()), **self._where)

    def read(self, request: Request, now: datetime) -> Session | None:
        """Return the session of a request; None when there is none, it was changed, or it is over."""
        try:
            plain = self.sealer.open(base64.urlsafe_b64decode(request.cookies.get(self.name, "")), *_PLACE)
            token, csrf, until, session_id, *rest = json.loads(plain)
        except (SealBrokenError, binascii.Error, ValueError):
            return None
        session = Session(token, csrf, datetime.fromisoformat(until), session_id, rest == [True])
        return session if now < session.until else None

    def keep_flow(self, response: Response, mark: str, sealed: bytes, lasts: timedelta) -> None:
        """Have the browser keep a sign-on that it began; the issuer's answer comes from another site, hence `lax`."""
        value, where = base64.urlsafe_b64encode(sealed).decode(), {**self._where, "samesite": "lax"}
        response.set_cookie(self._flow(mark), value, max_age=int(lasts.total_seconds()), **where)

    def flow(self, request: Request, mark: str) -> bytes:
        """Return the sealed sign-on of this mark; empty where there is none."""
        try:
            return base64.urlsafe_b64decode(request.cookies.get(self._flow(mark), ""))
        except (binascii.Error, ValueError):
            return b""

    def drop_flow(self, response: Response, mark: str) -> None:
        """Have the browser forget a sign-on."""
        response.delete_cookie(self._flow(mark), **{**self._where, "samesite": "lax"})

    def flows(self, request: Request) -> list[str]:
        """Return the marks of the sign-ons that the browser began and did not end."""
        begin = self._flow("")
        return [name.removeprefix(begin) for name in request.cookies if name.startswith(begin)]

    def _flow(self, mark: str) -> str:
        return f"{'__Host-' if self.secure else ''}{FLOW_COOKIE}{mark}"

    def empty(self, response: Response) -> None:
        """Have the browser forget the session."""
        response.delete_cookie(self.name, **self._where)


def own_path(path: str) -> str:
    """Return the path if it is one of our own pages, else the first of them: nothing else is shown after signing in."""
    own = path == PATH or path.startswith(f"{PATH}/")
    return path if own and "//" not in path and "\\" not in path and path.isprintable() else PATH


async def form_of(request: Request, most: int = _FORM_LIMIT) -> dict[str, str]:
    """Return the fields of a small form; raises ForeignPost when a browser says that another site sent it."""
    origin = request.headers.get("origin")  # browsers without Sec-Fetch-Site have at least this
    foreign = origin is not None and urlsplit(origin).netloc != request.headers.get("host")
    if foreign or request.headers.get("sec-fetch-site", "same-origin") not in {"same-origin", "none"}:
        raise ForeignPost("The form came from another site.")
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > most:
            raise TooLarge(f"A form holds at most {most} bytes.")
    fields = parse_qs(body.decode("utf-8", "replace"), keep_blank_values=True, max_num_fields=10)
    return {name: values[0] for name, values in fields.items()}
