"""The engine says, byte for byte, what the plain reference says."""

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from tests.vectors.pairwise import reference
from undersong.shared.secagg import transcript
from undersong.shared.secagg.pairwise import contexts, messages, roster
from undersong.shared.secagg.pairwise.client import ClientState
from undersong.shared.secagg.pairwise.masks import apply_mask
from undersong.shared.secagg.pairwise.server import ServerState
from undersong.shared.secagg.pairwise.witness import SurvivorsAsk, survivors_statement

FOLDER = Path(__file__).parents[3] / "vectors" / "pairwise"
DTYPES = {16: np.uint16, 24: np.uint32, 32: np.uint32}


def packed(vector: np.ndarray, bits: int) -> bytes:
    size = bits // 8
    return vector.astype("<u8").view(np.uint8).reshape(-1, 8)[:, :size].tobytes()


def verifies(private_key: bytes, statement: bytes, signature: bytes) -> bool:
    return Ed25519PrivateKey.from_private_bytes(private_key).sign(statement) == signature


@pytest.mark.parametrize("name", sorted(path.stem for path in FOLDER.glob("*.json")))
def test_the_engine_equals_the_published_vectors(name: str) -> None:
    case = json.loads((FOLDER / f"{name}.json").read_text())
    n, bits = case["n"], case["modulus_bits"]
    raw = bytes.fromhex
    witness = Ed25519PrivateKey.from_private_bytes(raw(case["witness_private_key"]))
    nonce = raw(case["keys_nonce"])
    ctx0 = contexts.context_zero(raw(case["manifest_digest"]), raw(case["model_digest"]), case["attempt"])
    assert ctx0.hex() == case["ctx0"]
    terms = roster.Terms(
        ctx0, raw(case["manifest_digest"]), case["attempt"], 3, case["corrupt"], case["dropout"], True,
        roster.nonce_commitment(nonce), witness.public_key().public_bytes_raw(), bits,
    )  # fmt: skip
    sites = case["sites"]
    signs = [Ed25519PrivateKey.from_private_bytes(raw(site["identity_private_key"])) for site in sites]
    streams = [reference.Stream(raw(site["random_stream_seed"])) for site in sites]
    clients = [ClientState.begin(terms, site["site_id"], stream) for site, stream in zip(sites, streams, strict=True)]
    members = []
    for site, client, key in zip(sites, clients, signs, strict=True):
        said = client.advertise(key.sign)
        assert [said.c.hex(), said.s.hex(), said.b.hex(), said.signature.hex()] == [
            site[field] for field in ("c", "s", "b", "signature")
        ]
        members.append(roster.Member(site["site_id"], key.public_key().public_bytes_raw(), said))
    frozen = roster.Roster(tuple(members), nonce, raw(case["roster_signature"]))
    assert frozen.root.hex() == case["roster_root"]
    server = ServerState(terms, frozen)
    assert server.ctx.hex() == case["ctx"]
    assert server.topology.threshold == case["threshold"]
    envelopes = {}
    for i, (site, client, key) in enumerate(zip(sites, clients, signs, strict=True)):
        envelopes[i] = client.share(frozen, key.sign, streams[i])
        assert envelopes[i].hex() == site["envelopes"]
    everyone = frozenset(range(n))
    total = np.zeros(len(case["sum"]), DTYPES[bits])
    digests = {}
    for i, (site, client) in enumerate(zip(sites, clients, strict=True)):
        client.receive(server.deliver(i, envelopes, everyone))
        vector = np.array(site["vector"], DTYPES[bits])
        client.mask(vector)
        assert packed(vector, bits).hex() == site["masked"]
        signature = client.sign_masked(hashlib.sha256(packed(vector, bits)).digest(), signs[i].sign)
        assert signature.hex() == site["mask_signature"]
        if i in case["survivors"]:
            total += vector
            digests[i] = hashlib.sha256(packed(vector, bits)).digest()
    alive = frozenset(case["survivors"])
    bitmap = transcript.bitmap(alive, n)
    assert transcript.body_root(digests).hex() == case["body_root"]
    uploads = tuple(digests[i] + raw(sites[i]["mask_signature"]) for i in sorted(alive))
    ask = SurvivorsAsk(bitmap, raw(case["body_root"]), transcript.bitmap(everyone, n), uploads)
    statement = survivors_statement(ask, terms, frozen)
    assert verifies(raw(case["witness_private_key"]), statement, raw(case["survivors_signature"]))
    survivors = messages.Survivors(bitmap, raw(case["body_root"]), raw(case["survivors_signature"]))
    commitments = {i: clients[i].commit(survivors, signs[i].sign) for i in alive}
    assert {str(i): c.hex() for i, c in sorted(commitments.items())} == case["commitments"]
    openings = {i: clients[i].open(survivors, commitments) for i in alive}
    assert {str(i): {"b": o.b.hex(), "s": o.s.hex()} for i, o in sorted(openings.items())} == case["openings"]
    for correction in server.unmask(openings, everyone, alive).corrections:
        apply_mask(total, correction.seed, correction.sign, bits)
    plain = packed(total, bits)
    assert [int(v) % 2**bits for v in total] == case["sum"]
    end = transcript.Transcript.begin(raw(case["manifest_digest"])).roster(frozen.root, nonce)
    end = end.sharers(transcript.bitmap(everyone, n)).survivors(bitmap, raw(case["body_root"]))
    assert end.total(hashlib.sha256(plain).digest()).head.hex() == case["transcript"]


def test_the_published_vectors_are_what_the_reference_writes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reference, "HERE", tmp_path)
    reference.main()
    for path in FOLDER.glob("*.json"):
        assert (tmp_path / path.name).read_text() == path.read_text()


def test_the_references_x25519_is_that_of_rfc_7748() -> None:
    scalar = bytes.fromhex("a546e36bf0527c9d3b16154b82465edd62144c0ac1fc5a18506a2244ba449ac4")
    point = bytes.fromhex("e6db6867583030db3594c1a424b15f7c726624ec26b3353b10a903a6d0ab1c4c")
    expected = "c3da55379de9c6908e94ea4df28d084f32eccf03491c71f754b4075577a28552"
    assert reference.x25519(scalar, point).hex() == expected
