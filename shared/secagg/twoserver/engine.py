"""The twoserver engine at the seam (`undersong.shared.secagg.engine`): one message from each site, two servers, only
the sum.

The leader is the aggregator, the helper a process in the trust domain of keys. A site splits its vector, proves its
norm, and submits one report. Leader and helper verify each report together (`leader.examine`, `helper.judge`), agree
once on whose reports are in the sum, and the helper gives its share of that one sum. The step `upload` is closed with
the helper's signature over the accepted set. Weights are equal: a weight would move a site beyond the proved bound.
"""

import hashlib
import os
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Final

import numpy as np
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from undersong.shared.fields.sums import add_field, centred
from undersong.shared.ids import Digest, SiteId
from undersong.shared.secagg import transcript
from undersong.shared.secagg.engine import (
    UPLOAD,
    Asks,
    BodySource,
    ClientRound,
    Closed,
    Derive,
    Engine,
    Entropy,
    Opened,
    Payload,
    Pieces,
    PublicUnsigned,
    Replies,
    RoundEvidence,
    ServerRound,
    UpdateRefused,
    Verifier,
    header_for,
)
from undersong.shared.secagg.quantise import TAIL_LENGTH, ModVector, signed, unpack
from undersong.shared.secagg.twoserver.facts import FACTS, NAME
from undersong.shared.secagg.twoserver.leader import LeaderState, leader_key, leader_share, sealed_size
from undersong.shared.secagg.twoserver.messages import Accepted, Agree, Begun, SetEvidence
from undersong.shared.secagg.twoserver.noise import draw, noise_key
from undersong.shared.secagg.twoserver.report import (
    SEALING_BYTES,
    Report,
    aggregate_info,
    context,
    report_statement,
    seal,
    share_info,
    unseal,
)
from undersong.shared.secagg.twoserver.roles import HELPER, LEADER, NONCE_BYTES
from undersong.shared.secagg.twoserver.schemes import WORD_BYTES, Integers, scheme_for
from undersong.shared.wire.helper import HELPER as PARTY
from undersong.shared.wire.helper import key_statement
from undersong.shared.wire.manifest import RoundKind, RoundManifest
from undersong.shared.wire.updates import UpdateHeader, write_header

_LONGEST_SHARE: Final = 1 << 34  # where the length of the sum is not known yet


class AggregateShareWrong(UpdateRefused):
    """The helper's share of the sum is not the one that it signed for."""


class TwoServerLeader:
    """The aggregator's side."""

    def open(self, manifest: RoundManifest, entropy: Entropy = os.urandom, derive: Derive | None = None) -> Opened:
        """Return a fresh HPKE key; the helper is asked for its own, and for the verification key."""
        key = X25519PrivateKey.from_private_bytes(entropy(32))
        state = LeaderState(key.private_bytes_raw(), noise_key(manifest, entropy, derive))
        public = key.public_key().public_bytes_raw()
        asks = Asks.one(PARTY, public, lambda reply: _begun(manifest, state, reply))
        return Opened({"leader_key": public.hex()}, state.pack(), asks)

    def begun(self, server_round: ServerRound, opened: Opened, replies: Replies) -> Opened:
        """Return the round's beginning with the helper's answer, whose signature the caller has checked."""
        state = LeaderState.unpack(opened.secret)
        answer, verify_key = _begun(server_round.manifest, state, replies[0])
        public = {
            **opened.public,
            "helper_key": answer.helper_key.hex(),
            "helper_keyid": answer.keyid.hex(),
            "helper_signature": answer.signature.hex(),
        }
        return Opened(public, replace(state, verify_key=verify_key).pack())

    def body_size(self, manifest: RoundManifest, header: UpdateHeader) -> int:
        """Return the leader's sealed share: the vector, and for training its proof."""
        Report.of(header)
        return sealed_size(scheme_for(manifest, header.length))

    def open_payload(self, server_round: ServerRound, header: UpdateHeader, source: BodySource) -> Iterator[memoryview]:
        """Yield the leader's part of the sum, of a report that was verified."""
        report, scheme = Report.of(header), scheme_for(server_round.manifest, header.length)
        share = leader_share(server_round, report, scheme, source)
        words = scheme.out_share(context(server_round.manifest), LEADER, report.report_id, share)
        yield memoryview(np.ascontiguousarray(words, "<u8").view(np.uint8).data)

    def close(
        self, server_round: ServerRound, step: str, messages: Mapping[SiteId, bytes], replies: Replies | None = None
    ) -> Closed:
        """Agree with the helper on whose reports are in the sum; its answer is its signature, checked by the caller."""
        if step != UPLOAD:
            raise UpdateRefused(f"engine {NAME} has no step {step}")
        agree = accepted_set(server_round.manifest, messages)
        if replies is None:
            return Closed(server_round.secret, asks=Asks.one(PARTY, agree.pack(), Accepted.unpack))
        said = Accepted.unpack(replies[0])
        evidence = SetEvidence(agree.members, agree.root, said.share_digest, said.keyid, said.signature)
        return Closed(LeaderState.unpack(server_round.secret).agreed(evidence).pack())

    def sum_length(self, manifest: RoundManifest, header: UpdateHeader) -> int:  # noqa: ARG002
        """Return the length of the vector."""
        return header.length

    def sum_asks(self, server_round: ServerRound) -> Asks:
        """Ask the helper for its share of the sum, sealed to the leader's key."""
        words = server_round.length
        answer_bytes = _LONGEST_SHARE if words is None else WORD_BYTES * words + SEALING_BYTES
        return Asks.one(PARTY, leader_key(server_round.secret), answer_bytes=answer_bytes)

    def unmask_sum(self, server_round: ServerRound, total: ModVector) -> ModVector:
        """Add the helper's share to the leader's, and this server's noise; in place. Raises AggregateShareWrong."""
        state = LeaderState.unpack(server_round.secret)
        if not server_round.shares or not state.evidence:
            raise UpdateRefused("the helper has not given its share of the sum")
        packed = unseal(
            server_round.shares[0], state.private_key, aggregate_info(server_round.manifest, b"aggregate-share")
        )
        agreed = SetEvidence.unpack(state.evidence)
        if hashlib.sha256(packed).digest() != agreed.share_digest or len(packed) != total.nbytes:
            raise AggregateShareWrong("the helper's share of the sum is not the one that it signed for")
        words = np.frombuffer(packed, "<u8")
        if self.modulus(server_round.manifest) is None:
            np.add(total, words, out=total)
        else:
            add_field(total, words, out=total)
            centred(total)
        noise = draw(server_round.manifest, total.size, state.noise_key)
        if noise is not None:
            total += noise.view(np.uint64)
        return total

    def evidence(self, server_round: ServerRound) -> RoundEvidence:
        """Return the accepted set with the helper's signature."""
        return RoundEvidence(survivors=LeaderState.unpack(server_round.secret).evidence)

    @staticmethod
    def modulus(manifest: RoundManifest) -> int | None:
        """Return the prime that shares are added modulo; None for 2**64."""
        return scheme_for(manifest, 1).modulus


class TwoServerSite:
    """One site's side: no state, one message."""

    def begin(self, client_round: ClientRound, verifier: Verifier) -> bytes:
        """Both servers' keys are there, and the helper itself named its own: the leader could put another there."""
        try:
            keyid, signature = (str(client_round.public[f"helper_{name}"]) for name in ("keyid", "signature"))
            helper_key = _key(client_round, "helper_key")
        except (KeyError, UpdateRefused) as error:
            raise PublicUnsigned("the round lacks the helper's signed key") from error
        verifier.check(PARTY, keyid, signature, key_statement(client_round.manifest.digest(), helper_key))
        _key(client_round, "leader_key")
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
        """Return the header with the helper's sealed share, then the leader's sealed share."""
        vector = vector_of(client_round.manifest, payload)
        report, sealed = make_report(client_round, vector)
        header = header_for(client_round, NAME, replace(payload, length=vector.size), report.material())
        return b"", iter((write_header(header), sealed))


def vector_of(manifest: RoundManifest, payload: Payload) -> Integers:
    """Return the integers to split: of a training update without its tail, as no proof could cover its loss."""
    words = signed(unpack(payload.data, payload.modulus_bits), payload.modulus_bits)
    if manifest.kind is RoundKind.TRAIN:
        words = words[:-TAIL_LENGTH]
    return np.ascontiguousarray(words, np.int64)


def make_report(client_round: ClientRound, vector: Integers) -> tuple[Report, bytes]:
    """Return the site's signed report over a vector int64[d], and the leader's sealed share."""
    if client_round.sign is None or client_round.keyid is None:
        raise UpdateRefused(f"engine {NAME} needs the site's identity key")
    manifest, site_id = client_round.manifest, client_round.site_id
    scheme, report_id = scheme_for(manifest, vector.size), client_round.entropy(NONCE_BYTES)
    public, leader, helper = scheme.shard(context(manifest), vector, report_id, client_round.entropy)
    sealed = seal(leader, _key(client_round, "leader_key"), share_info(manifest, site_id, report_id, LEADER))
    for_helper = seal(helper, _key(client_round, "helper_key"), share_info(manifest, site_id, report_id, HELPER))
    return sign_report(client_round, vector.size, report_id, public, for_helper, sealed), sealed


def sign_report(
    client_round: ClientRound, length: int, report_id: bytes, public: bytes, helper_share: bytes, leader_share: bytes
) -> Report:
    """Return a report over these sealed shares, under the site's signature."""
    if client_round.sign is None or client_round.keyid is None:
        raise UpdateRefused(f"engine {NAME} needs the site's identity key")
    digest = hashlib.sha256(leader_share).digest()
    statement = report_statement(
        client_round.manifest.digest(), client_round.site_id, length, report_id, public, helper_share, digest
    )  # fmt: skip
    return Report(
        site_id=client_round.site_id,
        length=length,
        report_id=report_id,
        public_share=public,
        helper_share=helper_share,
        leader_digest=digest,
        keyid=Digest(client_round.keyid),
        signature=client_round.sign(statement),
    )


def accepted_set(manifest: RoundManifest, bodies: Mapping[SiteId, bytes]) -> Agree:
    """Members (a bitmap over the cohort) and the root over their bodies' digests."""
    positions = {manifest.cohort.index(site): digest for site, digest in bodies.items()}
    return Agree(transcript.bitmap(frozenset(positions), len(manifest.cohort)), transcript.body_root(positions))


def _begun(manifest: RoundManifest, state: LeaderState, reply: bytes) -> tuple[Begun, bytes]:
    """Return the helper's answer to the beginning, and the verification key out of it."""
    answer = Begun.unpack(reply)
    return answer, unseal(answer.verify_key, state.private_key, aggregate_info(manifest, b"verify-key"))


def _key(client_round: ClientRound, name: str) -> bytes:
    text = client_round.public.get(name)
    try:
        key = bytes.fromhex(text if isinstance(text, str) else "")
    except ValueError:
        key = b""
    if len(key) != 32:
        raise UpdateRefused(f"the round's {name} is not 32 bytes in hexadecimal")
    return key


TWOSERVER: Final = Engine(
    facts=FACTS,
    server=TwoServerLeader(),
    client=TwoServerSite(),
)
