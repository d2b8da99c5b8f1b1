"""Signed requests: what is accepted, and every attack that is not; with real httpx requests."""

from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta

import httpx
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from http_message_signatures import HTTPMessageSigner, HTTPSignatureKeyResolver, algorithms

from undersong.shared.clock import utc_now
from undersong.shared.errors import Refusal
from undersong.shared.identity.authority import (
    CertificateAuthority,
    CertificateExpired,
    CertificateUntrusted,
    Identity,
    Subject,
)
from undersong.shared.identity.digests import content_digest
from undersong.shared.identity.requests import SigningAuth
from undersong.shared.identity.verify import (
    CertificateRevoked,
    DigestMissing,
    MemoryNonces,
    Party,
    PartyVerifier,
    ReplayedRequest,
    SignatureInvalid,
    SignatureOutOfTime,
)

MakeIdentity = Callable[..., Identity]
URL = "http://coordinator:7001/v1/tasks/leases?after=a%2Fb&x=%C3%A9"


class Revoked:
    def __init__(self, *keyids: str) -> None:
        self.keyids = set(keyids)

    def revoked(self, keyid: str) -> bool:
        return keyid in self.keyids


@pytest.fixture
def verifier(ca: CertificateAuthority) -> PartyVerifier:
    return PartyVerifier(ca.certificate, "coordinator", MemoryNonces(), Revoked())


def signed(
    identity: Identity, method: str = "POST", url: str = URL, audience: str = "coordinator", **more: object
) -> httpx.Request:
    request = httpx.Request(method, url, **({"json": {"wait_s": 30}} | more if method == "POST" else more))  # type: ignore[arg-type]
    return next(SigningAuth(identity, audience).sync_auth_flow(request))


async def check(verifier: PartyVerifier, request: httpx.Request, **changed: object) -> Party:
    path, _, query = request.url.raw_path.decode().partition("?")
    seen: dict[str, object] = {
        "method": request.method,
        "path": path,
        "query": query,
        "headers": dict(request.headers),
        "has_body": request.headers.get("content-length", "0") != "0",
    }
    return await verifier.verify(**(seen | changed))  # type: ignore[arg-type]


async def test_a_signed_request_names_its_party(verifier: PartyVerifier, identity: Identity) -> None:
    party = await check(verifier, signed(identity))
    assert party.subject == Subject("site", "site_a", "fed_x")
    assert (party.name, party.federation_id, party.keyid) == ("site_a", "fed_x", identity.keyid)


async def test_get_without_query_or_body(verifier: PartyVerifier, identity: Identity) -> None:
    request = signed(identity, "GET", "http://coordinator/v1/rounds/rnd_1")
    assert '("@method" "@path")' in request.headers["signature-input"]
    assert (await check(verifier, request)).keyid == identity.keyid


async def test_a_streamed_body_is_signed_by_its_given_digest(verifier: PartyVerifier, identity: Identity) -> None:
    headers = {"content-digest": content_digest(b"abc")}
    await check(verifier, signed(identity, "PUT", content=iter([b"abc"]), headers=headers), has_body=True)


def test_a_streamed_body_without_digest_cannot_be_signed(identity: Identity) -> None:
    with pytest.raises(ValueError, match="Content-Digest"):
        signed(identity, "PUT", content=iter([b"abc"]))


async def test_a_replay_is_refused(verifier: PartyVerifier, identity: Identity) -> None:
    request = signed(identity)
    await check(verifier, request)
    with pytest.raises(ReplayedRequest):
        await check(verifier, request)


async def test_requests_that_overtook_each_other_count_once_each(verifier: PartyVerifier, identity: Identity) -> None:
    requests = [signed(identity) for _ in range(5)]
    for request in reversed(requests):
        await check(verifier, request)
    for request in requests:
        with pytest.raises(ReplayedRequest):
            await check(verifier, request)


async def test_reading_twice_is_no_replay(verifier: PartyVerifier, identity: Identity) -> None:
    request = signed(identity, "GET", "http://coordinator/v1/me")
    await check(verifier, request)
    await check(verifier, request)


async def test_two_parties_may_use_one_nonce(ca: CertificateAuthority, make_identity: MakeIdentity) -> None:
    """Nonces are kept per party, so that no party can use up another's."""
    nonces = MemoryNonces()
    now = utc_now()
    assert await nonces.add("a", "n", now)
    assert await nonces.add("b", "n", now)
    assert not await nonces.add("a", "n", now)


@pytest.mark.parametrize(
    "changed",
    [
        {"method": "PUT"},
        {"path": "/v1/tasks/other"},
        {"path": "/v1/tasks/leases/"},
        {"query": "after=a%2Fc&x=%C3%A9"},
        {"query": ""},
        {"query": "after=a%2fb&x=%c3%a9"},
    ],
    ids=["method", "path", "slash", "query", "no query", "recoded query"],
)
async def test_another_target_is_refused(verifier: PartyVerifier, identity: Identity, changed: dict[str, str]) -> None:
    with pytest.raises(SignatureInvalid):
        await check(verifier, signed(identity), **changed)


async def test_a_query_added_to_a_request_without_one_is_refused(verifier: PartyVerifier, identity: Identity) -> None:
    with pytest.raises(SignatureInvalid):
        await check(verifier, signed(identity, "GET", "http://c/v1/me"), query="admin=1")


async def test_another_digest_is_refused(verifier: PartyVerifier, identity: Identity) -> None:
    request = signed(identity)
    request.headers["content-digest"] = content_digest(b"other")
    with pytest.raises(SignatureInvalid):
        await check(verifier, request)


async def test_a_body_without_digest_is_refused(verifier: PartyVerifier, identity: Identity) -> None:
    request = signed(identity)
    del request.headers["content-digest"]
    with pytest.raises(DigestMissing):
        await check(verifier, request)


async def test_a_body_added_to_a_signed_request_is_refused(verifier: PartyVerifier, identity: Identity) -> None:
    """The digest is there but not under the signature."""
    request = signed(identity, "DELETE", "http://c/v1/x")
    request.headers["content-digest"] = content_digest(b"evil")
    with pytest.raises(SignatureInvalid):
        await check(verifier, request, has_body=True)


async def test_another_audience_is_refused(verifier: PartyVerifier, identity: Identity) -> None:
    with pytest.raises(SignatureInvalid):
        await check(verifier, signed(identity, audience="aggregator"))


@pytest.mark.parametrize("skew_s", [-3600, -301, 301, 86_400])
async def test_a_skewed_clock_is_refused_and_told(
    verifier: PartyVerifier, identity: Identity, monkeypatch: pytest.MonkeyPatch, skew_s: int
) -> None:
    request = _signed_at(identity, skew_s, monkeypatch)
    with pytest.raises(SignatureOutOfTime, match="clock"):
        await check(verifier, request)


@pytest.mark.parametrize("skew_s", [-290, 0, 290])
async def test_a_slightly_skewed_clock_is_fine(
    verifier: PartyVerifier, identity: Identity, monkeypatch: pytest.MonkeyPatch, skew_s: int
) -> None:
    await check(verifier, _signed_at(identity, skew_s, monkeypatch))


def _signed_at(identity: Identity, skew_s: int, monkeypatch: pytest.MonkeyPatch) -> httpx.Request:
    """Signed by a party whose clock is wrong by so many seconds."""
    with monkeypatch.context() as patch:
        patch.setattr("undersong.shared.clock._ahead", lambda: timedelta(seconds=skew_s))
        return signed(identity)


async def test_a_revoked_certificate_is_refused(ca: CertificateAuthority, identity: Identity) -> None:
    verifier = PartyVerifier(ca.certificate, "coordinator", MemoryNonces(), Revoked(identity.keyid))
    with pytest.raises(CertificateRevoked):
        await check(verifier, signed(identity))


async def test_revocation_takes_effect_on_a_known_certificate(ca: CertificateAuthority, identity: Identity) -> None:
    revoked = Revoked()
    verifier = PartyVerifier(ca.certificate, "coordinator", MemoryNonces(), revoked)
    await check(verifier, signed(identity))
    revoked.keyids.add(identity.keyid)
    with pytest.raises(CertificateRevoked):
        await check(verifier, signed(identity))


async def test_a_certificate_of_another_authority_is_refused(
    verifier: PartyVerifier, other_ca: CertificateAuthority, make_identity: MakeIdentity
) -> None:
    with pytest.raises(CertificateUntrusted):
        await check(verifier, signed(make_identity(issuer=other_ca)))


async def test_an_expired_certificate_is_refused(ca: CertificateAuthority, identity: Identity) -> None:
    late = PartyVerifier(
        ca.certificate, "coordinator", MemoryNonces(), Revoked(), clock=lambda: utc_now() + timedelta(days=2)
    )
    with pytest.raises(CertificateExpired):
        await check(late, signed(identity))


async def test_anothers_certificate_on_my_signature_is_refused(
    verifier: PartyVerifier, identity: Identity, make_identity: MakeIdentity
) -> None:
    request = signed(identity)
    request.headers["undersong-certificate"] = signed(make_identity()).headers["undersong-certificate"]
    with pytest.raises(SignatureInvalid):
        await check(verifier, request)


@pytest.mark.parametrize(
    ("header", "value", "refusal"),
    [
        ("undersong-certificate", "", CertificateUntrusted),
        ("undersong-certificate", ":AAAA:", CertificateUntrusted),
        ("undersong-certificate", ":" + "A" * 10_000 + ":", CertificateUntrusted),
        ("undersong-certificate", None, SignatureInvalid),
        ("signature", "", SignatureInvalid),
        ("signature", None, SignatureInvalid),
        ("signature", "undersong=:AAAA:", SignatureInvalid),
        ("signature", "undersong=(", SignatureInvalid),
        ("signature-input", "undersong", SignatureInvalid),
        ("signature-input", 'undersong=("@method" "@path" "@query" "content-digest")', SignatureInvalid),
        ("signature-input", "\xff", SignatureInvalid),
    ],
)
async def test_malformed_headers_are_refused(
    verifier: PartyVerifier, identity: Identity, header: str, value: str | None, refusal: type[Refusal]
) -> None:
    headers = {name: text for name, text in signed(identity).headers.items() if name != header}
    if value is not None:
        headers[header] = value
    with pytest.raises(refusal):
        await check(verifier, signed(identity), headers=headers)


@pytest.mark.parametrize("name", ["created", "nonce", "keyid", "tag"])
async def test_every_parameter_is_needed_and_signed(verifier: PartyVerifier, identity: Identity, name: str) -> None:
    request = signed(identity)
    parts = request.headers["signature-input"].split(";")
    request.headers["signature-input"] = ";".join(part for part in parts if not part.startswith(name))
    with pytest.raises(SignatureInvalid):
        await check(verifier, request)


async def test_a_second_signature_beside_ours_does_not_confuse(verifier: PartyVerifier, identity: Identity) -> None:
    mine, other = signed(identity), signed(identity, audience="aggregator")
    for name in ("signature-input", "signature"):
        mine.headers[name] += ", " + other.headers[name].replace("undersong=", "second=", 1)
    assert (await check(verifier, mine)).keyid == identity.keyid


COVERED = ("@method", "@path", "@query", "content-type", "content-digest", "idempotency-key")


class OwnKey(HTTPSignatureKeyResolver):
    def __init__(self, identity: Identity) -> None:
        self.identity = identity

    def resolve_private_key(self, _key_id: str) -> Ed25519PrivateKey:
        return self.identity.private_key


def signed_by_library(identity: Identity, covered: Sequence[str], created: datetime, nonce: str) -> httpx.Request:
    """A request that the library alone signed, over these components."""
    request = signed(identity, headers={"idempotency-key": "k1"})
    signer = HTTPMessageSigner(signature_algorithm=algorithms.ED25519, key_resolver=OwnKey(identity))
    more: dict[str, object] = {"created": created, "nonce": nonce, "tag": "undersong/coordinator", "label": "undersong"}
    more["use_existing_digest"] = True
    signer.sign(request, key_id=identity.keyid, include_alg=False, covered_component_ids=covered, **more)  # type: ignore[arg-type]
    return request


async def test_our_signature_is_the_one_that_the_library_makes(verifier: PartyVerifier, identity: Identity) -> None:
    ours = signed(identity, headers={"idempotency-key": "k1"})
    words = dict(part.split("=", 1) for part in ours.headers["signature-input"].split(";")[1:])
    created = datetime.fromtimestamp(int(words["created"]), UTC)
    theirs = signed_by_library(identity, COVERED, created, words["nonce"].strip('"'))
    for name in ("signature-input", "signature"):
        assert ours.headers[name] == theirs.headers[name]
    assert (await check(verifier, theirs)).keyid == identity.keyid


@pytest.mark.parametrize("left_out", COVERED)
async def test_every_part_of_the_request_is_covered(verifier: PartyVerifier, identity: Identity, left_out: str) -> None:
    """A signature that fits and leaves out a part, or covers only a form of it, is none."""
    rest = [name for name in COVERED if name != left_out]
    with pytest.raises(SignatureInvalid, match=left_out):
        await check(verifier, signed_by_library(identity, rest, utc_now(), "n1"))
    if not left_out.startswith("@"):
        with pytest.raises(SignatureInvalid, match=left_out):
            await check(verifier, signed_by_library(identity, [*rest, f'"{left_out}";bs'], utc_now(), "n2"))
