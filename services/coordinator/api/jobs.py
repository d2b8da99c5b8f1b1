"""Jobs and rounds, as people see and steer them."""

from collections.abc import Callable
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Query
from pydantic import BaseModel, ConfigDict, Field, GetJsonSchemaHandler, RootModel, TypeAdapter
from pydantic_core import CoreSchema

from undersong.services.coordinator.api.access import Id, Reader, Scientist, Use
from undersong.services.coordinator.domain.findings import JobInvalid
from undersong.services.coordinator.domain.jobs import ClaimNotBroken, JobOver
from undersong.services.coordinator.domain.privacy_plan import PrivacyPlan
from undersong.services.coordinator.domain.rounds import Phase
from undersong.services.coordinator.domain.spec import AnySpec
from undersong.services.coordinator.peers.peer import PartyAway
from undersong.services.coordinator.repository import Overtaken
from undersong.services.coordinator.repository.jobs import JobFilter
from undersong.services.coordinator.repository.rounds import RoundFilter
from undersong.services.coordinator.views.jobs import JobVerdict, JobView, ResultsView, RoundView
from undersong.services.coordinator.views.participation import ParticipationView
from undersong.shared.errors import Forbidden, NotFound, Unauthenticated, no_such
from undersong.shared.identity.verify import Party
from undersong.shared.web.access import Actor, Role
from undersong.shared.web.idempotency import IdempotencyMismatch, IdempotentOnce
from undersong.shared.web.paging import After, ByTime, Limit, Listing, NamePart
from undersong.shared.web.problems import not_allowed, problems
from undersong.shared.wire.manifest import RoundKind, SignedManifest

router = APIRouter(prefix="/v1")
_PEOPLE = problems(Unauthenticated, Forbidden, NotFound)
_STEERING = problems(Unauthenticated, Forbidden, NotFound, JobOver, Overtaken, IdempotencyMismatch)
_SUBMITTING = problems(Unauthenticated, Forbidden, NotFound, JobInvalid, PartyAway, IdempotencyMismatch)


State = Literal["running", "paused", "succeeded", "failed", "cancelled"]
Order = Literal["created", "-created", "name", "-name", "state", "-state"]
_SPEC: TypeAdapter[AnySpec] = TypeAdapter(AnySpec)


class JobDocument(RootModel[dict[str, Any]]):
    """A job document, taken in whole so that every error in it can be told at once; see `JobSpec`, `StatisticsSpec`."""

    @classmethod
    def __get_pydantic_json_schema__(
        cls, _schema: CoreSchema, handler: GetJsonSchemaHandler | Callable[[CoreSchema], dict[str, Any]]
    ) -> dict[str, Any]:
        """In the API's description, the body is a `JobSpec` or a `StatisticsSpec`."""
        return handler(_SPEC.core_schema)


@router.post("/jobs/validations", tags=["jobs"], responses=_SUBMITTING)
async def validate_job(body: JobDocument, person: Scientist, use: Use) -> JobVerdict:
    """Judge a job without starting it (scientist): all its errors at once, each with its path."""
    return await use.jobs.validate(person, body.root)


@router.post("/jobs/privacy-plan", tags=["jobs"], responses=_SUBMITTING)
async def plan_privacy(body: JobDocument, person: Scientist, use: Use) -> PrivacyPlan:
    """Say what a job's noise costs and what other noise would, without starting it (scientist)."""
    return await use.jobs.privacy_plan(person, body.root)


@router.post("/jobs", status_code=201, tags=["jobs"], responses=_SUBMITTING)
async def submit_job(body: JobDocument, person: Scientist, use: Use, once: IdempotentOnce) -> JobView:
    """Start a job (scientist)."""
    return await use.jobs.submit(person, body.root, once)


class JobChanges(BaseModel):
    """What a job's copy has in place of the job's own settings."""

    model_config = ConfigDict(
        extra="forbid", json_schema_extra={"examples": [{"changes": {"rounds": 20, "strategy": {"name": "fedadam"}}}]}
    )
    changes: dict[str, Any] = Field(
        default_factory=dict,
        description="A JSON merge patch (RFC 7396) of the job document: null takes a field out, lists are replaced.",
    )


@router.post("/jobs/{job_id}/clones", status_code=201, tags=["jobs"], responses=_SUBMITTING)
async def clone_job(job_id: Id, body: JobChanges, person: Scientist, use: Use, once: IdempotentOnce) -> JobView:
    """Start a job with the document of this one and the changes (scientist); all checks are those of a submission."""
    return await use.clones.clone(person, job_id, body.changes, once)


@router.get("/jobs", tags=["jobs"], responses=problems(Unauthenticated, Forbidden))
async def list_jobs(
    person: Reader,
    use: Use,
    federation_id: Annotated[str | None, Query(max_length=64)] = None,
    state: State | None = None,
    kind: Literal["train", "evaluate", "statistics"] | None = None,
    name: NamePart = None,
    owner: Annotated[str | None, Query(max_length=200, description="The name of the user who submitted it.")] = None,
    tag: Annotated[str | None, Query(max_length=50, description="One of the job's tags.")] = None,
    sort: Annotated[Order, Query(description="The order; with a minus from the last to the first.")] = "-created",
    limit: Limit = 100,
    after: After = None,
) -> Listing[JobView]:
    """Return the jobs of the caller's federations, newest first, or as asked for."""
    page = await use.jobs.list(person, limit, after, JobFilter(federation_id, state, kind, name, owner, tag, sort))
    return Listing(items=list(page.items), next=page.next)


router.add_api_route("/jobs/validations", not_allowed, methods=["GET"], include_in_schema=False)
router.add_api_route("/jobs/privacy-plan", not_allowed, methods=["GET"], include_in_schema=False)


@router.get("/jobs/{job_id}", tags=["jobs"], responses=_PEOPLE)
async def get_job(job_id: Id, person: Reader, use: Use) -> JobView:
    """Return one job."""
    return await use.jobs.get(person, job_id)


@router.get("/jobs/{job_id}/results", tags=["jobs"], responses=_PEOPLE)
async def get_results(job_id: Id, person: Reader, use: Use) -> ResultsView:
    """Return what a statistics job has found so far; hidden numbers are null."""
    return await use.jobs.results(person, job_id)


@router.get("/jobs/{job_id}/rounds", tags=["jobs"], responses=_PEOPLE)
async def list_rounds(
    job_id: Id,
    person: Reader,
    use: Use,
    kind: RoundKind | None = None,
    state: Phase | None = None,
    sort: ByTime = "created",
    limit: Limit = 100,
    after: After = None,
) -> Listing[RoundView]:
    """Return a job's rounds, every attempt; without their tasks."""
    page = await use.jobs.rounds(person, job_id, limit, after, RoundFilter(kind, state, sort))
    return Listing(items=list(page.items), next=page.next)


@router.get("/jobs/{job_id}/participation", tags=["jobs"], responses=_PEOPLE)
async def list_participation(job_id: Id, person: Reader, use: Use) -> Listing[ParticipationView]:
    """Return each site's part in a job: its tasks by outcome, and its receipts; never what it sent."""
    return Listing(items=list(await use.jobs.participation(person, job_id)), next=None)


@router.post("/jobs/{job_id}/pause", tags=["jobs"], responses=_STEERING)
async def pause_job(job_id: Id, person: Scientist, use: Use, once: IdempotentOnce) -> JobView:
    """Plan no further round (scientist); the one in flight goes on."""
    return await use.jobs.pause(person, job_id, once)


class BrokenClaim(BaseModel):
    """The version whose privacy claim an audit refuted."""

    model_config = ConfigDict(extra="forbid", json_schema_extra={"examples": [{"version_id": "ver_01k5"}]})
    version_id: str = Field(max_length=64, pattern=r"^ver_[!-~]+$")


@router.post(
    "/jobs/{job_id}/broken-claim", tags=["jobs"], responses={**_STEERING, **problems(ClaimNotBroken, PartyAway)}
)
async def stop_for_claim(job_id: Id, body: BrokenClaim, person: Reader, use: Use, once: IdempotentOnce) -> JobView:
    """Pause a job with the reason claim-broken (scientist, owner or auditor).

    The registry must hold an audit that refutes the privacy claim of this version of the job.
    """
    return await use.jobs.stop_for_claim(person, job_id, body.version_id, once)


@router.post("/jobs/{job_id}/resume", tags=["jobs"], responses=_STEERING)
async def resume_job(job_id: Id, person: Scientist, use: Use, once: IdempotentOnce) -> JobView:
    """Plan rounds again (scientist)."""
    return await use.jobs.resume(person, job_id, once)


@router.post("/jobs/{job_id}/cancel", tags=["jobs"], responses=_STEERING)
async def cancel_job(job_id: Id, person: Scientist, use: Use, once: IdempotentOnce) -> JobView:
    """Stop the job and the round in flight (scientist). Idempotent."""
    return await use.jobs.cancel(person, job_id, once)


@router.get("/rounds/{round_id}", tags=["rounds"], responses=_PEOPLE)
async def get_round(round_id: Id, person: Reader, use: Use) -> RoundView:
    """Return one round with its tasks: each site's state, and the error it reported."""
    return await use.jobs.round(person, round_id)


@router.get("/rounds/{round_id}/manifest", tags=["rounds"], responses=_PEOPLE)
async def get_manifest(round_id: Id, who: Actor, use: Use) -> SignedManifest:
    """Return what everybody in the round agreed on, signed by the coordinator; for people, services and the sites."""
    if isinstance(who, Party):
        signed = await use.jobs.manifest(None, round_id)
        if who.federation_id not in (None, signed.manifest.federation_id):
            raise no_such("round", round_id)
        return signed
    who.check(*Role)
    return await use.jobs.manifest(who, round_id)
