"""The data map of a job: what data of whom goes where in which form, for a record of processing. Pure.

It tells facts of the job and of its engine in neutral words; purposes and legal bases are for each organisation to add.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final, Literal

from pydantic import Field

from undersong.shared.ids import JobId, SiteId
from undersong.shared.secagg.engines import engine_facts
from undersong.shared.secagg.facts import EngineFacts
from undersong.shared.sections import Section
from undersong.shared.wire.forms import Document, Name
from undersong.shared.wire.privacy import PrivacyModel, PrivacyTerms, terms_sentence

FORMAT: Final = "undersong-datamap/1"
UNTIL_ROUND_ENDS: Final = "until the round ends; then it is deleted with the keys of the round"
WITH_THE_JOB: Final = "as long as the coordinator's database keeps the job"
FOR_GOOD: Final = "for good: the log is append-only"


class MappedSite(Document):
    """A site that takes part: whose data it is, what of it the job reads, and in how many tasks the site answered."""

    site_id: SiteId
    name: Name
    organisation: Name
    dataset: Name
    columns: tuple[Name, ...]
    answered: int = Field(ge=0)


class Flow(Document):
    """Something that leaves a site, the same at each: what, in which form, to whom, who can read it, for how long."""

    what: Name
    form: str
    to: Name
    readable_by: str
    kept: str


class DataMap(Document):
    """The map. `flows` hold for each of the sites; `results` are what is made of it."""

    format: Literal["undersong-datamap/1"] = FORMAT
    job_id: JobId
    job: Name
    purpose: str
    engine: Name
    protection: str
    collusion: str
    noise: str
    sites: tuple[MappedSite, ...]
    flows: tuple[Flow, ...]
    results: tuple[Flow, ...]


@dataclass(frozen=True, slots=True)
class MappedJob:
    """What is known of a job. `terms`: what its noisy rounds promise. `standardises`: whether it adds up columns first.

    grows: whether the model grows by rounds of sums, in place of updates.
    reduces: the rule by which the coordinator reduces the sums that come first, before sites are told of them.
    model: the name of the model that is trained; None of a statistics job, whose `queries` are told instead.
    """

    job_id: JobId
    name: str
    engine: str
    sites: tuple[MappedSite, ...]
    recipe: str
    model: str | None = None
    queries: tuple[str, ...] = ()
    standardises: bool = False
    reduces: str | None = None
    grows: bool = False
    evaluates: bool = False
    terms: PrivacyTerms | None = None


def make_datamap(job: MappedJob) -> DataMap:
    """Return the map of a job; raises `EngineUnknown`."""
    facts = engine_facts(job.engine)
    return DataMap(
        job_id=job.job_id,
        job=job.name,
        purpose=_purpose(job),
        engine=facts.name,
        protection=facts.wording.protection,
        collusion=facts.wording.collusion,
        noise=_noise(job.terms),
        sites=job.sites,
        flows=tuple(_flows(job, facts)),
        results=tuple(_results(job)),
    )


def _purpose(job: MappedJob) -> str:
    if job.model is None:
        return f"statistics over all sites together: {', '.join(job.queries)}"
    return f"train the model {job.model} with the recipe {job.recipe}"


def _noise(terms: PrivacyTerms | None) -> str:
    return "none: sums are opened exactly" if terms is None else terms_sentence(terms.model_dump(mode="json"))


def _flows(job: MappedJob, facts: EngineFacts) -> Iterator[Flow]:
    yield Flow(
        what="description of the data sets",
        form="names, types, categories and declared ranges of columns, and numbers of rows where the site declares "
        "them; no values",
        to="coordinator",
        readable_by="the coordinator's operator, and people with a role in the federation; the columns that the job "
        "reads also the other sites",
        kept="until the agent tells a new one; the columns that the job reads as long as the job",
    )
    noisy = _noisy(job.terms)
    if job.model is None:
        yield _masked("sums of the queries", f"sums over the rows{noisy}", facts)
    else:
        if job.standardises:
            if job.reduces is None:
                yield _masked("sums that standardise columns", "sums over the rows, without noise", facts)
            else:
                told = "how many sites use each character or bucket of words, and how often, without noise"
                yield _masked(f"sums that the {job.reduces} follows from", told, facts)
        if job.grows:
            grown = "derivatives of the loss and rows, by node of the trees, column and interval, without noise"
            yield _masked("sums that trees grow by", grown, facts)
        else:
            yield _masked("update of the model", f"the change of the model's parameters by training{noisy}", facts)
        if job.evaluates:
            yield _masked("sums of the evaluation", "counts and losses over the rows, without noise", facts)
    yield from _messages(facts)
    yield Flow(
        what="state of tasks",
        form="progress, times, and for a failure its code and message, without values of the data",
        to="coordinator",
        readable_by="the coordinator's operator, and people with a role in the federation",
        kept=WITH_THE_JOB,
    )
    yield Flow(
        what="part in the record of each round",
        form="the site's id, the SHA-256 of its update and its signatures",
        to="keys service, through the aggregator",
        readable_by="everyone who may read the transparency log, the other sites among them",
        kept=FOR_GOOD,
    )


def _noisy(terms: PrivacyTerms | None) -> str:
    if terms is not None and terms.model in (PrivacyModel.DISTRIBUTED, PrivacyModel.LOCAL):
        return ", with noise that the site adds"
    if terms is not None and terms.model is PrivacyModel.RECORD:
        return ", with noise that the recipe adds at each step"
    return ""


def _masked(what: str, form: str, facts: EngineFacts) -> Flow:
    if facts.sees_updates:
        how = "encrypted to the aggregator"
    else:
        how = (
            "split between two servers" if facts.second_server else "masked, so that only the sum over sites is opened"
        )
    return Flow(
        what=what,
        form=f"{form}; {how}",
        to="aggregator, and in part through it the helper" if facts.second_server else "aggregator",
        readable_by=facts.wording.seen_by,
        kept=UNTIL_ROUND_ENDS,
    )


def _messages(facts: EngineFacts) -> Iterator[Flow]:
    if len(facts.steps) > 1:
        yield Flow(
            what="messages of the protocol",
            form="public keys, encrypted shares of this round's secrets, and signatures; nothing of the data",
            to="other sites and keys service, through the aggregator",
            readable_by="each share by the one site that it is encrypted to",
            kept=UNTIL_ROUND_ENDS,
        )


def _small_counts(terms: PrivacyTerms | None) -> str:
    return "small counts are withheld" if terms is None else "small counts are told as they are with their noise"


def _results(job: MappedJob) -> Iterator[Flow]:
    noise = "with noise" if job.terms is not None else "exact"
    if job.model is None:
        yield Flow(
            what="answers",
            form=f"figures over all sites that took part ({noise}); {_small_counts(job.terms)}",
            to="coordinator",
            readable_by="the operators of aggregator and coordinator, and people with a role in the federation",
            kept=WITH_THE_JOB,
        )
        return
    yield Flow(
        what="model versions",
        form=f"the model's parameters, made of the opened sums ({noise})",
        to="registry; each site gets the version that a round starts from",
        readable_by="the operators of aggregator and registry, the sites, and people with a role in the federation",
        kept="until a person deletes the version",
    )
    if job.evaluates:
        yield Flow(
            what="metrics",
            form="figures over all sites that took part (exact)",
            to="coordinator and registry",
            readable_by="the operators of the services, and people with a role in the federation",
            kept=WITH_THE_JOB,
        )


_PREFACE: Final = (
    "What leaves the sites for this job, as the platform works. Purposes in the legal sense, legal bases, and how long "
    "each operator keeps backups and logs are for the organisations to add."
)


def datamap_sections(found: DataMap) -> tuple[Section, ...]:
    """Return the map for people."""
    head = ("What", "Form", "To", "Who can read it", "Kept")
    return (
        Section(
            "Processing",
            (_PREFACE,),
            (),
            (
                ("Job", f"{found.job} ({found.job_id})"),
                ("Does", found.purpose),
                ("Engine", f"{found.engine}: {found.protection}"),
                ("Who must not collude", found.collusion),
                ("Noise", found.noise),
            ),
        ),
        Section(
            "Whose data",
            ("Rows stay at the site; an agent of the site reads these columns.",),
            ("Site", "Organisation", "Data set", "Columns", "Tasks answered"),
            tuple(
                (one.name, one.organisation, one.dataset, ", ".join(one.columns) or "none", str(one.answered))
                for one in found.sites
            ),
        ),
        Section("What leaves each site", (), head, tuple(_row(flow) for flow in found.flows)),
        Section("What is made of it", (), head, tuple(_row(flow) for flow in found.results)),
    )


def _row(flow: Flow) -> tuple[str, ...]:
    return flow.what, flow.form, flow.to, flow.readable_by, flow.kept
