"""How a datasheet reads: sections of sentences and tables, the same at the command line, on the page and in a file."""

from collections.abc import Iterator, Mapping
from datetime import datetime

from pydantic import JsonValue

from undersong.shared.sections import Section
from undersong.shared.transparency.datasheet import (
    Datasheet,
    SheetAudit,
    SheetClaim,
    SheetData,
    SheetLedger,
    SheetMechanism,
    SheetSubject,
)
from undersong.shared.wire.privacy import PrivacyModel

NONE = "–"
_NOISE = {
    PrivacyModel.SERVER: "by each of two servers, enough alone",
    PrivacyModel.DISTRIBUTED: "by every site a part, before its update is masked",
    PrivacyModel.LOCAL: "by every site, enough for itself",
    PrivacyModel.RECORD: "by the recipe at each step of training",
    PrivacyModel.NONE: "by no party",
}


def title_of(datasheet: Datasheet) -> str:
    """Return the sheet's title."""
    subject = datasheet.subject
    return f"Privacy datasheet: {subject.model} version {subject.number}"


def headline(datasheet: Datasheet) -> str:
    """Return what the sheet says in one or two sentences."""
    if datasheet.claim_broken:
        return "An audit refuted the privacy claim of this version: do not rely on it."
    if datasheet.unknown:
        named = ", ".join(datasheet.unknown)
        return f"No epsilon holds for all that this version depends on: the origin of {named} is not known here."
    bounded = [claim for claim in datasheet.claims if claim.epsilon is not None and claim.released]
    exact = sum(gap.releases or 0 for gap in datasheet.gaps if gap.what == "training without noise")
    if exact or not bounded:
        if not datasheet.data:
            return "No sum over data was opened for this version: it tells nothing about any site or record."
        return "Sums were opened exactly: no epsilon bounds what this version tells about a site or a record."
    beside = bounded[0].exact
    claimed = " ".join(_claimed(claim) for claim in bounded)
    if len(bounded) > 1:
        claimed += " Neither of the two covers the other's rounds."
    return claimed if not beside else f"{claimed} Not covered: {_count(beside, 'exact answer')} from the same data."


def sections(datasheet: Datasheet) -> tuple[Section, ...]:
    """Return the whole sheet."""
    return (
        _subject(datasheet),
        _data(datasheet),
        _engines(datasheet),
        *_claims(datasheet),
        Section(
            "No guarantee",
            ("What is listed here is not bounded by any claim above.",),
            ("What", "Releases", "Why"),
            tuple((gap.what, _number(gap.releases), gap.why) for gap in datasheet.gaps),
        ),
        _audits(datasheet),
        _ledgers(datasheet),
        _utility(datasheet),
        Section(
            "Map to NIST SP 800-226",
            ("Topics of its guidelines for evaluating differential privacy, and where this sheet has them.",),
            ("Topic", "Section", "In this sheet"),
            tuple((row.topic, row.section, row.answer) for row in datasheet.nist),
        ),
    )


def _subject(datasheet: Datasheet) -> Section:
    subject = datasheet.subject
    return Section("Subject", (headline(datasheet),), (), tuple(_identity(subject, datasheet)))


def _identity(subject: SheetSubject, datasheet: Datasheet) -> Iterator[tuple[str, str]]:
    yield "Version", f"{subject.version_id}, number {subject.number} of {subject.model}"
    yield "Content", f"SHA-256 {subject.content_digest}"
    yield "Trained from", ", ".join(subject.parents) or "nothing"
    yield "Job", f"{subject.job} ({subject.job_id})" if subject.job_id else "none: it was brought in from outside"
    if subject.round_id is not None:
        yield "Round", subject.round_id
    if subject.recipe is not None:
        yield "Recipe", f"{subject.recipe.name}, SHA-256 of its source {subject.recipe.digest}"
    entry = "" if subject.log_entry is None else f"; the round's record is entry {subject.log_entry} of the log"
    yield "Evidence", f"undersong verify {subject.version_id}{entry}"
    yield "Made", f"{_day(datasheet.made_at)}; make a new one after {_day(datasheet.expires_at)}"


def _data(datasheet: Datasheet) -> Section:
    rows = tuple(
        (one.dataset, ", ".join(one.features) or NONE, one.label or NONE, str(one.rounds), _range(one))
        for one in datasheet.data
    )
    said = () if rows else ("No round used data.",)
    return Section("Data", said, ("Data set", "Features", "Label", "Rounds", "Sites in one sum") if rows else (), rows)


def _range(one: SheetData) -> str:
    fewest, most = one.fewest_sites, one.most_sites
    if fewest is None:
        return NONE
    return str(fewest) if fewest == most else f"{fewest} to {most}"


def _engines(datasheet: Datasheet) -> Section:
    rows = tuple(
        (one.engine, str(one.rounds), str(one.min_cohort), one.protection, one.collusion) for one in datasheet.engines
    )
    head = ("Engine", "Rounds", "Fewest sites allowed", "How an update is hidden", "Who must not collude")
    return Section("Engines", () if rows else ("No sum was opened.",), head if rows else (), rows)


def _claims(datasheet: Datasheet) -> Iterator[Section]:
    if not datasheet.claims:
        yield Section("Claims", ("None: no round of this version or of what it was trained from had noise.",))
    for claim in datasheet.claims:
        yield Section(
            f"Claim for each {claim.unit}", (_claimed(claim), _assumed(claim, datasheet)), (), tuple(_facts(claim))
        )


def _claimed(claim: SheetClaim) -> str:
    if claim.epsilon is None:
        return f"The noisy rounds have no finite epsilon at delta {claim.delta:g}."
    if not claim.released:
        return f"Nothing with noise was released yet for one {claim.unit} (epsilon 0)."
    whole = "all data of one site" if claim.unit == "site" else "one record at one site"
    return (
        f"Adding or removing {whole} changes the probability of any outcome of the "
        f"{_count(claim.released, 'noisy round')} by at most a factor e^{claim.epsilon:.4g}, except with probability "
        f"{claim.delta:g}: epsilon {claim.epsilon:.4g} at delta {claim.delta:g}."
    )


def _assumed(claim: SheetClaim, datasheet: Datasheet) -> str:
    others = sum(other.released for other in datasheet.claims if other.unit != claim.unit)
    beside = (f"{_count(others, 'round')} whose noise protects another unit",) if others else ()
    if claim.exact:
        beside = (_count(claim.exact, "exact answer"), *beside)
    if not beside:
        return "No exact answer from the same data was released beside them."
    return f"{' and '.join(beside)} beside them: no bound here holds for all of it together."


def _facts(claim: SheetClaim) -> Iterator[tuple[str, str]]:
    yield "Unit of privacy", str(claim.unit)
    yield "Neighbouring data", claim.neighbours
    yield "Epsilon so far", _epsilon(claim.epsilon, claim.delta)
    yield "Epsilon of the whole plan", _epsilon(claim.planned_epsilon, claim.delta)
    yield "Accountant", f"{claim.accountant} {claim.accountant_version}"
    yield "Sampling", claim.sampling
    yield from (("Mechanism", _mechanism(one)) for one in claim.mechanisms)


def _mechanism(one: SheetMechanism) -> str:
    clipped = "updates" if one.steps is None else "gradients of records"
    clip = "" if one.clip_norm is None else f", {clipped} clipped to L2 norm {one.clip_norm:g}"
    if one.adaptive_clip is not None:
        clip = f", updates clipped to an L2 norm that moves to their {one.adaptive_clip.quantile:g} quantile"
        if one.clip_path:
            clip += f", from {one.clip_path[0]:.4g} to {one.clip_path[-1]:.4g} so far"
    if one.steps is not None:
        clip += (
            f", {_count(one.steps.count, 'step')} a round over samples of {one.steps.probability:.3g} of all records"
        )
    if one.correlated is not None:
        clip += (
            f", correlated over rounds (matrix mechanism), a site takes part {one.correlated.separation} rounds apart "
            f"and {_count(one.correlated.participations, 'time')} at most"
        )
    return (
        f"{one.model}: discrete Gaussian noise {_NOISE[one.model]}; noise multiplier {one.noise_multiplier:.5g}{clip}; "
        f"counted on {_count(one.min_sites, 'site')}, {_count(one.colluding, 'site')} assumed to collude; "
        f"{one.released} of {_count(one.planned, 'planned round')} released, job {one.job_id}"
    )


def _audits(datasheet: Datasheet) -> Section:
    if not datasheet.audits:
        return Section("Audits", ("No audit of this version is recorded in the registry.",))
    head = ("Audit", "Epsilon, lower bound", "Refutes the claim", "In words", "Figures", "By")
    said = ("The claim is broken: an audit found a lower bound above it.",) if datasheet.claim_broken else ()
    return Section("Audits", said, head, tuple(_audit(one) for one in datasheet.audits))


def _audit(one: SheetAudit) -> tuple[str, ...]:
    bound = NONE if one.epsilon_lower_bound is None else f"{one.epsilon_lower_bound:.4g}"
    sure = "" if one.confidence is None else f" at {100 * one.confidence:.3g}% confidence"
    figures = ", ".join(f"{name} {_figure(value)}" for name, value in one.figures.items())
    broken = "yes" if one.broken else "no"
    return one.kind, bound + sure, broken, one.sentence, figures or NONE, f"{one.recorded_by}, {_day(one.recorded_at)}"


def _figure(value: JsonValue) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, list):
        return f"[{', '.join(_figure(one) for one in value)}]"
    if isinstance(value, dict):
        if value.keys() == {"value", "low", "high"}:
            return f"{_figure(value['value'])} ({_figure(value['low'])} to {_figure(value['high'])})"
        return "; ".join(f"{name} {_figure(one)}" for name, one in value.items())
    return str(value)


def _ledgers(datasheet: Datasheet) -> Section:
    title = "Owners' ledgers"
    if not datasheet.ledgers:
        return Section(title, ("No site took part in a round of this version's job, or none is known here.",))
    said = (
        "How far each owner's privacy ledger had come, by the first head in the transparency log behind its site's "
        "last round of the version's job. An owner compares it: undersong ledger verify --against SHEET.json."
    )
    head = ("Site", "Last round", "Lines", "Log entry")
    return Section(title, (said,), head, tuple(_ledger(one) for one in datasheet.ledgers))


def _ledger(one: SheetLedger) -> tuple[str, ...]:
    if one.head is None:
        return one.site_id, one.round_id, "no head is in the log yet", NONE
    return one.site_id, one.round_id, str(one.head.lines), _number(one.log_entry)


def _utility(datasheet: Datasheet) -> Section:
    found = datasheet.utility
    rows = [("all rows", _metrics(found.metrics)), *((name, _metrics(group)) for name, group in found.groups.items())]
    said = () if found.groups else ("Metrics of groups of rows were not computed: noise costs small groups the most.",)
    return Section("Utility", said, ("Rows", "Metrics"), tuple(rows))


def _metrics(values: Mapping[str, float]) -> str:
    return ", ".join(f"{name} {value:.4g}" for name, value in values.items()) or "not evaluated"


def _epsilon(epsilon: float | None, delta: float) -> str:
    return "no bound" if epsilon is None else f"{epsilon:.4g} at delta {delta:g}"


def _number(count: int | None) -> str:
    return NONE if count is None else str(count)


def _count(count: int, noun: str) -> str:
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def _day(moment: datetime) -> str:
    return f"{moment:%Y-%m-%d}"
