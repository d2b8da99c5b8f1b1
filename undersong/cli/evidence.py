"""`undersong evidence` and `undersong verify`."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table
from rich.text import Text

from undersong.cli import common
from undersong.cli.lookup import find_subject
from undersong.shared.files import check_writable

if TYPE_CHECKING:
    from undersong.verify import Verification

Subject = Annotated[
    str, typer.Argument(help="A round's id (rnd_…), a model version's (ver_…), or MODEL[:NUMBER or alias].")
]
OK, CAUTION, FAULT = Text("✓", "green"), Text("!", "yellow"), Text("✗", "bold red")


def evidence(
    subject: Subject,
    out: Annotated[Path | None, typer.Option("--out", "-o", help="File (default: SUBJECT.evidence.json).")] = None,
    profile: common.ProfileName = None,
    as_json: common.AsJson = False,
) -> None:
    """Write everything that anyone needs to check a round, and the version that came of it, without this platform."""
    with common.connect(profile) as client:
        subject = find_subject(client, subject)
        target = out or Path(f"{subject}.evidence.json")
        check_writable(target)
        data = client.evidence(subject).pack()
    target.write_bytes(data)
    if as_json:
        common.print_json({"file": str(target), "bytes": len(data)})
        return
    common.console.print(f"{target}: {len(data):,} bytes", markup=False)
    common.next_step(f"undersong verify {subject} --evidence {common.quoted(target)} --ca FINGERPRINT")


def verify(
    subject: Subject,
    file: Annotated[
        Path | None,
        typer.Option(
            "--evidence", exists=True, dir_okay=False, help="Check this file alone, without network: SUBJECT is an id."
        ),
    ] = None,
    ca: Annotated[
        str | None, typer.Option("--ca", help="SHA-256 fingerprint of the federation's authority, from elsewhere.")
    ] = None,
    profile: common.ProfileName = None,
    as_json: common.AsJson = False,
) -> None:
    """Check all that was signed about a round or a model version; exit code 1 unless every check passes."""
    from undersong.verify import verify_file, verify_now  # other commands need not wait for numpy

    if file is not None:
        found = verify_file(subject, file, ca)
    else:
        with common.connect(profile) as client:
            found = verify_now(find_subject(client, subject), client, ca)
    if as_json:
        common.print_json(found.document())
    else:
        show(found)
    if not found.verified:
        raise typer.Exit(1)


def show(found: "Verification") -> None:
    """Show one screen of plain words."""
    common.console.print(Text(f"{found.subject}: {found.title}" if found.title else found.subject, "bold"))
    table = Table(box=None, show_header=False, pad_edge=False)
    table.add_column(no_wrap=True)
    table.add_column(no_wrap=True, style="bold")
    table.add_column(overflow="fold")
    for finding in found.findings:
        mark = FAULT if not finding.passed else CAUTION if finding.caution else OK
        table.add_row(mark, finding.check, Text(finding.sentence))
    common.console.print(table)
    count, failed = len(found.findings), sum(not finding.passed for finding in found.findings)
    if failed:
        common.console.print(Text(f"NOT verified: {failed} of {count} checks failed", "bold red"))
    else:
        common.console.print(Text(f"verified: all {count} checks passed", "bold green"))
