"""The library's HPKE suite against RFC 9180.

Its public functions take no associated data, which every encryption of the RFC's vectors has. So the vectors judge a
plain reading of the RFC below, and that reading opens what the library sealed.
"""

import json
import os
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hmac import HMAC
from cryptography.hazmat.primitives.kdf.hkdf import HKDFExpand

from undersong.shared.secagg.hpke import SUITE

BESIDE = Path(__file__).parents[3].parent / "shared" / "vectors"
VECTORS = Path(os.environ.get("UNDERSONG_VECTORS", str(BESIDE))) / "hpke" / "rfc9180_x25519_hkdfsha256.json"
KEM_ID, KDF_ID = 0x20, 1
KEY_BYTES = {1: 16, 2: 32}


def extract(suite: bytes, salt: bytes, label: bytes, ikm: bytes) -> bytes:
    mac = HMAC(salt or bytes(32), hashes.SHA256())
    mac.update(b"HPKE-v1" + suite + label + ikm)
    return mac.finalize()


def expand(suite: bytes, key: bytes, label: bytes, info: bytes, length: int) -> bytes:
    labeled = length.to_bytes(2, "big") + b"HPKE-v1" + suite + label + info
    return HKDFExpand(hashes.SHA256(), length, labeled).derive(key)


def key_and_nonce(enc: bytes, private: X25519PrivateKey, info: bytes, aead_id: int) -> tuple[bytes, bytes]:
    kem = b"KEM" + KEM_ID.to_bytes(2, "big")
    shared = private.exchange(X25519PublicKey.from_public_bytes(enc))
    context = enc + private.public_key().public_bytes_raw()
    secret = expand(kem, extract(kem, b"", b"eae_prk", shared), b"shared_secret", context, 32)
    suite = b"HPKE" + b"".join(number.to_bytes(2, "big") for number in (KEM_ID, KDF_ID, aead_id))
    schedule = b"\0" + extract(suite, b"", b"psk_id_hash", b"") + extract(suite, b"", b"info_hash", info)
    prk = extract(suite, secret, b"secret", b"")
    return expand(suite, prk, b"key", schedule, KEY_BYTES[aead_id]), expand(suite, prk, b"base_nonce", schedule, 12)


def cases() -> list[dict[str, Any]]:
    if not VECTORS.is_file():
        return []
    found = json.loads(VECTORS.read_text())
    return [case for case in found if case["mode"] == 0 and case["kdf_id"] == 1 and case["aead_id"] in KEY_BYTES]


@pytest.mark.skipif(not VECTORS.is_file(), reason=f"RFC 9180 vectors are not at {VECTORS} (set UNDERSONG_VECTORS)")
@pytest.mark.parametrize("case", cases(), ids=lambda case: f"aead {case['aead_id']}")
def test_the_reading_agrees_with_the_rfc(case) -> None:
    private = X25519PrivateKey.from_private_bytes(bytes.fromhex(case["skRm"]))
    key, nonce = key_and_nonce(bytes.fromhex(case["enc"]), private, bytes.fromhex(case["info"]), case["aead_id"])
    assert (key.hex(), nonce.hex()) == (case["key"], case["base_nonce"])
    first = case["encryptions"][0]
    opened = AESGCM(key).decrypt(nonce, bytes.fromhex(first["ct"]), bytes.fromhex(first["aad"]))
    assert opened.hex() == first["pt"]


def test_the_reading_opens_what_the_library_sealed() -> None:
    private = X25519PrivateKey.generate()
    sealed = SUITE.encrypt(b"content key", private.public_key(), b"info")
    key, nonce = key_and_nonce(sealed[:32], private, b"info", 2)
    assert AESGCM(key).decrypt(nonce, sealed[32:], b"") == b"content key"


def test_the_library_opens_what_the_reading_sealed() -> None:
    ephemeral, private = X25519PrivateKey.generate(), X25519PrivateKey.generate()
    enc = ephemeral.public_key().public_bytes_raw()
    kem = b"KEM" + KEM_ID.to_bytes(2, "big")
    assert kem == b"KEM\0\x20"
    key, nonce = key_and_nonce(enc, private, b"info", 2)
    assert SUITE.decrypt(enc + AESGCM(key).encrypt(nonce, b"content key", b""), private, b"info") == b"content key"
