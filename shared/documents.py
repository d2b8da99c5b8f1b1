"""What is wrong with a document, by its fields: a pointer to each, and near matches for misspelt keys and choices."""

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final, get_args

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from undersong.shared.errors import FieldError
from undersong.shared.names import hint

_BRANCH: Final = re.compile(r"(list|tuple|set|frozenset|dict|literal|nullable|constrained-\w+|function-\w+)\[")
_CHOICES: Final = frozenset({"literal_error", "enum", "union_tag_invalid"})
_NEEDED: Final = dict.fromkeys(("tuple_type", "list_type", "set_type", "frozen_set_type"), "a list") | dict.fromkeys(
    ("dict_type", "model_type", "model_attributes_type"), "a mapping"
)


def pointer(path: Sequence[str | int]) -> str:
    """Return the JSON pointer (RFC 6901) to a place in the document."""
    return "".join("/" + str(part).replace("~", "~0").replace("/", "~1") for part in path)


def merged(document: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """Return a document with a JSON merge patch (RFC 7396) applied: null takes a field out, lists are replaced."""
    made = dict(document)
    for name, value in changes.items():
        if value is None:
            made.pop(name, None)
        elif isinstance(value, Mapping):
            known = made.get(name)
            made[name] = merged(known if isinstance(known, Mapping) else {}, value)
        else:
            made[name] = value
    return made


def document_faults(error: ValidationError, form: Any, at: Sequence[str | int] = ()) -> list[FieldError]:
    """Return every fault that pydantic found in a document of type `form`, which lies at `at` of a larger one."""
    found = error.errors(include_url=False)
    places = [item["loc"] for item in found]
    said: dict[tuple[str, bool], list[str]] = {}  # by place; what a union's branches say of it is one fault
    for item in found:
        if not _other_branch(place := item["loc"], places):
            branch = bool(place) and not _is_place(place[-1])
            said.setdefault((pointer([*at, *filter(_is_place, place)]), branch), []).append(_message(item, form))
    return [
        FieldError(where, each)
        for (where, branch), messages in said.items()
        for each in ([", or: ".join(dict.fromkeys(messages))] if branch else messages)
    ]


def _is_place(part: str | int) -> bool:
    """Return whether a part of pydantic's location is in the document; a branch of a union (``list[str]``) does not."""
    return not (isinstance(part, str) and _BRANCH.match(part))


def _other_branch(place: tuple[str | int, ...], places: Sequence[tuple[str | int, ...]]) -> bool:
    """Return whether a fault is that of a union's branch as a whole, where another branch was meant and has a fault
    inside.
    """
    if not place or _is_place(place[-1]):
        return False
    outer, depth = place[:-1], len(place)
    return any(each[: depth - 1] == outer and len(each) > depth and not _is_place(each[depth - 1]) for each in places)


def known_fields(form: Any, place: Sequence[str | int]) -> list[str]:
    """Return the names of the fields that a document of type `form` may have at a place."""
    models = list(_models(form))
    for part in place:
        inner = [
            model
            for outer in models
            for name, info in outer.model_fields.items()
            if part in (name, info.alias)
            for model in _models(info.annotation)
        ]
        models = inner or models
    return sorted({name for model in models for name in model.model_fields})


def _message(item: ErrorDetails, form: Any) -> str:
    if item["type"] == "extra_forbidden":
        name = str(item["loc"][-1])
        return f"there is no such field{hint(name, known_fields(form, item['loc'][:-1]))}"
    if item["type"] in _NEEDED:
        return f"{_NEEDED[item['type']]} is needed here"
    if item["type"] in ("too_short", "too_long"):
        context = item.get("ctx", {})
        least, most, count = (context.get(each) for each in ("min_length", "max_length", "actual_length"))
        allowed = f"{least} or more are needed" if most is None else f"{most} or fewer are allowed"
        return f"{allowed} here, not {'more' if count is None else count}"
    if item["type"] == "string_type":
        return "a text is needed here" + ": put it in quotes" * isinstance(item["input"], bool | int | float)
    message = item["msg"].removeprefix("Value error, ")
    if item["type"] in _CHOICES:
        context = item.get("ctx", {})
        said = str(context.get("tag", item["input"]))
        known = re.findall(r"'([^']*)'", str(context.get("expected", context.get("expected_tags", ""))))
        return f"{said!r} is not a choice here{hint(said, known)}" if known else message
    return message


def _models(annotation: Any) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for part in get_args(annotation):
        yield from _models(part)
