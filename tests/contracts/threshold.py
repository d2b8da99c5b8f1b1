"""An engine that only tests have: pads that several custodians hold in shares, two of three of whom open their sum.

It has what no engine of the product has yet, so that the seam is held to it: parties that are asked at the same time
and of which some may be away, a share for each of them in every body, a step that is closed in two rounds of questions,
and a sum that is longer than the payload. Each site adds a pad to its words modulo p and deals the pad to the
custodians (Shamir, degree one); they add up what they hold, and two such sums give the pad's.
"""

import hashlib
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import msgpack
import numpy as np
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PublicKey

from undersong.shared.fields.field64 import P
from undersong.shared.fields.sums import centred
from undersong.shared.ids import Digest, SiteId
from undersong.shared.secagg import transcript
from undersong.shared.secagg.audit import (
    Check,
    RecordInvalid,
    body_positions,
    check_signature,
    cohort_transcript,
    refusing,
    said_by_sites,
)
from undersong.shared.secagg.engine import (
    NO_ASKS,
    UPLOAD,
    Ask,
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
    checked_each,
    header_for,
)
from undersong.shared.secagg.facts import WITNESS, EngineFacts, PartyFacts, Wording
from undersong.shared.secagg.hpke import SUITE
from undersong.shared.secagg.quantise import TAIL_LENGTH, ModVector, signed, unpack
from undersong.shared.wire.manifest import RoundKind, RoundManifest
from undersong.shared.wire.records import RoundRecord
from undersong.shared.wire.updates import UpdateHeader, write_header

CUSTODIAN, CUSTODIANS, NEED = "custodian", 3, 2
BLOCK = 64  # words: a sum is a multiple of it
FACTS = EngineFacts(
    name="threshold",
    steps=(UPLOAD,),
    smallest=2,
    wording=Wording(
        "Custodians hold shares.",
        "Two of three custodians open the sum of pads.",
        "no service alone",
        "No two custodians may collude.",
    ),
    code="tests.contracts.threshold:THRESHOLD",
    audit="tests.contracts.threshold:AUDIT",
    parties=(PartyFacts(WITNESS), PartyFacts(CUSTODIAN, CUSTODIANS, NEED, opens_sum=True)),
    vouched_by="keys",
    weighted=False,
    tail_words=0,
)


def padded(length: int) -> int:
    return -(-length // BLOCK) * BLOCK


def sealed_bytes(length: int) -> int:
    return 8 * padded(length) + 48


def key_statement(digest: Digest, index: int, key: bytes) -> bytes:
    return b"custodian-key" + bytes.fromhex(digest) + bytes([index]) + key


def set_statement(digest: Digest, members: bytes, root: bytes) -> bytes:
    return b"custodian-set" + bytes.fromhex(digest) + root + members


def share_info(digest: Digest, site_id: SiteId, index: int) -> bytes:
    return b"custodian-share" + bytes.fromhex(digest) + bytes([index]) + site_id.encode()


def bound(manifest: RoundManifest, site_id: SiteId, payload: bytes | memoryview) -> bytes:
    return hashlib.sha256(bytes.fromhex(manifest.digest()) + site_id.encode() + b"\0" + payload).digest()


@dataclass(frozen=True)
class State:
    """The server's state. `vouched`: the witness's signature over the set, once it was given."""

    members: bytes = b""
    root: bytes = b""
    vouched: bytes = b""

    def pack(self) -> bytes:
        return bytes(msgpack.packb([self.members, self.root, self.vouched]))

    @classmethod
    def unpack(cls, data: bytes) -> "State":
        return cls(*msgpack.unpackb(data))


class ThresholdServer:
    def open(self, manifest: RoundManifest, entropy: Entropy = os.urandom, derive: Derive | None = None) -> Opened:
        asks = Asks(tuple(Ask(CUSTODIAN, b"key", i) for i in range(CUSTODIANS)), NEED, checked_each(_begun))
        return Opened({}, State().pack(), asks)

    def begun(self, server_round: ServerRound, opened: Opened, replies: Replies) -> Opened:
        fields = {index: _begun(index, reply) for index, reply in replies.items()}
        public = {str(index): {"key": key.hex(), "keyid": keyid, "signature": signature.hex()}
                  for index, (key, keyid, signature) in fields.items()}  # fmt: skip
        return Opened({"custodians": public}, opened.secret)

    def body_size(self, manifest: RoundManifest, header: UpdateHeader) -> int:
        count = header.material.get("shares")
        if not isinstance(count, int) or not NEED <= count <= CUSTODIANS or set(header.material) != {"shares", "bound"}:
            raise UpdateRefused("a body holds two or three shares")
        return count * (1 + sealed_bytes(header.length)) + 8 * padded(header.length)

    def open_payload(self, server_round: ServerRound, header: UpdateHeader, source: BodySource) -> Iterator[memoryview]:
        payload = bytes(source.take(self.body_size(server_round.manifest, header) + 1))
        if bound(server_round.manifest, header.site_id, payload) != header.material["bound"]:
            raise UpdateRefused("the body was changed, or is of another round or site")
        yield memoryview(payload)[len(payload) - 8 * padded(header.length) :]

    def close(
        self, server_round: ServerRound, step: str, messages: Mapping[SiteId, bytes], replies: Replies | None = None
    ) -> Closed:
        state = State.unpack(server_round.secret)
        positions = {server_round.manifest.cohort.index(site): digest for site, digest in messages.items()}
        members = transcript.bitmap(frozenset(positions), len(server_round.manifest.cohort))
        asked = State(members, transcript.body_root(positions))
        if replies is None:
            return Closed(server_round.secret, asks=Asks.one(WITNESS, asked.pack()))
        if not state.vouched:
            vouched = replace(asked, vouched=replies[0])
            asks = tuple(self._hand_over(server_round, vouched, messages))
            return Closed(vouched.pack(), asks=Asks(asks, NEED, checked_each(_held)))
        return Closed(server_round.secret)

    def _hand_over(self, server_round: ServerRound, state: State, sites: Mapping[SiteId, bytes]) -> Iterator[Ask]:
        """Every custodian's sealed shares, out of the bodies as they are stored."""
        assert server_round.body is not None
        shares: dict[int, dict[str, bytes]] = {}
        for site in sites:
            with server_round.body(site) as (header, source):
                for _ in range(int(header.material["shares"])):
                    index = source.take(1)[0]
                    shares.setdefault(index, {})[site] = bytes(source.take(sealed_bytes(header.length)))
        for index, held in sorted(shares.items()):
            yield Ask(CUSTODIAN, msgpack.packb([state.pack(), held]), index)

    def sum_length(self, manifest: RoundManifest, header: UpdateHeader) -> int:
        return padded(header.length)

    def sum_asks(self, server_round: ServerRound) -> Asks:
        size = 8 * padded(server_round.length or 0)
        asks = tuple(Ask(CUSTODIAN, server_round.secret, index, size) for index in range(CUSTODIANS))
        return Asks(asks, NEED, checked_each(lambda _, reply: _sum_of(reply, size)))

    def unmask_sum(self, server_round: ServerRound, total: ModVector) -> ModVector:
        if len(server_round.shares) < NEED or server_round.length is None:
            raise UpdateRefused("too few custodians have given their share")
        (a, first), (b, second) = [
            (index + 1, np.frombuffer(data, "<u8").astype(object))
            for index, data in list(server_round.shares.items())[:NEED]
        ]
        pads = (first * b - second * a) * pow(b - a, -1, P) % P  # the line through both, at 0
        plain = ((total.astype(object) - pads) % P).astype(np.uint64)[: server_round.length]
        centred(plain)
        return plain

    def evidence(self, server_round: ServerRound) -> RoundEvidence:
        return RoundEvidence(survivors=server_round.secret)

    def modulus(self, manifest: RoundManifest) -> int | None:
        return P


class ThresholdClient:
    def begin(self, client_round: ClientRound, verifier: Verifier) -> bytes:
        for index, key in _keys(client_round).items():
            shown = client_round.public["custodians"][str(index)]
            verifier.check(
                CUSTODIAN, shown["keyid"], shown["signature"], key_statement(client_round.manifest.digest(), index, key)
            )
        return b""

    def message(self, client_round: ClientRound, state: bytes, step: str, answer: bytes | None) -> tuple[bytes, bytes]:
        raise UpdateRefused(f"there is no step {step}")

    def upload(
        self, client_round: ClientRound, state: bytes, answer: bytes | None, payload: Payload
    ) -> tuple[bytes, Pieces]:
        words = signed(unpack(payload.data, payload.modulus_bits), payload.modulus_bits)
        words = words[:-TAIL_LENGTH] if payload.kind is RoundKind.TRAIN else words
        plain = np.concatenate([words.astype(object) % P, np.zeros(padded(words.size) - words.size, object)])
        pad, slope = (_uniform(client_round.entropy, plain.size) for _ in range(2))
        masked = ((plain + pad) % P).astype("<u8").tobytes()
        sealed = b"".join(
            bytes([index])
            + SUITE.encrypt(
                ((pad + slope * (index + 1)) % P).astype("<u8").tobytes(),
                X25519PublicKey.from_public_bytes(key),
                share_info(client_round.manifest.digest(), client_round.site_id, index),
            )
            for index, key in _keys(client_round).items()
        )
        body = sealed + masked
        material = {
            "shares": len(_keys(client_round)),
            "bound": bound(client_round.manifest, client_round.site_id, body),
        }
        header = header_for(client_round, FACTS.name, replace(payload, length=words.size), material)
        return b"", iter((write_header(header), body))


class ThresholdAudit:
    def protection(self, record: RoundRecord) -> str:
        return "Custodians held the pads."

    def named_voucher(self, record: RoundRecord) -> Digest | None:
        return None

    @refusing
    def check_voucher(self, record: RoundRecord, voucher: bytes) -> None:
        if record.roster or record.sharers or said_by_sites(record):
            raise RecordInvalid("there is no roster, and sites sign nothing")
        state, manifest = State.unpack(bytes.fromhex(record.survivors or "")), record.manifest.manifest
        positions = body_positions(record)
        if (state.members, state.root) != (
            transcript.bitmap(frozenset(positions), len(manifest.cohort)), transcript.body_root(positions),
        ):  # fmt: skip
            raise RecordInvalid("the bodies are others than were vouched for")
        check_signature(voucher, state.vouched, set_statement(manifest.digest(), state.members, state.root), "the set")

    def identities(self, record: RoundRecord) -> Mapping[SiteId, bytes]:
        return {}

    def check(self, record: RoundRecord, voucher: bytes) -> int:
        self.check_voucher(record, voucher)
        return NEED

    def checks(self, record: RoundRecord, vouchers: Callable[[], Sequence[bytes]]) -> Sequence[Check]:
        return ()

    @refusing
    def transcript(self, record: RoundRecord) -> list[bytes]:
        return cohort_transcript(record)


def _keys(client_round: ClientRound) -> dict[int, bytes]:
    try:
        keys = {int(index): bytes.fromhex(shown["key"]) for index, shown in client_round.public["custodians"].items()}
    except (KeyError, TypeError, ValueError) as error:
        raise PublicUnsigned("the round lacks its custodians' keys") from error
    if len(keys) < NEED:
        raise PublicUnsigned("too few custodians take part")
    return keys


def _begun(_index: int, reply: bytes) -> tuple[bytes, str, bytes]:
    key, keyid, signature = msgpack.unpackb(reply)
    if (len(key), len(keyid), len(signature)) != (32, 64, 64):
        raise UpdateRefused("a custodian answers with a key, a certificate and a signature")
    return key, keyid, signature


def _held(_index: int, reply: bytes) -> None:
    if reply != b"held":
        raise UpdateRefused("the custodian does not say that it holds the shares")


def _sum_of(reply: bytes, size: int) -> None:
    if len(reply) != size:
        raise UpdateRefused(f"a custodian's sum has {size} bytes, not {len(reply)}")


def _uniform(entropy: Entropy, count: int) -> np.ndarray:
    return np.array([int.from_bytes(entropy(16), "big") % P for _ in range(count)], object)


THRESHOLD = Engine(FACTS, ThresholdServer(), ThresholdClient())
AUDIT = ThresholdAudit()
assert not NO_ASKS
