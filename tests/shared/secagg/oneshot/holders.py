"""A custodian of `oneshot` in memory, with the rules that the service keeps: one set for a round, never another."""

import hashlib
import os
from collections.abc import Mapping

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey

from undersong.shared.ids import SiteId
from undersong.shared.secagg.engine import UpdateRefused
from undersong.shared.secagg.hpke import SUITE
from undersong.shared.secagg.oneshot.custodian import check_and_sum, sum_digest, witnessed_statement
from undersong.shared.secagg.oneshot.dealing import dealing_statement
from undersong.shared.secagg.oneshot.messages import BegunReply, CheckAsk, SumAsk, SumShare
from undersong.shared.secagg.oneshot.terms import terms
from undersong.shared.wire.custodian import key_statement, sum_statement
from undersong.shared.wire.manifest import RoundManifest


class Signer:
    """A service's identity: an Ed25519 key, named by the digest of its public half."""

    def __init__(self) -> None:
        self.private = Ed25519PrivateKey.generate()
        self.public = self.private.public_key().public_bytes_raw()
        self.keyid = hashlib.sha256(self.public).hexdigest()


class ShareHolder:
    """One custodian in one round. `total`: its sum of shares, once it was asked about a set."""

    def __init__(self, signer: Signer, index: int, witness_key: bytes, sites: Mapping[SiteId, bytes]) -> None:
        self._signer, self._index, self._witness, self._sites = signer, index, witness_key, sites
        self.key = X25519PrivateKey.from_private_bytes(os.urandom(32))
        self._asked: bytes | None = None
        self.total: bytes | None = None

    def answer(self, stage: str, manifest: RoundManifest, body: bytes) -> bytes:
        match stage:
            case "begin":
                return self._begin(manifest)
            case "close":
                return self._check(manifest, CheckAsk.unpack(body))
        return self._open(manifest, SumAsk.unpack(body))

    def _begin(self, manifest: RoundManifest) -> bytes:
        public = self.key.public_key().public_bytes_raw()
        signature = self._signer.private.sign(key_statement(manifest.digest(), self._index, public))
        return BegunReply(public, bytes.fromhex(self._signer.keyid), signature).pack()

    def _check(self, manifest: RoundManifest, ask: CheckAsk) -> bytes:
        statement = witnessed_statement(manifest, ask)
        Ed25519PublicKey.from_public_bytes(self._witness).verify(ask.witnessed.signature, statement)
        if self._asked not in (None, ask.asked.pack()):
            raise UpdateRefused("this custodian has answered about another set of this round")
        self._asked = ask.asked.pack()
        summed = check_and_sum(manifest, self._index, self.key.private_bytes_raw(), ask, self._untrusted(manifest, ask))
        self.total = summed.total
        return summed.checked.pack()

    def _untrusted(self, manifest: RoundManifest, ask: CheckAsk) -> dict[SiteId, str]:
        found = {}
        for site, dealt in ask.dealt.items():
            try:
                Ed25519PublicKey.from_public_bytes(self._sites[site]).verify(
                    dealt.signature, dealing_statement(terms(manifest), site, dealt.digests)
                )
            except InvalidSignature:
                found[site] = "the site did not sign its shares"
        return found

    def _open(self, manifest: RoundManifest, asked: SumAsk) -> bytes:
        if self.total is None or self._asked != asked.asked.pack():
            raise UpdateRefused("this custodian has not checked this set")
        sealed = SUITE.encrypt(
            self.total, X25519PublicKey.from_public_bytes(asked.sum_key), terms(manifest).sum_info(self._index)
        )
        statement = sum_statement(manifest.digest(), self._index, asked.members, asked.root, sum_digest(self.total))
        return SumShare(sealed, bytes.fromhex(self._signer.keyid), self._signer.private.sign(statement)).pack()
