"""`undersong datasheet` and `undersong datamap`."""

from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table
from rich.text import Text

from undersong.cli import common
from undersong.cli.lookup import find_job, find_version
from undersong.shared.files import check_writable
from undersong.shared.sections import Section, html_page, markdown_page

if TYPE_CHECKING:
    from undersong.shared.transparency.datamap import DataMap


class MapFormat(StrEnum):
    """How a data map is printed."""

    TABLE = "table"
    JSON = "json"
    MARKDOWN = "markdown"


def datasheet(
    name: Annotated[
        str, typer.Argument(metavar="MODEL[:VERSION]", help="Model, by name or id, or a version's id (ver_…).")
    ],
    html: Annotated[Path | None, typer.Option("--html", help="Write it to this file as one HTML page.")] = None,
    ca: Annotated[
        str | None, typer.Option("--ca", help="SHA-256 fingerprint of the federation's authority, from elsewhere.")
    ] = None,
    profile: common.ProfileName = None,
    as_json: common.AsJson = False,
) -> None:
    """The privacy datasheet of a model version: claims, assumptions, what has no guarantee, audits.

    Its signature by the federation's coordinator is checked first.
    """
    from undersong.shared.transparency.datasheet_words import sections, title_of

    if html is not None:
        check_writable(html)
    with common.connect(profile) as client:
        signed = client.datasheet(find_version(client, name)[1].id, ca=ca)
    title, found = title_of(signed.datasheet), sections(signed.datasheet)
    if html is not None:
        html.write_text(html_page(title, found), "utf-8")
    if as_json:
        common.print_json(signed.model_dump(mode="json"))
    elif html is not None:
        common.console.print(f"{html}: {title}", markup=False)
    else:
        show_sections(title, found)


def datamap(
    name: Annotated[str, typer.Argument(metavar="JOB", help="Job, by name or id.")],
    form: Annotated[MapFormat, typer.Option("--format", help="For a terminal, for a program, or for a document.")] = (
        MapFormat.TABLE
    ),
    profile: common.ProfileName = None,
) -> None:
    """What data of whom a job sends where, in which form, who can read it and how long it is kept."""
    from undersong.datamap import datamap_of  # engines' facts, which other commands need not wait for
    from undersong.shared.transparency.datamap import datamap_sections

    with common.connect(profile) as client:
        found: DataMap = datamap_of(client, find_job(client, name))
    title = f"Data map: {found.job}"
    if form is MapFormat.JSON:
        common.print_json(found.model_dump(mode="json"))
    elif form is MapFormat.MARKDOWN:
        typer.echo(markdown_page(title, datamap_sections(found)), nl=False)
    else:
        show_sections(title, datamap_sections(found))


def show_sections(title: str, sections: Sequence[Section]) -> None:
    """Print a document for people on the terminal."""
    common.console.print(Text(title, "bold"))
    for section in sections:
        common.console.print()
        common.console.print(Text(section.title, "bold"))
        for sentence in section.sentences:
            common.console.print(Text(sentence))
        if section.rows:
            table = Table(box=None, show_header=bool(section.head), header_style="bold", pad_edge=False)
            for cell in section.head or ("",) * len(section.rows[0]):
                table.add_column(cell, overflow="fold")
            for row in section.rows:
                table.add_row(*(Text(cell) for cell in row))
            common.console.print(table)
