"""The aggregator's side: encrypted bodies are added as they are, and the custodians' shares of the sum of keys open it.

The upload is closed in three: the witness signs the one set and opens its nonce, by which random factors are chosen
after every body was stored; each custodian answers for every site's share; and the shares must fit each other.
"""

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import combinations
from typing import Final

import msgpack
import numpy as np
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from pydantic import JsonValue

from undersong.shared.ids import SiteId
from undersong.shared.lattice import kernels
from undersong.shared.lattice.pack import is_right, unpack
from undersong.shared.lattice.packings import N
from undersong.shared.lattice.ring import TAIL, Q, UniformWords, Words, decrypt, transformed
from undersong.shared.lattice.shamir import interpolated, is_share
from undersong.shared.secagg import transcript
from undersong.shared.secagg.engine import (
    UPLOAD,
    Ask,
    Asks,
    BodySource,
    Closed,
    Derive,
    Entropy,
    Opened,
    Replies,
    RepliesContradict,
    RoundEvidence,
    RoundSpoiled,
    ServerRound,
    UpdateRefused,
    checked_each,
)
from undersong.shared.secagg.facts import WITNESS
from undersong.shared.secagg.fold import raw_blocks
from undersong.shared.secagg.hpke import SUITE
from undersong.shared.secagg.oneshot.consistency import judge
from undersong.shared.secagg.oneshot.dealing import SEALING_BYTES, Dealing, share_size, shares_size
from undersong.shared.secagg.oneshot.facts import NAME
from undersong.shared.secagg.oneshot.messages import (
    BegunReply,
    CheckAsk,
    Checked,
    Dealt,
    SetAsk,
    SumAsk,
    SumShare,
    Witnessed,
)
from undersong.shared.secagg.oneshot.sets import WitnessedSet, nonce_opens
from undersong.shared.secagg.oneshot.terms import WORD, OneshotTerms, terms
from undersong.shared.secagg.quantise import DTYPES, ModVector
from undersong.shared.secagg.strict import MessageMalformed
from undersong.shared.wire.custodian import CUSTODIAN
from undersong.shared.wire.manifest import RoundManifest
from undersong.shared.wire.updates import UpdateHeader

PATIENCE_S: Final = 2.0
"""How long the answers of more custodians than are needed are waited for."""
_ANSWER_BYTES: Final = 1 << 22
_SUM_BYTES: Final = WORD * N + SEALING_BYTES + 256


@dataclass(frozen=True, slots=True)
class OneshotState:
    """The server's state: its key for sums of shares, the custodians' keys; then the set, and who can open it."""

    sum_key: bytes
    custodians: Mapping[int, bytes]
    vouched: bytes = b""
    openers: tuple[int, ...] = ()

    def pack(self) -> bytes:
        """As bytes."""
        return bytes(msgpack.packb([self.sum_key, list(self.custodians.items()), self.vouched, list(self.openers)]))

    @classmethod
    def unpack(cls, data: bytes) -> "OneshotState":
        """Return the inverse of `pack`."""
        sum_key, custodians, vouched, openers = msgpack.unpackb(data)
        return cls(sum_key, dict(custodians), vouched, tuple(openers))


class OneshotServer:
    """`undersong.shared.secagg.engine.ServerEngine`."""

    def open(self, manifest: RoundManifest, entropy: Entropy = os.urandom, derive: Derive | None = None) -> Opened:  # noqa: ARG002
        """Ask every custodian for its key of this round."""
        fixed = terms(manifest)
        asks = tuple(Ask(CUSTODIAN, b"", index) for index in range(fixed.custodians))
        return Opened(
            {}, OneshotState(entropy(32), {}).pack(), Asks(asks, fixed.threshold, checked_each(_begun), PATIENCE_S)
        )

    def begun(self, server_round: ServerRound, opened: Opened, replies: Replies) -> Opened:  # noqa: ARG002
        """Return the keys of the custodians that take part, whose signatures the caller has checked."""
        begun = {index: _begun(index, reply) for index, reply in sorted(replies.items())}
        state = replace(
            OneshotState.unpack(opened.secret), custodians={index: said.share_key for index, said in begun.items()}
        )
        shown: dict[str, JsonValue] = {
            str(index): {"key": said.share_key.hex(), "keyid": said.keyid.hex(), "signature": said.signature.hex()}
            for index, said in begun.items()
        }
        return Opened({"custodians": shown}, state.pack())

    def body_size(self, manifest: RoundManifest, header: UpdateHeader) -> int:
        """Return the sealed shares and the ciphertext."""
        fixed, count = terms(manifest), Dealing.of(header).count
        if not fixed.threshold <= count <= fixed.custodians:
            raise UpdateRefused(f"a body holds {fixed.threshold} to {fixed.custodians} shares, not {count}")
        return shares_size(fixed, count) + WORD * self.sum_length(manifest, header)

    def open_payload(self, server_round: ServerRound, header: UpdateHeader, source: BodySource) -> Iterator[memoryview]:
        """Yield the ciphertext, which only the sum of all keys opens."""
        fixed, dealing = terms(server_round.manifest), Dealing.of(header)
        if dealing.count != len(OneshotState.unpack(server_round.secret).custodians):
            raise UpdateRefused("the body holds shares for other custodians than take part")
        source.take(shares_size(fixed, dealing.count))
        for block in raw_blocks(source, WORD * self.sum_length(server_round.manifest, header)):
            if not is_share(np.frombuffer(block, "<u8")):
                raise UpdateRefused("a word of the ciphertext is not below q")
            yield block

    def close(
        self, server_round: ServerRound, step: str, messages: Mapping[SiteId, bytes], replies: Replies | None = None
    ) -> Closed:
        """Fix the set with the witness, then have the custodians check what they were dealt."""
        if step != UPLOAD:
            raise UpdateRefused(f"engine {NAME} has no step {step}")
        manifest, state = server_round.manifest, OneshotState.unpack(server_round.secret)
        fixed, asked = terms(manifest), _set_of(manifest, messages)
        if replies is None:
            return Closed(server_round.secret, asks=Asks.one(WITNESS, asked.pack(), lambda said: _nonce(fixed, said)))
        if not state.vouched:
            vouched = WitnessedSet(asked, _nonce(fixed, replies[0]))
            asks = tuple(_checks(server_round, state, vouched, messages))
            check = checked_each(lambda _, reply: Checked.unpack(reply))
            return Closed(
                replace(state, vouched=vouched.pack()).pack(), asks=Asks(asks, fixed.threshold, check, PATIENCE_S)
            )
        answers = {index: Checked.unpack(reply) for index, reply in replies.items()}
        found = judge(answers, frozenset(messages), fixed.threshold)
        return Closed(replace(state, openers=found.custodians).pack(), faults=found.faults)

    def sum_length(self, manifest: RoundManifest, header: UpdateHeader) -> int:
        """Return the coefficients of all polynomials."""
        return N * terms(manifest).packing.polynomials(header.length)

    def sum_asks(self, server_round: ServerRound) -> Asks:
        """Ask those custodians for their sums of shares whose answers about every site were consistent."""
        fixed, state = terms(server_round.manifest), OneshotState.unpack(server_round.secret)
        asked = WitnessedSet.unpack(state.vouched).asked
        count = len(transcript.members(asked.members, len(server_round.manifest.cohort)))
        key = X25519PrivateKey.from_private_bytes(state.sum_key).public_key().public_bytes_raw()
        question = SumAsk(asked.members, asked.root, key).pack()
        asks = tuple(Ask(CUSTODIAN, question, index, _SUM_BYTES) for index in state.openers)

        def check(replies: Replies) -> Mapping[int, str]:
            return _unfit(fixed, state, replies, TAIL * count)

        return Asks(asks, fixed.threshold, check)

    def unmask_sum(self, server_round: ServerRound, total: ModVector) -> ModVector:
        """Open the sum with the custodians' sums of shares; raises RoundSpoiled where they do not open it."""
        fixed, state, length = (
            terms(server_round.manifest),
            OneshotState.unpack(server_round.secret),
            server_round.length,
        )
        shares = {index: _share(fixed, state, index, reply) for index, reply in server_round.shares.items()}
        if len(shares) < fixed.threshold or length is None or server_round.manifest.encoding is None:
            raise UpdateRefused("too few custodians have given their sum of shares")
        ciphertexts, stream = total.reshape(-1, N), fixed.public_key(dict(state.custodians))
        for chosen in combinations(sorted(shares), fixed.threshold):
            key = transformed(interpolated({index + 1: shares[index] for index in chosen}))
            (first,) = decrypt(ciphertexts[:1], UniformWords(stream), key)
            if is_right(fixed.packing, first[0]):
                plain = unpack(fixed.packing, decrypt(ciphertexts, UniformWords(stream), key), length)
                return plain.astype(DTYPES[server_round.manifest.encoding.modulus_bits])
        raise RoundSpoiled(
            "no custodians' sums of shares open the sum: one of them lies, or a site's body is not its own"
        )

    def evidence(self, server_round: ServerRound) -> RoundEvidence:
        """Return the set with the witness's signature."""
        return RoundEvidence(survivors=OneshotState.unpack(server_round.secret).vouched)

    def modulus(self, manifest: RoundManifest) -> int | None:  # noqa: ARG002
        """Return the ring's modulus."""
        return Q


def _begun(_index: int, reply: bytes) -> BegunReply:
    return BegunReply.unpack(reply)


def _set_of(manifest: RoundManifest, bodies: Mapping[SiteId, bytes]) -> SetAsk:
    """Return the sites as a bitmap over the cohort, and the root over their bodies' digests."""
    positions = {manifest.cohort.index(site): upload[:32] for site, upload in bodies.items()}
    return SetAsk(transcript.bitmap(frozenset(positions), len(manifest.cohort)), transcript.body_root(positions))


def _nonce(fixed: OneshotTerms, reply: bytes) -> Witnessed:
    said = Witnessed.unpack(reply)
    if not nonce_opens(said.nonce, fixed.commitment):
        raise MessageMalformed("the witness's nonce is not the one to which the manifest commits")
    return said


def _checks(
    server_round: ServerRound, state: OneshotState, vouched: WitnessedSet, sites: Mapping[SiteId, bytes]
) -> Iterator[Ask]:
    """Yield the question to each custodian, with its sealed shares out of the stored bodies."""
    if server_round.body is None:
        raise ValueError("the bodies are needed to close the upload")
    fixed, order = terms(server_round.manifest), sorted(state.custodians)
    dealt: dict[int, dict[SiteId, Dealt]] = {index: {} for index in order}
    for site in sorted(sites):
        with server_round.body(site) as (header, source):
            dealing = Dealing.of(header)
            for position, index in enumerate(order):
                sealed = bytes(source.take(share_size(fixed, position)))
                dealt[index][site] = Dealt(dealing.digests, dealing.keyid, dealing.signature, sealed)
    for index in order:
        question = CheckAsk(vouched.asked, vouched.witnessed, dealt[index])
        yield Ask(CUSTODIAN, question.pack(), index, _ANSWER_BYTES)


def _share(fixed: OneshotTerms, state: OneshotState, index: int, reply: bytes) -> Words:
    """Return a custodian's sum of shares, uint64[4096]; raises UpdateRefused."""
    try:
        key = X25519PrivateKey.from_private_bytes(state.sum_key)
        plain = SUITE.decrypt(SumShare.unpack(reply).sealed, key, fixed.sum_info(index))
    except (InvalidTag, ValueError) as error:
        raise UpdateRefused("the sum of shares is not sealed for this aggregator and round") from error
    words = np.frombuffer(plain, "<u8").astype(np.uint64) if len(plain) == WORD * N else None
    if words is None or not is_share(words):
        raise UpdateRefused("a sum of shares has 4096 words below q")
    return words


def _unfit(fixed: OneshotTerms, state: OneshotState, replies: Replies, limit: int) -> Mapping[int, str]:
    """Name the custodians whose sum does not open, or does not fit the only sum of small keys that others open.

    A lie can make a wrong sum look small, so where there are two of them no custodian is named: what rounding leaves
    tells them apart (`unmask_sum`). Raises RepliesContradict where none is small and another custodian could answer.
    """
    unusable = checked_each(lambda index, reply: _share(fixed, state, index, reply))(replies)
    shares = {index: _share(fixed, state, index, reply) for index, reply in replies.items() if index not in unusable}
    odd = set[tuple[int, ...]]()
    for chosen in combinations(sorted(shares), fixed.threshold):
        some = {index + 1: shares[index] for index in chosen}
        if kernels.within(interpolated(some), limit):
            odd.add(tuple(i for i in sorted(shares) if (interpolated(some, i + 1) != shares[i]).any()))
    if len(odd) == 1:
        return {**unusable, **dict.fromkeys(odd.pop(), "its sum of shares does not fit those of the others")}
    if not odd and len(shares) >= fixed.threshold and len(replies) < len(state.openers):
        raise RepliesContradict("the custodians' sums of shares open no sum of small keys")
    return unusable
