"""A site's side: a fresh key, one encrypted body, and no state."""

import re
from collections.abc import Mapping
from typing import Final

import numpy as np
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from undersong.shared.ids import SiteId
from undersong.shared.lattice.pack import pack
from undersong.shared.lattice.packings import N
from undersong.shared.lattice.ring import KEY_BYTES, UniformWords, elements, encrypt, gaussian, transformed
from undersong.shared.secagg.engine import (
    ClientRound,
    Payload,
    Pieces,
    PublicUnsigned,
    ServerRound,
    UpdateRefused,
    Verifier,
    header_for,
)
from undersong.shared.secagg.oneshot.dealing import Dealing, body_statement, deal_key, dealing_statement, digests_of
from undersong.shared.secagg.oneshot.facts import NAME
from undersong.shared.secagg.oneshot.terms import terms
from undersong.shared.secagg.quantise import signed, unpack
from undersong.shared.wire.custodian import custodian_service, key_statement
from undersong.shared.wire.updates import write_header

_HEX: Final = re.compile("[0-9a-f]{64}")


class OneshotSite:
    """`undersong.shared.secagg.engine.ClientEngine`."""

    def begin(self, client_round: ClientRound, verifier: Verifier) -> bytes:
        """Check that enough custodians take part, each of which named its own key: the aggregator could put others."""
        digest = client_round.manifest.digest()
        for index, (key, keyid, signature) in _custodians(client_round).items():
            verifier.check(custodian_service(index), keyid, signature, key_statement(digest, index, key))
        return b""

    def message(self, client_round: ClientRound, state: bytes, step: str, answer: bytes | None) -> tuple[bytes, bytes]:  # noqa: ARG002
        """There is no step but the upload."""
        raise UpdateRefused(f"engine {NAME} has no step {step}")

    def upload(
        self,
        client_round: ClientRound,
        state: bytes,  # noqa: ARG002
        answer: bytes | None,  # noqa: ARG002
        payload: Payload,
    ) -> tuple[bytes, Pieces]:
        """Return the header with the site's signature, the sealed shares of a fresh key, and the ciphertext."""
        if client_round.sign is None or client_round.keyid is None:
            raise UpdateRefused(f"engine {NAME} needs the site's identity key")
        fixed, site_id, entropy = terms(client_round.manifest), client_round.site_id, client_round.entropy
        keys = {index: key for index, (key, _, _) in _custodians(client_round).items()}
        words = signed(unpack(payload.data, payload.modulus_bits), payload.modulus_bits).astype(np.int64)
        # Each key is used once: the secret, the errors and the shares never come from the same bytes.
        secret = elements(gaussian(N, entropy(KEY_BYTES)))
        noise = gaussian(N * fixed.packing.polynomials(words.size), entropy(KEY_BYTES))
        sealed = deal_key(fixed, site_id, keys, secret, entropy)
        blocks = pack(fixed.packing, words, noise)
        ciphertext = encrypt(blocks, UniformWords(fixed.public_key(keys)), transformed(secret))
        digests = digests_of(sealed)
        signature = client_round.sign(dealing_statement(fixed, site_id, digests))
        material = Dealing(digests, bytes.fromhex(client_round.keyid), signature).material()
        header = write_header(header_for(client_round, NAME, payload, material))
        return b"", iter((header, *sealed, *(part.astype("<u8", copy=False).tobytes() for part in ciphertext)))


class OneshotSignatures:
    """The site's signature over its body (`undersong.shared.secagg.engine.BodySigning`)."""

    def sign(self, client_round: ClientRound, state: bytes, body_digest: bytes) -> bytes:  # noqa: ARG002
        """Sign the body for this round."""
        if client_round.sign is None:
            raise UpdateRefused(f"engine {NAME} needs the site's identity key")
        return client_round.sign(body_statement(terms(client_round.manifest), client_round.site_id, body_digest))

    def check(self, server_round: ServerRound, site_id: SiteId, body_digest: bytes, signature: bytes) -> None:
        """Raise UpdateRefused unless the site signed this body for this round."""
        statement = body_statement(terms(server_round.manifest), site_id, body_digest)
        try:
            Ed25519PublicKey.from_public_bytes(server_round.site_keys[site_id]).verify(signature, statement)
        except (KeyError, ValueError, InvalidSignature):
            raise UpdateRefused("the update is not signed by its site for this round") from None


def _custodians(client_round: ClientRound) -> Mapping[int, tuple[bytes, str, str]]:
    """Return each custodian's key, certificate and signature; raises PublicUnsigned where there are too few."""
    fixed, found = terms(client_round.manifest), dict[int, tuple[bytes, str, str]]()
    shown = client_round.public.get("custodians")
    for name, each in shown.items() if isinstance(shown, Mapping) else ():
        match each:
            case {"key": str() as key, "keyid": str() as keyid, "signature": str() as signature} if name in map(
                str, range(fixed.custodians)
            ) and _HEX.fullmatch(key):
                found[int(name)] = bytes.fromhex(key), keyid, signature
    if len(found) < fixed.threshold or len({keyid for _, keyid, _ in found.values()}) != len(found):
        raise PublicUnsigned(
            f"the round lacks the signed keys of at least {fixed.threshold} custodians, each with its own certificate"
        )
    return dict(sorted(found.items()))
