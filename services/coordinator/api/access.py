"""What routes depend on: the use cases, and who may call them."""

from typing import Annotated

from fastapi import Depends, Path, Request

from undersong.services.coordinator.use_cases import UseCases
from undersong.shared.errors import Unavailable
from undersong.shared.web.access import Principal, Role, require


async def use_cases(request: Request) -> UseCases:
    """Return the running service's use cases; raises Unavailable while it starts."""
    found = getattr(request.app.state, "use_cases", None)
    if not isinstance(found, UseCases):
        raise Unavailable("the service is starting", retry_after_s=1)
    return found


Use = Annotated[UseCases, Depends(use_cases)]
Reader = Annotated[Principal, Depends(require(*Role))]
Scientist = Annotated[Principal, Depends(require(Role.SCIENTIST))]
Owner = Annotated[Principal, Depends(require(Role.OWNER))]
Admin = Annotated[Principal, Depends(require(Role.ADMIN))]
Id = Annotated[str, Path(max_length=64, description="An id as this service gave it.")]
