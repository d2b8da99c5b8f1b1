"""No request says more than its schema: an unknown field is refused, so none sets what is the server's."""

import json
from collections.abc import Iterator
from typing import Any

import pytest

from tests.hostile.fuzzing import OPENAPI
from tests.hostile.stage import SERVICES

OPEN = {"Lineage", "RecipeName"}
"""What a publisher signs with whatever further fields it has; nothing of it is the server's."""


def open_objects(document: dict[str, Any], schema: dict[str, Any], where: str, seen: set[str]) -> Iterator[str]:
    """The objects of a request's schema that take fields which they do not name."""
    if "$ref" in schema:
        name = schema["$ref"].rsplit("/", 1)[-1]
        if name not in seen:
            seen.add(name)
            yield from open_objects(document, document["components"]["schemas"][name], name, seen)
        return
    if "properties" in schema and schema.get("additionalProperties") is not False and where not in OPEN:
        yield where
    parts = [*schema.get("properties", {}).values(), *schema.get("anyOf", [])]
    parts += [schema[name] for name in ("items", "additionalProperties") if isinstance(schema.get(name), dict)]
    for part in parts:
        yield from open_objects(document, part, where, seen)


@pytest.mark.parametrize("service", SERVICES)
def test_no_request_takes_unknown_fields(service: str) -> None:
    document = json.loads((OPENAPI / f"{service}.json").read_text())
    seen: set[str] = set()
    found = [
        f"{method} {path}: {name}"
        for path, operations in document["paths"].items()
        for method, operation in operations.items()
        for body in operation.get("requestBody", {}).get("content", {}).values()
        for name in open_objects(document, body.get("schema", {}), "body", seen)
    ]
    assert found == []
