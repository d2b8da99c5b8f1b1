"""Whom an engine's client can believe in a test: certified keys by service and key id."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from undersong.shared.errors import Forbidden


class NotCertified(Forbidden):
    """No certificate of the service carries this signature."""


@dataclass(frozen=True)
class Certified:
    """Public keys (32 raw bytes) by (service, key id); none of any service unless they are given."""

    keys: Mapping[tuple[str, str], bytes] = field(default_factory=dict)

    def check(self, service: str, keyid: str, signature: str, statement: bytes) -> None:
        try:
            key = Ed25519PublicKey.from_public_bytes(self.keys[service, keyid])
            key.verify(bytes.fromhex(signature), statement)
        except (KeyError, ValueError, InvalidSignature) as error:
            raise NotCertified(f"the {service} did not sign this") from error


UNCERTIFIED = Certified()
