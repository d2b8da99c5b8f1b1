"""The page on which a job document is edited, checked and submitted."""

import asyncio
from dataclasses import dataclass
from typing import Annotated, Any
from urllib.parse import quote

from fastapi import APIRouter, Query, Request, Response
from fastapi.responses import RedirectResponse

from undersong.services.coordinator.dashboard import editor, session
from undersong.services.coordinator.dashboard.rendering import HEADERS
from undersong.services.coordinator.dashboard.visits import PageRoute, Visit, Visitor
from undersong.services.coordinator.domain.findings import JobInvalid
from undersong.services.coordinator.views.jobs import JobVerdict
from undersong.shared.wire.privacy import terms_sentence
from undersong.shared.yaml_texts import dump_document

router = APIRouter(route_class=PageRoute)
MOST_BYTES = 64 * 1024
_LEAST_ROWS, _MOST_ROWS = 12, 32


@dataclass(frozen=True, slots=True)
class Draft:
    """What is in the editor, and what was found about it."""

    source: str  # the job that it was cloned from; empty for a new one
    text: str
    name: str = ""
    problem: str = ""
    lines: tuple[editor.EditorLine, ...] = ()
    verdict: JobVerdict | None = None

    def shown(self, visitor: Visit, status: int = 200) -> Response:
        """Return the page."""
        terms = None if self.verdict is None or self.verdict.privacy is None else self.verdict.privacy.model_dump()
        rows = min(max(self.text.count("\n") + 2, _LEAST_ROWS), _MOST_ROWS)
        values: dict[str, Any] = {
            "source": self.source, "text": self.text, "name": self.name, "problem": self.problem, "lines": self.lines,
            "verdict": self.verdict, "privacy": "" if terms is None else terms_sentence(terms), "rows": rows,
        }  # fmt: skip
        page = visitor.show("submit.html", "Jobs", **values)
        page.status_code = status
        return page


@router.get("/submit")
async def submit_page(visitor: Visitor, job: Annotated[str, Query(max_length=64)] = "") -> Response:
    """Return the editor with the document of a job that is run again, or with an example."""
    if not job:
        return Draft("", editor.EXAMPLE).shown(visitor)
    document = await visitor.view.document(job)
    return Draft(job, dump_document(document), str(document.get("name", ""))).shown(visitor)


@router.post("/submit")
async def submit_document(request: Request, visitor: Visitor) -> Response:
    """Check the document, or start the job; faults are told beside their lines."""
    form = await session.form_of(request, MOST_BYTES)
    visitor.session.check(form)
    text, source = form.get("document", "").replace("\r\n", "\n"), form.get("source", "")[:64]
    try:
        document = await visitor.view.placed(await asyncio.to_thread(editor.read, text))
        if form.get("act") == "submit":
            job = await visitor.view.submit(document)
            return RedirectResponse(f"{session.PATH}/jobs/{quote(job.id)}", 303, HEADERS)
        return Draft(source, text, verdict=await visitor.view.validate(document)).shown(visitor)
    except editor.NoJobDocument as error:
        return Draft(source, text, problem=error.detail).shown(visitor, 422)
    except JobInvalid as error:
        lines = await asyncio.to_thread(editor.annotated, text, error.errors)
        return Draft(source, text, problem=error.detail, lines=tuple(lines)).shown(visitor, 422)
