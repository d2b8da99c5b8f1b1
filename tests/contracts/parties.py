"""The parties beside the sites, in memory: each keeps its keys, and answers one set in a round."""

import hashlib
import os
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Protocol

import msgpack
import numpy as np
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from tests.contracts import threshold
from tests.shared.secagg.oneshot.holders import ShareHolder, Signer
from undersong.shared.fields.field64 import P
from undersong.shared.ids import SiteId
from undersong.shared.secagg import transcript
from undersong.shared.secagg.engine import Derive, ServerRound, UpdateRefused
from undersong.shared.secagg.fold import BytesSource
from undersong.shared.secagg.oneshot.facts import NAME as ONESHOT
from undersong.shared.secagg.oneshot.messages import SetAsk, Witnessed
from undersong.shared.secagg.oneshot.sets import statement_to_sign
from undersong.shared.secagg.pairwise import messages, witness
from undersong.shared.secagg.pairwise.roster import Roster
from undersong.shared.secagg.pairwise.terms import terms
from undersong.shared.secagg.twoserver.helper import (
    HelperKeys,
    Taken,
    aggregate,
    judge,
    pack_share,
    seal_share,
    seal_verify_key,
)
from undersong.shared.secagg.twoserver.leader import accept, examine
from undersong.shared.secagg.twoserver.messages import Accepted, Agree, Begun
from undersong.shared.wire.custodian import custodian_service
from undersong.shared.wire.helper import HELPER, accepted_statement, key_statement
from undersong.shared.wire.manifest import RoundManifest
from undersong.shared.wire.updates import UpdateHeader


def derived_from(secret: bytes) -> Derive:
    """What a server derives from a secret that it keeps."""
    return lambda label: hashlib.sha256(secret + label).digest()


CUSTODIANS = 7
"""As many as the largest of the rounds has."""


class Party(Protocol):
    def answer(self, stage: str, manifest: RoundManifest, body: bytes) -> bytes: ...


class Witness:
    """The witness of `pairwise`, of `oneshot` and of `threshold`."""

    def __init__(self, signer: Signer, nonce: bytes, sites: Mapping[SiteId, bytes]) -> None:
        self._signer, self._nonce, self._sites = signer, nonce, sites
        self._roster: Roster | None = None

    def answer(self, stage: str, manifest: RoundManifest, body: bytes) -> bytes:
        if manifest.engine == threshold.FACTS.name:
            state = threshold.State.unpack(body)
            return self._signer.private.sign(threshold.set_statement(manifest.digest(), state.members, state.root))
        if manifest.engine == ONESHOT:
            statement = statement_to_sign(manifest, SetAsk.unpack(body), self._nonce)
            keyid = bytes.fromhex(self._signer.keyid)
            return Witnessed(self._nonce, keyid, self._signer.private.sign(statement)).pack()
        ask, fixed = witness.read_ask(body), terms(manifest, self._signer.public)
        if isinstance(ask, witness.RosterAsk):
            cohort = frozenset(map(str, manifest.cohort))
            frozen, statement = witness.roster_statement(ask, fixed, self._nonce, cohort, dict(self._sites))
            self._roster = replace(frozen, signature=self._signer.private.sign(statement))
            return messages.pack_list([self._nonce, self._roster.signature])
        assert self._roster is not None
        return self._signer.private.sign(witness.survivors_statement(ask, fixed, self._roster))


class SecondServer:
    """The helper of `twoserver`."""

    def __init__(self, signer: Signer) -> None:
        self._signer = signer
        self._taken: dict[SiteId, Taken] = {}
        self._packed = b""

    def answer(self, stage: str, manifest: RoundManifest, body: bytes) -> bytes:
        digest, sign = manifest.digest(), self._signer.private.sign
        if stage == "begin":
            self._keys = HelperKeys.make(manifest, os.urandom, derived_from(b"helper"))
            private = X25519PrivateKey.from_private_bytes(self._keys.private_key)
            public = private.public_key().public_bytes_raw()
            sealed = seal_verify_key(manifest, body, self._keys)
            signature = sign(key_statement(digest, public))
            return Begun(public, bytes.fromhex(self._signer.keyid), signature, sealed).pack()
        if stage == "close":
            agree = Agree.unpack(body)
            sites = [manifest.cohort[i] for i in sorted(transcript.members(agree.members, len(manifest.cohort)))]
            self._packed = pack_share(aggregate(manifest, self._keys, [self._taken[site] for site in sites]))
            share = hashlib.sha256(self._packed).digest()
            signature = sign(accepted_statement(digest, agree.members, agree.root, share))
            return Accepted(share, bytes.fromhex(self._signer.keyid), signature).pack()
        return seal_share(manifest, body, self._packed)

    def verify(
        self, server_round: ServerRound, header: UpdateHeader, payload: memoryview, digest: bytes, site: Any
    ) -> None:
        """Both servers' verification of one report, as the aggregator runs it."""
        pending = examine(server_round, header, BytesSource(payload), digest)
        report = pending.question.report
        if report.keyid != hashlib.sha256(site.public_bytes_raw()).hexdigest():
            raise UpdateRefused("the report names another certificate than its site's")
        report.check_signature(server_round.manifest.digest(), site)
        verdict = judge(server_round.manifest, self._keys, pending.question)
        if verdict.message is None:
            raise UpdateRefused(f"the helper refuses the report: {verdict.detail}")
        accept(server_round.manifest, pending, verdict.message)
        self._taken[header.site_id] = Taken(header.site_id, report.report_id, report.length, report.helper_share)


class Custodian:
    """One of several holders of shares, of `threshold` and of `oneshot`."""

    def __init__(self, signers: Mapping[str, Signer], index: int, sites: Mapping[SiteId, bytes]) -> None:
        self._signer, self._index, self._witness = signers[threshold.CUSTODIAN], index, signers["keys"].public
        self._other = ShareHolder(signers[custodian_service(index)], index, signers["keys"].public, sites)
        self._key = X25519PrivateKey.generate()
        self._held: tuple[bytes, bytes] | None = None

    def answer(self, stage: str, manifest: RoundManifest, body: bytes) -> bytes:
        if manifest.engine == ONESHOT:
            return self._other.answer(stage, manifest, body)
        digest = manifest.digest()
        if stage == "begin":
            public = self._key.public_key().public_bytes_raw()
            signature = self._signer.private.sign(threshold.key_statement(digest, self._index, public))
            return bytes(msgpack.packb([public, self._signer.keyid, signature]))
        if stage == "close":
            packed, shares = msgpack.unpackb(body)
            state = threshold.State.unpack(packed)
            threshold.check_signature(
                self._witness, state.vouched, threshold.set_statement(digest, state.members, state.root), "the set"
            )
            if self._held is not None and self._held[0] != packed:
                raise UpdateRefused("this custodian holds another set of this round")
            total = sum(
                np.frombuffer(
                    threshold.SUITE.decrypt(sealed, self._key, threshold.share_info(digest, SiteId(site), self._index)),
                    "<u8",
                ).astype(object)
                for site, sealed in shares.items()
            )
            self._held = packed, (total % P).astype("<u8").tobytes()
            return b"held"
        if self._held is None or self._held[0] != body:
            raise UpdateRefused("this custodian was not given this set")
        return self._held[1]


def parties(signers: Mapping[str, Signer], nonce: bytes, sites: Mapping[SiteId, bytes]) -> dict[str, list[Party]]:
    custodians = [Custodian(signers, index, sites) for index in range(CUSTODIANS)]
    return {
        threshold.WITNESS: [Witness(signers["keys"], nonce, sites)],
        HELPER: [SecondServer(signers[HELPER])],
        threshold.CUSTODIAN: [*custodians],
    }
