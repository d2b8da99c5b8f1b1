"""Certificates for TLS, by an authority apart from the one whose certificates sign.

X.509 (RFC 5280) with ECDSA over P-256: browsers take no Ed25519 certificates, and a certificate that proves a host's
name must never pass for a party of the federation (decision 0011). One file holds a key with its certificate, so that a
reader never sees two halves that do not belong together.
"""

import asyncio
import ipaddress
import os
import ssl
from collections.abc import Callable, Iterable, Sequence
from datetime import datetime, timedelta
from pathlib import Path
from typing import Final, Literal, Self
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

import structlog
from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from undersong.shared.files import FileMark, mark_of, open_regular, read_bytes
from undersong.shared.identity.authority import certificate_builder, key_usage, write_private

TLS_FILE: Final = "tls.pem"  # private key, then certificate
CA_FILE: Final = "ca.pem"  # what the others trust: the newest authority first, then those that it replaced
CA_KEY_FILE: Final = "ca.key"
AUTHORITY_LIFE: Final = timedelta(days=3650)
LIFE: Final = timedelta(days=397)  # the most that browsers take
WATCH_S: Final = 10.0
_CURVE: Final = ec.SECP256R1
_PEM: Final = serialization.Encoding.PEM
log: structlog.stdlib.BoundLogger = structlog.get_logger(__name__)


class TransportAuthority:
    """Vouches for hosts' names, for nothing else."""

    def __init__(self, private_key: ec.EllipticCurvePrivateKey, certificate: x509.Certificate) -> None:
        self._private_key, self.certificate = private_key, certificate

    @classmethod
    def create(cls, now: datetime, name: str = "Undersong transport") -> Self:
        """Return a new authority with its own self-signed certificate."""
        key = ec.generate_private_key(_CURVE())
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"{name} {now:%Y-%m-%d}")])
        builder = certificate_builder(subject, subject, key.public_key(), now, now + AUTHORITY_LIFE)
        builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        builder = builder.add_extension(key_usage(authority=True), critical=True)
        return cls(key, builder.sign(key, hashes.SHA256()))

    @classmethod
    def ensure(cls, folder: Path, now: datetime) -> Self:
        """Return the authority of this folder, made where there is none: `ca.key` (0600) and `ca.pem`."""
        if not (folder / CA_KEY_FILE).exists():
            folder.mkdir(parents=True, exist_ok=True)
            cls.create(now).save(folder)
        return cls.load(folder)

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Read what `ensure` wrote; raises FileNotFoundError or ValueError."""
        text = read_bytes(folder / CA_KEY_FILE)
        key = serialization.load_pem_private_key(text, password=None)
        if not isinstance(key, ec.EllipticCurvePrivateKey):
            raise ValueError(f"{folder / CA_KEY_FILE} holds no ECDSA key")  # noqa: TRY004  (a bad file, not a bad argument)
        return cls(key, x509.load_pem_x509_certificate(text))

    @classmethod
    def replace(cls, folder: Path, now: datetime) -> Self:
        """Create a new authority. The old one stays in `ca.pem`, so that holders of the file trust both."""
        cls.create(now).save(folder)
        return cls.load(folder)

    @property
    def certificate_pem(self) -> bytes:
        """The authority's own certificate."""
        return self.certificate.public_bytes(_PEM)

    def issue(self, names: Sequence[str], now: datetime, life: timedelta = LIFE) -> bytes:
        """Return a fresh key and its certificate for these host names and addresses, as one PEM text."""
        key = ec.generate_private_key(_CURVE())
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, names[0])])
        ends = min(now + life, self.certificate.not_valid_after_utc)
        builder = certificate_builder(subject, self.certificate.subject, key.public_key(), now, ends)
        builder = (
            builder.add_extension(x509.SubjectAlternativeName([_host(name) for name in names]), critical=False)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(key_usage(authority=False), critical=True)
            .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
            .add_extension(
                x509.AuthorityKeyIdentifier.from_issuer_public_key(self._private_key.public_key()), critical=False
            )
        )
        return _key_pem(key) + builder.sign(self._private_key, hashes.SHA256()).public_bytes(_PEM)

    def renewed(self, present: bytes | None, names: Sequence[str], now: datetime) -> bytes | None:
        """Return a new PEM text where `present` is missing, ends soon, is for other names or by another authority."""
        return None if present is not None and self._is_good(present, names, now) else self.issue(names, now)

    def _is_good(self, present: bytes, names: Sequence[str], now: datetime) -> bool:
        certificate = x509.load_pem_x509_certificate(present)
        alternatives = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        try:
            certificate.verify_directly_issued_by(self.certificate)
        except (InvalidSignature, ValueError):
            return False
        life = certificate.not_valid_after_utc - certificate.not_valid_before_utc
        lasts = (certificate.not_valid_after_utc - now) * 3 > life
        return lasts and set(alternatives) == {_host(name) for name in names}

    def save(self, folder: Path) -> None:
        """Write what `load` reads, and put the certificate first in `ca.pem`."""
        bundle = folder / CA_FILE
        earlier = read_bytes(bundle) if bundle.exists() else b""
        write_private(bundle, self.certificate_pem + earlier)  # trusted before anything is signed with it
        write_private(folder / CA_KEY_FILE, _key_pem(self._private_key) + self.certificate_pem)


CaTrust = Literal["only", "added"]
LOOPBACK: Final = ("127.0.0.1", "localhost", "[::1]")


def trust(ca_file: Path | None, urls: Iterable[str], ca_trust: CaTrust = "only") -> ssl.SSLContext | bool:
    """Return what an HTTP client believes: this file's authorities, else the system's; no context where no url needs
    one.

    With `ca_trust` "added" both count: where a company's proxy opens TLS, its authority is one of the system's.
    Raises OSError for a file that holds no certificate.
    """
    if not any(url.startswith("https:") for url in urls):
        return False
    if ca_file is None:
        return ssl.create_default_context()
    os.close(open_regular(ca_file))  # the library would wait for a pipe
    if ca_trust == "only":
        return ssl.create_default_context(cafile=str(ca_file))
    context = ssl.create_default_context()
    context.load_verify_locations(cafile=str(ca_file))
    return context


def around_proxies() -> dict[str, None]:
    """`mounts` for an httpx client: what is on this machine is reached directly, whatever HTTPS_PROXY says."""
    return {f"all://{host}": None for host in LOOPBACK}


def proxy_of(url: str) -> str | None:
    """Return the proxy through which the environment leads to this address, without its password; None for none."""
    parts = urlsplit(url)
    host = parts.hostname or ""
    if host in ("127.0.0.1", "localhost", "::1") or proxy_bypass(parts.netloc.rpartition("@")[2]):
        return None
    proxies = getproxies()
    found = proxies.get(parts.scheme) or proxies.get("all")
    if not found:
        return None
    there = urlsplit(found if "://" in found else f"http://{found}")
    return f"{there.scheme}://{there.hostname}{f':{there.port}' if there.port else ''}"


class ServerTls:
    """A server's side of TLS: reads its file again when that changes, and new connections get the new certificate."""

    def __init__(self, file: Path, report: Callable[[datetime], None] = lambda _: None) -> None:
        self._file, self._report = file, report
        self.context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.context.minimum_version = ssl.TLSVersion.TLSv1_3
        self._read: FileMark | None = None
        self.refresh()

    def refresh(self) -> bool:
        """Return whether there was something new; raises OSError or ssl.SSLError for a bad file, and the old one
        stays.
        """
        changed = mark_of(self._file.stat())
        if changed == self._read:
            return False
        os.close(open_regular(self._file))  # the library would wait for a pipe
        self.context.load_cert_chain(self._file)
        self._read = changed
        self._report(x509.load_pem_x509_certificate(read_bytes(self._file)).not_valid_after_utc)
        return True

    async def watch(self) -> None:
        """Look until cancelled."""
        while True:
            await asyncio.sleep(WATCH_S)
            try:
                if self.refresh():
                    log.info("tls.renewed", file=str(self._file))
            except (OSError, ValueError) as error:  # an ssl.SSLError is an OSError
                log.warning("tls.not_renewed", file=str(self._file), reason=str(error))


def _host(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name)


def _key_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(_PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
