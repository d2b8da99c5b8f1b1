"""A federation around the keys service: coordinator, aggregator and sites that sign by hand."""

import os
from dataclasses import dataclass, field, replace
from datetime import timedelta

import httpx
import msgpack
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from undersong.services.keys.wiring import Components
from undersong.shared.identity.authority import Identity, Subject, public_bytes
from undersong.shared.identity.enrol import enrol
from undersong.shared.identity.requests import SigningAuth
from undersong.shared.ids import new_id
from undersong.shared.secagg import transcript
from undersong.shared.secagg.pairwise import messages, roster
from undersong.shared.secagg.pairwise.messages import Advertisement, Survivors
from undersong.shared.secagg.pairwise.roster import Frame, Member, Roster
from undersong.shared.secagg.pairwise.terms import terms
from undersong.shared.transparency.documents import RoundRecord
from undersong.shared.transparency.records import transcript_of
from undersong.shared.wire.manifest import MANIFEST_CONTEXT, RoundManifest, SignedManifest

URL = "http://keys"
FEDERATION = "fed_x"
SITES = tuple(f"site_{i}" for i in range(5))
ROUND = new_id("rnd")


@dataclass
class Federation:
    http: httpx.AsyncClient
    identities: dict[str, Identity] = field(default_factory=dict)

    @classmethod
    async def enrolled(cls, http: httpx.AsyncClient, components: Components) -> "Federation":
        found = cls(http)
        subjects = [Subject("service", "coordinator"), Subject("service", "aggregator")]
        for subject in [*subjects, *(Subject("site", name, FEDERATION) for name in SITES)]:
            new = await components.enrolments.create_token(subject, timedelta(days=1))
            found.identities[subject.name] = await enrol(http, URL, new.token, Ed25519PrivateKey.generate())
        return found

    def auth(self, name: str) -> SigningAuth:
        return SigningAuth(self.identities[name], "keys")

    async def commit(self, round_id: str = ROUND, who: str = "coordinator") -> httpx.Response:
        return await self.http.post(f"{URL}/v1/rounds/{round_id}/nonce-commitments", auth=self.auth(who))

    async def begin(self, round_id: str = ROUND, **changes: object) -> "Attempt":
        response = await self.commit(round_id)
        assert response.status_code == 201, response.text
        witness = (await self.http.get("/v1/witness")).json()
        return Attempt(self, self.manifest(round_id, response.json(), **changes), bytes.fromhex(witness["public_key"]))

    def manifest(self, round_id: str, committed: dict[str, object], **changes: object) -> SignedManifest:
        params = {"corrupt": 0.3, "dropout": 0.2, "quorum": True, "nonce_commitment": committed["commitment"]}
        document = {
            "federation_id": FEDERATION, "job_id": "job_1", "round_id": round_id, "number": 1, "attempt": 1,
            "kind": "train", "engine": "pairwise", "recipe": {"name": "null", "digest": "0" * 64},
            "data": {"dataset": "d"}, "engine_params": params, "model": {"version_id": "ver_1", "digest": "1" * 64},
            "model_id": "mdl_1", "cohort": list(SITES), "min_cohort": 3, "target": 5, "strategy": {"name": "fedavg"},
            "encoding": {"modulus_bits": 32, "max_summands": 5, "bound": 1000, "scale": 1.0, "max_weight": 10},
            "seed": 1, "deadline_s": 9, "epoch": committed["epoch"],
        }  # fmt: skip
        return self.signed(RoundManifest.model_validate({**document, **changes}))

    def signed(self, manifest: RoundManifest, who: str = "coordinator") -> SignedManifest:
        by = self.identities[who]
        signature = by.sign(MANIFEST_CONTEXT, bytes.fromhex(manifest.digest()))
        return SignedManifest(manifest=manifest, keyid=by.keyid, signature=signature.hex())


@dataclass
class Attempt:
    """One attempt at a round, with an aggregator that may bend anything."""

    federation: Federation
    signed: SignedManifest
    witness_key: bytes
    frozen: Roster | None = None

    @property
    def round_id(self) -> str:
        return self.signed.manifest.round_id

    def member(self, name: str) -> Member:
        identity = self.federation.identities[name]
        c, s, b = os.urandom(32), os.urandom(32), os.urandom(32)
        ctx0 = terms(self.signed.manifest, self.witness_key).ctx0
        signature = identity.private_key.sign(roster.advertisement_statement(ctx0, name, c, s, b))
        return Member(name, public_bytes(identity.private_key.public_key()), Advertisement(c, s, b, signature))

    def roster(self, names: tuple[str, ...] = SITES) -> Roster:
        return Roster(tuple(self.member(name) for name in names), bytes(32), bytes(64))

    async def ask(self, question: dict[str, object], who: str = "aggregator") -> httpx.Response:
        body = {"manifest": self.signed.model_dump_json().encode(), "ask": msgpack.packb(question)}
        return await self.federation.http.post(
            f"{URL}/v1/rounds/{self.round_id}/witness",
            content=msgpack.packb(body),
            headers={"content-type": "application/octet-stream"},
            auth=self.federation.auth(who),
        )

    async def ask_roster(self, bare: Roster, who: str = "aggregator") -> httpx.Response:
        return await self.ask({"what": "roster", "roster": bare.pack()}, who)

    async def freeze(self) -> Roster:
        bare = self.roster()
        response = await self.ask_roster(bare)
        assert response.status_code == 200, response.text
        nonce, signature = messages.unpack_list(response.content)
        self.frozen = replace(bare, nonce=nonce, signature=signature)
        self.frozen.check(terms(self.signed.manifest, self.witness_key))
        return self.frozen

    def survivors(
        self, who: frozenset[int] = frozenset({0, 1, 2, 4}), root: bytes | None = None, salt: int = 0
    ) -> dict[str, object]:
        """A true question about these survivors; another `salt` means other bodies."""
        everyone = transcript.bitmap(frozenset(range(5)), 5)
        root = root or transcript.body_root({i: self.body(i, salt) for i in who})
        uploads = [self.body(i, salt) + self.signature(i, everyone, salt) for i in sorted(who)]
        members = transcript.bitmap(who, 5)
        return {"what": "survivors", "members": members, "root": root, "sharers": everyone, "uploads": uploads}

    def signature(self, position: int, sharers: bytes, salt: int = 0) -> bytes:
        """What the site signs about its body; any 64 bytes before there is a roster."""
        if self.frozen is None:
            return bytes(64)
        ctx = Frame.of(self.frozen, terms(self.signed.manifest, self.witness_key)).ctx
        statement = roster.masked_statement(ctx, sharers, self.body(position, salt))
        return self.federation.identities[SITES[position]].private_key.sign(statement)

    def body(self, position: int, salt: int = 0) -> bytes:
        return bytes([position, salt]) * 16

    async def record(self) -> RoundRecord:
        frozen, question = await self.freeze(), self.survivors()
        signature = (await self.ask(question)).content
        fixed = terms(self.signed.manifest, self.witness_key)
        statement = roster.survivors_statement(
            Frame.of(frozen, fixed).ctx, fixed.attempt, question["members"], question["root"]
        )
        alive = [SITES[i] for i in sorted(transcript.members(question["members"], 5))]
        return finished(
            RoundRecord(
                manifest=self.signed,
                engine="pairwise",
                roster=frozen.pack().hex(),
                sharers=question["sharers"].hex(),
                survivors=Survivors(question["members"], question["root"], signature).pack().hex(),
                bodies={site: self.body(SITES.index(site)).hex() for site in alive},
                upload_signatures={
                    site: self.signature(SITES.index(site), question["sharers"]).hex() for site in alive
                },
                commitments={
                    site: self.federation.identities[site].private_key.sign(statement).hex() for site in alive
                },
                sum_digest="5" * 64,
                transcript="0" * 64,
                result={"version_id": "ver_2", "content_digest": "6" * 64},
                contributors=len(alive),
            )
        )

    async def post(self, record: RoundRecord, who: str = "aggregator") -> httpx.Response:
        return await self.federation.http.post(
            f"{URL}/v1/rounds/{self.round_id}/records",
            content=record.model_dump_json().encode(),
            headers={"content-type": "application/json"},
            auth=self.federation.auth(who),
        )


def finished(record: RoundRecord) -> RoundRecord:
    """With the transcript of its own steps."""
    return record.model_copy(update={"transcript": transcript_of(record)[-1].hex()})
