"""Signed requests, the receiving side: whose request is this, is it meant for us, and is it new?

A request counts when its certificate was issued by our authority, is in its time and not revoked; when the signature
covers method, path, query, media type, body digest and idempotency key, names us in its tag, and was made within the
window; and, for methods that change something, when its nonce was never seen before. Everything is checked before the
body is read; the body's digest is checked while it streams in (`undersong.shared.web.body`).
"""

import base64
import binascii
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Final, Protocol

import httpx
import structlog
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from http_message_signatures import HTTPMessageVerifier, HTTPSignatureKeyResolver, InvalidSignature, algorithms

from undersong.shared.clock import Clock, monotonic, utc_now
from undersong.shared.errors import Unauthenticated
from undersong.shared.identity.authority import CertificateUntrusted, Holder, Subject, check_certificate, check_time
from undersong.shared.identity.digests import parse_content_digest
from undersong.shared.identity.requests import CERTIFICATE_HEADER, COVERED_FIELDS, tag_of
from undersong.shared.ids import Digest

SAFE_METHODS: Final = frozenset({"GET", "HEAD", "OPTIONS"})
_LONGEST_CERTIFICATE: Final = 8192  # base64 characters; ours have about 900
_LONGEST_NONCE: Final = 128
_KEPT_CERTIFICATES: Final = 8192
log: structlog.stdlib.BoundLogger = structlog.get_logger(__name__)


class SignatureInvalid(Unauthenticated):
    """The request's signature is missing, malformed, or does not fit the request."""


class SignatureOutOfTime(Unauthenticated):
    """The request was signed too long ago, or the signer's clock is wrong."""


class DigestMissing(Unauthenticated):
    """A signed request with a body needs a Content-Digest with SHA-256 under the signature."""


class CertificateRevoked(Unauthenticated):
    """The certificate has been revoked."""


class ReplayedRequest(Unauthenticated):
    """The same signed request was received before."""


@dataclass(frozen=True, slots=True)
class Party:
    """A site or service that signed the request."""

    subject: Subject
    keyid: Digest
    public_key: Ed25519PublicKey

    @property
    def name(self) -> str:
        """The site id, or the service's name."""
        return self.subject.name

    @property
    def federation_id(self) -> str | None:
        """The site's federation; None for a service."""
        return self.subject.federation_id


class NonceStore(Protocol):
    """Remembers nonces until their signatures are too old to count."""

    async def add(self, principal: str, nonce: str, expires_at: datetime) -> bool:
        """Return whether the nonce is new."""


class Revocations(Protocol):
    """Knows which certificates were revoked."""

    def revoked(self, keyid: str) -> bool:
        """Return whether this certificate was revoked."""


class MemoryNonces:
    """A `NonceStore` for one process."""

    def __init__(self) -> None:
        self._seen: set[tuple[str, str]] = set()

    async def add(self, principal: str, nonce: str, expires_at: datetime) -> bool:  # noqa: ARG002
        """Return whether the nonce is new."""
        known = (principal, nonce) in self._seen
        self._seen.add((principal, nonce))
        return not known


class RevocationFeed:
    """The revoked key ids, followed from the keys service; while that is away, the last known ones count."""

    def __init__(
        self,
        http: httpx.AsyncClient,
        keys_url: str,
        *,
        report_age: Callable[[float], object] = lambda _age_s: None,
    ) -> None:
        self._http, self._url, self._report_age = http, keys_url, report_age
        self._revoked: set[str] = set()
        self._after = 0
        self._read_at = monotonic()

    def revoked(self, keyid: str) -> bool:
        """Return whether this certificate was revoked, as far as is known."""
        return keyid in self._revoked

    async def poll(self) -> None:
        """Read what is new; raises httpx.HTTPError when the keys service is away."""
        more = True
        while more:
            response = await self._http.get(f"{self._url}/v1/revocations", params={"after": self._after})
            response.raise_for_status()
            answer = response.json()
            for item in answer["items"]:
                self._revoked.add(item["keyid"])
                self._after = max(self._after, item["sequence"])
            more = answer["next"] is not None
        self._read_at = monotonic()

    async def poll_softly(self) -> None:
        """Read what is new; when the keys service is away or talks nonsense, say so and go on with what is known."""
        try:
            await self.poll()
        except (httpx.HTTPError, ValueError, KeyError, TypeError) as error:
            log.warning("revocations.unread", reason=str(error) or type(error).__name__)
        self._report_age(monotonic() - self._read_at)


class PartyVerifier:
    """Checks signed requests for one service (`audience`). Cost: well under a millisecond for a known certificate."""

    def __init__(
        self,
        ca_certificate: x509.Certificate,
        audience: str,
        nonces: NonceStore,
        revocations: Revocations,
        *,
        clock: Clock = utc_now,
        window_s: float = 300.0,
        report_skew: Callable[[float], object] = lambda _seconds: None,
    ) -> None:
        self._report_skew = report_skew
        self._ca, self._tag = ca_certificate, tag_of(audience)
        self._nonces, self._revocations = nonces, revocations
        self._clock, self._window = clock, timedelta(seconds=window_s)
        self._holders: OrderedDict[str, Holder] = OrderedDict()

    async def verify(self, method: str, path: str, query: str, headers: Mapping[str, str], *, has_body: bool) -> Party:
        """Return who signed this request; raises a kind of Unauthenticated.

        `path` and `query` as they were on the wire; `headers` gives each name once, lower case, lines joined by ", ".
        """
        holder = self._holder(headers.get(CERTIFICATE_HEADER))
        now = self._clock()
        check_time(holder, now)
        if self._revocations.revoked(holder.keyid):
            raise CertificateRevoked("this certificate was revoked; enrol again with a new token")
        parameters = self._check_signature(holder, _Message(method, path, query, headers), has_body=has_body)
        created = datetime.fromtimestamp(parameters["created"], UTC)
        if holder.subject.kind == "site":
            self._report_skew(abs((now - created).total_seconds()))
        if abs(now - created) > self._window:
            raise SignatureOutOfTime(
                f"signed {abs((now - created).total_seconds()):.0f} s {'ago' if created < now else 'in the future'}; "
                f"at most {self._window.total_seconds():.0f} s are accepted: check the clock"
            )
        if method not in SAFE_METHODS:
            await self._check_new(holder, parameters.get("nonce"), created)
        return Party(holder.subject, holder.keyid, holder.public_key)

    def _holder(self, value: str | None) -> Holder:
        if value is None:
            raise SignatureInvalid("the header Undersong-Certificate is missing")
        holder = self._holders.get(value)
        if holder is None:
            holder = check_certificate(_certificate(value), self._ca)
            self._holders[value] = holder
            if len(self._holders) > _KEPT_CERTIFICATES:
                self._holders.popitem(last=False)
        return holder

    def _check_signature(self, holder: Holder, message: "_Message", *, has_body: bool) -> dict[str, Any]:
        required = ["@method", "@path"]
        if message.query:
            required.append("@query")
        if has_body:
            if parse_content_digest(message.headers.get("content-digest", "")) is None:
                raise DigestMissing("the body's Content-Digest with sha-256 is missing")
            required += ["content-type", "content-digest"]
        required += [name for name in COVERED_FIELDS if name in message.headers and name not in required]
        verifier = _Verifier(signature_algorithm=algorithms.ED25519, key_resolver=_HolderKey(holder))
        try:
            (result,) = verifier.verify(message, max_age=None, expect_tag=self._tag)
            # By its serialised name, without parameters: a component with parameters covers something else.
            uncovered = [name for name in required if f'"{name}"' not in result.covered_components]
            if uncovered:
                raise SignatureInvalid(f"the signature does not cover {', '.join(uncovered)}")
            if result.nonce is None or len(result.nonce) > _LONGEST_NONCE:
                raise SignatureInvalid("the signature needs a nonce of at most 128 characters")
            return dict(result.parameters)
        except (InvalidSignature, ValueError, OverflowError) as error:
            raise SignatureInvalid(_reason(error)) from error

    async def _check_new(self, holder: Holder, nonce: str | None, created: datetime) -> None:
        expires_at = created + 2 * self._window
        if nonce is None or not await self._nonces.add(holder.keyid, nonce, expires_at):
            raise ReplayedRequest("this signed request was received before; sign each attempt afresh")


class _Message:
    """The request in the form that the signature library reads."""

    def __init__(self, method: str, path: str, query: str, headers: Mapping[str, str]) -> None:
        self.method = method
        self.query = query
        self.url = f"http://undersong{path}" + (f"?{query}" if query else "")
        self.headers = headers


class _HolderKey(HTTPSignatureKeyResolver):
    """The key of the certificate that came with the request, and of no other."""

    def __init__(self, holder: Holder) -> None:
        self._holder = holder

    def resolve_public_key(self, key_id: str) -> Ed25519PublicKey | None:
        """Return the certificate's key, when the signature names this certificate."""
        return self._holder.public_key if key_id == self._holder.keyid else None


class _Verifier(HTTPMessageVerifier):
    """Leaves the time to the caller, who has the clock and the window."""

    def validate_created_and_expires(self, sig_input: Any, max_age: timedelta | None = None) -> None:  # noqa: ARG002
        """Only that a creation time is there."""
        if type(sig_input.params.get("created")) is not int:
            raise InvalidSignature('Signature is missing a required "created" parameter')


def _certificate(value: str) -> x509.Certificate:
    if len(value) > _LONGEST_CERTIFICATE or not (value.startswith(":") and value.endswith(":")):
        raise CertificateUntrusted("the header Undersong-Certificate holds no certificate")
    try:
        return x509.load_der_x509_certificate(base64.b64decode(value[1:-1], validate=True))
    except (binascii.Error, ValueError) as error:
        raise CertificateUntrusted("the header Undersong-Certificate holds no certificate") from error


def _reason(error: Exception) -> str:
    """Return the library's one-line reason; it names components, never values of ours."""
    text = str(error).strip()
    return text.splitlines()[0][:200] if text else "the signature does not fit the request"
