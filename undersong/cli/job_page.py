"""One job on one screen: what it is, how far it has come, who takes part, and its rounds."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Final

from undersong.cli import common
from undersong.client.types import Job, JobSpent, Participation, Round
from undersong.progress import HEADLINE, headline

MOST_ROUNDS: Final = 30


def show(
    job: Job,
    rounds: Sequence[Round],
    parts: Sequence[Participation],
    *,
    spent: JobSpent | None = None,
    all_rounds: bool,
) -> None:
    """Print the job; of many rounds the newest, unless all are asked for."""
    common.console.print(f"[bold]{common.escaped(job.name)}[/]  {job.state}", markup=True)
    for name, value in _facts(job, rounds, spent):
        common.console.print(f"  {name:<10} {value}", markup=False, soft_wrap=True)
    for line in _failure(job):
        common.console.print(f"  {line}", markup=False, soft_wrap=True)
    common.show_excluded(job, common.console)
    if parts:
        common.console.print()
        told = {name: of for name, of in _TOLD_OF_PARTS.items() if any(of(part) for part in parts)}
        common.show(parts, {**_PARTS, **told}, as_json=False, empty="")
    common.console.print()
    shown = rounds if all_rounds else rounds[-MOST_ROUNDS:]
    if len(shown) < len(rounds):
        common.console.print(f"the newest {len(shown)} of {len(rounds)} rounds; --all shows every one", style="dim")
    common.show(shown, _ROUNDS, as_json=False, empty="no round yet")


def _facts(job: Job, rounds: Sequence[Round], spent: JobSpent | None) -> Iterator[tuple[str, str]]:
    spec, progress = job.spec, job.progress
    yield "job", job.id
    made = f"{common.text(job.created_at)} by {job.created_by or 'unknown'}"
    took = f", ended {common.ago(job.finished_at)}" if job.finished_at else ""
    yield "made", made + took
    if spec.get("kind") == "statistics":
        yield "asks", ", ".join(str(query.get("query", "?")) for query in spec.get("queries", []))
        yield "rounds", f"{progress.get('asked', 0)} answered, of {progress.get('rounds', '?')} at most"
    else:
        recipe, model = spec.get("recipe") or {}, spec.get("model") or {}
        params = ", ".join(f"{key} {value}" for key, value in (recipe.get("params") or {}).items())
        yield "recipe", f"{recipe.get('name', '?')}{f' ({params})' if params else ''}"
        yield "model", f"{model.get('name', '?')}{f', newest version {job.version_id}' if job.version_id else ''}"
        trained = f"{progress.get('trained', 0)} of {progress.get('rounds', '?')} trained"
        evaluated = f"{progress.get('evaluated', 0)} evaluated"
        yield "rounds", evaluated if spec.get("kind") == "evaluate" else f"{trained}, {evaluated}"
    data = spec.get("data") or {}
    label = f" → {job.label}" if job.label else ""
    yield "data", f"{data.get('dataset', '?')}{label}, {len(job.features)} columns"
    if job.features:
        yield "features", ", ".join(job.features)
    if job.unused:
        yield "not used", "; ".join(f"{column['name']} ({column['reason']})" for column in job.unused)
    yield "engine", f"{spec.get('engine', '?')}, sums of at least {(spec.get('cohort') or {}).get('min', '?')} sites"
    if job.privacy is not None:
        yield "privacy", job.privacy.sentence
    if spent is not None and spent.opened:
        yield "spent", spent.sentence
    measured = [headline(round_.metrics) for round_ in rounds if round_.kind == "evaluate" and round_.metrics]
    if measured:
        yield "metrics", measured[-1]
        yield from _further(rounds)
        for text, metrics in _groups(rounds):
            yield f"  {text}", "few rows: not told" if metrics is None else headline(metrics)
        asked = bool((spec.get("evaluation") or {}).get("sites"))
        yield from _sites_own(rounds, asked=asked)
    for caution in job.cautions:
        yield "caution", caution
    if (waits := common.waits(job)) is not None:
        yield "waits", waits


def _further(rounds: Sequence[Round]) -> Iterator[tuple[str, str]]:
    """Yield the newest evaluation's other metrics and its calibration."""
    newest = [round_ for round_ in rounds if round_.kind == "evaluate" and round_.metrics][-1]
    metrics = dict(newest.metrics or {})
    if others := {name: value for name, value in metrics.items() if name.removesuffix("_error") not in HEADLINE}:
        yield "", headline(others, tuple(name for name in others if not name.endswith("_error")))
    curves = (newest.result or {}).get("curves") or {}
    if points := curves.get("calibration"):
        told = ", ".join(f"{said:.2f}: {true:.2f}" for said, true, _ in points)
        yield "  calibration", f"share of positives by mean score: {told}"


def _sites_own(rounds: Sequence[Round], *, asked: bool) -> Iterator[tuple[str, str]]:
    """Yield what the sites told of their own metrics in the newest evaluation, and how these differ."""
    told = [round_.result or {} for round_ in rounds if round_.kind == "evaluate" and round_.metrics][-1]
    if asked and not told.get("sites"):
        yield "  sites' own", "told by no site: policies allow it by site_metrics, from their min_rows on"
    for site, metrics in (told.get("sites") or {}).items():
        yield f"  {site}", headline(metrics)
    for name, each in (told.get("spread") or {}).items():
        if name in HEADLINE:
            worst = f"worst {each['worst']:.3f} at {each['worst_site']}"
            yield "  spread", f"{name} mean {each['mean']:.3f}, deviation {each['deviation']:.3f}, {worst}"


def _groups(rounds: Sequence[Round]) -> Sequence[tuple[str, Mapping[str, float] | None]]:
    """Return the metrics by group of the newest evaluation that has them."""
    told = [(round_.result or {}).get("groups") for round_ in rounds if round_.kind == "evaluate"]
    newest: Mapping[str, Mapping[str, float] | None] = next((groups for groups in reversed(told) if groups), {})
    return list(newest.items())


def _failure(job: Job) -> Iterator[str]:
    """Why it ended or what stopped the last attempt, with the sites' causes."""
    if job.reason and job.state != "succeeded":
        yield f"{'reason':<10} {job.explanation or job.reason} ({job.reason})"
    elif job.reason:
        yield f"{'ended':<10} {job.explanation or job.reason}"
    if job.last_failure and job.state != "succeeded":
        yield f"{'attempt':<10} {job.last_failure}"
    for cause in job.causes:
        where = "1 site" if cause.sites == 1 else f"{cause.sites} sites"
        yield f"{'':<10} {where}: {cause.code}: {cause.sentence}"


def _sites(round_: Round) -> str | None:
    """Return who answered; simulated evaluations ask no site, and read all held-out rows at once."""
    return f"{round_.got} of {len(round_.cohort)}" if round_.cohort else None


def _clipped(round_: Round) -> str | None:
    clipped = (round_.result or {}).get("clipped")
    return None if clipped is None else str(clipped)


def _metrics(round_: Round) -> str:
    loss = (round_.result or {}).get("loss")
    return headline({**({} if loss is None else {"loss": loss}), **(round_.metrics or {})})


_ROUNDS: Final = {
    "round": lambda r: f"{r.kind} {r.number}",
    "try": lambda r: r.attempt,
    "phase": lambda r: r.phase,
    "sites": _sites,
    "clipped": _clipped,
    "metrics": _metrics,
    "reason": lambda r: r.reason,
    "id": lambda r: r.id,
}
_PARTS: Final = {
    "site": lambda p: p.site_name or p.site_id,
    "asked": lambda p: p.asked,
    "answered": lambda p: p.done,
    "refused": lambda p: p.rejected,
    "late": lambda p: p.expired + p.dead,
    "under way": lambda p: p.outstanding,
    "receipts": lambda p: p.receipts,
    "last answer": lambda p: p.answered_at,
}
_TOLD_OF_PARTS: Final[
    dict[str, Callable[[Participation], str | None]]
] = {  # columns that are shown where any site has something there
    "faults": lambda p: ", ".join(f"{count} {code}" for code, count in p.faults.items()),
    "last reason": lambda p: f"{p.code}: {p.message}" if p.code else None,
}
