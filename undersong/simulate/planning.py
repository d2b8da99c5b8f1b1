"""From a job document to the job that is simulated: judged by the coordinator's own rules, against clients as sites."""

import math
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Final

import numpy as np
from pydantic import ValidationError

from undersong.services.coordinator.domain.cohort import CohortRule
from undersong.services.coordinator.domain.findings import JobInvalid
from undersong.services.coordinator.domain.jobs import Job
from undersong.services.coordinator.domain.manifests import train_encoding
from undersong.services.coordinator.domain.parts import PrivacyPart
from undersong.services.coordinator.domain.privacy import adaptive_rule
from undersong.services.coordinator.domain.sites import TOLD, SiteFacts
from undersong.services.coordinator.domain.spec import JobSpec
from undersong.services.coordinator.domain.validation import Resolved, ValidJob, World, judge
from undersong.shared.errors import Refusal
from undersong.shared.ids import FederationId, JobId, ModelId, SiteId
from undersong.shared.learning.strategies import STRATEGIES, strategy_named
from undersong.shared.privacy.accounting import epsilon_of, noise_until
from undersong.shared.secagg.engines import ENGINES
from undersong.shared.wire.privacy import PoissonGaussianEvent, PrivacyModel, PrivacyTerms, PrivacyUnit
from undersong.shared.wire.profiles import DatasetSchema, Hardware, RecipeSpec, SiteProfile
from undersong.simulate.conditions import PLAIN, Conditions, ConditionsInvalid
from undersong.simulate.sampling import Population, rank_rule

FEDERATION: Final = FederationId("fed_simulated")
MOST_JUDGED: Final = 1000
"""Clients that a job is judged against: of more, these stand for all, the largest and the smallest among them."""
_PERSON: Final = "simulation"


def prepared(document: Mapping[str, Any], conditions: Conditions) -> dict[str, Any]:
    """Return the job document as it is simulated; raises `ConditionsInvalid` for one that cannot be."""
    if document.get("kind", "train") != "train":
        raise ConditionsInvalid("only jobs that train can be simulated", remedy="simulate one of kind train")
    strategy = document.get("strategy")
    named = STRATEGIES.get(str(strategy.get("name"))) if isinstance(strategy, Mapping) else None
    if named is not None and named.buffered:
        raise ConditionsInvalid(
            f"{named.name} lets sites train ahead of rounds, and simulated clients train within them",
            remedy="simulate fedavg, or run the job on agents",
        )
    made = {key: value for key, value in document.items() if key != "federation"}
    made["federation_id"] = FEDERATION
    if isinstance(model := made.get("model"), Mapping) and model.get("version_id") is not None:
        raise ConditionsInvalid("a simulation starts from a fresh model", remedy="leave model.version_id out")
    cohort = dict(made["cohort"]) if isinstance(made.get("cohort"), Mapping) else {}
    if conditions.sample.share is not None and not conditions.sample.tossed:
        cohort["fraction"] = float(conditions.sample.share)
    if conditions.seed is not None:
        cohort["seed"] = conditions.seed
    return made | ({"cohort": cohort} if cohort else {})


def resolve(document: Mapping[str, Any], schema: DatasetSchema, recipes: Sequence[RecipeSpec]) -> ValidJob:
    """Return what the job reads of this data set, before its rows are known; raises `ConditionsInvalid`."""
    asked = {key: value for key, value in document.items() if key not in ("privacy", "cohort")}
    return _judged(asked, schema, recipes, Population(3), [schema.rows] * 3)


def plan_job(
    document: Mapping[str, Any],
    schema: DatasetSchema,
    recipes: Sequence[RecipeSpec],
    clients: Population,
    told: Sequence[int],
    conditions: Conditions,
) -> Job:
    """Return the job, with its noise calibrated; raises `ConditionsInvalid` with every fault of the document.

    `told`: how many rows each client tells that it has.
    """
    credited = _credited(document, conditions)
    asked = {**document, "privacy": _affordable(document["privacy"])} if credited else document
    verdict = _judged(asked, schema, recipes, clients, told)
    spec, resolved = verdict.spec, verdict.resolved.model_copy(update={"eligible": ()})
    if not isinstance(spec, JobSpec):
        raise ConditionsInvalid("only jobs that train can be simulated")
    try:
        if credited:
            spec = JobSpec.model_validate(dict(document))
            resolved = resolved.model_copy(update={"privacy": _sampled_terms(spec, conditions)})
        _check(spec, resolved, clients, conditions)
    except Refusal as refusal:
        raise ConditionsInvalid(f"the job cannot be simulated: {refusal.detail}") from None
    except ValidationError as error:
        fault = error.errors()[0]
        where = ".".join(map(str, fault["loc"]))
        raise ConditionsInvalid(f"the job cannot be simulated: {where}: {fault['msg']}") from None
    now = datetime.now(UTC)
    made = Job(JobId("job_simulated"), FEDERATION, spec, resolved, _PERSON, now, now)
    return made.with_model(ModelId("mdl_simulated"))


def rule_of(job: Job) -> CohortRule:
    """Return the job's rule for who is asked."""
    asked = job.spec.cohort
    return CohortRule(asked.min, asked.max, asked.fraction, asked.seed)


def _check(spec: JobSpec, resolved: Resolved, clients: Population, conditions: Conditions) -> None:
    """Check what depends on all clients, and not on those that a job is judged against; raises a Refusal."""
    terms, asked = resolved.privacy, spec.cohort
    if asked.enough is not None and conditions.slow is None:
        raise ConditionsInvalid(
            "no client is slower than another, so none is the first whose answers are enough",
            remedy="give --slow, such as lognormal:1, or leave cohort.enough out",
        )
    if resolved.group is not None:
        raise ConditionsInvalid("metrics by group are not simulated", remedy="leave evaluation.by out")
    if spec.evaluation.sites:
        raise ConditionsInvalid("clients hold no test rows of their own", remedy="leave evaluation.sites out")
    if terms is not None and terms.correlated is not None:
        raise ConditionsInvalid(
            "noise that is correlated over rounds is not simulated",
            remedy="leave privacy.mechanism and privacy.separation out",
        )
    if terms is not None and conditions.engine == PLAIN:
        raise ConditionsInvalid(
            "noise is drawn in whole steps of the grid, and engine plain has none", remedy="leave --engine out"
        )
    if terms is not None and terms.unit is PrivacyUnit.SITE and terms.delta >= 1 / clients.count:
        raise ConditionsInvalid(
            f"privacy.delta is {terms.delta:g}, and one of {clients.count} clients could be told whole",
            remedy=f"give less than {1 / clients.count:g}",
        )
    size = rank_rule(CohortRule(asked.min, asked.max, asked.fraction), clients.count)
    if conditions.sample.tossed and conditions.sample.share is not None:
        mean = conditions.sample.share * clients.count
        size = min(clients.count, math.ceil(mean + 6 * math.sqrt(mean)) + 1)
    train_encoding(max(1, size), spec, terms)


def _judged(
    document: Mapping[str, Any],
    schema: DatasetSchema,
    recipes: Sequence[RecipeSpec],
    clients: Population,
    told: Sequence[int | None],
) -> ValidJob:
    world = World(
        federation_known=True,
        sites=_facts(schema, recipes, clients, told),
        engines=ENGINES,
        check_strategy=lambda name, params: strategy_named(name).settings(params),
        check_encoding=train_encoding,
    )
    try:
        return judge(document, world)
    except JobInvalid as invalid:
        faults = "; ".join(
            f"{fault.path.removeprefix('/').replace('/', '.')}: {fault.message.removesuffix(TOLD)}"
            for fault in invalid.errors
        )
        own = any(fault.path == "/recipe/name" for fault in invalid.errors)
        remedy = "name the file of a recipe of your own: --recipe FILE" if own else "see docs/reference/job.md"
        raise ConditionsInvalid(f"the job cannot be simulated: {faults}", remedy=remedy) from None


def _facts(
    schema: DatasetSchema, recipes: Sequence[RecipeSpec], clients: Population, told: Sequence[int | None]
) -> list[SiteFacts]:
    chosen = list(range(clients.count))
    if clients.count > MOST_JUDGED:
        by_rows = np.argsort([count or 0 for count in told], kind="stable")
        chosen = by_rows[np.linspace(0, clients.count - 1, MOST_JUDGED).astype(np.int64)].tolist()
    profiles: dict[int | None, SiteProfile] = {}
    for rows in {told[client] for client in chosen}:
        own = schema.model_copy(update={"rows": rows})
        hardware = Hardware(cpus=1, memory_bytes=0)
        profiles[rows] = SiteProfile(
            agent_version=_PERSON, protocol=1, recipes=tuple(recipes), datasets=(own,), hardware=hardware
        )
    ids = {client: clients.id_of(client) for client in chosen}
    return [SiteFacts(SiteId(ids[client]), ids[client], True, profiles[told[client]]) for client in chosen]


def _credited(document: Mapping[str, Any], conditions: Conditions) -> bool:
    """Return whether tosses earn the job's noise a credit; raises `ConditionsInvalid` for noise that tosses break."""
    privacy = document.get("privacy")
    if not conditions.sample.tossed or not isinstance(privacy, Mapping) or privacy.get("model", "none") == "none":
        return False
    if (model := privacy["model"]) != PrivacyModel.SERVER:
        raise ConditionsInvalid(
            f"clients that are tossed for make no minimum cohort, on which privacy.model {model} relies",
            remedy="set privacy.model to server, or sample without poisson",
        )
    if (privacy.get("epsilon") is None) == (privacy.get("noise_multiplier") is None):
        raise ConditionsInvalid("privacy needs epsilon or noise_multiplier, one of them: the other follows")
    return True


def _affordable(privacy: Mapping[str, Any]) -> dict[str, Any]:
    """Return the section with a cost that any job can be judged with: the tosses' credit is settled afterwards."""
    left_out = ("noise_multiplier", "adaptive_clip")
    return {key: value for key, value in privacy.items() if key not in left_out} | {"epsilon": 1.0}


def _sampled_terms(spec: JobSpec, conditions: Conditions) -> PrivacyTerms:
    """Return the terms of rounds for which each client is tossed, with the credit that this earns."""
    asked, share = spec.privacy, conditions.sample.share or 1.0
    noise = asked.noise_multiplier
    if noise is None:
        noise = noise_until(asked.epsilon or 0.0, lambda tried: _cost(tried, share, spec.rounds, asked, quick=True))
    epsilon = max(_cost(noise, share, spec.rounds, asked), 1e-9)
    try:
        return PrivacyTerms(
            model=PrivacyModel.SERVER,
            unit=PrivacyUnit.SITE,
            noise_multiplier=noise,
            delta=asked.delta,
            epsilon=epsilon,
            rounds=spec.rounds,
            min_sites=1,
            adaptive_clip=adaptive_rule(asked.adaptive_clip, spec.update.clip_norm),
        )
    except ValueError:
        raise ConditionsInvalid(f"noise of {noise:g} costs epsilon {epsilon:.4g}, which bounds nothing") from None


def _cost(noise: float, share: float, rounds: int, asked: PrivacyPart, *, quick: bool = False) -> float:
    event = PoissonGaussianEvent(noise_multiplier=noise, probability=share, count=rounds)
    return epsilon_of([event], asked.delta, quick=quick)
