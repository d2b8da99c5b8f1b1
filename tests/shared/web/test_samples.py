"""The examples of requests: each operation that a person may ask has one, its body is valid, its program compiles."""

import json
import shlex
from typing import Any

import jsonschema
import pytest

from tests.hostile.policy import POLICY
from undersong.openapi import document
from undersong.shared.web.samples import example

SERVICES = ("coordinator", "registry", "keys", "aggregator")
NO_JSON = {"GET /v1/jobs/{job_id}/events", "GET /v1/versions/{version_id}/content", "PUT /v1/blobs/{digest}"}
PEOPLE = {"root", "admin", "scientist", "owner", "auditor", "operator", "anybody"}


@pytest.mark.parametrize("service", SERVICES)
def test_every_operation_for_people_has_a_command_and_a_program(service: str) -> None:
    described = json.loads(document(service))
    sampled = {
        f"{method.upper()} {path}": operation
        for path, operations in described["paths"].items()
        for method, operation in operations.items()
        if "x-codeSamples" in operation
    }
    for_people = {name for name, callers in POLICY[service].items() if PEOPLE & set(callers.split())}
    assert sampled.keys() == for_people - NO_JSON
    for operation in sampled.values():
        shell, python = (each["source"] for each in operation["x-codeSamples"])
        compile(python, "sample", "exec")
        words = shlex.split(shell)
        body = json.loads(words[1]) if words[0] == "echo" else None
        assert (body is not None) == ("requestBody" in operation)
        if body is not None:
            schema = operation["requestBody"]["content"]["application/json"]["schema"]
            jsonschema.validate(body, {**schema, "components": described["components"]})


@pytest.mark.parametrize(
    ("schema", "expected"),
    [
        ({"type": "string", "examples": ["heart"], "default": "none"}, "heart"),
        ({"type": "string", "default": "none"}, "none"),
        ({"enum": ["mean", "median"]}, "mean"),
        ({"anyOf": [{"type": "integer", "minimum": 3}, {"type": "null"}]}, 3),
        ({"type": "array", "items": {"type": "boolean"}, "minItems": 2}, [True, True]),
        ({"type": "object", "properties": {"a": {"type": "number"}, "b": {}}, "required": ["a"]}, {"a": 1.0}),
        ({"$ref": "#/components/schemas/Tree"}, {"left": {"left": {"left": {}}}}),
    ],
)
def test_an_example_is_the_smallest_value_that_fits(schema: dict[str, Any], expected: object) -> None:
    """A schema that contains itself ends."""
    tree = {"type": "object", "properties": {"left": {"$ref": "#/components/schemas/Tree"}}, "required": ["left"]}
    assert example(schema, {"Tree": tree}) == expected
