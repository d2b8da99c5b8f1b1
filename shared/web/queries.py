"""Query parameters that an operation does not have are refused: a misspelt filter would give a list without it."""

from typing import Any, Final

from fastapi import Request
from fastapi.dependencies.utils import get_flat_params
from fastapi.params import ParamTypes
from fastapi.routing import APIRoute

from undersong.shared.errors import FieldError
from undersong.shared.names import hint
from undersong.shared.web.problems import RequestInvalid

ANY_QUERY: Final[dict[str, Any]] = {"x-any-query": True}
"""`openapi_extra` of a route to which others send parameters that it does not name."""


async def only_known_queries(request: Request) -> None:
    """Raise RequestInvalid for parameters that the route does not have, each with its near matches."""
    route = request.scope.get("route")
    if not request.url.query or not isinstance(route, APIRoute) or route.openapi_extra == ANY_QUERY:
        return
    fields = get_flat_params(route.dependant)
    known = [each.alias for each in fields if getattr(each.field_info, "in_", None) is ParamTypes.query]
    unknown = [name for name in dict.fromkeys(request.query_params) if name not in known]
    if unknown:
        what = [FieldError(f"?{name}", "there is no such parameter" + hint(name, known)) for name in unknown]
        raise RequestInvalid(f"{len(unknown)} query parameter(s) are not known", errors=what)
