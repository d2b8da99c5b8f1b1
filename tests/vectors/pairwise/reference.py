"""The suite undersong-pairwise-1 once more, in plain Python, sharing no code with the engine.

Only AES, Ed25519 and the hash functions come from libraries; X25519, HKDF, Shamir's sharing, the graph, the masks and
the transcript are written out from the specification (docs/protocols.md). Run it to write the published vectors:

    python tests/vectors/pairwise/reference.py
"""

import hashlib
import hmac
import json
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

P = 2**64 - 2**32 + 1
CORRUPT, DROPOUT = 1 / 3, 0.3  # the planned shares that threshold and drop-out bound follow from
HERE = Path(__file__).parent


def h(label, *fields):
    """H(label, fields...)."""
    data = b""
    for part in (label.encode(), *fields):
        data += len(part).to_bytes(8, "little") + part
    return hashlib.sha256(data).digest()


def x25519(scalar, point):
    """RFC 7748, section 5."""
    p, a24 = 2**255 - 19, 121665
    k = int.from_bytes(scalar, "little") & ~7 & (2**255 - 1) | 2**254
    x1 = int.from_bytes(point, "little") & (2**255 - 1)
    x2, z2, x3, z3, swap = 1, 0, x1, 1, 0
    for t in range(254, -1, -1):
        bit = k >> t & 1
        if swap ^ bit:
            x2, x3, z2, z3 = x3, x2, z3, z2
        swap = bit
        a, b, c, d = x2 + z2, x2 - z2, x3 + z3, x3 - z3
        aa, bb, da, cb = a * a % p, b * b % p, d * a % p, c * b % p
        e = aa - bb
        x3, z3 = (da + cb) ** 2 % p, x1 * (da - cb) ** 2 % p
        x2, z2 = aa * bb % p, e * (aa + a24 * e) % p
    if swap:
        x2, z2 = x3, z3
    return (x2 * pow(z2, p - 2, p) % p).to_bytes(32, "little")


BASE = (9).to_bytes(32, "little")


def hkdf(secret, salt, info):
    """RFC 5869 with SHA-256, 32 bytes out."""
    key = hmac.new(salt, secret, hashlib.sha256).digest()
    return hmac.new(key, info + b"\x01", hashlib.sha256).digest()


def u32(value):
    return value.to_bytes(4, "little")


class Stream:
    """A repeatable stand-in for the operating system's randomness."""

    def __init__(self, seed):
        self.seed, self.buffer, self.block = seed, b"", 0

    def __call__(self, count):
        while len(self.buffer) < count:
            self.buffer += hashlib.sha256(self.seed + u32(self.block)).digest()
            self.block += 1
        out, self.buffer = self.buffer[:count], self.buffer[count:]
        return out


def merkle(leaves):
    """RFC 9162, section 2.1.1."""
    if len(leaves) == 1:
        return leaves[0]
    k = 1
    while 2 * k < len(leaves):
        k *= 2
    return hashlib.sha256(b"\x01" + merkle(leaves[:k]) + merkle(leaves[k:])).digest()


def leaf(data):
    return hashlib.sha256(b"\x00" + data).digest()


def limbs(secret):
    return [int.from_bytes(secret[i : i + 7], "little") for i in range(0, 35, 7)]


def deal(secrets, holders, threshold, stream):
    """Shares of each secret at points 1, 2, ...: for each holder the concatenated shares."""
    rows = [limb for secret in secrets for limb in limbs(secret)]
    drawn = []
    while len(drawn) < len(rows) * (threshold - 1):
        word = int.from_bytes(stream(8), "little")
        if word < P:
            drawn.append(word)
    dealt = []
    for point in range(1, holders + 1):
        share = b""
        for r, constant in enumerate(rows):
            coefficients = [constant, *drawn[r * (threshold - 1) : (r + 1) * (threshold - 1)]]
            share += (sum(c * pow(point, e, P) for e, c in enumerate(coefficients)) % P).to_bytes(8, "little")
        dealt.append(share)
    return dealt


def words(key, count, bits):
    """G(key) as a list of integers."""
    size = bits // 8
    stream = Cipher(algorithms.AES(key), modes.CTR(bytes(16))).encryptor().update(bytes(count * size))
    return [int.from_bytes(stream[i : i + size], "little") for i in range(0, len(stream), size)]


def bitmap(members, n):
    return sum(1 << m for m in members).to_bytes((n + 7) // 8, "little")


def play(n, bits, vectors, survivors, threshold, seed=b"vector"):
    """One round on the complete graph; returns everything that was said, as hex."""
    site = [f"site_{i:02d}" for i in range(n)]
    identity = [Ed25519PrivateKey.from_private_bytes(h("identity", seed, u32(i))) for i in range(n)]
    witness = Ed25519PrivateKey.from_private_bytes(h("witness", seed))
    manifest, model, attempt, nonce = h("manifest", seed), h("model", seed), 1, h("nonce-of-keys", seed)
    ctx0 = h("ctx0", b"undersong-pairwise-1", manifest, model, u32(attempt))
    streams = [Stream(h("stream", seed, u32(i))) for i in range(n)]
    secrets = [(s(32), s(32), s(32)) for s in streams]  # c, s, b
    public = [(x25519(c, BASE), x25519(s, BASE), h("b", ctx0, b)) for c, s, b in secrets]
    signed = [identity[i].sign(h("R0", ctx0, site[i].encode(), *public[i])) for i in range(n)]
    keys = [key.public_key().public_bytes_raw() for key in identity]
    root = merkle([leaf(h("member", site[i].encode(), keys[i], *public[i])) for i in range(n)])
    roster_signature = witness.sign(h("witness-roster", ctx0, n.to_bytes(8, "little"), root, nonce))
    ctx = h("ctx", ctx0, root, nonce)
    dealt = [deal([b, s], n, threshold, streams[i]) for i, (_, s, b) in enumerate(secrets)]
    envelopes = []
    for i in range(n):
        row = b""
        for j in range(n):
            if j != i:
                key = hkdf(x25519(secrets[i][0], public[j][0]), ctx, b"env" + u32(i) + u32(j))
                row += AESGCM(key).encrypt(bytes(12), dealt[i][j], ctx + u32(i) + u32(j))
        envelopes.append(row)
    masked = []
    for i in range(n):
        total = [v + w for v, w in zip(vectors[i], words(secrets[i][2], len(vectors[i]), bits), strict=True)]
        for j in range(n):
            if j != i:
                pair = hkdf(x25519(secrets[i][1], public[j][1]), ctx, b"pair" + u32(min(i, j)) + u32(max(i, j)))
                sign = 1 if j > i else -1
                total = [v + sign * w for v, w in zip(total, words(pair, len(total), bits), strict=True)]
        masked.append(b"".join((v % 2**bits).to_bytes(bits // 8, "little") for v in total))
    digests = {i: hashlib.sha256(masked[i]).digest() for i in range(n)}
    sharers = bitmap(range(n), n)
    mask_signatures = [identity[i].sign(h("mask", ctx, sharers, digests[i])) for i in range(n)]
    body_root = merkle([leaf(h("y", u32(i), digests[i])) for i in sorted(survivors)])
    statement = h("R3", ctx, u32(attempt), bitmap(survivors, n), body_root)
    openings = {
        i: {
            "b": b"".join(dealt[j][i][:40] for j in range(n) if j in survivors).hex(),
            "s": b"".join(dealt[j][i][40:] for j in range(n) if j not in survivors).hex(),
        }
        for i in sorted(survivors)
    }
    total = [sum(vectors[i][x] for i in survivors) % 2**bits for x in range(len(vectors[0]))]
    t = h("T0", manifest)
    t = h("T1", t, root, nonce)
    t = h("T2", t, bitmap(range(n), n))
    t = h("T3", t, bitmap(survivors, n), body_root)
    packed = b"".join(v.to_bytes(bits // 8, "little") for v in total)
    return {
        "n": n,
        "modulus_bits": bits,
        "threshold": threshold,
        "corrupt": CORRUPT,
        "dropout": DROPOUT,
        "attempt": attempt,
        "manifest_digest": manifest.hex(),
        "model_digest": model.hex(),
        "keys_nonce": nonce.hex(),
        "witness_private_key": h("witness", seed).hex(),
        "sites": [
            {
                "site_id": site[i],
                "identity_private_key": h("identity", seed, u32(i)).hex(),
                "random_stream_seed": h("stream", seed, u32(i)).hex(),
                "vector": vectors[i],
                "c": public[i][0].hex(),
                "s": public[i][1].hex(),
                "b": public[i][2].hex(),
                "signature": signed[i].hex(),
                "envelopes": envelopes[i].hex(),
                "masked": masked[i].hex(),
                "mask_signature": mask_signatures[i].hex(),
            }
            for i in range(n)
        ],
        "ctx0": ctx0.hex(),
        "roster_root": root.hex(),
        "roster_signature": roster_signature.hex(),
        "ctx": ctx.hex(),
        "survivors": sorted(survivors),
        "body_root": body_root.hex(),
        "survivors_signature": witness.sign(statement).hex(),
        "commitments": {str(i): identity[i].sign(statement).hex() for i in sorted(survivors)},
        "openings": {str(i): openings[i] for i in openings},
        "sum": total,
        "transcript": h("T4", t, hashlib.sha256(packed).digest()).hex(),
    }


CASES = {
    "four_sites_all_stay_32": (4, 32, {0, 1, 2, 3}, 3),
    "five_sites_one_falls_out_32": (5, 32, {0, 1, 3, 4}, 4),
    "seven_sites_two_fall_out_24": (7, 24, {0, 2, 3, 4, 6}, 5),
    "six_sites_one_falls_out_16": (6, 16, {1, 2, 3, 4, 5}, 5),
}


def main():
    for name, (n, bits, survivors, threshold) in CASES.items():
        vectors = [[(i * 7919 + x * 104729) % 2 ** (bits - 4) for x in range(9)] for i in range(n)]
        case = play(n, bits, vectors, survivors, threshold, seed=name.encode())
        (HERE / f"{name}.json").write_text(json.dumps(case, indent=1) + "\n")


if __name__ == "__main__":
    main()
