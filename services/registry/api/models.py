"""The HTTP face of the registry."""

from typing import Annotated, Literal

from fastapi import APIRouter, Depends, Path, Query, Request, Response
from starlette.responses import StreamingResponse

from undersong.services.registry.contents import Contents, Upload
from undersong.services.registry.domain import (
    ALIAS_PATTERN,
    AliasUnknown,
    ClaimRefuted,
    ContentDamaged,
    ContentMissing,
    FederationUnnamed,
    ModelNameTaken,
    ModelUnknown,
    ParentUnknown,
    PublisherUnproven,
    RangeNotSatisfiable,
    ShapesDiffer,
    VersionDeleted,
    VersionDiffers,
    VersionInUse,
    VersionUnknown,
    asked_range,
)
from undersong.services.registry.models import Models
from undersong.services.registry.versions import Versions
from undersong.services.registry.views import (
    AliasChangeView,
    AliasRequest,
    AuditRequest,
    ContentView,
    MetricsRequest,
    ModelRequest,
    ModelView,
    VersionRequest,
    VersionSummary,
    VersionView,
)
from undersong.shared.blobs import BlobTooLarge, DigestMismatch
from undersong.shared.errors import Forbidden, LengthRequired, StorageFull, Unauthenticated
from undersong.shared.identity.digests import content_digest_from
from undersong.shared.ids import Digest
from undersong.shared.learning.safetensors import BadModelFile
from undersong.shared.web.access import Actor, TokenRefused
from undersong.shared.web.body import announced_digest, receive
from undersong.shared.web.idempotency import IdempotencyMismatch, IdempotentOnce
from undersong.shared.web.paging import After, AfterNumber, ByTimeOrName, Limit, Listing
from undersong.shared.web.problems import problem_response, problems, request_id_of
from undersong.shared.wire.forms import OneLine

MEDIA_TYPE = "application/vnd.safetensors"
_FILE = {"schema": {"type": "string", "format": "binary"}}
router = APIRouter(
    prefix="/v1", tags=["registry"], responses=problems(Unauthenticated, TokenRefused, Forbidden, ModelUnknown)
)


async def models_of(request: Request) -> Models:
    """Return the use cases that the lifespan made."""
    found: Models = request.app.state.models
    return found


async def versions_of(request: Request) -> Versions:
    """Return the use cases that the lifespan made."""
    found: Versions = request.app.state.versions
    return found


async def contents_of(request: Request) -> Contents:
    """Return the use cases that the lifespan made."""
    found: Contents = request.app.state.contents
    return found


ModelsDep = Annotated[Models, Depends(models_of)]
VersionsDep = Annotated[Versions, Depends(versions_of)]
ContentsDep = Annotated[Contents, Depends(contents_of)]
ModelPath = Annotated[str, Path(max_length=64, pattern=r"^[!-~]+$", examples=["mdl_01k5"])]
VersionPath = Annotated[str, Path(max_length=64, pattern=r"^[!-~]+$", examples=["ver_01k5"])]
AliasPath = Annotated[str, Path(pattern=ALIAS_PATTERN, examples=["champion"])]
DigestPath = Annotated[str, Path(pattern=r"^[0-9a-f]{64}$", description="SHA-256 of the content")]


@router.post("/models", status_code=201, responses=problems(ModelNameTaken))
async def create_model(body: ModelRequest, actor: Actor, once: IdempotentOnce, models: ModelsDep) -> ModelView:
    """Make a model: a named line of versions in one federation."""
    return await models.create(actor, body, once)


@router.get("/models")
async def list_models(
    actor: Actor,
    models: ModelsDep,
    federation_id: Annotated[str | None, Query(max_length=64)] = None,
    name: Annotated[str | None, Query(max_length=100, description="The whole name.")] = None,
    sort: ByTimeOrName = "created",
    limit: Limit = 100,
    after: After = None,
) -> Listing[ModelView]:
    """Return the models of the caller's federations."""
    page = await models.page(actor, federation_id, name, limit, after, sort)
    return Listing(items=list(page.items), next=page.next)


@router.get("/models/{model_id}")
async def get_model(model_id: ModelPath, actor: Actor, models: ModelsDep) -> ModelView:
    """Return one model with its aliases."""
    return await models.get(actor, model_id)


@router.get("/models/{model_id}/versions")
async def list_versions(
    model_id: ModelPath,
    actor: Actor,
    versions: VersionsDep,
    sort: Annotated[
        Literal["number", "-number"], Query(description="Oldest first, or with a minus newest.")
    ] = "number",
    limit: Limit = 100,
    after: AfterNumber = None,
) -> Listing[VersionSummary]:
    """Return a model's versions; deleted ones keep their record."""
    page = await versions.page(actor, model_id, limit, after, sort)
    return Listing(items=list(page.items), next=page.next)


@router.get("/models/{model_id}/alias-changes")
async def list_alias_changes(
    model_id: ModelPath, actor: Actor, models: ModelsDep, limit: Limit = 100, after: AfterNumber = None
) -> Listing[AliasChangeView]:
    """Return who moved the model's aliases, when and why, newest first."""
    page = await models.alias_changes(actor, model_id, limit, None if after is None else str(after))
    return Listing(items=list(page.items), next=page.next)


@router.put("/models/{model_id}/aliases/{alias}", responses=problems(VersionUnknown, VersionDeleted, ClaimRefuted))
async def set_alias(
    model_id: ModelPath, alias: AliasPath, body: AliasRequest, actor: Actor, models: ModelsDep
) -> ModelView:
    """Point an alias, such as champion or candidate, at a version of the model."""
    return await models.set_alias(actor, model_id, alias, body.version_id, body.reason)


@router.get("/models/{model_id}/aliases/{alias}", responses=problems(AliasUnknown))
async def get_alias(
    model_id: ModelPath, alias: AliasPath, actor: Actor, models: ModelsDep, versions: VersionsDep
) -> VersionView:
    """Return the version that an alias points at."""
    return await versions.get(actor, await models.resolve(actor, model_id, alias))


@router.delete("/models/{model_id}/aliases/{alias}", status_code=204)
async def remove_alias(model_id: ModelPath, alias: AliasPath, actor: Actor, models: ModelsDep) -> None:
    """Remove an alias."""
    await models.remove_alias(actor, model_id, alias)


@router.put(
    "/blobs/{digest}",
    responses=problems(LengthRequired, BlobTooLarge, DigestMismatch, FederationUnnamed, StorageFull),
    openapi_extra={
        "requestBody": {"required": True, "content": {"application/octet-stream": _FILE, MEDIA_TYPE: _FILE}}
    },
)
async def put_content(
    digest: DigestPath,
    request: Request,
    actor: Actor,
    contents: ContentsDep,
    federation_id: Annotated[
        str | None,
        Query(max_length=64, pattern=r"^[!-~]+$", description="needed of callers that write in several federations"),
    ] = None,
) -> ContentView:
    """Upload a model file for a federation, before the version that names it. Idempotent.

    A federation publishes versions only over content that it uploaded itself: the whole file is received and compared
    with its digest, whether or not the registry has it already.
    """
    chunks = receive(request, contents.limit, check_digest=False)  # the store hashes the bytes anyway
    upload = Upload(Digest(digest), announced_digest(request), _length(request), federation_id)
    return await contents.put(actor, upload, chunks)


@router.post(
    "/models/{model_id}/versions",
    status_code=201,
    responses=problems(VersionDiffers, ContentMissing, ParentUnknown, ShapesDiffer, PublisherUnproven, BadModelFile)
    | {200: {"model": VersionView, "description": "This round had published the same version before."}},
)
async def publish_version(
    model_id: ModelPath, body: VersionRequest, actor: Actor, versions: VersionsDep, response: Response
) -> VersionView:
    """Publish a version, once per (model, job, round): the same again gives the same answer."""
    version, new = await versions.publish(actor, model_id, body)
    if not new:
        response.status_code = 200
    return version


@router.get("/versions/{version_id}", responses=problems(VersionUnknown))
async def get_version(version_id: VersionPath, actor: Actor, versions: VersionsDep) -> VersionView:
    """Return one version with lineage, signatures, tensors and evaluations."""
    return await versions.get(actor, version_id)


@router.post("/versions/{version_id}/metrics", status_code=201, responses=problems(VersionUnknown, VersionDeleted))
async def add_metrics(
    version_id: VersionPath, body: MetricsRequest, actor: Actor, once: IdempotentOnce, versions: VersionsDep
) -> VersionView:
    """Append metrics measured after publication."""
    return await versions.evaluate(actor, version_id, body, once)


@router.post(
    "/versions/{version_id}/audits",
    status_code=201,
    responses=problems(VersionUnknown, VersionDeleted, IdempotencyMismatch),
)
async def add_audit(
    version_id: VersionPath, body: AuditRequest, actor: Actor, once: IdempotentOnce, versions: VersionsDep
) -> VersionView:
    """Append what a privacy audit found (scientist, owner or auditor).

    A lower bound on epsilon above its claim marks the version: `claim_broken`.
    """
    return await versions.audit(actor, version_id, body, once)


@router.delete("/versions/{version_id}", status_code=204, responses=problems(VersionUnknown, VersionInUse))
async def delete_version(
    version_id: VersionPath,
    actor: Actor,
    versions: VersionsDep,
    reason: Annotated[OneLine, Query(min_length=1, max_length=500)] = "deleted on request",
) -> None:
    """Delete a version's content; its record stays as a tombstone."""
    await versions.delete(actor, version_id, reason)


@router.get(
    "/versions/{version_id}/content",
    response_class=StreamingResponse,
    responses=problems(VersionUnknown, VersionDeleted, RangeNotSatisfiable, ContentDamaged)
    | {
        200: {"content": {MEDIA_TYPE: _FILE}, "description": "The file."},
        206: {"content": {MEDIA_TYPE: _FILE}, "description": "A part."},
        304: {"description": "The caller has it already."},
    },
)
async def get_content(
    version_id: VersionPath,
    actor: Actor,
    request: Request,
    versions: VersionsDep,
    contents: ContentsDep,
    fallback: Annotated[
        Literal["last-good"] | None,
        Query(description="where the file is damaged: serve the latest earlier version of the model that is not"),
    ] = None,
) -> Response:
    """Download the model file; Range, If-Range and If-None-Match are heeded, and the ETag is the digest.

    The file is compared with its digest before the first byte is sent. `Undersong-Version` names the version served.
    """
    version = await versions.readable_content(actor, version_id, last_good=fallback is not None)
    content = version.content
    etag = f'"{content.digest}"'
    headers = {
        "etag": etag,
        "accept-ranges": "bytes",
        "cache-control": "private, immutable, max-age=31536000",
        "repr-digest": content_digest_from(content.digest),
        "undersong-version": version.id,
    }
    if _names(request.headers.get("if-none-match"), etag):
        return Response(status_code=304, headers=headers)
    wanted = request.headers.get("range")
    if request.headers.get("if-range", etag) != etag:
        wanted = None
    try:
        part = asked_range(wanted, content.size)
    except RangeNotSatisfiable as refusal:
        answer = problem_response(refusal, request_id_of(request))
        answer.headers["content-range"] = f"bytes */{content.size}"
        return answer
    start, end = part or (0, content.size)
    headers["content-length"] = str(end - start)
    if part is not None:
        headers["content-range"] = f"bytes {start}-{end - 1}/{content.size}"
    stream = contents.stream(content.digest, start, end, content.size)
    return StreamingResponse(stream, 200 if part is None else 206, headers, MEDIA_TYPE)


def _names(if_none_match: str | None, etag: str) -> bool:
    if if_none_match is None:
        return False
    tags = [tag.strip().removeprefix("W/") for tag in if_none_match.split(",")]
    return etag in tags or "*" in tags


def _length(request: Request) -> int | None:
    length = request.headers.get("content-length", "")
    return int(length) if length.isascii() and length.isdigit() else None
