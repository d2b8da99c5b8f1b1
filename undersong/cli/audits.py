"""`undersong audit`."""

import asyncio
import tempfile
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table
from rich.text import Text

from undersong.cli import common
from undersong.cli.bars import bars
from undersong.cli.lookup import find_version
from undersong.client import Client
from undersong.client.types import Version
from undersong.errors import ApiError, UndersongError
from undersong.shared.files import check_writable
from undersong.shared.terminal import shown_json

if TYPE_CHECKING:
    from undersong.audit.findings import AuditFinding, AuditKind, Claim
    from undersong.audit.running import AuditPlan, AuditSubject

KINDS = ("loss-threshold", "lira-offline", "one-run-training", "one-run-mechanism", "gradient-inversion")


def audit(
    name: Annotated[str, typer.Argument(metavar="MODEL[:VERSION]", help="Model, by name or id, or a version's id.")],
    data: Annotated[
        Path, typer.Option("--data", dir_okay=False, exists=True, help="The datasets.yaml with rows to audit with.")
    ] = Path("datasets.yaml"),
    dataset: Annotated[
        str | None, typer.Option("--dataset", help="A data set in it; by default the one that the job names.")
    ] = None,
    claim: Annotated[
        str | None, typer.Option("--claim", metavar="EPSILON,DELTA", help="Audit this claim, not the version's own.")
    ] = None,
    shadows: Annotated[int, typer.Option(min=4, max=1024, help="Shadow models of LiRA; even. 64 see more.")] = 16,
    only: Annotated[list[str] | None, typer.Option("--only", help=f"Run this audit alone: {', '.join(KINDS)}.")] = None,
    recipe: Annotated[
        list[Path] | None, typer.Option("--recipe", exists=True, help="Source of a recipe of your own.")
    ] = None,
    publish: Annotated[
        bool, typer.Option("--publish/--no-publish", help="Add the results to the version in the registry.")
    ] = True,
    out: Annotated[Path | None, typer.Option("--out", "-o", help="Write the results here as JSON too.")] = None,
    profile: common.ProfileName = None,
    as_json: common.AsJson = False,
) -> None:
    """Attack a version on your own rows; exit code 1 where a lower bound on epsilon is above the claim.

    Rows never leave this machine: what is published are counts and rates. A broken claim marks the version, and the
    job that made it is paused.
    """
    from undersong.audit.findings import Verdict, verdict_of  # brings numpy, which other commands need not wait for
    from undersong.audit.running import AuditPlan

    common.quiet_logs()
    if out is not None:
        check_writable(out)
    plan = AuditPlan(data, dataset, shadows - shadows % 2, _kinds(only), recipe or ())
    given = _claim(claim)
    with common.connect(profile) as client:
        model, version = find_version(client, name)
        subject, found = _run(client, version, plan, given)
        verdict = verdict_of(found)
        document = {
            "version_id": version.id,
            "model": model.name,
            "number": version.number,
            "job_id": subject.manifest.job_id,
            "at": datetime.now(UTC).isoformat(),
            "claim": None if subject.claim is None else subject.claim.document(),
            "verdict": str(verdict),
            "audits": [finding.document() for finding in found],
        }
        if out is not None:
            out.write_text(shown_json(document) + "\n")
        if as_json:
            common.print_json(document)
        else:
            _show(f"{model.name} version {version.number}", found, verdict)
        if publish:
            _publish(client, subject, found, broken=verdict is Verdict.CLAIM_BROKEN)
    if verdict is Verdict.CLAIM_BROKEN:
        raise typer.Exit(1)


def _run(
    client: Client, version: Version, plan: "AuditPlan", given: "Claim | None"
) -> tuple["AuditSubject", list["AuditFinding"]]:
    from undersong.audit.running import AuditSubject, run_audits
    from undersong.shared.learning.tensors import load

    evidence = client.evidence(version.id)
    with tempfile.TemporaryDirectory(prefix="undersong-audit-") as made:
        folder = Path(made).resolve()
        file = folder / "version.safetensors"
        client.download(version.id, file)
        subject = AuditSubject.of(version, evidence, load(file.read_bytes()), given)
        with bars() as bar_of:
            return subject, asyncio.run(run_audits(subject, plan, folder / "trainer", bar_of))


def _kinds(only: Sequence[str] | None) -> "tuple[AuditKind, ...]":
    from undersong.audit.findings import AuditKind
    from undersong.shared.names import hint

    for name in only or ():
        if name not in KINDS:
            raise UndersongError(f"no audit is called {name!r}{hint(name, KINDS)}", remedy="undersong audit --help")
    return tuple(AuditKind(name) for name in only or KINDS)


def _claim(text: str | None) -> "Claim | None":
    from undersong.audit.findings import Claim

    if text is None:
        return None
    try:
        epsilon, delta = (float(part) for part in text.split(","))
    except ValueError:
        epsilon = delta = -1.0
    if not (0 < epsilon < 1000 and 0 < delta < 1):
        raise UndersongError(f"--claim {text}: epsilon above 0 and delta between 0 and 1", remedy="--claim 4,1e-6")
    return Claim(epsilon, delta, given=True)


def _show(title: str, found: Sequence["AuditFinding"], verdict: str) -> None:
    common.console.print(Text(title, "bold"))
    table = Table(box=None, header_style="bold", pad_edge=False)
    for column in ("audit", "epsilon ≥", "claim", "result"):
        table.add_column(column, overflow="fold", no_wrap=column == "audit")
    for one in found:
        claimed = None if one.claim is None else one.claim.epsilon
        bound = Text(_number(one.epsilon_lower_bound), "bold red" if one.broken else "")
        table.add_row(str(one.kind), bound, _number(claimed), Text(one.sentence))
    common.console.print(table)
    words = {
        "claim-broken": Text("claim-broken: a lower bound on epsilon is above the claim", "bold red"),
        "not-refuted": Text("not refuted: no audit found more than is claimed", "bold green"),
        "no-claim": Text("no claim was tested: what these audits bound has no claimed epsilon", "yellow"),
    }
    common.console.print(words[verdict])


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.3g}"


def _publish(client: Client, subject: "AuditSubject", found: Sequence["AuditFinding"], *, broken: bool) -> None:
    for finding in found:
        client.add_audit(subject.version.id, finding.document())
    if not broken or subject.manifest.job_id is None:
        return
    try:
        job = client.stop_for_claim(subject.manifest.job_id, subject.version.id)
    except ApiError as error:
        if error.slug != "job-over":
            raise
        return
    common.complaints.print(f"job {job.name} ({job.id}) is {job.state}: {job.explanation or job.reason}", markup=False)
