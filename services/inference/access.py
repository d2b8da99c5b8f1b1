"""Who may ask: bearers of the tokens in a file, or, on loopback addresses and without one, this machine's users."""

import hashlib
import hmac
from pathlib import Path
from typing import Annotated, Final
from urllib.parse import urlsplit

from fastapi import Depends, Request

from undersong.services.inference.settings import is_loopback
from undersong.shared.errors import Forbidden, Invalid
from undersong.shared.files import read_text
from undersong.shared.web.access import Presented, Principal, caller

_SHORTEST: Final = 20
_LONGEST: Final = 128  # as undersong.shared.web.access takes them


class TokensUnusable(Invalid):
    """The file of tokens cannot be used."""


class FileTokens:
    """A `TokenDirectory` of the tokens of a file, which is read once; it keeps their hashes only."""

    def __init__(self, tokens: list[str]) -> None:
        self._hashes = [_hashed(token) for token in tokens]

    @classmethod
    def read(cls, path: Path) -> "FileTokens":
        """Read a file of one token a line; empty lines and those that begin with # count for nothing.

        Raises TokensUnusable, which names no token, and OSError.
        """
        try:
            lines = [line.strip() for line in read_text(path).splitlines()]
        except UnicodeDecodeError:
            raise TokensUnusable(f"{path} is no text: write one token a line") from None
        tokens = [line for line in lines if line and not line.startswith("#")]
        if not tokens:
            raise TokensUnusable(f"{path} holds no token: write one with `openssl rand -hex 32`")
        for number, token in enumerate(tokens, 1):
            if not _SHORTEST <= len(token) <= _LONGEST or not token.isascii() or len(token.split()) > 1:
                raise TokensUnusable(
                    f"token {number} of {path} has not {_SHORTEST} to {_LONGEST} ASCII characters without spaces: "
                    "make one with `openssl rand -hex 32`"
                )
        return cls(tokens)

    async def lookup(self, token: str) -> Principal | None:
        """Return the bearer, named by the token's place in the file, or None."""
        shown = _hashed(token)
        found = [place for place, known in enumerate(self._hashes, 1) if hmac.compare_digest(known, shown)]
        return Principal(f"token-{found[0]}", f"token {found[0]}", ()) if found else None


def _hashed(token: str) -> bytes:
    return hashlib.sha256(token.encode()).digest()


async def permitted(request: Request, credentials: Presented) -> None:
    """Raise Unauthenticated or TokenRefused without a token of the file, where there is one.

    Without a file the request must name this machine: a page in a browser that was led to another name (DNS rebinding)
    is refused.
    """
    if not request.app.state.open:
        await caller(request, credentials)
    elif not is_loopback(urlsplit(f"//{request.headers.get('host', '')}").hostname or ""):
        raise Forbidden("without tokens this service answers requests to 127.0.0.1 or localhost only")


Permitted = Annotated[None, Depends(permitted)]
