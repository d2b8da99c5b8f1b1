"""How a party gets its certificate: a single-use token and a proof that it holds its private key.

The private key is on disk before the token is spent, so a crash at any step is repaired by asking again: the same
token with the same key gives the same certificate.
"""

import asyncio
import fcntl
import hashlib
import random
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from datetime import datetime
from pathlib import Path
from typing import Any, Final

import httpx
import structlog
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from undersong.shared.clock import Clock, utc_now
from undersong.shared.errors import Refusal, reason_of
from undersong.shared.files import open_lock, read_text
from undersong.shared.identity.authority import (
    IDENTITY_FILE,
    CertificateUntrusted,
    Identity,
    check_certificate,
    public_bytes,
    write_private,
)
from undersong.shared.identity.highwater import DurableLines
from undersong.shared.identity.requests import SigningAuth

ENROL_CONTEXT: Final = b"undersong/enrol/1\0"
ROTATE_CONTEXT: Final = b"undersong/rotate/1\0"
PENDING_FILE: Final = "pending.key"
OWN_KEYS_FILE: Final = "own-keys"
USED_FILE: Final = "enrolled-with"  # SHA-256 of the last token that was tried, so that another one is seen
NO_AUTH: Final = httpx.Auth()
log: structlog.stdlib.BoundLogger = structlog.get_logger(__name__)


class EnrolmentRefused(Refusal):
    """The keys service refused the enrolment or rotation."""


def enrolment_proof_data(challenge: bytes, token: str, public_key: bytes) -> bytes:
    """Return what a new party signs: context || challenge || SHA-256(token) || public key."""
    return ENROL_CONTEXT + challenge + hashlib.sha256(token.encode()).digest() + public_key


def rotation_proof_data(old_keyid: str, public_key: bytes) -> bytes:
    """Return what the new key signs when it takes over: context || old key id (32 bytes) || public key."""
    return ROTATE_CONTEXT + bytes.fromhex(old_keyid) + public_key


async def enrol(http: httpx.AsyncClient, keys_url: str, token: str, private_key: Ed25519PrivateKey) -> Identity:
    """Exchange a token for a certificate of this key.

    Raises EnrolmentRefused with the service's reason, or httpx.TransportError when it cannot be reached.
    """
    public_key = public_bytes(private_key.public_key())
    answer = await _post(http, f"{keys_url}/v1/enrolment-challenges", {"public_key": public_key.hex()})
    proof = private_key.sign(enrolment_proof_data(bytes.fromhex(answer["challenge"]), token, public_key))
    body = {
        "token": token,
        "challenge_id": answer["challenge_id"],
        "public_key": public_key.hex(),
        "proof": proof.hex(),
    }
    return _identity(private_key, await _post(http, f"{keys_url}/v1/enrolments", body))


async def rotate(http: httpx.AsyncClient, keys_url: str, identity: Identity, directory: Path) -> Identity:
    """Return a new key and certificate for the same party, saved in `directory`; the old one stays valid until
    its end.
    """
    private_key = pending_key(directory)
    public_key = public_bytes(private_key.public_key())
    proof = private_key.sign(rotation_proof_data(identity.keyid, public_key))
    answer = await _post(
        http,
        f"{keys_url}/v1/certificates/rotations",
        {"public_key": public_key.hex(), "proof": proof.hex()},
        auth=SigningAuth(identity, "keys"),
    )
    rotated = _identity(private_key, answer)
    check_certificate(rotated.certificate, identity.ca_certificate)
    adopt(rotated, directory)
    return rotated


async def rotate_now(http: httpx.AsyncClient, keys_url: str, directory: Path) -> Identity:
    """Rotate the saved identity although its time has not come; running processes take it up within a minute."""
    async with _alone(directory):
        return await rotate(http, keys_url, Identity.load(directory), directory)


def pending_key(directory: Path, party: Path | None = None) -> Ed25519PrivateKey:
    """Return the key that waits for its certificate; made and made durable when there is none.

    It is noted among the keys of the party whose folder is `party` (by default this one).
    """
    path = directory / PENDING_FILE
    if path.exists():
        return Ed25519PrivateKey.from_private_bytes(bytes.fromhex(read_text(path, "ascii")))
    directory.mkdir(parents=True, exist_ok=True)
    key = Ed25519PrivateKey.generate()
    DurableLines((party or directory) / OWN_KEYS_FILE).add(public_bytes(key.public_key()).hex())
    write_private(path, key.private_bytes_raw().hex().encode())
    return key


def own_keys(directory: Path) -> frozenset[str]:
    """Return every public key (hexadecimal) that this party ever asked a certificate for, the present one among
    them.
    """
    made = {words[0] for words in DurableLines(directory / OWN_KEYS_FILE).read()}
    with suppress(FileNotFoundError):
        made.add(public_bytes(Identity.load(directory).private_key.public_key()).hex())
    return frozenset(made)


def adopt(identity: Identity, directory: Path) -> None:
    """Save the identity, then forget the pending key."""
    identity.save(directory)
    (directory / PENDING_FILE).unlink(missing_ok=True)


async def ensure_identity(
    http: httpx.AsyncClient, keys_url: str, directory: Path, token_file: Path | None, *, patience_s: float = 600.0
) -> Identity:
    """Return the saved identity, or a new one enrolled with the token in `token_file`.

    Where there is an identity and the file holds another token than it was enrolled with, the party enrols again: see
    `enrol_again`. Waits up to `patience_s` for the keys service and for the token file, with growing, jittered pauses.
    Raises EnrolmentRefused at once when the service refuses.
    """
    async with _alone(directory):
        if (directory / IDENTITY_FILE).exists():
            return await enrol_again(http, keys_url, directory, token_file, Identity.load(directory))
        return await _enrol_patiently(http, keys_url, directory, token_file, patience_s)


async def enrol_again(
    http: httpx.AsyncClient, keys_url: str, directory: Path, token_file: Path | None, identity: Identity
) -> Identity:
    """Return the party's next identity where `token_file` holds a new token, else the present one. The caller is alone.

    The next one is for the same party, by the same authority, with a fresh key. A token that is refused is logged and
    not tried again; a keys service that is away is asked again at the next call.
    """
    token = _new_token(directory, token_file)
    if token is None:
        return identity
    folder = directory / f"again-{_digest(token)[:16]}"  # the key outlives a crash between the answer and its use
    try:
        fresh = await enrol(http, keys_url, token, pending_key(folder, directory))
        _check_same_party(fresh, identity)
    except (httpx.TransportError, Unreachable) as error:
        log.warning("enrolment.waiting", reason=str(error) or type(error).__name__, keys_url=keys_url)
        return identity
    except (EnrolmentRefused, CertificateUntrusted) as refused:
        log.warning("enrolment.refused", reason=refused.detail if isinstance(refused, Refusal) else str(refused))
        fresh = identity
    else:
        adopt(fresh, directory)
        log.info("enrolment.done", subject=fresh.subject.uri, keyid=fresh.keyid, again=True)
    _note(directory, token)
    (folder / PENDING_FILE).unlink(missing_ok=True)
    folder.rmdir()
    return fresh


def _check_same_party(fresh: Identity, present: Identity) -> None:
    """Check it; raises EnrolmentRefused or CertificateUntrusted."""
    check_certificate(fresh.certificate, present.ca_certificate)
    if fresh.subject != present.subject:
        raise EnrolmentRefused(f"the token is for {fresh.subject.uri}, and this is {present.subject.uri}")


def _new_token(directory: Path, token_file: Path | None) -> str | None:
    """Return the token in the file, unless it is the one that was tried last."""
    try:
        token = read_token(token_file)
    except (EnrolmentRefused, OSError, UnicodeDecodeError):
        return None
    used = directory / USED_FILE
    return token if not used.exists() or read_text(used, "ascii").strip() != _digest(token) else None


def _note(directory: Path, token: str) -> None:
    write_private(directory / USED_FILE, _digest(token).encode() + b"\n")


def _digest(token: str) -> str:
    return hashlib.sha256(token.encode()).hexdigest()


@asynccontextmanager
async def _alone(directory: Path) -> AsyncIterator[None]:
    """Let in one process at a time: a service's api and worker share one identity."""
    directory.mkdir(parents=True, exist_ok=True)  # noqa: ASYNC240  (a few local system calls, at start-up)
    with open_lock(directory / ".lock") as file:
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                await asyncio.sleep(0.05)
        yield


async def _enrol_patiently(
    http: httpx.AsyncClient, keys_url: str, directory: Path, token_file: Path | None, patience_s: float
) -> Identity:
    key = pending_key(directory)
    deadline = asyncio.get_running_loop().time() + patience_s
    pause_s = 0.05
    while True:
        try:
            token = read_token(token_file)
            identity = await enrol(http, keys_url, token, key)
        except (httpx.TransportError, FileNotFoundError, Unreachable) as error:
            if asyncio.get_running_loop().time() >= deadline:
                raise EnrolmentRefused(f"no certificate after {patience_s:.0f} s: {error}") from error
            log.info("enrolment.waiting", reason=str(error) or type(error).__name__, keys_url=keys_url)
            await asyncio.sleep(pause_s * random.uniform(0.8, 1.2))  # noqa: S311  (jitter)
            pause_s = min(pause_s * 1.6, 5.0)
        else:
            adopt(identity, directory)
            _note(directory, token)
            log.info("enrolment.done", subject=identity.subject.uri, keyid=identity.keyid)
            return identity


def read_token(token_file: Path | None) -> str:
    """Return the enrolment token in the file; raises FileNotFoundError while it is not there or still empty.

    Raises EnrolmentRefused where there is none to wait for.
    """
    if token_file is None:
        raise EnrolmentRefused("this party has no certificate yet and no enrolment token file is set")
    try:
        token = read_text(token_file).strip()
    except FileNotFoundError:
        raise
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is no text"
        raise EnrolmentRefused(f"the enrolment token file {token_file} cannot be read: {reason}") from error
    if not token:
        raise FileNotFoundError(f"{token_file} is empty")
    return token


class IdentityKeeper:
    """Holds a party's present identity and rotates it when less than a third of its life is left.

    With a `token_file`, a new token there makes the party enrol again. Call it to get the identity:
    ``SigningAuth(keeper, "coordinator")``.
    """

    def __init__(
        self,
        identity: Identity,
        directory: Path,
        http: httpx.AsyncClient,
        keys_url: str,
        *,
        token_file: Path | None = None,
        clock: Clock = utc_now,
        period_s: float = 60.0,
        changed: Callable[[Identity], None] | None = None,
    ) -> None:
        self._identity = identity
        self._directory, self._http, self._keys_url = directory, http, keys_url
        self._token_file = token_file
        self._clock, self._period_s, self._changed = clock, period_s, changed

    def __call__(self) -> Identity:
        """Return the present identity."""
        return self._identity

    async def check(self) -> bool:
        """Rotate, or enrol again, if it is time; whether it was. Another process may have done it already."""
        async with _alone(self._directory):
            saved = Identity.load(self._directory)
            if saved.keyid != self._identity.keyid:
                self._adopt(saved)
            fresh = await enrol_again(self._http, self._keys_url, self._directory, self._token_file, self._identity)
            if fresh.keyid != self._identity.keyid:
                self._adopt(fresh)
                return True
            if not due(self._identity, self._clock()):
                return False
            self._adopt(await rotate(self._http, self._keys_url, self._identity, self._directory))
        log.info("identity.rotated", keyid=self._identity.keyid)
        return True

    async def run(self) -> None:
        """Check until cancelled; a keys service that does not answer is asked again at the next turn."""
        while True:
            try:
                await self.check()
            except (httpx.HTTPError, Refusal, Unreachable, OSError, ValueError) as error:
                log.warning("identity.rotation_failed", reason=str(error))
            await asyncio.sleep(self._period_s)

    def _adopt(self, identity: Identity) -> None:
        self._identity = identity
        if self._changed is not None:
            self._changed(identity)


def due(identity: Identity, now: datetime) -> bool:
    """Return whether less than a third of the certificate's life is left."""
    holder = identity.holder
    return (holder.not_after - now) * 3 < holder.not_after - holder.not_before


class Unreachable(Exception):
    """The keys service answered that it cannot serve now."""


async def _post(http: httpx.AsyncClient, url: str, body: dict[str, str], auth: httpx.Auth = NO_AUTH) -> dict[str, Any]:
    response = await http.post(url, json=body, auth=auth)
    if response.status_code in (429, 502, 503, 504):
        raise Unreachable(f"{url} answered {response.status_code}: {reason_of(response.content, response.status_code)}")
    if response.is_success:
        answer: dict[str, Any] = response.json()
        return answer
    raise EnrolmentRefused(f"{url}: {reason_of(response.content, response.status_code)}")


def _identity(private_key: Ed25519PrivateKey, answer: dict[str, Any]) -> Identity:
    certificate = x509.load_pem_x509_certificate(answer["certificate_pem"].encode())
    ca_certificate = x509.load_pem_x509_certificate(answer["ca_certificate_pem"].encode())
    check_certificate(certificate, ca_certificate)
    if certificate.public_key() != private_key.public_key():
        raise CertificateUntrusted("the certificate is for another key")
    return Identity(private_key, certificate, ca_certificate)
