"""What clients do in a round, one after the other, with one model in memory and one running sum.

It is the agent's own path without the agent: the recipe as it is, the change in float32, clipped, quantised and weighed
by `train_payload`, with the client's part of the noise where the round asks for it. Memory is that of a few vectors,
however many clients a chunk has.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from undersong.recipes.protocol import Dataset, Recipe, RecipeError, TrainResult, round_sums
from undersong.shared.errors import Refusal
from undersong.shared.ids import SiteId
from undersong.shared.learning.metrics import check_sums, evaluation_layout
from undersong.shared.learning.tensors import Master, Model, Vector, change_from, flatten, load, save
from undersong.shared.privacy.accounting import within
from undersong.shared.secagg.payload import sums_payload, train_payload, weight_of
from undersong.shared.secagg.quantise import NonFinite, unpack
from undersong.shared.secagg.rounding import measure
from undersong.shared.wire.manifest import RoundKind, RoundManifest
from undersong.shared.wire.privacy import RECORD_NOISE
from undersong.simulate.conditions import PLAIN
from undersong.simulate.rows import ClientRows
from undersong.simulate.sampling import key_of

Total = npt.NDArray[Any]


@dataclass(frozen=True, slots=True)
class Chunk:
    """A part of a round: these clients, or in an evaluation the test rows from `start` to `stop`."""

    clients: tuple[int, ...] = ()
    start: int = 0
    stop: int = 0


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


class ClientWork:
    """Does chunks of one round after another."""

    def __init__(self, rows: ClientRows, recipe: Recipe, engine: str, seed: int) -> None:
        self._rows, self._recipe, self._plain, self._seed = rows, recipe, engine == PLAIN, seed
        self._manifest: RoundManifest | None = None
        self._model: Model | None = None
        self._base: Master | None = None

    def prepare(self, manifest: RoundManifest, model: bytes | memoryview | None) -> None:
        """Take in what the round starts from."""
        self._manifest = manifest
        self._model = None if model is None else load(model)
        self._base = None if self._model is None else flatten(self._model.schema, self._model.tensors)

    def run(self, chunk: Chunk) -> ChunkSum:
        """Do one chunk."""
        manifest = self._manifest
        if manifest is None:
            raise ValueError("no round was prepared")
        if manifest.kind is RoundKind.INITIALISE:
            return self._initialise(manifest, chunk.clients[0])
        if manifest.kind is RoundKind.EVALUATE:
            return self._evaluate(manifest, chunk)
        total, faults, tally = None, list[ClientFault](), _Tally()
        for client in chunk.clients:
            name = self._rows.population.id_of(client)
            try:
                vector = self._one(manifest, name, self._rows.of(client), tally)
            except Refusal as refusal:
                faults.append(ClientFault(name, refusal.slug(), refusal.detail))
            except Exception as error:  # noqa: BLE001 (a recipe may raise anything, and ends its client's part alone)
                faults.append(ClientFault(name, "recipe-error", f"{type(error).__name__}: {error}"))
            else:
                if total is None:
                    total = vector.copy()
                elif vector.shape != total.shape:
                    faults.append(ClientFault(name, "bad-result", "its sums have another length than those before"))
                    continue
                else:
                    np.add(total, vector, out=total)
                tally.count += 1
        return ChunkSum(total, tally.count, tuple(faults), tally.weight, tally.loss, tally.clipped)

    def _one(self, manifest: RoundManifest, name: SiteId, data: Dataset, tally: "_Tally") -> Total:
        seed = manifest.seed_of(name)
        if manifest.kind is RoundKind.STATISTICS:
            sums = round_sums(self._recipe, data, manifest.recipe.params, manifest.context, seed)
            if self._plain:
                return sums
            return unpack(sums_payload(manifest, sums).data, 64)
        change, made = self._trained(manifest, data, seed)
        if self._plain:
            return tally.take(manifest, change, made)
        draw = f"{manifest.kind}/{manifest.number}/{manifest.attempt}"
        key = key_of("update", self._seed, draw, name)
        payload = train_payload(manifest, change, examples=made.examples, loss=made.loss, key=key)
        return unpack(payload.data, payload.modulus_bits)

    def _trained(self, manifest: RoundManifest, data: Dataset, seed: int) -> tuple[Vector, TrainResult]:
        model, base = self._model, self._base
        if model is None or base is None:
            raise ValueError("a round of training without a model")
        noise = manifest.privacy.record_noise if manifest.privacy is not None else None
        context = manifest.context if noise is None else {**manifest.context, RECORD_NOISE: list(noise)}
        made = self._recipe.train(model.tensors, data, manifest.recipe.params, context, seed, _ignored)
        if noise is not None and not within(made.events, noise.event):
            raise RecipeError("the recipe did not add all the noise that the round promises")
        if made.local:
            raise RecipeError("the recipe keeps tensors at its site between rounds, which a simulation does not")
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
        if self._model is None:
            raise ValueError("an evaluation without a model")
        params, data = manifest.recipe.params, self._rows.tests(chunk.start, chunk.stop)
        sums = np.asarray(self._recipe.evaluate(self._model.tensors, data, params, manifest.context), np.float64)
        check_sums(evaluation_layout(self._recipe.spec, params), sums)
        return ChunkSum(sums, 1)


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


def _ignored(_: float) -> None:
    """Ignore the progress of one client."""
