"""The pages of models: versions, aliases, lineage, what distinguishes two versions, and the files."""

from collections.abc import AsyncIterator, Sequence
from typing import Annotated, Final, Literal
from urllib.parse import quote

from fastapi import APIRouter, Query, Request, Response
from fastapi.responses import RedirectResponse, StreamingResponse

from undersong.services.coordinator.dashboard import session
from undersong.services.coordinator.dashboard.lineage import lineage
from undersong.services.coordinator.dashboard.paging import PageNumber, part_of
from undersong.services.coordinator.dashboard.rendering import HEADERS
from undersong.services.coordinator.dashboard.visits import PageRoute, Visitor
from undersong.services.coordinator.domain.comparison import metric_names, rises
from undersong.services.coordinator.peers.registry import VersionEntry

router = APIRouter(route_class=PageRoute)
Word = Annotated[str, Query(max_length=200)]
VERSIONS_SHOWN: Final = 50


@router.get("/models/{model_id}")
async def model_page(
    model_id: str, visitor: Visitor, metric: Word = "", job: Word = "", page: PageNumber = 1
) -> Response:
    """Return a model: its versions, newest first or the best by a metric first, its aliases and its lineage."""
    model, versions = await visitor.view.models.model(model_id)
    names = metric_names(each.metrics for each in versions)
    chosen = [each for each in versions if job in ("", each.lineage.get("job_id"))]
    jobs = list(dict.fromkeys(str(each.lineage.get("job_id")) for each in versions if each.lineage.get("job_id")))
    shown, more = part_of(_ordered(chosen, metric if metric in names else ""), page, VERSIONS_SHOWN)
    values = {
        "model": model,
        "versions": shown,
        "more": more,
        "page": page,
        "numbers": {each.id: each.number for each in versions},
        "best": {name: _best(chosen, name) for name in names},
        "metric": metric if metric in names else "",
        "metrics": names,
        "jobs": jobs,
        "job": job,
        "graph": lineage(versions, model.aliases),
        "moves": await visitor.view.models.moves(model_id),
        "may_write": visitor.view.models.may_write(model),
    }
    return visitor.show("model.html", "Models", address=str(visitor.here), **values)


@router.get("/models/{model_id}/comparison")
async def comparison_page(model_id: str, visitor: Visitor, first: int, second: int) -> Response:
    """Return what distinguishes two versions: settings, metrics, tensors."""
    model, _ = await visitor.view.models.model(model_id)
    found = await visitor.view.models.compare(model_id, (first, second))
    names = metric_names((found.first.metrics, found.second.metrics))
    return visitor.show("model_comparison.html", "Models", model=model, found=found, metrics=names)


@router.post("/models/{model_id}/aliases/{act}")
async def change_alias(model_id: str, act: Literal["set", "remove"], request: Request, visitor: Visitor) -> Response:
    """Point an alias at a version, or remove it, then show the model again."""
    form = await session.form_of(request)
    visitor.session.check(form)
    alias, version_id = form.get("alias", "").strip()[:40], form.get("version", "")[:64]
    if act == "set":
        reason = form.get("reason", "").strip()[:500]
        await visitor.view.models.point(visitor.session.token, model_id, alias, version_id, reason)
    else:
        await visitor.view.models.remove_alias(visitor.session.token, model_id, alias)
    return RedirectResponse(f"{session.PATH}/models/{quote(model_id)}", 303, HEADERS)


@router.get("/versions/{version_id}/model.safetensors")
async def model_file(version_id: str, visitor: Visitor) -> Response:
    """Return the model file of a version."""
    name, parts = await visitor.view.models.content(version_id)
    first = await anext(parts, b"")  # what fails at the registry fails before the answer begins

    async def whole() -> AsyncIterator[bytes]:
        yield first
        async for part in parts:
            yield part

    headers = {**HEADERS, "content-disposition": f"attachment; filename*=UTF-8''{quote(name)}"}
    return StreamingResponse(whole(), media_type="application/octet-stream", headers=headers)


def _ordered(versions: Sequence[VersionEntry], metric: str) -> list[VersionEntry]:
    newest = sorted(versions, key=lambda each: each.number, reverse=True)
    if not metric:
        return newest
    known = [each for each in newest if metric in each.metrics]
    rest = [each for each in newest if metric not in each.metrics]
    return [*sorted(known, key=lambda each: each.metrics[metric], reverse=rises(metric)), *rest]


def _best(versions: Sequence[VersionEntry], metric: str) -> int | None:
    """Return the number of the best version that is not deleted."""
    known = [each for each in _ordered(versions, metric) if metric in each.metrics and each.deleted_at is None]
    return known[0].number if known else None
