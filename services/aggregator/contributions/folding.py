"""The running sum of one round: updates are added as they come, in any order, in memory for one vector.

All of it is in memory and none of it is precious: after a crash it is made again from the stored bodies, and integer
sums come out the same. Everything here blocks; callers run it in a thread.
"""

import hashlib
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from undersong.services.aggregator.domain.refusals import BodyLost
from undersong.services.aggregator.repository.contributions import Contribution
from undersong.shared.errors import Refusal
from undersong.shared.ids import Digest, SiteId
from undersong.shared.learning.strategies import robust_rule
from undersong.shared.learning.tensors import Model, load
from undersong.shared.secagg.engine import Engine, ServerRound, UpdateRefused, check_header
from undersong.shared.secagg.engines import engine_named
from undersong.shared.secagg.fold import FileSource, RunningSum, read_body_header
from undersong.shared.secagg.private import noise_reach
from undersong.shared.secagg.quantise import LIMBS, TAIL_LENGTH, ModVector, OutOfRange, signed, unpack
from undersong.shared.wire.manifest import Encoding, RoundKind, RoundManifest
from undersong.shared.wire.updates import UpdateHeader


@dataclass(slots=True)
class Folding:
    """What a worker holds of a round: the sum (or, of an initialise round, the first model) and who is in it.

    singles: the words of each update, by contribution, where the round's strategy compares them. sites: those in the
    sum, where their changes have weights that the manifest tells.
    """

    manifest: RoundManifest
    secret: bytes
    folded: set[int] = field(default_factory=set)
    total: RunningSum | None = None
    model: Model | None = None
    model_of: int | None = None
    length: int | None = None
    shares: Mapping[int, bytes] = field(default_factory=dict)
    singles: dict[int, ModVector] = field(default_factory=dict)
    sites: frozenset[SiteId] = frozenset()

    @property
    def engine(self) -> Engine:
        """The round's engine."""
        return engine_named(self.manifest.engine)

    @property
    def server_round(self) -> ServerRound:
        """The engine's place in this round."""
        return ServerRound(self.manifest, self.secret, shares=self.shares, length=self.length)

    def missing(self, contributions: Sequence[Contribution]) -> list[Contribution]:
        """Contributions that stand and are not in the sum yet, in the order of their arrival."""
        return [c for c in contributions if c.code is None and c.id not in self.folded]

    def misfits(self, contributions: Sequence[Contribution]) -> bool:
        """Return whether the sum holds what no longer counts, and so must be made again."""
        return not self.folded <= {c.id for c in contributions if c.code is None}

    def add(self, contribution: Contribution, path: Path) -> None:
        """Fold one body in, or raise a Refusal and leave everything as it was."""
        with stored_body(path, contribution.digest, unseen=self._hidden):
            self._add(contribution, path)
        self.folded.add(contribution.id)

    def _add(self, contribution: Contribution, path: Path) -> None:
        header, offset = read_body_header(path)
        check_header(header, self.manifest, contribution.site_id, length=self.length)
        if header.kind is RoundKind.INITIALISE:
            self._take_model(contribution, self._blocks(header, path, offset))
        else:
            self._sum(header, path, offset, contribution.id)

    def take_in(self, ids: Collection[int], partial: ModVector) -> None:
        """Add the sum of these contributions, which another worker has folded; ValueError when one is in it already.

        Integers are added, so it does not matter who has folded what.
        """
        if not self.folded.isdisjoint(ids) or self.manifest.encoding is None:
            raise ValueError("the partial sum holds what is in the sum already")
        total = self.total or self._empty_sum(self.manifest.encoding.modulus_bits, partial.size)
        total.merge(partial, len(ids))
        self.total = total
        self.folded.update(ids)

    def opened(self) -> ModVector:
        """Return the plain sum, and begin anew: of a large model there is no room for a second one.

        The caller has made sure of the minimum cohort.
        """
        if self.total is None:
            raise ValueError("nothing was folded")
        total, self.total = self.total.total, None
        self.folded.clear()
        return self.engine.server.unmask_sum(self.server_round, total)

    @property
    def compares(self) -> bool:
        """Whether the round's strategy compares single updates, and the engine lets the aggregator see them."""
        return (
            self.manifest.kind is RoundKind.TRAIN
            and not self._hidden
            and robust_rule(self.manifest.strategy.name) is not None
        )

    @property
    def _hidden(self) -> bool:
        return not self.engine.facts.sees_updates

    def _sum(self, header: UpdateHeader, path: Path, offset: int, contribution: int) -> None:
        if self.total is None:
            length = self.engine.server.sum_length(self.manifest, header)
            self.total = self._empty_sum(header.modulus_bits, length)

        kept = bytearray()

        def blocks() -> Iterator[memoryview]:
            plain = self._blocks(header, path, offset)
            encoding = self.manifest.encoding
            if self._hidden or encoding is None:
                return plain
            kept.clear()
            seen = copied(plain, kept) if self.compares else plain
            return checked(seen, header, encoding, slack=noise_reach(self.manifest, coordinates_of(header), 1))

        self.total.fold(blocks)
        if self.compares:
            self.singles[contribution] = unpack(kept, header.modulus_bits)

    def _empty_sum(self, modulus_bits: int, length: int) -> RunningSum:
        return RunningSum(modulus_bits, length, modulus=self.engine.server.modulus(self.manifest))

    def _blocks(self, header: UpdateHeader, path: Path, offset: int) -> Iterator[memoryview]:
        with FileSource(path, offset) as source:
            yield from self.engine.server.open_payload(self.server_round, header, source)

    def _take_model(self, contribution: Contribution, blocks: Iterator[memoryview]) -> None:
        file = bytearray()
        for block in blocks:  # each is valid only until the next
            file += block
        model = load(bytes(file))  # strict: BadModelFile or ModelMismatch
        if self.model_of is None or contribution.id < self.model_of:
            self.model, self.model_of = model, contribution.id


@contextmanager
def stored_body(path: Path, digest: Digest, *, unseen: bool) -> Iterator[None]:
    """Raise BodyLost, not what the block raises, where a stored body does not have its digest any more.

    `unseen`: nothing in the block would notice, because what a site masked looks like any other bytes.
    """
    try:
        if unseen:
            _check_intact(path, digest)
        yield
    except FileNotFoundError:
        raise BodyLost("the stored body is no longer there") from None
    except Refusal:
        _check_intact(path, digest)
        raise


def _check_intact(path: Path, digest: Digest) -> None:
    try:
        with path.open("rb") as file:
            found = hashlib.file_digest(file, "sha256").hexdigest()
    except FileNotFoundError:
        raise BodyLost("the stored body is no longer there") from None
    if found != digest:
        raise BodyLost("the stored body is damaged")


def coordinates_of(header: UpdateHeader) -> int:
    """Return how many words of an update are no tail."""
    return header.length - (TAIL_LENGTH if header.kind is RoundKind.TRAIN else 0)


def copied(blocks: Iterator[memoryview], kept: bytearray) -> Iterator[memoryview]:
    """Yield the same blocks, and add their bytes to `kept`."""
    for block in blocks:
        kept += block
        yield block


def checked(
    blocks: Iterator[memoryview], header: UpdateHeader, encoding: Encoding, *, slack: int = 0
) -> Iterator[memoryview]:
    """Yield the same blocks; raises OutOfRange after the last where no honest site could have sent them.

    Without this check one site could make the whole sum unusable without being found. `slack`: what noise of the
    site's own can add.
    """
    coordinates = coordinates_of(header)
    highest = lowest = at = 0
    tail: list[int] = []
    for block in blocks:
        words = signed(unpack(block, header.modulus_bits), header.modulus_bits)
        inner = words[: max(0, coordinates - at)]
        if inner.size:
            highest, lowest = max(highest, int(inner.max())), min(lowest, int(inner.min()))
        tail.extend(words[inner.size :].tolist())
        at += words.size
        yield block
    weight = _weight(tail, encoding) if header.kind is RoundKind.TRAIN else 1
    limit = weight * encoding.bound + slack
    if highest > limit or lowest < -limit:
        raise OutOfRange("a coordinate is larger than its encoding allows")


def _weight(tail: list[int], encoding: Encoding) -> int:
    if len(tail) != TAIL_LENGTH or min(tail) < 0 or max(tail) > np.iinfo(np.uint8).max:
        raise OutOfRange("the update's tail holds other than bytes")
    weight, clipped = (int.from_bytes(bytes(tail[at : at + LIMBS]), "little") for at in (0, LIMBS))
    if not 1 <= weight <= encoding.max_weight or clipped > 1:
        raise OutOfRange(f"weight {weight} is outside 1..{encoding.max_weight}, or clipped is not 0 or 1")
    return weight


def code_of(refusal: Refusal) -> str:
    """Return the code under which a body is rejected; a second server's verdict has its own."""
    if isinstance(code := getattr(refusal, "code", None), str):
        return code
    return "update-unusable" if type(refusal) is UpdateRefused else refusal.slug()
