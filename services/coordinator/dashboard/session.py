"""Who is looking: a sealed cookie that holds the person's API token, and the proof that a post came from our own page.

The cookie is AES-256-GCM under the coordinator's key file, so every API process can open it and nothing is stored.
The token inside is looked up at each request: revoking the token ends the session at once.
"""

import base64
import binascii
import hmac
import json
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final, Self
from urllib.parse import parse_qs

from fastapi import Request, Response

from shared.errors import Forbidden, TooLarge
from shared.identity.sealing import SealBrokenError, Sealer

COOKIE: Final = "undersong_session"
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

    @classmethod
    def begin(cls, token: str, now: datetime) -> Self:
        """A fresh session for a token that was just checked."""
        return cls(token, secrets.token_urlsafe(24), now + LASTS)

    def check(self, form: Mapping[str, str]) -> None:
        """Raise ForeignPost unless the form carries this session's own mark."""
        if not hmac.compare_digest(form.get("csrf", "").encode(), self.csrf.encode()):
            raise ForeignPost("Load the page again and repeat.")


def write(response: Response, session: Session, sealer: Sealer, *, secure: bool) -> None:
    """Hand the session to the browser: not readable by scripts, never sent from another site's page."""
    plain = json.dumps([session.token, session.csrf, session.until.isoformat()]).encode()
    value = base64.urlsafe_b64encode(sealer.seal(plain, *_PLACE)).decode()
    response.set_cookie(
        COOKIE, value, max_age=int(LASTS.total_seconds()), path=PATH, secure=secure, httponly=True, samesite="strict"
    )


def read(request: Request, sealer: Sealer, now: datetime) -> Session | None:
    """The session of a request; None when there is none, it was changed, or it is over."""
    try:
        plain = sealer.open(base64.urlsafe_b64decode(request.cookies.get(COOKIE, "")), *_PLACE)
    except (SealBrokenError, binascii.Error, ValueError):
        return None
    token, csrf, until = json.loads(plain)
    session = Session(token, csrf, datetime.fromisoformat(until))
    return session if now < session.until else None


def end(response: Response) -> None:
    """Forget the session."""
    response.delete_cookie(COOKIE, path=PATH)


async def form_of(request: Request) -> dict[str, str]:
    """The fields of a small form; raises ForeignPost when a browser says that another site sent it."""
    if request.headers.get("sec-fetch-site", "same-origin") not in {"same-origin", "none"}:
        raise ForeignPost("The form came from another site.")
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > _FORM_LIMIT:
            raise TooLarge(f"A form holds at most {_FORM_LIMIT} bytes.")
    fields = parse_qs(body.decode("utf-8", "replace"), keep_blank_values=True, max_num_fields=10)
    return {name: values[0] for name, values in fields.items()}
