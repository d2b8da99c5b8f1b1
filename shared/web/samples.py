"""Examples of requests in OpenAPI documents: each operation that a person may ask, as a command and in Python.

A body holds the fields that are required, each with its example, its default, or a value of its type.
"""

import json
import re
import shlex
from collections.abc import Mapping
from pprint import pformat
from typing import Any, Final
from urllib.parse import urlencode

_WIDTH: Final = 100
_DEEPEST: Final = 6
_JSON: Final = "application/json"
_IMPORTS: Final = "from undersong.client import Client\nfrom undersong.client.calls import Call\n"
_OF_TYPE: Final[Mapping[str, Any]] = {"integer": 1, "number": 1.0, "boolean": True, "null": None, "string": "TEXT"}
_METHODS: Final = frozenset({"get", "put", "post", "delete"})


def add_samples(document: dict[str, Any], service: str) -> None:
    """Add `x-codeSamples` to every operation that takes a person's token and whose body, if any, is JSON."""
    schemas = document.get("components", {}).get("schemas", {})
    for path, operations in document["paths"].items():
        for method in _METHODS & operations.keys():
            operation = operations[method]
            if any("HTTPBearer" in each for each in operation.get("security", ())) and _is_json(operation):
                operation["x-codeSamples"] = samples(service, method, path, operation, schemas)


def samples(
    service: str, method: str, path: str, operation: Mapping[str, Any], schemas: Mapping[str, Any]
) -> list[dict[str, str]]:
    """Return a command and a Python program that make the request."""
    address = re.sub(r"\{(\w+)\}", lambda found: found.group(1).upper(), path)
    query, body = _query(operation, schemas), _body(operation, schemas)
    where = "" if service == "coordinator" else f" --service {service}"
    shell = f"undersong api{where} {method.upper()} {shlex.quote(address + '?' * bool(query) + urlencode(query))}"
    if body is not None:
        shell = f"echo {shlex.quote(json.dumps(body, ensure_ascii=False))} |\n  {shell} --body -"
    asked = f'"{service}", "{method.upper()}", "{address.removeprefix("/v1")}", dict'
    asked += f", query={query!r}" * bool(query) + ", body=body" * (body is not None)
    stated = "" if body is None else f"body = {pformat(body, width=_WIDTH, sort_dicts=False)}\n"
    python = f"{_IMPORTS}\n{stated}with Client() as client:\n    print(client.send(Call({asked})))\n"
    return [{"lang": "Shell", "source": shell + "\n"}, {"lang": "Python", "source": python}]


def example(schema: Mapping[str, Any], schemas: Mapping[str, Any], depth: int = 0) -> Any:
    """Return a value of the form that a JSON schema describes: its example, default, or the smallest of its type."""
    if "$ref" in schema:
        return example(schemas.get(schema["$ref"].rsplit("/", 1)[-1], {}), schemas, depth + 1)
    for told in (schema.get("examples") or [])[:1] or [schema[key] for key in ("const", "default") if key in schema]:
        return told
    if schema.get("enum"):
        return schema["enum"][0]
    for choice in ("anyOf", "oneOf", "allOf"):
        if schema.get(choice):
            return example(schema[choice][0], schemas, depth + 1)
    if schema.get("type") == "object":
        required = schema.get("required", ()) if depth < _DEEPEST else ()
        return {name: example(schema["properties"][name], schemas, depth + 1) for name in required}
    if schema.get("type") == "array":
        return [example(schema.get("items", {}), schemas, depth + 1)] * max(schema.get("minItems", 1), 1)
    least = schema.get("minimum")
    return _OF_TYPE.get(schema.get("type", ""), {}) if least is None else max(least, 1)


def _is_json(operation: Mapping[str, Any]) -> bool:
    """Return whether what is sent and what is answered are JSON, or nothing."""
    sent = operation.get("requestBody", {}).get("content", {_JSON: {}})
    answered = (answer.get("content", {}) for code, answer in operation["responses"].items() if code.startswith("2"))
    return _JSON in sent and all(not content or _JSON in content for content in answered)


def _body(operation: Mapping[str, Any], schemas: Mapping[str, Any]) -> Any:
    body = operation.get("requestBody")
    return None if body is None else example(body["content"][_JSON]["schema"], schemas)


def _query(operation: Mapping[str, Any], schemas: Mapping[str, Any]) -> dict[str, Any]:
    """Return the parameters that must be asked for; of a list, one value."""
    asked = [one for one in operation.get("parameters", ()) if one["in"] == "query" and one.get("required")]
    values = {one["name"]: example(one["schema"], schemas) for one in asked}
    return {name: value[0] if isinstance(value, list) else value for name, value in values.items()}
