"""The HTTP face of privacy datasheets."""

from typing import Annotated

from fastapi import APIRouter, Depends, Query, Request, Response
from pydantic import BaseModel

from undersong.services.registry.api.models import VersionPath
from undersong.services.registry.datasheets import DatasheetStore
from undersong.services.registry.domain import (
    DatasheetMissing,
    DatasheetOlder,
    DatasheetRefused,
    VersionDeleted,
    VersionUnknown,
)
from undersong.shared.errors import Forbidden, Unauthenticated
from undersong.shared.identity.verify import Party
from undersong.shared.transparency.datasheet import SignedDatasheet
from undersong.shared.web.access import Actor, TokenRefused, service_party
from undersong.shared.web.problems import problems

router = APIRouter(prefix="/v1", tags=["registry"], responses=problems(Unauthenticated, TokenRefused, Forbidden))


class StaleDatasheets(BaseModel):
    """Versions whose newest audit no datasheet tells of."""

    items: list[str]


async def datasheets_of(request: Request) -> DatasheetStore:
    """Return the use cases that the lifespan made."""
    found: DatasheetStore = request.app.state.datasheets
    return found


Coordinator = Annotated[Party, Depends(service_party("coordinator"))]
DatasheetsDep = Annotated[DatasheetStore, Depends(datasheets_of)]


@router.put(
    "/versions/{version_id}/datasheet",
    status_code=201,
    responses=problems(VersionUnknown, VersionDeleted, DatasheetRefused, DatasheetOlder)
    | {200: {"model": SignedDatasheet, "description": "It was kept already."}},
)
async def put_datasheet(
    version_id: VersionPath,
    body: SignedDatasheet,
    _coordinator: Coordinator,
    datasheets: DatasheetsDep,
    response: Response,
) -> SignedDatasheet:
    """Keep a version's privacy datasheet, as the coordinator signed it, beside earlier ones."""
    if not await datasheets.put(version_id, body):
        response.status_code = 200
    return body


@router.get("/versions/{version_id}/datasheet", responses=problems(VersionUnknown, DatasheetMissing))
async def get_datasheet(version_id: VersionPath, actor: Actor, datasheets: DatasheetsDep) -> SignedDatasheet:
    """Return the newest datasheet of a version that is kept here."""
    return await datasheets.get(actor, version_id)


@router.get("/datasheets/stale")
async def get_stale_datasheets(
    _coordinator: Coordinator, datasheets: DatasheetsDep, limit: Annotated[int, Query(ge=1, le=100)] = 20
) -> StaleDatasheets:
    """Return versions that were audited after their newest datasheet was made (coordinator)."""
    return StaleDatasheets(items=await datasheets.stale(limit))
