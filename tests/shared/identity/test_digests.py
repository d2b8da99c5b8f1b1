"""Content-Digest in and out."""

import hashlib

import pytest

from undersong.shared.identity.digests import content_digest, content_digest_from, parse_content_digest

BODY = b'{"hello": "world"}'
# RFC 9530, appendix B.1 gives this body's digest.
RFC = "sha-256=:X48E9qOokqqrvdts8nOJRJN3OWDUoyWxBf7kbu9DBPE=:"


def test_the_example_of_the_rfc() -> None:
    assert content_digest(BODY) == RFC
    assert content_digest_from(hashlib.sha256(BODY).hexdigest()) == RFC
    assert parse_content_digest(RFC) == hashlib.sha256(BODY).digest()


def test_other_algorithms_beside_it_are_ignored() -> None:
    assert parse_content_digest(f"sha-512=:AAAA:, {RFC}") == hashlib.sha256(BODY).digest()


@pytest.mark.parametrize(
    "value", ["", "sha-256", "sha-256=abc", RFC[:-1], RFC.replace("X", ""), f"{RFC}, {RFC}", "md5=:AA==:"]
)
def test_what_is_no_sha256_is_none(value: str) -> None:
    assert parse_content_digest(value) is None
