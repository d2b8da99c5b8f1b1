"""Owner keys: Ed25519 keys (RFC 8032) by which the owners of a site's data sign what its agent may do.

An owner key is not the agent's, and no service knows it: the agent holds only the public half. What is signed is a
context, which says what kind of statement it is, and the digest of a document.
"""

import os
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Final, Literal, Self

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from pydantic import Field, StringConstraints, ValidationError

from undersong.shared.files import open_regular, read_bytes
from undersong.shared.identity.authority import write_private
from undersong.shared.ids import Digest, digest_of
from undersong.shared.wire.canonical import digest_document
from undersong.shared.wire.forms import DigestText, Document, SignatureHex

POLICY_CONTEXT: Final = b"undersong/owner-policy/1\0"
CONSENT_CONTEXT: Final = b"undersong/owner-consent/1\0"
_MOST_BYTES: Final = 64 * 1024
OwnerKeyText = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
"""A public owner key: its 32 bytes in hexadecimal."""


class BadOwnerKey(ValueError):
    """The file holds no owner key, or the passphrase does not open it."""


@dataclass(frozen=True, slots=True)
class OwnerKey:
    """The private half, as its owner holds it."""

    private: Ed25519PrivateKey

    @classmethod
    def generate(cls) -> Self:
        """Return a new key."""
        return cls(Ed25519PrivateKey.generate())

    @classmethod
    def load(cls, path: Path, passphrase: bytes | None) -> Self:
        """Read a key file; raises BadOwnerKey, or OSError where it cannot be read."""
        data = read_bytes(path)
        try:
            key = serialization.load_pem_private_key(data, passphrase or None)
        except TypeError:  # the library's word for a passphrase that is missing, or that is not needed
            if passphrase:
                return cls.load(path, None)
            raise BadOwnerKey(f"{path} is encrypted: a passphrase is needed") from None
        except ValueError:
            raise BadOwnerKey(f"{path}: the passphrase does not open it, or it is no key file") from None
        if not isinstance(key, Ed25519PrivateKey):
            raise BadOwnerKey(f"{path} holds no Ed25519 key")
        return cls(key)

    def save(self, path: Path, passphrase: bytes | None) -> None:
        """Write a new file (0600, PKCS #8), encrypted where there is a passphrase; FileExistsError if it is there."""
        protection = serialization.BestAvailableEncryption(passphrase) if passphrase else serialization.NoEncryption()
        data = self.private.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, protection)
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        os.close(open_regular(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL))
        write_private(path, data)

    @property
    def public(self) -> str:
        """The public half, in hexadecimal."""
        return self.private.public_key().public_bytes_raw().hex()

    def sign(self, context: bytes, digest: Digest) -> "KeySignature":
        """Sign the digest of a document, for one purpose."""
        signature = self.private.sign(context + bytes.fromhex(digest)).hex()
        return KeySignature(key=self.public, signature=signature)


def is_encrypted(path: Path) -> bool:
    """Return whether a key file needs a passphrase; raises OSError where it cannot be read."""
    return b"ENCRYPTED" in read_bytes(path)


class KeySignature(Document):
    """A signature by one owner key."""

    key: OwnerKeyText
    signature: SignatureHex

    def holds(self, context: bytes, digest: Digest) -> bool:
        """Return whether the key signed this digest for this purpose."""
        try:
            public = Ed25519PublicKey.from_public_bytes(bytes.fromhex(self.key))
            public.verify(bytes.fromhex(self.signature), context + bytes.fromhex(digest))
        except (InvalidSignature, ValueError):
            return False
        return True


class PolicySignature(Document):
    """`policy.yaml.sig`: which bytes owners signed, and when.

    digest: SHA-256 of the policy file's bytes. serial: when it was signed, in milliseconds since 1970, and later than
    the signature before it: an agent accepts no smaller one after a larger.
    """

    version: Literal[1] = 1
    digest: DigestText
    serial: int = Field(ge=0, lt=2**53, strict=True)
    signatures: tuple[KeySignature, ...] = Field(max_length=100)

    @property
    def statement(self) -> Digest:
        """The digest that each owner signs."""
        return digest_document({"digest": self.digest, "serial": self.serial})

    def signers(self, keys: Iterable[str]) -> set[str]:
        """Return those of these keys whose signature holds."""
        return signers(self.signatures, POLICY_CONTEXT, self.statement, set(keys))

    def signed(self, key: OwnerKey) -> "PolicySignature":
        """Return it with this key's signature as well."""
        others = tuple(each for each in self.signatures if each.key != key.public)
        return self.model_copy(update={"signatures": (*others, key.sign(POLICY_CONTEXT, self.statement))})


def signers(signatures: Iterable[KeySignature], context: bytes, digest: Digest, keys: Collection[str]) -> set[str]:
    """Return those of these keys by which a digest is signed."""
    return {each.key for each in signatures if each.key in keys and each.holds(context, digest)}


def read_signature(path: Path) -> PolicySignature | None:
    """Return the signature file's content, None where there is no file; ValueError where it is none."""
    try:
        data = read_bytes(path)
    except FileNotFoundError:
        return None
    try:
        return PolicySignature.model_validate_json(data[:_MOST_BYTES])
    except ValidationError as error:
        raise ValueError(f"{path} is no signature file, or is cut off") from error


def signature_file(policy: Path) -> Path:
    """Return the path of the signature beside a policy file."""
    return policy.with_name(policy.name + ".sig")


def sign_policy(policy: Path, data: bytes, key: OwnerKey, now_ms: int) -> PolicySignature:
    """Sign a policy's bytes in the file beside it, and return what is there then.

    Where other owners signed the same bytes, the key signs what they signed. Otherwise the serial is the time, or one
    more than that of the signature before. Raises OSError.
    """
    beside, digest = signature_file(policy), digest_of(data)
    try:
        found = read_signature(beside)
    except ValueError:
        found = None
    if found is None or found.digest != digest:
        serial = now_ms if found is None else max(now_ms, found.serial + 1)
        found = PolicySignature(digest=digest, serial=serial, signatures=())
    signed = found.signed(key)
    part = beside.with_name(f".{beside.name}.{os.getpid()}")
    part.write_text(signed.model_dump_json(indent=2) + "\n")
    part.replace(beside)
    return signed
