"""Group `pairwise`: client and server of the secure sum in one process, Flower's SecAgg+ client, and real rounds.

Client figures are CPU time of R0 to R4 of one client (keys, shares, envelopes, masks, signatures checked), without the
quantiser and without the agent's durable store. The floor is the same run's bare primitives, see `docs/protocols.md`.
"""

import os
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import ParamSpec, TypeVar

import numpy as np
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from tests.benchmarks import group_round
from tests.benchmarks.figures import Figure
from tests.benchmarks.flower_peer import environment
from tests.shared.secagg.pairwise.parties import Round
from undersong.local import Platform
from undersong.shared.secagg import transcript
from undersong.shared.secagg.pairwise.client import ClientState
from undersong.shared.secagg.pairwise.decoding import decode
from undersong.shared.secagg.pairwise.graph import plan
from undersong.shared.secagg.pairwise.masks import ModVector, apply_mask
from undersong.shared.secagg.pairwise.messages import OpeningShares, Survivors
from undersong.shared.secagg.pairwise.roster import survivors_statement
from undersong.shared.secagg.pairwise.server import ServerState
from undersong.shared.secagg.pairwise.shares import SHARE_BYTES, split

P = ParamSpec("P")
T = TypeVar("T")

N = 100
DROPPED = 5
LARGE, SMALL = 1_000_000, 100_000
REPEATS = 5
BLOCK = 1 << 18


@dataclass(frozen=True)
class Played:
    """One round of N clients: CPU seconds of the median client and of the server, bytes one client sends."""

    client_s: float
    server_s: float
    bytes_up: int
    threshold: int


def measure() -> list[Figure]:
    """The group's figures."""
    large, small = _play(LARGE), _play(SMALL)
    floor = _floor_s(N - 1, LARGE, large.threshold)
    flower = _flower_s(small.threshold)
    figures = [
        Figure("pairwise.client_ms.n100_d1m", large.client_s * 1000, "ms", note="CPU, R0 to R4, without quantiser"),
        Figure("pairwise.client_floor_ms.n100_d1m", floor * 1000, "ms", note="bare primitives, same run"),
        Figure("pairwise.client_over_floor.n100_d1m", large.client_s / floor, "x", 1.5),
        Figure("pairwise.server_ms.n100_d1m_drop5", large.server_s * 1000, "ms", note="CPU, sum included"),
        Figure("pairwise.bytes_up_over_4d", large.bytes_up / (4 * LARGE), "x", 1.02, note="bodies of all steps"),
        Figure("pairwise.client_ms.n100_d100k", small.client_s * 1000, "ms", note="CPU, R0 to R4"),
        Figure("pairwise.flower_client_ms.n100_d100k", flower * 1000, "ms", note="stages of Flower 1.41's SecAgg+ mod"),
        Figure(
            "pairwise.client_vs_flower.n100_d100k",
            flower / small.client_s,
            "x",
            20,
            "at least",
            "theirs over ours; theirs includes its quantiser",
        ),
    ]
    return [*figures, *_decoding(), *_over_processes()]


def _decoding() -> list[Figure]:
    """One secret from the shares of N holders, of whom none, or as many as can be corrected, sent a wrong one."""
    threshold = plan(N, 1 / 3, 0.3, trusted_witness=False).threshold
    rows = split([os.urandom(32)], N, threshold, os.urandom)
    shares = {place: row[0] for place, row in enumerate(rows, 1)}
    wrong = shares | {place: bytes(SHARE_BYTES) for place in range(1, (N - threshold) // 2 + 1)}
    return [
        Figure(f"pairwise.decode_us.n{N}", _each_s(lambda: decode(shares, threshold), 50) * 1e6, "us", note="a secret"),
        Figure(
            f"pairwise.decode_us.n{N}_wrong{(N - threshold) // 2}",
            _each_s(lambda: decode(wrong, threshold), 50) * 1e6,
            "us",
            note="a secret, as many wrong shares as can be corrected",
        ),
    ]


def _play(d: int) -> Played:
    """A whole round, its sum checked; the first client does every step, the others those the server needs."""
    party = Round(N, d=d)
    party.streams = [os.urandom] * N  # type: ignore[list-item]
    vector = np.arange(d, dtype=np.uint32)
    meters = [_Meter() for _ in range(REPEATS)]
    for i, meter in enumerate(meters):
        terms = party.terms()
        party.clients[i] = meter(ClientState.begin, terms, f"site{i:03}", os.urandom)
        meter(party.clients[i].advertise, party.identities[i].sign)
    server = _Meter()
    frozen = party.freeze()
    envelopes = {}
    for i, client in enumerate(party.clients):
        meter = meters[i] if i < REPEATS else _Meter()
        envelopes[i] = meter(client.share, frozen, party.identities[i].sign, os.urandom)
    party.frozen, party.envelopes = frozen, envelopes
    party.server = server(ServerState, party.terms(), frozen)
    dealings = {i: client.dealing for i, client in enumerate(party.clients)}
    everyone, alive = frozenset(range(N)), frozenset(range(N - DROPPED))
    total, digest = np.zeros(d, np.uint32), bytes(32)
    for i in sorted(alive):
        delivery = server(party.server.deliver, i, envelopes, everyone)
        meter = meters[i] if i < REPEATS else _Meter()
        masked = vector.copy()
        promised = server(party.server.promised, i, dealings, everyone)
        meter(party.clients[i].receive, delivery, promised)
        meter(party.clients[i].complain, party.identities[i].sign)
        meter(party.clients[i].settle, delivery.sharers)
        meter(party.clients[i].mask, masked)
        server(np.add, total, masked, total)
    survivors = _survivors(party, alive, digest)
    commitments, openings = {}, {}
    for i in sorted(alive):
        meter = meters[i] if i < REPEATS else _Meter()
        commitments[i] = meter(party.clients[i].commit, survivors, party.identities[i].sign)
    for i in sorted(alive):
        meter = meters[i] if i < REPEATS else _Meter()
        openings[i] = meter(party.clients[i].open, survivors, commitments)
    server(_unmask, party, openings, everyone, alive, total, dealings)
    if not np.array_equal(total, vector * np.uint32(len(alive))):
        raise AssertionError("the sum differs")
    advertised = party.clients[0].advertise(party.identities[0].sign).pack()
    sent = [advertised, envelopes[0], dealings[0], survivors.pack(), commitments[0], openings[0].pack()]
    client_s = statistics.median(meter.seconds for meter in meters)
    return Played(client_s, server.seconds, 4 * d + sum(map(len, sent)), party.server.topology.threshold)


class _Meter:
    """Adds up CPU seconds of this process."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def __call__(self, work: Callable[P, T], *arguments: P.args, **named: P.kwargs) -> T:
        began = time.process_time()
        result = work(*arguments, **named)
        self.seconds += time.process_time() - began
        return result


def _survivors(party: Round, alive: frozenset[int], digest: bytes) -> Survivors:
    members, root = transcript.bitmap(alive, N), transcript.body_root(dict.fromkeys(alive, digest))
    statement = survivors_statement(party.server.ctx, party.attempt, members, root)
    return Survivors(members, root, party.witness.sign(statement))


def _unmask(
    party: Round,
    said: dict[int, OpeningShares],
    sharers: frozenset[int],
    alive: frozenset[int],
    total: ModVector,
    dealings: dict[int, bytes],
) -> None:
    for correction in party.server.unmask(said, sharers, alive, dealings).corrections:
        apply_mask(total, correction.seed, correction.sign, 32)


def _each_s(work: Callable[[], object], times: int) -> float:
    took = []
    for _ in range(REPEATS):
        began = time.process_time()
        for _ in range(times):
            work()
        took.append((time.process_time() - began) / times)
    return statistics.median(took)


def _floor_s(k: int, d: int, threshold: int) -> float:
    """k agreements and keys for the masks, k + 1 expansions and additions, and the sharing."""
    key, other, secret = X25519PrivateKey.generate(), X25519PrivateKey.generate().public_key(), os.urandom(32)
    agreed = _each_s(lambda: key.exchange(other), 200)
    derived = _each_s(lambda: HKDF(hashes.SHA256(), 32, salt=secret, info=b"pair").derive(secret), 200)
    vector = np.zeros(d, np.uint32)
    expanded = _each_s(lambda: _expand(vector), 4)
    box, shares = AESGCM(secret), os.urandom(80)
    sealed = box.encrypt(bytes(12), shares, secret)
    enveloped = _each_s(lambda: (box.encrypt(bytes(12), shares, secret), box.decrypt(bytes(12), sealed, secret)), 200)
    shared = _each_s(lambda: split([secret, secret], k + 1, threshold, os.urandom), 2)
    sharing = shared + k * (agreed + 2 * derived + enveloped)  # a key for each direction
    return k * (agreed + derived) + (k + 1) * expanded + sharing


def _expand(vector: ModVector) -> None:
    stream = Cipher(algorithms.AES(bytes(32)), modes.CTR(bytes(16))).encryptor()
    zeros, buffer = bytes(BLOCK), bytearray(BLOCK + 15)
    words = np.frombuffer(buffer, np.uint32, BLOCK // 4)
    for start in range(0, vector.size, BLOCK // 4):
        part = vector[start : start + BLOCK // 4]
        stream.update_into(zeros if part.size == BLOCK // 4 else zeros[: part.size * 4], buffer)
        np.add(part, words[: part.size], out=part)


def _flower_s(threshold: int) -> float:
    python = environment(group_round.PEER_FOLDER) / "python"
    script = Path(__file__).with_name("flower_secagg.py")
    command = [str(python), str(script), str(N), str(SMALL), str(threshold)]
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()[-1])


def _over_processes() -> list[Figure]:
    with (
        tempfile.TemporaryDirectory(prefix="undersong-bench-") as folder,
        Platform(log_level="WARNING") as platform,
    ):
        group_round.join(platform, 10, Path(folder))
        measured = group_round.job(platform, 10, LARGE, engine="pairwise")
    latency = statistics.median(measured.latency_s)
    return [
        Figure("round.latency_s.pairwise_n10_d1m", latency, "s", 1, note=f"min {min(measured.latency_s):.2f}"),
        Figure("pairwise.cpu_s_per_party.n10_d1m", measured.agent_cpu_s, "s", 0.25, note="a round, mean agent"),
        Figure("pairwise.cpu_s.n10_d1m", measured.total_cpu_s, "s", note="a round, all processes"),
    ]
