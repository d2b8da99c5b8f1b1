"""Jobs made of earlier ones: the same document with changes, judged as if written by hand."""

from collections.abc import Mapping
from typing import Any

from undersong.services.coordinator.domain.spec import document_of
from undersong.services.coordinator.jobs import Jobs
from undersong.services.coordinator.views.jobs import JobView
from undersong.shared.documents import merged
from undersong.shared.web.access import Principal, Role
from undersong.shared.web.idempotency import Once


class Clones:
    """Makes jobs of earlier ones."""

    def __init__(self, jobs: Jobs) -> None:
        self._jobs = jobs

    async def document(self, person: Principal, job_id: str) -> dict[str, Any]:
        """Return the document of a job that the person may repeat; raises NotFound, and Forbidden for the role."""
        job = await self._jobs.get(person, job_id)
        person.check(Role.SCIENTIST, federation_id=job.federation_id)
        return document_of(job.spec)

    async def clone(self, person: Principal, job_id: str, changes: Mapping[str, Any], once: Once) -> JobView:
        """Start a job with the document of another one, changed by a JSON merge patch (RFC 7396).

        Raises `JobInvalid` with every error, as for a job that is submitted.
        """
        document = merged(await self.document(person, job_id), changes)
        return await self._jobs.submit(person, document, once, cloned_from=job_id)
