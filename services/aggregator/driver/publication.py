"""From the opened sum to the round's result.

Steps, each safe to repeat from what the one before has committed:
begin (frozen -> aggregating), check (-> checked: result, model and intent are written down), publish (the registry is
asked), finish (-> published). Everything in between is deterministic, so a step that was cut off gives the same bytes.
"""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import structlog

from undersong.services.aggregator.contributions.folding import Folding
from undersong.services.aggregator.domain.manifests import manifest_of, update_length
from undersong.services.aggregator.domain.rounds import Move, Phase, Reason, check_sum
from undersong.services.aggregator.driver.records import evidence_of, values_digest
from undersong.services.aggregator.peers.registry import Registry, RegistryRefused
from undersong.services.aggregator.repository.contributions import ContributionRepository
from undersong.services.aggregator.repository.records import RecordRepository
from undersong.services.aggregator.repository.rounds import RoundRepository
from undersong.services.aggregator.repository.rows import Intent, Made, Stored
from undersong.services.aggregator.repository.samples import SampleRepository
from undersong.services.aggregator.rounds.lifecycle import Rounds, apply
from undersong.shared.blobs import BlobCorrupt, BlobMissing, BlobStore, DigestMismatch
from undersong.shared.database import Database, Transaction
from undersong.shared.errors import Refusal
from undersong.shared.identity.enrol import IdentityKeeper
from undersong.shared.ids import Digest, RoundId, VersionId, digest_of
from undersong.shared.learning import safetensors
from undersong.shared.learning.staleness import mean_weight
from undersong.shared.learning.steps import next_model
from undersong.shared.learning.strategies import StrategyUnknown, combined, robust_rule
from undersong.shared.learning.tensors import Model, ModelMismatch, Overflow, load, save
from undersong.shared.privacy.clipping import next_clip
from undersong.shared.secagg.compression import Compressor
from undersong.shared.secagg.engine import MODEL_BITS, Fault, UpdateRefused
from undersong.shared.secagg.payload import opened_sums, opened_train
from undersong.shared.secagg.quantise import Floats, ModVector, OutOfRange, pack
from undersong.shared.telemetry.metrics import DAMAGED_BLOBS
from undersong.shared.wire.canonical import digest_document
from undersong.shared.wire.manifest import RoundKind, RoundManifest, version_statement

log: structlog.stdlib.BoundLogger = structlog.get_logger(__name__)
MAX_MODEL_BYTES = 64 << 30


class RoundLost(Exception):
    """Another worker has the round, or it has ended: whatever was computed is dropped."""


class RoundFailed(Exception):
    """The round cannot have a result; the reason is for everybody to see, and so is which sites are to blame."""

    def __init__(self, reason: Reason, detail: str, faults: Sequence[Fault] = ()) -> None:
        super().__init__(detail)
        self.reason, self.faults = reason, tuple(faults)


@dataclass(frozen=True, slots=True)
class StartingModel:
    """The model that a round starts from, and the state of its job's strategy."""

    model: Model
    state: bytes | None


@dataclass(frozen=True, slots=True)
class ComputedRound:
    """A round's result, and for rounds that make a model its file and the strategy's next state."""

    result: dict[str, Any]
    content: bytes | None = None
    state: bytes | None = None
    model_length: int | None = None
    metrics: dict[str, float] = field(default_factory=dict)
    evidence: dict[str, Any] = field(default_factory=dict)
    clipping: dict[str, float] | None = None


class Publication:
    """Use cases that turn a frozen round into a published one. `fence` is the worker's hold on the round."""

    def __init__(
        self, database: Database, blobs: BlobStore, registry: Registry, identity: IdentityKeeper, rounds: Rounds
    ) -> None:
        self._database, self._blobs, self._registry = database, blobs, registry
        self._identity, self._rounds = identity, rounds

    async def begin(self, round_id: RoundId, fence: int) -> Stored:
        """frozen -> aggregating; raises RoundLost."""

        async def work(tx: Transaction) -> Stored:
            rows = RoundRepository(tx)
            stored = await held(rows, round_id, fence)
            if stored.round.phase is Phase.FROZEN:
                await apply(rows, stored, Move(Phase.AGGREGATING))
                stored = await rows.lock(round_id)
            return stored

        return await self._database.run("round.begin", work)

    async def base(self, stored: Stored) -> StartingModel | None:
        """Return what a train round starts from, from our own store or the registry; None for other rounds."""
        manifest = manifest_of(stored.manifest)
        if manifest.kind is not RoundKind.TRAIN or manifest.model is None:
            return None
        try:
            content = await self._content(manifest.model.version_id, manifest.model.digest, manifest.federation_id)
        except (RegistryRefused, DigestMismatch) as error:
            raise RoundFailed(Reason.UNFIT_MODEL, error.detail) from error
        version_id = manifest.model.version_id
        digest = await self._database.read(
            "round.state", lambda tx: RoundRepository(tx).state_of(stored.job_id, version_id)
        )
        state = None if digest is None else await self._blobs.get(digest)
        try:
            return StartingModel(await asyncio.to_thread(load, content), state)
        except Refusal as error:
            raise RoundFailed(Reason.UNFIT_MODEL, error.detail) from error

    async def _content(self, version_id: VersionId, digest: Digest, federation_id: str) -> bytes:
        """Return a model: our own copy, with which a damaged one of the registry is healed, or the registry's."""
        try:
            content = await self._blobs.get(digest)
        except BlobMissing:
            pass
        except BlobCorrupt:
            await set_aside(self._blobs, digest)
        else:
            if await self._registry.heal(version_id, digest, federation_id):
                log.warning("model.healed", version_id=version_id, digest=digest)
            return content
        await self._registry.fetch(version_id, digest, limit=MAX_MODEL_BYTES)
        return await self._blobs.get(digest)

    async def check(self, stored: Stored, fence: int, outcome: ComputedRound) -> Stored:
        """Move the round from aggregating to checked, with the model durable and the intent to publish it written down.

        A result without a model is published at once: the registry need not be asked.
        """
        content = None if outcome.content is None else (await self._blobs.put(outcome.content)).digest
        state = None if outcome.state is None else (await self._blobs.put(outcome.state)).digest
        result = {**outcome.result, "digest": content}
        intent = None if content is None else self._intent(stored, content, outcome)

        async def work(tx: Transaction) -> Stored:
            rows = RoundRepository(tx)
            found = await held(rows, stored.round.id, fence)
            if found.round.phase is Phase.AGGREGATING:
                check_sum(found.round)
                records = RecordRepository(tx)
                await records.prepare(found.round.id, outcome.evidence)
                if intent is None:
                    await records.complete(found.round.id, {"values_digest": values_digest(result["values"])})
                    await apply(rows, found, Move(Phase.PUBLISHED), Made(result))
                else:
                    await rows.intend(found.round.id, intent.model_id, intent.body)
                    made = Made(result, content, state, outcome.model_length)
                    await apply(rows, found, Move(Phase.CHECKED), made)
            return await rows.lock(found.round.id)

        return await self._database.run("round.check", work)

    def _intent(self, stored: Stored, content: Digest, outcome: ComputedRound) -> Intent:
        manifest, identity = manifest_of(stored.manifest), self._identity()
        if manifest.model_id is None:
            raise ValueError("a manifest without a model makes no version")
        lineage = lineage_of(
            manifest, contributors=stored.round.got, metrics=outcome.metrics, clipping=outcome.clipping
        )
        signature = identity.private_key.sign(version_statement(manifest.model_id, content, lineage)).hex()
        body = {
            "content_digest": content,
            "lineage": lineage,
            "publisher_keyid": identity.keyid,
            "publisher_signature": signature,
        }
        return Intent(manifest.model_id, body, None)

    async def publish(self, stored: Stored) -> VersionId:
        """Ask the registry for what was intended; Unavailable when it must be asked again, RoundFailed when not."""
        round_id = stored.round.id
        intent = await self._database.read("round.intent", lambda tx: RoundRepository(tx).intent(round_id))
        if intent is None or stored.content_digest is None:
            raise RoundLost(f"round {round_id} has no intent to publish")
        try:
            await self._registry.put_content(stored.content_digest, stored.federation_id)
            return await self._registry.post_version(intent.model_id, intent.body, round_id)
        except RegistryRefused as error:
            raise RoundFailed(Reason.REGISTRY_REFUSED, error.detail) from error

    async def finish(self, stored: Stored, fence: int, version_id: VersionId) -> None:
        """Move the round from checked to published; what only earlier rounds of the job needed may go."""

        async def work(tx: Transaction) -> list[Digest]:
            rows = RoundRepository(tx)
            found = await held(rows, stored.round.id, fence)
            if found.round.phase is not Phase.CHECKED:
                return []
            await rows.published_as(found.round.id, version_id)
            published = {"version_id": version_id, "content_digest": found.content_digest}
            await RecordRepository(tx).complete(found.round.id, published)
            standing = [
                each.site_id for each in await ContributionRepository(tx).of(found.round.id) if each.code is None
            ]
            await SampleRepository(tx, found.job_id).log_in(found.round.id, standing)
            result = {**(found.result or {}), "version_id": version_id}
            await apply(rows, found, Move(Phase.PUBLISHED), Made(result, version_id=version_id))
            return await rows.supersede(found.job_id, found.round.id)

        await self._rounds.forget(await self._database.run("round.finish", work))

    async def restore(self, stored: Stored, outcome: ComputedRound) -> None:
        """Put a checked round's model back where the store has lost it; RoundFailed when it comes out otherwise."""
        if outcome.content is None or digest_of(outcome.content) != stored.content_digest:
            raise RoundFailed(Reason.GAVE_UP, "the lost model cannot be made again")
        await self._blobs.put(outcome.content)

    async def has_content(self, stored: Stored) -> bool:
        """Return whether a checked round's model is still stored, and undamaged."""
        if stored.content_digest is None:
            return False
        try:
            return await self._blobs.verify(stored.content_digest) > 0
        except BlobMissing:
            return False
        except BlobCorrupt:
            await set_aside(self._blobs, stored.content_digest)
            return False


async def set_aside(blobs: BlobStore, digest: Digest) -> None:
    """Move a damaged blob to quarantine, and log it."""
    await blobs.quarantine(digest)
    DAMAGED_BLOBS.labels("aggregator").inc()
    log.error("blob.damaged", digest=digest, set_aside=True)


async def held(rows: RoundRepository, round_id: RoundId, fence: int) -> Stored:
    """Return the locked round; raises RoundLost when another worker holds it or it has ended."""
    stored = await rows.lock(round_id)
    if stored.fence != fence or stored.round.phase.over:
        raise RoundLost(f"round {round_id} is {stored.round.phase}, held with fence {stored.fence}, not {fence}")
    return stored


def conclude(stored: Stored, folding: Folding, base: StartingModel | None) -> ComputedRound:
    """Return the round's outcome from its complete sum; pure, blocking. Raises RoundFailed."""
    check_sum(stored.round)
    kind = folding.manifest.kind
    try:
        if kind is RoundKind.INITIALISE:
            return _initialised(stored, folding)
        if kind is RoundKind.TRAIN:
            return _trained(stored, folding, base)
        return _summed(stored, folding)
    except OutOfRange as error:
        raise RoundFailed(Reason.UNFIT_SUM, error.detail) from error
    except Overflow as error:
        raise RoundFailed(Reason.NOT_FINITE, error.detail) from error
    except ModelMismatch as error:
        raise RoundFailed(Reason.UNFIT_MODEL, error.detail) from error
    except StrategyUnknown as error:
        raise RoundFailed(Reason.UNFIT_STRATEGY, error.detail) from error
    except UpdateRefused as error:  # every body was folded by now, so it is the helper's share
        raise RoundFailed(Reason.HELPER_REFUSED, error.detail) from error


def _initialised(stored: Stored, folding: Folding) -> ComputedRound:
    if folding.model is None:
        raise RoundFailed(Reason.QUORUM, "no site gave a usable model")
    length = folding.model.schema.length
    content = save(folding.model)
    result = _result(stored, vector_length=length)
    return ComputedRound(result, content, model_length=length, evidence=evidence_of(folding, digest_of(content)))


def _trained(stored: Stored, folding: Folding, base: StartingModel | None) -> ComputedRound:
    if base is None:
        raise RoundFailed(Reason.UNFIT_MODEL, "the round starts from no model")
    manifest, schema = folding.manifest, base.model.schema
    total = folding.opened()
    evidence = evidence_of(folding, sum_digest(total, manifest))
    wanted = update_length(manifest, schema.length, schema.parameters)
    if total.size != wanted:
        raise RoundFailed(Reason.UNFIT_MODEL, f"updates have {total.size} words, the model needs {wanted}")
    compressor = Compressor.of(manifest, schema.parameters, schema.length)
    decoded = opened_train(manifest, total, stored.round.got)
    del total  # of a large model it is as large as the mean
    if robust_rule(manifest.strategy.name) is not None:
        mean = _compared(manifest, compressor, list(folding.singles.values()), stored.round.got)
    else:
        mean = compressor.expand(decoded.mean)
    if manifest.buffered:
        mean = mean * np.float32(1 / mean_weight(manifest.buffered, folding.sites))
    decoded = replace(decoded, mean=mean)
    del mean
    # The state names its round, so that no two rounds share a blob and one can be deleted without the other.
    made = next_model(
        base.model,
        base.state,
        decoded.mean,
        strategy=manifest.strategy.name,
        params=manifest.strategy.params,
        metadata={"round": stored.round.id},
    )
    _check_finite(made.content)
    loss = {} if decoded.loss is None else {"loss": decoded.loss}
    clipping = _clipping(manifest, decoded.within)
    result = _result(
        stored,
        vector_length=schema.length,
        weight=decoded.weight,
        clipped=decoded.clipped,
        loss=decoded.loss,
        clipping=clipping,
    )
    return ComputedRound(result, made.content, made.state, schema.length, loss, evidence, clipping)


def _compared(manifest: RoundManifest, compressor: Compressor, singles: Sequence[ModVector], count: int) -> Floats:
    """Return what takes the place of the mean, from each update on its own; raises `StrategyUnknown`."""
    if len(singles) != count:
        raise StrategyUnknown(
            f"strategy {manifest.strategy.name} compares {count} updates, and {len(singles)} were seen"
        )
    updates = np.stack([compressor.expand(opened_train(manifest, words, 1).mean) for words in singles])
    return combined(manifest.strategy.name, updates, manifest.strategy.params)


def _clipping(manifest: RoundManifest, within: float | None) -> dict[str, float] | None:
    """Return the round's clip norm, the noisy share of updates within it, and the next; None where it does not move."""
    rule = None if manifest.privacy is None else manifest.privacy.adaptive_clip
    if rule is None or within is None or manifest.encoding is None or manifest.encoding.clip_norm is None:
        return None
    clip_norm = manifest.encoding.clip_norm
    return {"norm": clip_norm, "within": within, "next": next_clip(rule, clip_norm, within)}


def sum_digest(total: ModVector, manifest: RoundManifest) -> Digest:
    """SHA-256 of the opened sum: its words packed as in an update."""
    return digest_of(memoryview(pack(total, manifest.encoding.modulus_bits if manifest.encoding else MODEL_BITS)))


def _check_finite(content: bytes) -> None:
    try:
        safetensors.read(content)
    except safetensors.BadModelFile as error:
        raise RoundFailed(Reason.NOT_FINITE, error.detail) from error


def _summed(stored: Stored, folding: Folding) -> ComputedRound:
    total = folding.opened()
    evidence = evidence_of(folding, sum_digest(total, folding.manifest))
    values = opened_sums(folding.manifest, total.view("u8"))
    return ComputedRound(_result(stored, vector_length=int(values.size), values=values.tolist()), evidence=evidence)


def _result(stored: Stored, **facts: Any) -> dict[str, Any]:
    names = ("version_id", "digest", "weight", "loss", "clipped", "values", "clipping")
    empty: dict[str, Any] = dict.fromkeys(names)
    return {**empty, "count": stored.round.got, "metrics_layout": stored.layout, **facts}


def lineage_of(
    manifest: RoundManifest,
    *,
    contributors: int,
    metrics: Mapping[str, float],
    clipping: Mapping[str, float] | None = None,
) -> dict[str, Any]:
    """Return where a model version comes from, what its round's noise promises if it has some, and how its updates were
    compressed if they were; signed with it.

    clipping: the round's clip norm, the noisy share of updates within it and the next clip norm, where it moves.
    """
    terms: dict[str, Any] = {} if manifest.privacy is None else {"privacy": manifest.privacy.model_dump(mode="json")}
    if clipping is not None:
        terms["clipping"] = dict(clipping)
    if manifest.compression is not None:
        terms["compression"] = manifest.compression.model_dump(mode="json")
    return {
        "job_id": manifest.job_id,
        "round_id": manifest.round_id,
        "kind": str(manifest.kind),
        "parents": [manifest.model.version_id] if manifest.model else [],
        "recipe": {"name": manifest.recipe.name, "digest": manifest.recipe.digest},
        "data": manifest.data.model_dump(mode="json"),
        "dataset_schema_digest": digest_document(manifest.data.model_dump(mode="json")),
        "metrics": dict(metrics),
        "strategy": manifest.strategy.name,
        "contributors": contributors,
        **terms,
    }
