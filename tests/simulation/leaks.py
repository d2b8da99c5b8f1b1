"""Takes everything that a platform writes down, again and again while it runs, and looks for secrets in it."""

import base64
import hashlib
import os
import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing
from pathlib import Path

import msgpack
import numpy as np
import redis

BLOCK = 1 << 14
OVERLAP = 256  # longer than any spelling of a secret
START = 8


def spellings(secret: bytes) -> Iterator[bytes]:
    """The secret as it could stand in a file: raw, hexadecimal, base64 at each of the three alignments."""
    yield secret
    yield secret.hex().encode()
    for skip in range(3):
        whole = secret[skip : skip + (len(secret) - skip) // 3 * 3]
        yield base64.b64encode(whole)


class Haystack:
    """All files of a platform's home but the operator's own folder, each version once, and all of Redis."""

    def __init__(self, home: Path, redis_url: str) -> None:
        self.home, self.redis = home, redis.Redis.from_url(redis_url)
        self.found: dict[str, dict[bytes, bytes]] = {}
        self._seen: dict[Path, tuple[int, int]] = {}

    def take(self) -> None:
        """One more look."""
        files = [Path(folder, name) for folder, _, names in os.walk(self.home) for name in names]  # some go meanwhile
        for path in files:
            where = path.relative_to(self.home)
            if where.parts[0] == "secrets":
                continue
            try:
                if not path.is_file():
                    continue
                stat = path.stat()
                if self._seen.get(path) == (stat.st_mtime_ns, stat.st_size) and path.suffix != ".sqlite-wal":
                    continue
                self.keep(str(where), path.read_bytes())
                self._seen[path] = (stat.st_mtime_ns, stat.st_size)
            except FileNotFoundError:
                continue  # gone between two looks
        self.take_redis()

    def take_redis(self) -> None:
        for key in self.redis.scan_iter("*"):
            kind = self.redis.type(key)
            if kind == b"stream":
                self.keep(f"redis:{key!r}", repr(self.redis.xrange(key)).encode())
            elif kind == b"string":
                self.keep(f"redis:{key!r}", key + (self.redis.get(key) or b""))
            self.keep(f"redis-dump:{key!r}", self.redis.dump(key) or b"")

    def keep(self, where: str, data: bytes) -> None:
        """Each block once, with the beginning of the next: a file that grew is not kept twice."""
        blocks = self.found.setdefault(where, {})
        for start in range(0, len(data), BLOCK):
            block = data[start : start + BLOCK + OVERLAP]
            blocks[hashlib.sha256(block).digest()] = block

    def places(self, secrets: Iterable[bytes]) -> set[str]:
        """Return where any spelling of any of the secrets is found."""
        return self.places_of([secrets])[0]

    def places_of(self, groups: Sequence[Iterable[bytes]]) -> list[set[str]]:
        """The same for each of several groups of secrets, at one go."""
        owners: dict[bytes, set[int]] = {}
        for number, secrets in enumerate(groups):
            for needle in (needle for secret in secrets for needle in spellings(secret)):
                owners.setdefault(needle, set()).add(number)
        needles, found = Needles(owners), [set() for _ in groups]
        for where, data in self._joined():
            for needle in needles.within(data):
                for number in owners[needle]:
                    found[number].add(where)
        return found

    def _joined(self) -> Iterator[tuple[str, bytes]]:
        for where, blocks in self.found.items():
            yield where, b"".join(blocks.values())

    def close(self) -> None:
        self.redis.close()


class Needles:
    """Thousands of byte strings, looked for together: by their first eight bytes, then whole."""

    def __init__(self, needles: Iterable[bytes]) -> None:
        self._by_start: dict[int, list[bytes]] = {}
        for needle in needles:
            if len(needle) < START:
                raise ValueError(f"{needle!r} is too short to be looked for")
            self._by_start.setdefault(int.from_bytes(needle[:START], "little"), []).append(needle)
        self._starts = np.array(sorted(self._by_start), np.uint64)
        self._pairs = np.zeros(1 << 16, bool)
        self._pairs[(self._starts & np.uint64(0xFFFF)).astype(int)] = True

    def within(self, data: bytes) -> set[bytes]:
        """Those that stand in the data."""
        found: set[bytes] = set()
        if len(data) < START or not self._starts.size:
            return found
        octets = np.frombuffer(data, np.uint8)
        end = octets.size - START + 1
        pairs = octets[:end] | (octets[1 : end + 1].astype(np.uint16) << 8)
        places = np.flatnonzero(self._pairs[pairs])
        starts = np.zeros(places.size, np.uint64)
        for at in range(START):
            starts |= octets[places + at].astype(np.uint64) << np.uint64(8 * at)
        known = np.isin(starts, self._starts)
        for place, start in zip(places[known].tolist(), starts[known].tolist(), strict=True):
            found |= {needle for needle in self._by_start[start] if data.startswith(needle, place)}
        return found


class EngineSecrets:
    """What lies in an agent's own database while a round runs: keys, seeds and shares, by site."""

    def __init__(self, home: Path, names: Iterable[str]) -> None:
        self.files = {name: home / "sites" / name / "state" / "agent.sqlite" for name in names}
        self.found: dict[str, set[bytes]] = {name: set() for name in self.files}

    def look(self) -> None:
        """Keep what is there now."""
        for name, file in self.files.items():
            if file.exists():
                with closing(sqlite3.connect(f"file:{file}?mode=ro", uri=True, timeout=5)) as db:
                    rows = db.execute("SELECT state FROM engine_secrets WHERE length(state) > 0").fetchall()
                for (state,) in rows:
                    self.found[name] |= secrets_of(state)


def secrets_of(state: bytes) -> set[bytes]:
    """Both private keys, the seed and the own shares of a pairwise state (`ClientState.dump`)."""
    c, s, b, _, own, _, received, *_ = msgpack.unpackb(state, raw=False)
    return {c, s, b, *(own or ()), *(share for _, first, second in received for share in (first, second))}


def quantised(delta: np.ndarray, scale: float, weight: int, bits: int) -> Iterator[bytes]:
    """Every way in which three neighbouring coordinates can have been rounded, from several places."""
    size = bits // 8
    for start in range(0, delta.size - 3, 660):
        low = np.floor(delta[start : start + 3].astype(np.float64) * scale)
        for up in np.ndindex(2, 2, 2):
            words = [(int(value) + add) * weight % 2**bits for value, add in zip(low, up, strict=True)]
            yield b"".join(word.to_bytes(size, "little") for word in words)
