"""Certificates name their holder, and only the authority's signature makes them count."""

from datetime import timedelta
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding
from hypothesis import given
from hypothesis import strategies as st

from undersong.shared.clock import utc_now
from undersong.shared.identity.authority import (
    CertificateAuthority,
    CertificateExpired,
    CertificateUntrusted,
    Identity,
    SignatureMismatch,
    Subject,
    check_certificate,
    check_time,
    keyid_of,
    verify_signature,
)

NAMES = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}", fullmatch=True)


@given(NAMES, NAMES)
def test_a_subject_survives_its_uri(federation: str, site: str) -> None:
    subject = Subject("site", site, federation)
    assert Subject.from_uri(subject.uri) == subject
    assert Subject.from_uri(Subject("service", site).uri) == Subject("service", site)


@pytest.mark.parametrize(
    "arguments", [("site", "a"), ("service", "a", "fed"), ("service", "a/b"), ("service", ""), ("site", "a", "x\n")]
)
def test_a_malformed_subject_is_refused(arguments: tuple[str, ...]) -> None:
    with pytest.raises(ValueError):
        Subject(*arguments)  # type: ignore[arg-type]


def test_a_certificate_names_its_holder(ca: CertificateAuthority, identity: Identity) -> None:
    holder = check_certificate(identity.certificate, ca.certificate)
    assert holder.subject == Subject("site", "site_a", "fed_x")
    assert holder.keyid == keyid_of(identity.certificate) == identity.keyid
    check_time(holder, utc_now())


def test_another_authoritys_certificate_does_not_count(other_ca: CertificateAuthority, identity: Identity) -> None:
    with pytest.raises(CertificateUntrusted):
        check_certificate(identity.certificate, other_ca.certificate)


def test_the_authoritys_own_certificate_names_no_party(ca: CertificateAuthority) -> None:
    with pytest.raises(CertificateUntrusted):
        check_certificate(ca.certificate, ca.certificate)


def test_a_site_cannot_issue(ca: CertificateAuthority, identity: Identity) -> None:
    """A certificate signed by a site's key, which is itself properly certified, is worth nothing."""
    rogue = CertificateAuthority(identity.private_key, identity.certificate)
    key = Ed25519PrivateKey.generate()
    now = utc_now()
    forged = rogue.issue(key.public_key(), Subject("service", "coordinator"), now + timedelta(days=1), now=now)
    with pytest.raises(CertificateUntrusted):
        check_certificate(forged, ca.certificate)


def test_a_certificate_ends(identity: Identity) -> None:
    with pytest.raises(CertificateExpired):
        check_time(identity.holder, utc_now() + timedelta(days=2))


def test_signatures_are_bound_to_their_context(identity: Identity) -> None:
    signature = identity.sign(b"undersong/a/1", b"data")
    public_key = identity.holder.public_key
    verify_signature(public_key, b"undersong/a/1\0", b"data", signature)
    for context, data in [(b"undersong/b/1", b"data"), (b"undersong/a/1", b"Data"), (b"undersong/a/1d", b"ata")]:
        with pytest.raises(SignatureMismatch):
            verify_signature(public_key, context, data, signature)


def test_an_identity_survives_the_disk(identity: Identity, tmp_path: Path) -> None:
    identity.save(tmp_path / "new")
    loaded = Identity.load(tmp_path / "new")
    assert loaded.keyid == identity.keyid
    assert loaded.private_key.private_bytes_raw() == identity.private_key.private_bytes_raw()
    assert (tmp_path / "new" / "identity.pem").stat().st_mode & 0o777 == 0o600


def test_key_and_certificate_must_belong_together(identity: Identity, tmp_path: Path) -> None:
    Identity(Ed25519PrivateKey.generate(), identity.certificate, identity.ca_certificate).save(tmp_path)
    with pytest.raises(ValueError, match="belong together"):
        Identity.load(tmp_path)


def test_an_authority_survives_its_storage(ca: CertificateAuthority, other_ca: CertificateAuthority) -> None:
    pem = ca.certificate.public_bytes(Encoding.PEM)
    assert CertificateAuthority.load(ca.private_bytes(), pem).certificate == ca.certificate
    with pytest.raises(ValueError, match="belong together"):
        CertificateAuthority.load(other_ca.private_bytes(), pem)


def test_an_identity_does_not_print_its_key(identity: Identity) -> None:
    assert identity.private_key.private_bytes_raw().hex() not in repr(identity)
