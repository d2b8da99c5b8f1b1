"""Group `fold`: the sum of 100 updates of a million words from stored files, against numpy's bare sum in memory.

Both are CPU time of this process in one run, taken in turns so that a busy neighbour slows both; the median counts.
"""

import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import psutil

from tests.benchmarks.figures import Figure
from undersong.shared.ids import Digest, SiteId
from undersong.shared.secagg.engine import ClientRound, Payload, ServerRound
from undersong.shared.secagg.fold import FileSource, RunningSum, fold_file, raw_blocks
from undersong.shared.secagg.quantise import decode, encode, pack, plan_encoding
from undersong.shared.secagg.sealed.engine import SEALED
from undersong.shared.wire.manifest import RoundKind, RoundManifest

UPDATES = 100
LENGTH = 1_000_000
REPEATS = 11
SITE = SiteId("site_bench")
ENCODING = plan_encoding(summands=UPDATES, max_weight=10, clip_norm=10.0, bound_value=None, modulus_bits=32)


def measure() -> list[Figure]:
    """The group's figures."""
    rng = np.random.default_rng(1)
    rings = [rng.integers(0, 2**32, LENGTH, dtype=np.uint32) for _ in range(UPDATES)]
    manifest = _manifest()
    opened = SEALED.server.open(manifest)
    server_round, client_round = ServerRound(manifest, opened.secret), ClientRound(manifest, SITE, opened.public)
    with tempfile.TemporaryDirectory(prefix="undersong-bench-") as name:
        raw, sealed = Path(name) / "raw", Path(name) / "sealed"
        _store(raw, sealed, rings, client_round)
        works = {
            "numpy": lambda: _bare(rings),
            "raw": lambda: _raw(raw),
            "sealed": lambda: _sealed(sealed, server_round),
        }
        sums = {name: work() for name, work in works.items()}
        if not all(np.array_equal(total, sums["numpy"]) for total in sums.values()):
            raise AssertionError("the sums differ")
        took = _in_turns(works)
        growth = _growth_mb(lambda: _sealed(sealed, server_round)), _growth_mb(lambda: _raw(raw))
    ratio = {name: statistics.median(a / b for a, b in zip(took["numpy"], took[name], strict=True)) for name in took}
    return [
        Figure("fold.over_bandwidth", ratio["raw"], "x", 0.5, "at least", "numpy's CPU over ours, stored files"),
        Figure("fold.rss_growth_mb", max(growth), "MB", 16, "at most", f"peak while folding {UPDATES} updates of 4 MB"),
        Figure("fold.cpu_ms_per_update", _ms(took["raw"]), "ms", note="d = 1M"),
        Figure("fold.numpy_ms_per_update", _ms(took["numpy"]), "ms", note="bare running sum in memory"),
        Figure("fold.sealed_over_bandwidth", ratio["sealed"], "x", note="with AES-256-GCM decryption"),
        Figure("fold.sealed_ms_per_update", _ms(took["sealed"]), "ms", note="with AES-256-GCM decryption"),
        *_client_figures(client_round),
    ]


def _client_figures(client_round: ClientRound) -> list[Figure]:
    vector = np.random.default_rng(2).normal(0, 0.001, LENGTH).astype(np.float32)
    quantised = encode(vector, 7, ENCODING, key=os.urandom(32))
    payload = Payload(RoundKind.TRAIN, quantised.ring.size, 32, pack(quantised.ring, 32))
    works: dict[str, Callable[[], object]] = {
        "fold.quantise_ms": lambda: encode(vector, 7, ENCODING, key=os.urandom(32)),
        "fold.seal_ms": lambda: [len(piece) for piece in SEALED.client.upload(client_round, b"", None, payload)[1]],
        "fold.decode_ms": lambda: decode(quantised.ring, ENCODING, 1),
    }
    took = _in_turns(works)
    return [Figure(name, statistics.median(took[name]) * 1000, "ms", note="CPU, d = 1M") for name in works]


def _store(raw: Path, sealed: Path, rings: list[np.ndarray], client_round: ClientRound) -> None:
    raw.mkdir()
    sealed.mkdir()
    for number, ring in enumerate(rings):
        (raw / f"{number:03}").write_bytes(pack(ring, 32))
        _, pieces = SEALED.client.upload(
            client_round, b"", None, Payload(RoundKind.TRAIN, ring.size, 32, pack(ring, 32))
        )
        with (sealed / f"{number:03}").open("wb") as file:
            for piece in pieces:
                file.write(piece)


def _bare(rings: list[np.ndarray]) -> np.ndarray:
    total = np.zeros(LENGTH, np.uint32)
    for ring in rings:
        np.add(total, ring, out=total)
    return total


def _raw(folder: Path) -> np.ndarray:
    total = RunningSum(32, LENGTH)
    for path in sorted(folder.iterdir()):
        total.fold(lambda path=path: _blocks(path))
    return total.total


def _blocks(path: Path) -> Iterator[memoryview]:
    with FileSource(path) as source:
        yield from raw_blocks(source, LENGTH * 4)


def _sealed(folder: Path, server_round: ServerRound) -> np.ndarray:
    total = RunningSum(32, LENGTH)
    for path in sorted(folder.iterdir()):
        fold_file(total, SEALED.server, server_round, path)
    return total.total


def _in_turns(works: dict[str, Callable[[], object]]) -> dict[str, list[float]]:
    took: dict[str, list[float]] = {name: [] for name in works}
    for _ in range(REPEATS):
        for name, work in works.items():
            began = time.process_time()
            work()
            took[name].append(time.process_time() - began)
    return took


def _growth_mb(work: Callable[[], object]) -> float:
    """How far resident memory rises above where it was, seen by the kernel's own high-water mark."""
    Path("/proc/self/clear_refs").write_text("5")
    before = psutil.Process().memory_info().rss
    work()
    lines = Path("/proc/self/status").read_text().splitlines()
    peak = next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM"))
    return (peak - before) / 1e6


def _ms(seconds: list[float]) -> float:
    return statistics.median(seconds) / UPDATES * 1000


def _manifest() -> RoundManifest:
    digest = Digest("00" * 32)
    return RoundManifest.model_validate(
        {
            "federation_id": "fed_bench",
            "job_id": "job_bench",
            "round_id": "rnd_bench",
            "number": 1,
            "attempt": 1,
            "kind": "train",
            "engine": "sealed",
            "recipe": {"name": "null", "digest": digest},
            "data": {"dataset": "none"},
            "model": {"version_id": "ver_bench", "digest": digest},
            "model_id": "mdl_bench",
            "encoding": ENCODING,
            "cohort": [SITE],
            "min_cohort": 1,
            "target": 1,
            "strategy": {"name": "fedavg"},
            "seed": 0,
            "deadline_s": 60.0,
        }
    )
