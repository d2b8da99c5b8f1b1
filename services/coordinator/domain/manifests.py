"""The manifest of a round: what the coordinator asks the sites and the aggregator for."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from undersong.services.coordinator.domain.cohort import CohortRule, choose, derive_seed
from undersong.services.coordinator.domain.jobs import Job
from undersong.services.coordinator.domain.progress import Step
from undersong.services.coordinator.domain.requests import job_request
from undersong.services.coordinator.domain.spec import JobSpec, StatisticsSpec
from undersong.services.coordinator.domain.statistics import count_bits
from undersong.services.coordinator.domain.turns import in_turn, row_of
from undersong.services.coordinator.domain.validation import largest_cohort
from undersong.shared.ids import FederationId, JobId, ModelId, RoundId, SiteId, VersionId
from undersong.shared.learning.metrics import layout_length
from undersong.shared.secagg.compression import grid_of
from undersong.shared.secagg.engines import PUBLIC_ENGINE, engine_facts
from undersong.shared.secagg.facts import PlanRequest
from undersong.shared.secagg.private import plan_multiples, plan_noisy
from undersong.shared.secagg.quantise import (
    MIN_BOUND,
    MIN_ROTATED_BOUND,
    counted,
    plan_counts,
    plan_encoding,
    plan_norm,
    plan_sums,
    sums_length,
)
from undersong.shared.statistics import vocabulary
from undersong.shared.wire.manifest import (
    TRAINING,
    TRAINING_ROUND,
    BufferedChange,
    DataRef,
    Encoding,
    Fold,
    LogHead,
    ModelRef,
    RecipeRef,
    RoundKind,
    RoundManifest,
    StrategyRef,
)
from undersong.shared.wire.privacy import PrivacyTerms

MOST_UNUSED: Final = 500
"""Columns that are not read, of which a manifest and a version's lineage name no more; the job names all of them."""

_MOST_COORDINATES: Final = 2**36  # of any update: a grid that is fine enough for them is fine enough for fewer


@dataclass(frozen=True, slots=True)
class Settled:
    """What a round needs beside its job: its id, the sites, the epoch of the database, the deadline, the log's head.

    buffered: the changes that it collects, where they were made before.
    """

    round_id: RoundId
    cohort: tuple[SiteId, ...]
    epoch: int
    deadline_s: float
    log_head: LogHead | None = None
    buffered: tuple[BufferedChange, ...] = ()


def cohort_for(job: Job, step: Step, candidates: Sequence[SiteId]) -> tuple[SiteId, ...]:
    """Return the round's sites, or nothing when too few are there.

    One site makes the first model: it depends on no data. Where noise is correlated over rounds, sites take turns.
    """
    asked, terms = job.spec.cohort, job.resolved.privacy
    if step.kind is RoundKind.INITIALISE:
        return choose(candidates, CohortRule(min=1, max=1, fraction=1.0, seed=asked.seed), step.draw)
    if step.kind is RoundKind.TRAIN and isinstance(job.spec, JobSpec) and terms is not None and terms.correlated:
        ready = in_turn(candidates, job.resolved.eligible, terms.correlated, job.progress.row, asked.seed)
        return choose(ready, CohortRule(asked.min, largest_cohort(job.spec, job.resolved), 1.0, asked.seed), step.draw)
    return choose(candidates, CohortRule(asked.min, asked.max, asked.fraction, asked.seed), step.draw)


def train_encoding(
    summands: int, spec: JobSpec, terms: PrivacyTerms | None = None, clip_norm: float | None = None
) -> Encoding:
    """Return how updates of a training round become integers; raises a Refusal where there is no headroom for
    their sum, or where the engine could not open it.

    clip_norm: that of this round, where it is not the job's first. Where the norm is proved, it is what limits an
    update: `bound` is used where no `clip_norm` is given, and every site weighs the same.
    """
    made = _plan_training(summands, spec, terms, clip_norm)
    engine_facts(spec.engine).check_encoding(made)
    return made


def _plan_training(summands: int, spec: JobSpec, terms: PrivacyTerms | None, clip_norm: float | None) -> Encoding:
    update, proved = spec.update, engine_facts(spec.engine).proves_norm
    if terms is not None and terms.steps is None and update.clip_norm is not None:
        bits = 64 if proved else update.modulus_bits
        norm = update.clip_norm if clip_norm is None else clip_norm
        return plan_noisy(summands=summands, clip_norm=norm, modulus_bits=bits, terms=terms)
    if proved:
        return plan_norm(summands=summands, clip_norm=update.clip_norm or update.bound)
    made = plan_encoding(
        summands=summands,
        max_weight=1 if spec.strategy.weighting == "equal" else update.max_weight,
        clip_norm=update.clip_norm,
        bound_value=None if update.clip_norm is not None else update.bound,
        modulus_bits=update.modulus_bits,
        least=MIN_ROTATED_BOUND if update.rotation else MIN_BOUND,
    )
    grid_of(made, update.compression, _MOST_COORDINATES)
    return made


def manifest_for(job: Job, step: Step, settled: Settled) -> RoundManifest:
    """Return the manifest of the job's next round."""
    if isinstance(job.spec, StatisticsSpec):
        return _asking(job, job.spec, step, settled)
    if job.model_id is None:
        raise ValueError("the job has no model in the registry yet")
    spec, recipe, size = job.spec, job.resolved.recipe, len(settled.cohort)
    trains = step.kind in TRAINING
    row = row_of(job.resolved.privacy, job.progress.row) if trains else None
    summands = size if row is None else max(size, largest_cohort(spec, job.resolved))  # one grid for all rows of noise
    engine = PUBLIC_ENGINE if step.kind is RoundKind.INITIALISE else spec.engine
    measures = trains or step.kind is RoundKind.EVALUATE
    return RoundManifest(
        federation_id=FederationId(job.federation_id),
        job_id=JobId(job.id),
        round_id=settled.round_id,
        number=job.progress.settled,
        attempt=step.attempt,
        kind=step.kind,
        engine=engine,
        engine_params=engine_facts(engine).plan(_plan_request(step.kind, size, spec)),
        recipe=RecipeRef(name=recipe.name, digest=recipe.digest, params=spec.recipe_params),
        data=_data(job, spec, step.kind),
        model=_model(job) if measures else None,
        model_id=ModelId(job.model_id),
        context=_context(job, spec, step),
        encoding=_encoding(step.kind, summands, spec, job),
        cohort=settled.cohort,
        min_cohort=1 if step.kind is RoundKind.INITIALISE else min(spec.cohort.min, size),
        target=_target(size, spec) if trains else size,
        strategy=StrategyRef(name=spec.strategy.name, params=spec.strategy.params),
        seed=derive_seed(spec.cohort.seed, step.task),
        deadline_s=settled.deadline_s,
        epoch=settled.epoch,
        weight_unit=job.resolved.weight_unit,
        log_head=settled.log_head,
        request=job_request(job, _fixed_clip(size, spec, job.resolved.privacy)),
        privacy=job.resolved.privacy if trains else None,
        noise_row=row,
        buffered=settled.buffered,
        compression=spec.update.compression if step.kind is RoundKind.TRAIN else None,
        **_form(job, step.kind),
    )


def _target(size: int, spec: JobSpec) -> int:
    """Return after how many updates a round of training ends: those that are enough, else all."""
    return size if spec.cohort.enough is None else min(size, max(spec.cohort.min, spec.cohort.enough))


def _data(job: Job, spec: JobSpec, kind: RoundKind) -> DataRef:
    """Return what a round reads; only one that evaluates reads the column of groups."""
    found, group = job.resolved, job.resolved.group if kind is RoundKind.EVALUATE else None
    beside = () if group is None or group in found.columns else (group,)
    return DataRef(
        dataset=spec.data.dataset,
        features=found.features,
        label=found.label,
        columns=(*found.columns, *beside),
        listed=found.listed,
        unused=tuple(column for column in found.unused if group is None or column.name != group.name)[:MOST_UNUSED],
        part=spec.evaluation.part,
        fold=Fold(number=spec.data.fold.number, of=spec.data.fold.of) if spec.data.fold is not None else None,
        group=None if group is None else group.name,
    )


def _context(job: Job, spec: JobSpec, step: Step) -> dict[str, list[float]]:
    """Return what recipes are told beside their parameters; where they train, the round's place in the job.

    What sites added up before they train is in the model from its first version on, and told for that alone.
    """
    told = {name: values for name, values in job.context.items() if not job.progress.has_model or name not in _SUMMED}
    place = {TRAINING_ROUND: [float(job.progress.trained), float(spec.rounds)]} if step.kind in TRAINING else {}
    return {**told, **place}


_SUMMED: Final = ("statistics", vocabulary.RULE)


def _form(job: Job, kind: RoundKind) -> dict[str, Any]:
    """Return the form of sums, where it is known: of an evaluation, a vocabulary, and those that a model grows by."""
    if kind is RoundKind.STATISTICS and job.growth is not None:
        return {"length": sums_length(job.growth.length)}
    if kind is RoundKind.STATISTICS and job.resolved.recipe.reduces is not None:
        return {"length": sums_length(vocabulary.LENGTH)}
    if kind is not RoundKind.EVALUATE:
        return {}
    asks = isinstance(job.spec, JobSpec) and job.spec.evaluation.sites
    return {
        "metrics_layout": job.layout,
        "length": sums_length(layout_length(job.layout)),
        "site_metrics": asks,
    }


def _asking(job: Job, spec: StatisticsSpec, step: Step, settled: Settled) -> RoundManifest:
    """Return the manifest of a statistics job's next round: the recipe is told what to add up, and nothing that was
    opened.
    """
    asked, size = job.session().asked, len(settled.cohort)
    if asked is None:
        raise ValueError("every query of the job is answered")
    recipe, terms, encoding = job.resolved.recipe, job.resolved.privacy, plan_sums(summands=size)
    bits = count_bits(asked, job.resolved) if engine_facts(spec.engine).proves_counts else None
    if terms is not None:
        encoding = plan_multiples(summands=size, length=asked.length, terms=terms)
    elif bits is not None:
        asked = asked.model_copy(update={"salt_bits": bits})
        encoding = plan_counts(summands=size, most=2**bits - 1)
    return RoundManifest(
        federation_id=FederationId(job.federation_id),
        job_id=JobId(job.id),
        round_id=settled.round_id,
        number=job.progress.settled,
        attempt=step.attempt,
        kind=step.kind,
        engine=spec.engine,
        engine_params=engine_facts(spec.engine).plan(PlanRequest(step.kind, size)),
        recipe=RecipeRef(name=recipe.name, digest=recipe.digest, params=asked.model_dump(mode="json")),
        data=DataRef(
            dataset=spec.data.dataset,
            features=tuple(sorted(asked.reads)),
            columns=tuple(column for column in job.resolved.columns if column.name in asked.reads),
            listed=tuple(name for name in job.resolved.listed if name in asked.reads),
        ),
        encoding=encoding,
        cohort=settled.cohort,
        min_cohort=min(spec.cohort.min, size),
        target=size,
        strategy=StrategyRef(name="sum"),
        seed=derive_seed(spec.cohort.seed, step.task),
        deadline_s=settled.deadline_s,
        epoch=settled.epoch,
        log_head=settled.log_head,
        request=job_request(job, None),
        length=asked.length if counted(encoding) or terms is not None else sums_length(asked.length),
        privacy=terms,
    )


def _plan_request(kind: RoundKind, size: int, spec: JobSpec) -> PlanRequest:
    """Return what the job asks of the engine of a round of this kind."""
    summed = RoundKind.TRAIN if kind is RoundKind.PREPARE else kind  # owners' floors hold for an order, too
    return PlanRequest(summed, size, spec.update.norm_equality_proofs)


def draft(manifest: RoundManifest) -> bool:
    """Return whether the manifest still lacks the witness's commitment, without which no party acts on it."""
    return engine_facts(manifest.engine).commits_nonce and "nonce_commitment" not in manifest.engine_params


def witnessed(manifest: RoundManifest, commitment: str, epoch: int) -> RoundManifest:
    """Return the draft with the witness's commitment and epoch."""
    params = {**manifest.engine_params, "nonce_commitment": commitment}
    return manifest.model_copy(update={"engine_params": params, "epoch": epoch})


def _model(job: Job) -> ModelRef:
    if job.version_id is None or job.version_digest is None:
        raise ValueError("the job has no model version yet")
    return ModelRef(version_id=VersionId(job.version_id), digest=job.version_digest)


def _encoding(kind: RoundKind, summands: int, spec: JobSpec, job: Job) -> Encoding | None:
    if kind is RoundKind.INITIALISE:
        return None
    if kind not in TRAINING:
        return plan_sums(summands=summands)
    return train_encoding(summands, spec, job.resolved.privacy, job.progress.clip_norm)


def _fixed_clip(summands: int, spec: JobSpec, terms: PrivacyTerms | None) -> float | None:
    """Return the clip norm of all the job's rounds; None where it moves from one to the next, or there is none."""
    if terms is not None and terms.adaptive_clip is not None:
        return None
    return train_encoding(summands, spec, terms).clip_norm
