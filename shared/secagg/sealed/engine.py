"""Engine `sealed`: each update is encrypted to the aggregator's key of the round. Weak: the aggregator sees each one.

HPKE (RFC 9180, base mode, DHKEM(X25519, HKDF-SHA256), HKDF-SHA256, AES-256-GCM) wraps a fresh content key, with the
manifest and the site as info. The payload follows in chunks of AES-256-GCM under that key, after the STREAM
construction (Hoang, Reyhanitabar, Rogaway, Vizar, CRYPTO 2015): the nonce is the chunk's number and whether it is the
last, so chunks cannot be cut off, moved or joined. The header's digest is every chunk's associated data.
"""

import os
from collections.abc import Iterator, Mapping
from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from undersong.shared.ids import Digest, SiteId
from undersong.shared.secagg.engine import (
    NO_ASKS,
    UPLOAD,
    Asks,
    BodySource,
    ClientRound,
    Closed,
    Derive,
    Engine,
    Entropy,
    Opened,
    Payload,
    Pieces,
    Replies,
    RoundEvidence,
    ServerRound,
    UpdateRefused,
    Verifier,
    header_for,
)
from undersong.shared.secagg.hpke import SUITE
from undersong.shared.secagg.quantise import ModVector
from undersong.shared.secagg.sealed.facts import FACTS, NAME
from undersong.shared.wire.manifest import RoundManifest
from undersong.shared.wire.updates import UpdateHeader, header_digest, write_header

CHUNK: Final = 192 * 1024  # a multiple of every word size; stays in a core's cache between decryption and addition
MAX_CHUNK: Final = 4 * 1024 * 1024
_INFO: Final = b"undersong-sealed-1"
_TAG: Final = 16
_WRAPPED: Final = 32 + 32 + _TAG


def seal_info(manifest_digest: Digest, site_id: SiteId) -> bytes:
    """Return what a wrapped content key is bound to."""
    return _INFO + bytes.fromhex(manifest_digest) + site_id.encode()


class SealedServer:
    """Holds the round's X25519 private key and opens each update on its own."""

    def open(self, manifest: RoundManifest, entropy: Entropy = os.urandom, derive: Derive | None = None) -> Opened:  # noqa: ARG002
        """Return a fresh key pair; the public half as ``hpke_public_key`` in hexadecimal."""
        key = X25519PrivateKey.from_private_bytes(entropy(32))
        return Opened({"hpke_public_key": key.public_key().public_bytes_raw().hex()}, key.private_bytes_raw())

    def begun(self, server_round: ServerRound, opened: Opened, replies: Replies) -> Opened:  # noqa: ARG002
        """Raise: no party is asked at the beginning."""
        raise UpdateRefused("engine sealed asks no party to begin a round")

    def body_size(self, manifest: RoundManifest, header: UpdateHeader) -> int:  # noqa: ARG002
        """Payload bytes: the plain size and one tag for each chunk."""
        _, chunk = _material(header)
        return header.plain_size + _TAG * -(-header.plain_size // chunk)

    def open_payload(self, server_round: ServerRound, header: UpdateHeader, source: BodySource) -> Iterator[memoryview]:
        """Decrypt chunk by chunk into one reused buffer."""
        wrapped, chunk = _material(header)
        cipher, bound = AESGCM(_unwrap(server_round, header, wrapped)), header_digest(header)
        buffer, left, number = bytearray(min(chunk, header.plain_size)), header.plain_size, 0
        while left:
            size = min(chunk, left)
            left -= size
            sealed, plain = source.take(size + _TAG), memoryview(buffer)[:size]
            if len(sealed) != size + _TAG:
                raise UpdateRefused("the update's body ends too early")
            try:
                cipher.decrypt_into(_nonce(number, last=not left), sealed, bound, plain)
            except InvalidTag:
                raise UpdateRefused(f"chunk {number} of the update was changed after it was sealed") from None
            yield plain
            number += 1
        if len(source.take(1)):
            raise UpdateRefused("the update's body goes on after its last chunk")

    def close(
        self,
        server_round: ServerRound,
        step: str,
        messages: Mapping[SiteId, bytes],  # noqa: ARG002
        replies: Replies | None = None,  # noqa: ARG002
    ) -> Closed:
        """Nothing is exchanged beside the upload."""
        if step != UPLOAD:
            raise UpdateRefused(f"engine sealed has no step {step}")
        return Closed(server_round.secret)

    def sum_length(self, manifest: RoundManifest, header: UpdateHeader) -> int:  # noqa: ARG002
        """Return the length of the payload."""
        return header.length

    def sum_asks(self, server_round: ServerRound) -> Asks:  # noqa: ARG002
        """Raise: no party is asked."""
        return NO_ASKS

    def unmask_sum(self, server_round: ServerRound, total: ModVector) -> ModVector:  # noqa: ARG002
        """Return the payloads were plain already."""
        return total

    def modulus(self, manifest: RoundManifest) -> int | None:  # noqa: ARG002
        """Words of the round's encoding."""
        return None

    def evidence(self, server_round: ServerRound) -> RoundEvidence:  # noqa: ARG002
        """Nothing but the bodies' digests, which the aggregator holds."""
        return RoundEvidence()


class SealedClient:
    """Seals one payload to the aggregator's key."""

    def begin(self, client_round: ClientRound, verifier: Verifier) -> bytes:  # noqa: ARG002
        """Check the public key; there is no state."""
        _public_key(client_round)
        return b""

    def message(self, client_round: ClientRound, state: bytes, step: str, answer: bytes | None) -> tuple[bytes, bytes]:  # noqa: ARG002
        """There is no step but the upload."""
        raise UpdateRefused(f"engine sealed has no step {step}")

    def upload(
        self,
        client_round: ClientRound,
        state: bytes,  # noqa: ARG002
        answer: bytes | None,  # noqa: ARG002
        payload: Payload,
    ) -> tuple[bytes, Pieces]:
        """Return the header, then sealed chunks from one reused buffer."""
        return b"", self._body(client_round, payload)

    def _body(self, client_round: ClientRound, payload: Payload) -> Pieces:
        key = client_round.entropy(32)
        wrapped = SUITE.encrypt(
            key, _public_key(client_round), seal_info(client_round.manifest.digest(), client_round.site_id)
        )
        header = header_for(client_round, NAME, payload, {"key": wrapped, "chunk": CHUNK})
        if payload.data.nbytes != header.plain_size or not header.plain_size:
            raise UpdateRefused("the payload's bytes do not fit its length")
        yield write_header(header)
        cipher, bound, plain = AESGCM(key), header_digest(header), payload.data.cast("B")
        buffer = bytearray(min(CHUNK, len(plain)) + _TAG)
        for number, start in enumerate(range(0, len(plain), CHUNK)):
            part = plain[start : start + CHUNK]
            sealed = memoryview(buffer)[: len(part) + _TAG]
            cipher.encrypt_into(_nonce(number, last=start + CHUNK >= len(plain)), part, bound, sealed)
            yield sealed


SEALED: Final = Engine(
    facts=FACTS,
    server=SealedServer(),
    client=SealedClient(),
)


def _nonce(number: int, *, last: bool) -> bytes:
    return number.to_bytes(11, "big") + bytes([last])


def _material(header: UpdateHeader) -> tuple[bytes, int]:
    wrapped, chunk = header.material.get("key"), header.material.get("chunk")
    if set(header.material) != {"key", "chunk"} or not isinstance(wrapped, bytes) or not isinstance(chunk, int):
        raise UpdateRefused("a sealed update's material is exactly key (bytes) and chunk (integer)")
    if len(wrapped) != _WRAPPED or not 0 < chunk <= MAX_CHUNK or chunk % 24:
        raise UpdateRefused(f"key must have {_WRAPPED} bytes, chunk must be a multiple of 24 up to {MAX_CHUNK}")
    return wrapped, chunk


def _public_key(client_round: ClientRound) -> X25519PublicKey:
    text = client_round.public.get("hpke_public_key")
    try:
        return X25519PublicKey.from_public_bytes(bytes.fromhex(text if isinstance(text, str) else ""))
    except ValueError:
        raise UpdateRefused("the aggregator's hpke_public_key is not 32 bytes in hexadecimal") from None


def _unwrap(server_round: ServerRound, header: UpdateHeader, wrapped: bytes) -> bytes:
    private = X25519PrivateKey.from_private_bytes(server_round.secret)
    try:
        key = SUITE.decrypt(wrapped, private, seal_info(server_round.manifest.digest(), header.site_id))
    except (InvalidTag, ValueError):
        raise UpdateRefused("the update was sealed for another round, site or key") from None
    if len(key) != 32:
        raise UpdateRefused("the wrapped content key is not 32 bytes")
    return key
