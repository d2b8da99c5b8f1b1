"""An authority, and identities that it issued."""

from collections.abc import Callable
from datetime import timedelta

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from undersong.shared.clock import utc_now
from undersong.shared.identity.authority import CertificateAuthority, Identity, Subject

MakeIdentity = Callable[..., Identity]


@pytest.fixture(scope="session")
def ca() -> CertificateAuthority:
    return CertificateAuthority.create(utc_now())


@pytest.fixture(scope="session")
def other_ca() -> CertificateAuthority:
    return CertificateAuthority.create(utc_now())


@pytest.fixture(scope="session")
def make_identity(ca: CertificateAuthority) -> MakeIdentity:
    def make(
        subject: Subject | None = None, *, issuer: CertificateAuthority = ca, life: timedelta = timedelta(days=1)
    ) -> Identity:
        key = Ed25519PrivateKey.generate()
        now = utc_now()
        named = subject or Subject("site", "site_a", "fed_x")
        return Identity(key, issuer.issue(key.public_key(), named, now + life, now=now), issuer.certificate)

    return make


@pytest.fixture(scope="session")
def identity(make_identity: MakeIdentity) -> Identity:
    return make_identity()
