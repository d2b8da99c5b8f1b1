"""No number or truth of a request is read out of a text, and no number out of a truth: the schema says so."""

import json
from collections.abc import Iterator
from copy import deepcopy
from typing import Any

import pytest
from pydantic import BaseModel, ValidationError, create_model

from tests.hostile.stage import SERVICES
from undersong.openapi import document as described

ODD = {
    "boolean": ("1", "true", 1, 0),
    "integer": ("1", True),
    "number": ("1", True),
}


def scalars(document: dict[str, Any], schema: dict[str, Any], seen: set[str]) -> Iterator[tuple[str, str, str]]:
    """(component, field, type) of all plain fields that a request's schema reaches."""
    name = schema.get("$ref", "").rsplit("/", 1)[-1]
    if name in seen:
        return
    if name:
        seen.add(name)
        schema = document["components"]["schemas"][name]
    for field, part in schema.get("properties", {}).items():
        for kind in [part, *part.get("anyOf", [])]:
            if name and kind.get("type") in ODD and "const" not in kind:  # a constant comes out as it is written
                yield name, field, kind["type"]
        yield from scalars(document, part, seen)
    inner = [schema.get("items"), schema.get("additionalProperties")]
    for part in [*inner, *(part for some in ("anyOf", "oneOf", "allOf") for part in schema.get(some, []))]:
        if isinstance(part, dict):
            yield from scalars(document, part, seen)


def requested(document: dict[str, Any]) -> list[tuple[str, str, str]]:
    seen: set[str] = set()
    return [
        found
        for operations in document["paths"].values()
        for operation in operations.values()
        for body in operation.get("requestBody", {}).get("content", {}).values()
        for found in scalars(document, body.get("schema", {}), seen)
    ]


def models(of: type[BaseModel] = BaseModel) -> Iterator[type[BaseModel]]:
    for model in of.__subclasses__():
        yield model
        yield from models(model)


@pytest.mark.parametrize("service", [service for service in SERVICES if service != "helper"])
def test_scalars_are_taken_as_they_are(service: str) -> None:
    document = json.loads(described(service))
    known: dict[str, list[type[BaseModel]]] = {}
    for model in models():
        if model.__module__.startswith(("undersong.services.", "undersong.shared.")):
            known.setdefault(model.__name__, []).append(model)
    found = requested(document)
    assert found
    taken = []
    for name, field, kind in found:
        fields = set(document["components"]["schemas"][name]["properties"])
        (model,) = (model for model in known[name] if set(model.model_fields) == fields)
        info = model.model_fields[field]
        alone = create_model("Alone", it=(info.annotation, deepcopy(info)))
        for odd in ODD[kind]:
            try:
                value = alone.model_validate({"it": odd}).it  # type: ignore[attr-defined]
            except ValidationError:
                continue
            if type(value) is not type(odd):
                taken.append(f"{name}.{field} takes {odd!r}")
    assert taken == []
