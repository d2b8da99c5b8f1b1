"""The federation's certificate authority, and what a certificate says about its holder.

X.509 (RFC 5280) with Ed25519 (RFC 8410). The subject is a URI in the subject alternative name:
``undersong://site/<federation>/<site>`` or ``undersong://service/<name>``. A certificate's key id is the lowercase
hexadecimal SHA-256 of its DER encoding.
"""

import os
import re
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Final, Literal, Self

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from undersong.shared.errors import Unauthenticated
from undersong.shared.files import read_bytes
from undersong.shared.ids import Digest, digest_of

IDENTITY_FILE: Final = "identity.pem"
CLOCK_ALLOWANCE: Final = timedelta(minutes=5)  # certificates begin a little early, for holders whose clock is behind
_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")
_URI: Final = re.compile(r"undersong://(?:site/(?P<federation>[^/]+)/(?P<site>[^/]+)|service/(?P<service>[^/]+))")


class CertificateUntrusted(Unauthenticated):
    """The certificate was not issued by this federation's authority."""


class CertificateExpired(Unauthenticated):
    """The certificate is not valid at this time."""


class SignatureMismatch(Unauthenticated):
    """The signature does not fit the document and the key."""


@dataclass(frozen=True, slots=True)
class Subject:
    """Whom a certificate names: a site of one federation, or one of the platform's services."""

    kind: Literal["site", "service"]
    name: str
    federation_id: str | None = None

    def __post_init__(self) -> None:
        for part in (self.name, self.federation_id):
            if part is not None and not _NAME.fullmatch(part):
                raise ValueError("a subject's name has 1 to 64 letters, digits, '.', '_' or '-'")
        if (self.kind == "site") != (self.federation_id is not None):
            raise ValueError("a site has a federation, a service has none")

    @property
    def uri(self) -> str:
        """The subject as the certificate names it."""
        if self.kind == "site":
            return f"undersong://site/{self.federation_id}/{self.name}"
        return f"undersong://service/{self.name}"

    @classmethod
    def from_uri(cls, uri: str) -> Self:
        """Return the inverse of `uri`; raises ValueError."""
        match = _URI.fullmatch(uri)
        if match is None:
            raise ValueError("not the URI of a site or service")
        if match["service"]:
            return cls("service", match["service"])
        return cls("site", match["site"], match["federation"])


@dataclass(frozen=True, slots=True)
class Holder:
    """What a checked certificate proves: the subject, its public key, and for how long."""

    subject: Subject
    public_key: Ed25519PublicKey
    keyid: Digest
    not_before: datetime
    not_after: datetime


def keyid_of(certificate: x509.Certificate) -> Digest:
    """Return the certificate's fingerprint."""
    return digest_of(certificate.public_bytes(serialization.Encoding.DER))


def check_certificate(certificate: x509.Certificate, ca_certificate: x509.Certificate) -> Holder:
    """Whom the certificate names, once the authority's signature and the form are right; the time is not checked here.

    Raises CertificateUntrusted.
    """
    try:
        certificate.verify_directly_issued_by(ca_certificate)
        if certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.ca:
            raise CertificateUntrusted("an authority's certificate names no party")
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        (uri,) = names.get_values_for_type(x509.UniformResourceIdentifier)
        subject = Subject.from_uri(uri)
    except (ValueError, TypeError, InvalidSignature, x509.ExtensionNotFound) as error:
        raise CertificateUntrusted("the certificate was not issued by this federation's authority") from error
    public_key = certificate.public_key()
    if not isinstance(public_key, Ed25519PublicKey):
        raise CertificateUntrusted("the certificate's key is not an Ed25519 key")
    return Holder(
        subject, public_key, keyid_of(certificate), certificate.not_valid_before_utc, certificate.not_valid_after_utc
    )


def check_time(holder: Holder, now: datetime) -> None:
    """Check it; raises CertificateExpired unless the certificate is valid now."""
    if not holder.not_before <= now < holder.not_after:
        raise CertificateExpired(
            f"the certificate is valid until {holder.not_after.isoformat()}; rotate or enrol again"
        )


def _framed(context: bytes, data: bytes) -> bytes:
    """Return the context separates documents of different kinds; it ends with one NUL, which no context contains."""
    return context.rstrip(b"\0") + b"\0" + data


def public_bytes(public_key: Ed25519PublicKey) -> bytes:
    """Return the 32 raw bytes of a public key."""
    return public_key.public_bytes(serialization.Encoding.Raw, serialization.PublicFormat.Raw)


def verify_signature(public_key: Ed25519PublicKey, context: bytes, data: bytes, signature: bytes) -> None:
    """Check what `Identity.sign` made; raises SignatureMismatch."""
    try:
        public_key.verify(signature, _framed(context, data))
    except InvalidSignature as error:
        raise SignatureMismatch("the signature does not fit the document and the key") from error


@dataclass(frozen=True, slots=True)
class Identity:
    """A private key with its certificate and the authority that issued it."""

    private_key: Ed25519PrivateKey
    certificate: x509.Certificate
    ca_certificate: x509.Certificate

    @property
    def keyid(self) -> Digest:
        """The certificate's fingerprint."""
        return keyid_of(self.certificate)

    @property
    def holder(self) -> Holder:
        """Whom the certificate names."""
        return check_certificate(self.certificate, self.ca_certificate)

    @property
    def subject(self) -> Subject:
        """The party that this identity belongs to."""
        return self.holder.subject

    def __repr__(self) -> str:
        return f"Identity({self.subject.uri}, keyid={self.keyid[:12]}…)"

    def sign(self, context: bytes, data: bytes) -> bytes:
        """Ed25519 (64 bytes) over context, one NUL and data; `context` is for example ``b"undersong/manifest/1"``."""
        return self.private_key.sign(_framed(context, data))

    def save(self, directory: Path) -> None:
        """Write ``identity.pem`` (0600) whole or not at all, so that key and certificate always belong together."""
        key = self.private_key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        pem = serialization.Encoding.PEM
        text = key + self.certificate.public_bytes(pem) + self.ca_certificate.public_bytes(pem)
        directory.mkdir(parents=True, exist_ok=True)
        write_private(directory / IDENTITY_FILE, text)

    @classmethod
    def load(cls, directory: Path) -> Self:
        """Read what `save` wrote; raises FileNotFoundError or ValueError."""
        text = read_bytes(directory / IDENTITY_FILE)
        key = serialization.load_pem_private_key(text, password=None)
        if not isinstance(key, Ed25519PrivateKey):
            raise ValueError(f"{directory / IDENTITY_FILE} holds no Ed25519 key")  # noqa: TRY004  (a bad file, not a bad argument)
        certificate, ca_certificate = x509.load_pem_x509_certificates(text)
        if certificate.public_key() != key.public_key():
            raise ValueError(f"{directory / IDENTITY_FILE}: key and certificate do not belong together")
        return cls(key, certificate, ca_certificate)


def write_private(path: Path, data: bytes) -> None:
    """Write a secret to a file that only its owner reads (0600), durably: temporary file, fsync, rename."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(descriptor)
    temporary.replace(path)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


class CertificateAuthority:
    """The key that vouches for every party of the platform."""

    def __init__(self, private_key: Ed25519PrivateKey, certificate: x509.Certificate) -> None:
        self._private_key = private_key
        self.certificate = certificate

    @classmethod
    def create(cls, now: datetime, name: str = "Undersong federation", life: timedelta = timedelta(days=3650)) -> Self:
        """Return a new authority with its own self-signed certificate."""
        key = Ed25519PrivateKey.generate()
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        builder = certificate_builder(subject, subject, key.public_key(), now, now + life)
        builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        builder = builder.add_extension(key_usage(authority=True), critical=True)
        return cls(key, builder.sign(key, None))

    @classmethod
    def load(cls, private_key: bytes, certificate_pem: bytes) -> Self:
        """From the 32 raw private bytes that `private_bytes` gives, and the certificate."""
        key = Ed25519PrivateKey.from_private_bytes(private_key)
        certificate = x509.load_pem_x509_certificate(certificate_pem)
        if certificate.public_key() != key.public_key():
            raise ValueError("the authority's key and certificate do not belong together")
        return cls(key, certificate)

    def private_bytes(self) -> bytes:
        """Return the 32 raw private bytes, to be sealed by the caller."""
        return self._private_key.private_bytes_raw()

    def issue(
        self, public_key: Ed25519PublicKey, subject: Subject, not_after: datetime, *, now: datetime
    ) -> x509.Certificate:
        """Return a certificate for the holder of `public_key`, who has proved that he holds the private key."""
        common_name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, subject.name)])
        builder = certificate_builder(common_name, self.certificate.subject, public_key, now, not_after)
        usages = [ExtendedKeyUsageOID.CLIENT_AUTH, ExtendedKeyUsageOID.SERVER_AUTH]
        builder = (
            builder.add_extension(
                x509.SubjectAlternativeName([x509.UniformResourceIdentifier(subject.uri)]), critical=False
            )
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(key_usage(authority=False), critical=True)
            .add_extension(x509.ExtendedKeyUsage(usages), critical=False)
            .add_extension(
                x509.AuthorityKeyIdentifier.from_issuer_public_key(self._private_key.public_key()), critical=False
            )
        )
        return builder.sign(self._private_key, None)


def certificate_builder(
    subject: x509.Name,
    issuer: x509.Name,
    public_key: Ed25519PublicKey | ec.EllipticCurvePublicKey,
    now: datetime,
    not_after: datetime,
) -> x509.CertificateBuilder:
    """Return what all our certificates begin with; `now` is dated back by what clocks may differ."""
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(public_key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - CLOCK_ALLOWANCE)
        .not_valid_after(not_after)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(public_key), critical=False)
    )


def key_usage(*, authority: bool) -> x509.KeyUsage:
    """Return an authority signs only certificates; every other key signs anything but certificates."""
    return x509.KeyUsage(
        digital_signature=not authority,
        key_cert_sign=authority,
        crl_sign=authority,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )
