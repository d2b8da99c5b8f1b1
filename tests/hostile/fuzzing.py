"""What every answer to a generated request must hold, for every caller; and the sending."""

import os
import zlib
from collections import Counter
from pathlib import Path
from typing import Any, Final

import httpx
import requests
import schemathesis
from schemathesis.checks import not_a_server_error
from schemathesis.config import SchemathesisConfig
from schemathesis.specs.openapi.checks import (
    allow_header_conformance,
    content_type_conformance,
    missing_required_header,
    negative_data_rejection,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
    unsupported_method,
)

from tests.hostile.stage import Stage
from undersong.shared.web.problems import Problem

EXAMPLES: Final = int(os.environ.get("UNDERSONG_FUZZ_EXAMPLES", "4"))
"""Random cases for each operation, beside the systematic ones."""
SHARE: Final = int(os.environ.get("UNDERSONG_FUZZ_SHARE", "8"))
"""Every n-th case is sent: all of them by `make fuzz`, an eighth by `make test`."""
OPENAPI: Final = Path(__file__).parents[2] / "docs" / "openapi"
CHECKS: Final = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    negative_data_rejection,
    missing_required_header,
    unsupported_method,
    allow_header_conformance,
]
UNKNOWN: Final = ("anonymous", "wrong-token", "revoked-token")
NOT_ASKED_WHO: Final = {400, 401, 404, 405, 411, 413, 415, 422}
SENT: Final[Counter[str]] = Counter()
"""Requests by service, and ``<service> 5xx``."""


@schemathesis.serializer("application/vnd.safetensors")
def as_bytes(_context: Any, value: Any) -> Any:
    """Model files are bytes; what is made up need not be one."""
    return bytes(value) if isinstance(value, bytes | bytearray) else str(value).encode("utf-8", "replace")


def load(service: str) -> Any:
    """The service's schema as the project publishes it; the same cases at every run."""
    config = SchemathesisConfig.from_dict(
        {
            "generation": {
                "deterministic": True,
                "max-examples": EXAMPLES,
                "with-security-parameters": False,
                "database": "none",
                "no-shrink": True,
            },
            "warnings": False,
        }
    )
    return schemathesis.openapi.from_path(OPENAPI / f"{service}.json", config=config)


def fuzz(stage: Stage, service: str, case: Any) -> None:
    """Send the case as three callers: unknown, a likely one, and any; check each answer."""
    if _number(case, "share") % SHARE:
        return
    place_known_ids(stage, case)
    number, likely = _number(case, "callers"), _likely(case)
    chosen = (UNKNOWN[number % 3], likely[number // 3 % len(likely)], stage.callers[number // 7 % len(stage.callers)])
    for caller in dict.fromkeys(chosen):
        response = send(stage, service, case, caller)
        SENT[service] += 1
        SENT[f"{service} 5xx"] += response.status_code >= 500
        try:
            judge(case, caller, response)
            case.validate_response(response, checks=CHECKS)
        except Exception as error:
            error.add_note(f"sent by {caller}; answer {response.status_code} {response.text[:1000]}")
            raise


def _number(case: Any, use: str) -> int:
    """A number that only depends on the case, so that a failure comes again."""
    text = f"{use} {case.method} {case.path} {case.path_parameters} {case.query} {case.body}"
    return zlib.crc32(text.encode("utf-8", "replace"))


def place_known_ids(stage: Stage, case: Any) -> None:
    """In every second case, ids of things that exist; and no waiting."""
    number = _number(case, "ids")
    known = {**stage.ids, "subject": stage.ids["round_id"], "step": "advertise"}
    if case.path.endswith("/events"):  # of a running job they would not end
        known["job_id"] = stage.ids["ended_job_id"]
    if number % 2:
        for name, value in (case.path_parameters or {}).items():
            if isinstance(value, str) and value:
                case.path_parameters[name] = known.get(name, value)
    for part in (case.query, case.body):
        if isinstance(part, dict) and isinstance(part.get("wait_s"), int | float) and 0.05 < part["wait_s"] <= 30:
            part["wait_s"] = 0.05


def _likely(case: Any) -> tuple[str, ...]:
    """Whom the operation is for, by its security schemes."""
    schemes = [name for entry in case.operation.definition.raw.get("security", []) for name in entry]
    people = ("root", "scientist", "owner", "admin", "operator", "auditor") if "HTTPBearer" in schemes else ()
    signers = ("site", "coordinator", "aggregator", "other-site") if "signature" in schemes else ()
    return (*people, *signers) or ("anonymous",)


def send(stage: Stage, service: str, case: Any, caller: str) -> httpx.Response:
    """The case as one HTTP request, as near to what was generated as a client can send."""
    options = case.as_transport_kwargs(base_url=stage.urls[service])
    names = ("method", "url", "headers", "params", "data", "json", "files", "cookies")
    made = requests.Request(**{name: options[name] for name in names if name in options}).prepare()
    content = made.body if isinstance(made.body, bytes | None) else str(made.body).encode("utf-8", "surrogatepass")
    headers = [(name, value) for name, value in made.headers.items() if name.lower() not in ("content-length", "host")]
    auth = stage.auth(caller, service) or httpx.Auth()
    return stage.http.request(made.method or "GET", made.url or "", headers=headers, content=content, auth=auth)


def judge(case: Any, caller: str, response: httpx.Response) -> None:
    """Check: no 5xx, nothing undocumented, every refusal a problem document, no unknown caller let in."""
    status = response.status_code
    assert status < 500, "a server error"
    documented = case.operation.definition.raw["responses"]
    same_method = response.request.method.lower() == case.operation.method
    assert str(status) in documented or not same_method or status == 404, f"{status} is not documented"
    if status >= 400:
        check_problem(response)
    if caller in UNKNOWN and case.operation.definition.raw.get("security") and same_method:
        assert status in NOT_ASKED_WHO, f"{status} to an unknown caller"


def check_problem(response: httpx.Response) -> Problem:
    """RFC 9457, with our members."""
    assert response.headers["content-type"] == "application/problem+json"
    document = Problem.model_validate_json(response.content, strict=True)
    assert document.type.startswith("urn:undersong:problem:")
    assert document.status == response.status_code
    assert document.request_id == response.headers["x-request-id"]
    assert document.title
    return document
