"""Query parameters that an operation does not have are refused: a misspelt filter would give a list without it.

Pages and their files, which are not under /v1, take any: files carry a version, and issuers that answer a browser
add parameters of their own (RFC 6749, section 4.1.2).
"""

from fastapi import Request
from fastapi.dependencies.utils import get_flat_params
from fastapi.params import ParamTypes
from fastapi.routing import APIRoute

from undersong.shared.errors import FieldError
from undersong.shared.names import hint
from undersong.shared.web.observe import route_template
from undersong.shared.web.problems import RequestInvalid


async def only_known_queries(request: Request) -> None:
    """Raise RequestInvalid for parameters that the route does not have, each with its near matches."""
    route = request.scope.get("route")
    operation = route_template(request.scope).startswith("/v1/")
    if not request.url.query or not isinstance(route, APIRoute) or not operation:
        return
    fields = get_flat_params(route.dependant)
    known = [each.alias for each in fields if getattr(each.field_info, "in_", None) is ParamTypes.query]
    unknown = [name for name in dict.fromkeys(request.query_params) if name not in known]
    if unknown:
        what = [FieldError(f"?{name}", "there is no such parameter" + hint(name, known)) for name in unknown]
        raise RequestInvalid(f"{len(unknown)} query parameter(s) are not known", errors=what)
