"""The owner's inbox as a page for a browser on the agent's own machine.

It listens on 127.0.0.1 only. Every answer with content needs a token that is made at each start and written to a file
that only the agent's user reads; it comes in a header, so no other site's page can send it. Requests must name the
page's own address as their host, so that no other name that leads to 127.0.0.1 (DNS rebinding) reaches anything, and
decisions must come from a page of this origin.
"""

from __future__ import annotations

import hmac
import json
import re
import secrets
import threading
import time
from collections.abc import Callable, Mapping
from datetime import UTC, date, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from socketserver import TCPServer
from typing import Any, Final
from urllib.parse import quote

import structlog
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from undersong.services.agent.consent.costs import costs, ledger_of
from undersong.services.agent.consent.inbox import Inbox, InboxEntry, NotDecided
from undersong.services.agent.consent.requests import changes, fields_of
from undersong.services.agent.consent.sources import recipe_source
from undersong.services.agent.domain.rules import Policy
from undersong.services.agent.repository.store import Store
from undersong.services.agent.settings import AgentSettings, ConfigError, ConsentPageSettings
from undersong.shared.files import read_bytes
from undersong.shared.identity.authority import write_private
from undersong.shared.identity.owner import BadOwnerKey, OwnerKey

ADDRESS_FILE: Final = "consent-page"
_HOST: Final = "127.0.0.1"
_MOST_BODY: Final = 16 * 1024
_WRONG_S: Final = 1.0  # between two tries of a passphrase
_IDLE_S: Final = 15.0
_AT_ONCE: Final = 32
_LENGTH: Final = re.compile("[0-9]{1,12}")
_LIST: Final = re.compile(r"/api/requests(?:\?most=([1-9][0-9]{0,2}|1000))?")
PAGE: Final = 50
"""So many requests are listed where no other number is asked for."""
_FILES: Final = {
    "/": ("index.html", "text/html; charset=utf-8"),
    "/page.css": ("page.css", "text/css; charset=utf-8"),
    "/page.js": ("page.js", "text/javascript; charset=utf-8"),
}
_HEADERS: Final = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
    "form-action 'none'; frame-ancestors 'none'; base-uri 'none'",
    "Cache-Control": "no-store",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
}
log: structlog.stdlib.BoundLogger = structlog.get_logger(__name__)


class Refused(Exception):
    """The request is refused with a status; the text is for the person at the page."""

    def __init__(self, status: int, detail: str) -> None:
        super().__init__(detail)
        self.status, self.detail = status, detail


class AskedDecision(BaseModel):
    """What the page's form sends."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    decision: str = Field(pattern="^(approve|deny|revoke)$")
    key: str = Field(max_length=200)
    passphrase: str = Field(default="", max_length=1000, repr=False)
    runs: int | None = Field(default=None, ge=1, lt=2**31)
    until: date | None = None
    note: str | None = Field(default=None, min_length=1, max_length=200)
    job_name: str | None = Field(default=None, max_length=200)


class ConsentPage:
    """The page and what it shows; `address` holds the token, and is a secret."""

    def __init__(
        self,
        settings: AgentSettings,
        page: ConsentPageSettings,
        store: Store,
        inbox: Inbox,
        policy: Callable[[], Policy],
    ) -> None:
        self._settings, self._page, self._inbox, self._policy = settings, page, inbox, policy
        self._store = store
        self.token = secrets.token_urlsafe(32)
        self._trying = threading.Lock()

    def listed(self, most: int = PAGE) -> dict[str, Any]:
        """Return the newest requests, newest first, whether there are more, and the keys that can be used here."""
        found = self._inbox.entries(most + 1)
        return {
            "requests": [_summary(entry) for entry in found[:most]],
            "more": len(found) > most,
            "keys": [path.name for path in self._page.keys],
            "site": self._settings.data_dir.parent.name,
        }

    def shown(self, digest: str) -> dict[str, Any]:
        """Return one request with what differs from the last approved one; Refused where there is none."""
        entry = self._entry(digest)
        before, policy = self._inbox.last_approved(entry), self._policy()
        old = None if before is None else fields_of(before.request)
        new = fields_of(entry.request)
        ledger = ledger_of(self._settings, self._store)  # read anew: the agent adds lines through the same connection
        changed = set(changes(old, new))
        lines = [*new.items(), *costs(entry.request, ledger, policy.privacy)]
        source = recipe_source(self._settings, entry.request.recipe, entry.request.recipe_digest)
        return {
            **_summary(entry),
            "fields": [
                {"name": name, "value": _text(value), "before": _text(old[name]) if name in changed and old else None}
                for name, value in lines
            ],
            "compared": None if before is None else before.digest,
            "decisions": [each.model_dump(mode="json") for each in entry.decisions],
            "source": {"file": source[0], "text": source[1]} if source is not None else None,
            "large": entry.request.large(policy.privacy),
        }

    def decide(self, digest: str, asked: AskedDecision) -> dict[str, Any]:
        """Take a decision with the owner's key, unlocked for this moment, and return the request as it is then."""
        entry = self._entry(digest)
        large = asked.decision == "approve" and entry.request.large(self._policy().privacy)
        if large and asked.job_name != entry.request.job.name:
            raise Refused(422, "Type the job's name exactly: it may cost much of the budget.")
        until = None
        if asked.until is not None:
            midnight = datetime(asked.until.year, asked.until.month, asked.until.day, tzinfo=UTC)
            until = round(midnight.timestamp() * 1000) + 86_400_000  # to the end of the day
        key = self._unlock(asked)
        try:
            self._inbox.decide(digest, key, asked.decision, runs=asked.runs, until_ms=until, note=asked.note)
        except NotDecided as error:
            raise Refused(409, f"{str(error)[:1].upper()}{str(error)[1:]}.") from None
        return self.shown(digest)

    def _unlock(self, asked: AskedDecision) -> OwnerKey:
        path = next((path for path in self._page.keys if path.name == asked.key), None)
        if path is None:
            raise Refused(422, "There is no such key: consent_page.keys in agent.yaml names them.")
        with self._trying:
            try:
                return OwnerKey.load(path, asked.passphrase.encode())
            except BadOwnerKey:
                time.sleep(_WRONG_S)
                raise Refused(403, "The passphrase does not open this key.") from None
            except OSError as error:
                raise Refused(403, f"The key file cannot be read: {error.strerror}.") from None

    def _entry(self, digest: str) -> InboxEntry:
        try:
            return self._inbox.entry(digest)
        except KeyError:
            raise Refused(404, "There is no such request.") from None


class PageServer:
    """Serves a `ConsentPage` in threads of its own until it is closed."""

    def __init__(self, page: ConsentPage, port: int, folder: Path) -> None:
        """Listen, and write the address with its token to a file; ConfigError where the port cannot be used."""
        self._file = folder / ADDRESS_FILE
        try:
            self._server = _Server((_HOST, port), _Handler)
        except OSError as error:
            raise ConfigError(
                f"consent_page.port {port}: {error.strerror}; choose another, or 0 for any free one"
            ) from error
        self._server.page = page
        self._server.own = f"{_HOST}:{self._server.server_address[1]}"
        self.address = f"http://{self._server.own}/#{quote(page.token)}"
        write_private(self._file, f"{self.address}\n".encode())
        self._thread = threading.Thread(target=self._server.serve_forever, name="consent-page", daemon=True)
        self._thread.start()
        log.info("consent_page.open", host=self._server.own, address_file=str(self._file))

    def close(self) -> None:
        """Stop listening, and remove the file with the address."""
        self._server.shutdown()
        self._server.server_close()
        self._file.unlink(missing_ok=True)


class _Server(ThreadingHTTPServer):
    """Answers so many requests at once; who opens more connections is hung up on, and takes no file of the agent's."""

    daemon_threads = True
    request_queue_size = _AT_ONCE
    page: ConsentPage
    own: str

    def __init__(self, *given: Any) -> None:
        self._places = threading.BoundedSemaphore(_AT_ONCE)
        super().__init__(*given)

    def process_request(self, request: Any, client_address: Any) -> None:
        """Answer in a thread of its own, where one is left."""
        if not self._places.acquire(blocking=False):
            self.shutdown_request(request)
            return
        try:
            super().process_request(request, client_address)
        except BaseException:  # no thread
            self._places.release()
            raise

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        """Answer, and leave the place to another."""
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._places.release()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Keep out of the log what a peer that hangs up causes."""

    def server_bind(self) -> None:
        """Listen without asking for the machine's name."""
        TCPServer.server_bind(self)
        self.server_name, self.server_port = _HOST, int(self.server_address[1])


class _Handler(BaseHTTPRequestHandler):
    server: _Server
    server_version, sys_version = "undersong", ""
    protocol_version = "HTTP/1.0"  # one request a connection: none outlives the server
    timeout = _IDLE_S

    def do_GET(self) -> None:
        """Answer with a file, the list, or one request."""
        self._answer(self._get)

    def do_POST(self) -> None:
        """Take a decision."""
        self._answer(self._post)

    def _get(self) -> None:
        self._own_host()
        if self.path in _FILES:
            name, kind = _FILES[self.path]
            self._send(200, read_bytes(Path(__file__).parent / "static" / name), kind)
            return
        self._known()
        if (asked := _LIST.fullmatch(self.path)) is not None:
            self._send_json(200, self.server.page.listed(int(asked[1] or PAGE)))
        elif (digest := _digest_in(self.path, "")) is not None:
            self._send_json(200, self.server.page.shown(digest))
        else:
            raise Refused(404, "There is no such page.")

    def _post(self) -> None:
        self._own_host()
        if self.headers.get_all("Origin") != [f"http://{self.server.own}"]:
            raise Refused(403, "Decisions are taken on the agent's own page only.")
        if self.headers.get("Content-Type") != "application/json":
            raise Refused(415, "A decision is JSON.")
        self._known()
        digest = _digest_in(self.path, "/decisions")
        if digest is None:
            raise Refused(404, "There is no such page.")
        self._send_json(200, self.server.page.decide(digest, self._body()))

    def _own_host(self) -> None:
        if self.headers.get_all("Host") != [self.server.own]:
            raise Refused(421, "This address is not the page's own.")

    def _known(self) -> None:
        given = (self.headers.get("Authorization") or "").removeprefix("Bearer ")
        if not hmac.compare_digest(given.encode(), self.server.page.token.encode()):
            raise Refused(401, "The address has no token, or one of an earlier start of the agent.")

    def _body(self) -> AskedDecision:
        lengths = self.headers.get_all("Content-Length") or []
        if len(lengths) != 1 or not _LENGTH.fullmatch(lengths[0]) or "Transfer-Encoding" in self.headers:
            raise Refused(411, "The length of the decision is needed.")
        if int(lengths[0]) > _MOST_BODY:
            raise Refused(413, "The decision is too long.")
        try:
            return AskedDecision.model_validate_json(self.rfile.read(int(lengths[0])))
        except ValidationError as error:
            places = ", ".join(".".join(map(str, item["loc"])) or "the form" for item in error.errors())
            raise Refused(422, f"This cannot be used: {places}.") from None

    def _answer(self, act: Callable[[], None]) -> None:
        try:
            act()
        except Refused as refused:
            self._send_json(refused.status, {"detail": refused.detail})
        except (BrokenPipeError, ConnectionResetError, TimeoutError):
            return
        except Exception as error:
            log.exception("consent_page.broken", error=type(error).__name__)
            self._send_json(500, {"detail": "The agent met an error of its own; its log says more."})

    def _send_json(self, status: int, document: Mapping[str, Any]) -> None:
        self._send(status, json.dumps(document).encode(), "application/json")

    def _send(self, status: int, body: bytes, kind: str) -> None:
        self.send_response(status)
        for name, value in {**_HEADERS, "Content-Type": kind, "Content-Length": str(len(body))}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:  # noqa: ARG002
        """Answer what is no request of the page's, in the form of all other answers."""
        self._send_json(int(code), {"detail": "The page has no such request."})

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 (the library names it)
        """Keep requests out of the log."""


def _digest_in(path: str, end: str) -> str | None:
    begin = "/api/requests/"
    digest = path.removeprefix(begin).removesuffix(end)
    ours = path == f"{begin}{digest}{end}" and len(digest) == 64 and all(char in "0123456789abcdef" for char in digest)
    return digest if ours else None


def _summary(entry: InboxEntry) -> dict[str, Any]:
    now = entry.standing
    return {
        "digest": entry.digest,
        "name": entry.request.job.name,
        "requester": entry.request.job.requester,
        "asked_at": entry.asked_at,
        "state": str(now.state),
        "approvals": now.approvals,
        "need": now.need,
        "runs_left": now.runs_left,
        "runs": now.runs,
        "until_ms": now.until_ms,
        "rounds": entry.request.rounds,
        "automatic": entry.automatic,
    }


def _text(value: object) -> str:
    if isinstance(value, str):
        return value
    if isinstance(value, list):
        return ", ".join(map(str, value)) or "none"
    if isinstance(value, dict):
        return ", ".join(f"{key}: {_text(item)}" for key, item in value.items()) or "none"
    return "none" if value is None else str(value)
