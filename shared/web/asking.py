"""Who asks, before it is known who: what the limits need to know about a request."""

from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Final, Self

from starlette.types import Message, Scope, Send

from undersong.shared.identity.requests import CERTIFICATE_HEADER
from undersong.shared.identity.verify import Party
from undersong.shared.ids import digest_of
from undersong.shared.web.limits import Limiter

_FORM: Final = "form"
_UNAUTHENTICATED: Final = 401
_FREE: Final = ("/health/", "/metrics")
"""A probe must be answered when nothing else is."""


@dataclass(frozen=True, slots=True)
class Asking:
    """One request: its address, and the credential that it shows, by digest; None for none."""

    limiter: Limiter | None
    address: str
    credential: str | None
    signed: bool

    @classmethod
    def of(cls, scope: Scope, headers: Mapping[str, str]) -> Self:
        """Read the headers; nothing is believed yet."""
        limiter = None if scope["path"].startswith(_FREE) else getattr(scope["app"].state, "limiter", None)
        client = scope.get("client")
        shown = headers.get(CERTIFICATE_HEADER) if "signature-input" in headers else headers.get("authorization")
        credential: str | None = None if shown is None else digest_of(shown.encode())
        if shown is None and scope["method"] == "POST" and scope["path"].endswith("/login"):
            credential = _FORM
        return cls(limiter, client[0] if client else "", credential, "signature-input" in headers)

    def begin(self, held: ExitStack) -> None:
        """Count the request, and hold its place while it lasts; raises RateLimited or Overloaded."""
        if self.limiter is None:
            return
        held.enter_context(self.limiter.at_work())
        if self.credential is None:
            self.limiter.unknown(self.address)
            return
        self.limiter.may_try(self.address, self.credential)
        if self.credential == _FORM:
            self.limiter.unknown(self.address)
        elif not self.signed:
            self.limiter.known(self.credential)

    def signed_by(self, party: Party) -> None:
        """Note that the signature holds; sites are limited, services are not. Raises RateLimited."""
        if self.limiter is not None and party.subject.kind == "site":
            self.limiter.known(party.subject.uri)

    def judged(self, *, good: bool) -> None:
        """Note whether the credential was what it claimed to be."""
        if self.limiter is not None and self.credential is not None and not (good and self.credential == _FORM):
            self.limiter.judged(self.address, self.credential, good=good)

    def watched(self, send: Send) -> Send:
        """Learn from the answer what came of a token; signatures were judged at the door."""
        if self.limiter is None or self.credential is None or self.signed:
            return send

        async def watching(message: Message) -> None:
            if message["type"] == "http.response.start":
                self.judged(good=message["status"] != _UNAUTHENTICATED)
            await send(message)

        return watching
