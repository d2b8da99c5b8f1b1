"""Certificates out of a bundle of evidence: bytes from anywhere, so that nothing but refusals comes of bad ones."""

from typing import Final

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm

from undersong.shared.identity.authority import CertificateUntrusted, Holder, check_certificate

_BAD: Final = (
    ValueError,
    TypeError,
    InvalidSignature,
    UnsupportedAlgorithm,
    x509.DuplicateExtension,
    x509.ExtensionNotFound,
    x509.InvalidVersion,
    x509.UnsupportedGeneralNameType,
)
_SIGNATURE: Final = b"\x03\x41\x00"
"""A BIT STRING of 64 bytes with no unused bits: the form of an Ed25519 signature."""


def read_certificate(der: str) -> x509.Certificate:
    """Return a certificate from DER in hexadecimal, in its one form; raises CertificateUntrusted."""
    try:
        octets = bytes.fromhex(der)
        found = x509.load_der_x509_certificate(octets)
    except _BAD as error:
        raise CertificateUntrusted("a certificate cannot be read") from error
    if not octets.endswith(_SIGNATURE + found.signature):  # no signature covers the number of unused bits
        raise CertificateUntrusted("a certificate's signature is not in its one form")
    return found


def read_authority(der: str) -> x509.Certificate:
    """Return an authority's certificate, signed by itself; raises CertificateUntrusted."""
    found = read_certificate(der)
    try:
        found.verify_directly_issued_by(found)
        is_authority = found.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    except _BAD as error:
        raise CertificateUntrusted("the authority's certificate is not signed by itself") from error
    if not is_authority:
        raise CertificateUntrusted("the authority's certificate is not one of an authority")
    return found


def read_holder(der: str, ca_certificate: x509.Certificate) -> Holder:
    """Whom a certificate of this authority names; raises CertificateUntrusted."""
    try:
        return check_certificate(read_certificate(der), ca_certificate)
    except _BAD as error:
        raise CertificateUntrusted("the certificate was not issued by this federation's authority") from error


def plain_fingerprint(fingerprint: str) -> str:
    """Return a fingerprint as people write it as lower-case hexadecimal digits alone."""
    return fingerprint.strip().lower().removeprefix("sha256:").replace(":", "")
