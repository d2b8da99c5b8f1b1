"""What clients do in a round, one after the other, with one model in memory and one running sum.

It is the agent's own path without the agent: the recipe as it is, the change in float32, clipped, quantised and weighed
by `train_payload`, with the client's part of the noise where the round asks for it. Memory is that of a few vectors,
however many clients a chunk has.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final, Protocol

import numpy as np
import numpy.typing as npt

from undersong.recipes.protocol import Dataset, Recipe, RecipeError, Tensors, TrainResult, round_sums
from undersong.shared.errors import Refusal
from undersong.shared.learning.metrics import check_sums, evaluation_layout
from undersong.shared.learning.tensors import Master, Model, Vector, change_from, flatten, load, save
from undersong.shared.privacy.accounting import within
from undersong.shared.secagg.compression import Compressor, add_left_out
from undersong.shared.secagg.payload import compressed_payload, sums_payload, weight_of
from undersong.shared.secagg.quantise import NonFinite, unpack
from undersong.shared.secagg.rounding import measure
from undersong.shared.wire.manifest import RoundKind, RoundManifest
from undersong.shared.wire.privacy import RECORD_NOISE
from undersong.simulate.conditions import PLAIN
from undersong.simulate.kept import LEFT_OUT, LOCAL
from undersong.simulate.rows import ClientRows
from undersong.simulate.sampling import key_of

Total = npt.NDArray[Any]
NO_CLIENT: Final = -1
"""In place of a client: nothing is kept there."""


@dataclass(frozen=True, slots=True)
class Chunk:
    """A part of a round: these clients, or in an evaluation the test rows from `start` to `stop`.

    tests: in an evaluation of clients that keep tensors of their own, the places among the test rows of each.
    """

    clients: tuple[int, ...] = ()
    start: int = 0
    stop: int = 0
    tests: tuple[tuple[int, ...], ...] = ()


@dataclass(frozen=True, slots=True)
class ClientFault:
    """Why a client gave nothing to a round."""

    client: str
    code: str
    detail: str


@dataclass(frozen=True, slots=True)
class ChunkSum:
    """What came of a chunk: the sum over its clients, how many gave to it, and why others did not.

    total: uint[length] of quantised words, float64[m] of plain sums, uint8[n] of a model file, None where none gave.
    weight, loss, clipped: of plain sums, whose tail is not in them.
    """

    total: Total | None
    count: int
    faults: tuple[ClientFault, ...] = ()
    weight: int = 0
    loss: float = 0.0
    clipped: int = 0


class Keeper(Protocol):
    """Holds what clients keep between rounds."""

    def before(self, client: int, number: int, what: str = LOCAL) -> Tensors:
        """Return what the newest round before this number left at a client; empty where none did."""

    def keep(self, client: int, number: int, tensors: Tensors, what: str = LOCAL) -> None:
        """Store what a client leaves in a round."""


@dataclass(frozen=True, slots=True)
class _Given:
    """What a client gives to a sum, what its recipe leaves for later rounds, and what its update leaves out."""

    vector: Total
    local: Tensors = field(default_factory=dict)
    left_out: Vector | None = None


class ClientWork:
    """Does chunks of one round after another."""

    def __init__(self, rows: ClientRows, recipe: Recipe, engine: str, seed: int, kept: Keeper) -> None:
        self._rows, self._recipe, self._plain, self._seed, self._kept = rows, recipe, engine == PLAIN, seed, kept
        self._manifest: RoundManifest | None = None
        self._model: Model | None = None
        self._base: Master | None = None
        self._compressor: Compressor | None = None

    def prepare(self, manifest: RoundManifest, model: bytes | memoryview | None) -> None:
        """Take in what the round starts from."""
        self._manifest = manifest
        self._model = None if model is None else load(model)
        self._base = None if self._model is None else flatten(self._model.schema, self._model.tensors)
        schema = None if self._model is None else self._model.schema
        self._compressor = None if schema is None else Compressor.of(manifest, schema.parameters, schema.length)

    def run(self, chunk: Chunk) -> ChunkSum:
        """Do one chunk."""
        manifest = self._manifest
        if manifest is None:
            raise ValueError("no round was prepared")
        if manifest.kind is RoundKind.INITIALISE:
            return self._initialise(manifest, chunk.clients[0])
        if manifest.kind is RoundKind.EVALUATE:
            return self._evaluate(manifest, chunk)
        return self._summed(manifest, chunk.clients)

    def _summed(self, manifest: RoundManifest, clients: Sequence[int]) -> ChunkSum:
        total, faults, tally = None, list[ClientFault](), _Tally()
        for client in clients:
            name = self._rows.population.id_of(client)
            data = replace(self._rows.of(client), local=self._kept.before(client, manifest.number))
            try:
                given = self._one(manifest, client, data, tally)
            except Refusal as refusal:
                faults.append(ClientFault(name, refusal.slug(), refusal.detail))
                continue
            except Exception as error:  # noqa: BLE001 (a recipe may raise anything, and ends its client's part alone)
                faults.append(ClientFault(name, "recipe-error", f"{type(error).__name__}: {error}"))
                continue
            vector = given.vector
            if total is not None and vector.shape != total.shape:
                faults.append(ClientFault(name, "bad-result", "its sums have another length than those before"))
                continue
            total = vector.copy() if total is None else np.add(total, vector, out=total)
            tally.count += 1
            if given.local and _kept_in(manifest):
                self._kept.keep(client, manifest.number, given.local)
            if given.left_out is not None:
                self._kept.keep(client, manifest.number, {LEFT_OUT: given.left_out}, LEFT_OUT)
        return ChunkSum(total, tally.count, tuple(faults), tally.weight, tally.loss, tally.clipped)

    def _one(self, manifest: RoundManifest, client: int, data: Dataset, tally: "_Tally") -> _Given:
        name = self._rows.population.id_of(client)
        seed = manifest.seed_of(name)
        if manifest.kind is RoundKind.STATISTICS:
            sums = round_sums(self._recipe, data, manifest.recipe.params, manifest.context, seed)
            return _Given(sums if self._plain else unpack(sums_payload(manifest, sums).data, 64))
        change, made = self._trained(manifest, data, seed)
        compressor = self._compressor
        if compressor is None:
            raise ValueError("a round of training without a model")
        if compressor.feeds_back:
            add_left_out(change, self._kept.before(client, manifest.number, LEFT_OUT).get(LEFT_OUT))
        if self._plain:
            rest = compressor.left_out(change, None) if compressor.feeds_back else None
            return _Given(tally.take(manifest, compressor.compress(change), made), made.local, rest)
        draw = f"{manifest.kind}/{manifest.number}/{manifest.attempt}"
        key = key_of("update", self._seed, draw, name)
        payload, rest = compressed_payload(
            manifest, compressor, change, examples=made.examples, loss=made.loss, key=key
        )
        return _Given(unpack(payload.data, payload.modulus_bits), made.local, rest)

    def _trained(self, manifest: RoundManifest, data: Dataset, seed: int) -> tuple[Vector, TrainResult]:
        model, base = self._model, self._base
        if model is None or base is None:
            raise ValueError("a round of training without a model")
        noise = manifest.privacy.record_noise if manifest.privacy is not None else None
        context = manifest.context if noise is None else {**manifest.context, RECORD_NOISE: list(noise)}
        made = self._recipe.train(model.tensors, data, manifest.recipe.params, context, seed, _ignored)
        if noise is not None and not within(made.events, noise.event):
            raise RecipeError("the recipe did not add all the noise that the round promises")
        if made.examples < 1:
            raise RecipeError("the recipe found no examples to train on")
        if model.schema.result(made.tensors).roles() != model.schema.roles():
            raise RecipeError("the recipe changed the roles of tensors")
        return change_from(model.schema, made.tensors, base), made

    def _initialise(self, manifest: RoundManifest, client: int) -> ChunkSum:
        shape, params = self._rows.of(client).shape, manifest.recipe.params
        content = save(self._recipe.initial(shape, params, manifest.context, manifest.seed))
        load(content)  # an unreadable model must not become version 0
        return ChunkSum(np.frombuffer(content, np.uint8), 1)

    def _evaluate(self, manifest: RoundManifest, chunk: Chunk) -> ChunkSum:
        if not chunk.tests:
            return ChunkSum(self._evaluated(manifest, self._rows.tests(range(chunk.start, chunk.stop))), 1)
        sums = [
            self._evaluated(
                manifest, replace(self._rows.tests(places), local=self._kept.before(client, manifest.number))
            )
            for client, places in zip(chunk.clients, chunk.tests, strict=True)
        ]
        return ChunkSum(np.sum(sums, axis=0), len(sums))

    def _evaluated(self, manifest: RoundManifest, data: Dataset) -> npt.NDArray[np.float64]:
        if self._model is None:
            raise ValueError("an evaluation without a model")
        params = manifest.recipe.params
        sums = np.asarray(self._recipe.evaluate(self._model.tensors, data, params, manifest.context), np.float64)
        check_sums(evaluation_layout(self._recipe.spec, params), sums)
        return sums


@dataclass
class _Tally:
    """What a chunk's clients add up beside the vector."""

    count: int = 0
    weight: int = 0
    loss: float = 0.0
    clipped: int = 0

    def take(self, manifest: RoundManifest, change: Vector, made: TrainResult) -> npt.NDArray[np.float64]:
        """Return a change that is clipped and weighed, and count it, as the quantiser does, but without rounding."""
        norm, _ = measure(change)
        if not np.isfinite(norm):
            raise NonFinite("the vector holds a value that is not a finite number")
        wide = change.astype(np.float64)
        limit = manifest.encoding.clip_norm if manifest.encoding is not None else None
        weight, clipped = weight_of(made.examples, manifest), limit is not None and norm > limit
        if limit is not None and clipped:
            wide *= limit / norm
        self.weight, self.loss = self.weight + weight, self.loss + weight * made.loss
        self.clipped += int(clipped)
        return wide * weight


def chunks_of(clients: Sequence[int]) -> list[Chunk]:
    """Return chunks of these clients; how they are cut follows from their number alone, not from the workers."""
    size = max(1, min(MOST_IN_CHUNK, len(clients) // CHUNKS))
    return [Chunk(tuple(clients[at : at + size])) for at in range(0, len(clients), size)]


MOST_IN_CHUNK = 50
CHUNKS = 16


def _kept_in(manifest: RoundManifest) -> bool:
    """Return whether clients keep tensors in this round; as at a site, none are where a round protects records."""
    return manifest.privacy is None or manifest.privacy.record_noise is None


def _ignored(_: float) -> None:
    """Ignore the progress of one client."""
