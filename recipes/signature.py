"""The parameters of a scientist's function as JSON schemas: what a job may set, read from how it is defined."""

import inspect
import types
from collections.abc import Callable, Mapping
from typing import Any, Final, Literal, Union, get_args, get_origin

from undersong.recipes.local_training import JsonSchema
from undersong.recipes.protocol import RecipeError

_KINDS: Final[dict[type, str]] = {bool: "boolean", int: "integer", float: "number", str: "string"}


def parameters_of(function: Callable[..., Any], given: int, taken: Mapping[str, JsonSchema]) -> dict[str, JsonSchema]:
    """Return the schemas of a function's parameters after the first `given`, which the platform fills in.

    Each needs a default, whose type (or `Literal`, or `list[int]`) says what a job may give. `taken` are the names
    that are the platform's own. Raises `RecipeError`.
    """
    try:
        signature = inspect.signature(function, eval_str=True)
    except NameError:
        signature = inspect.signature(function)
    except (TypeError, ValueError):
        raise RecipeError(
            f"{_name(function)} does not say which parameters it takes: write a function of your own"
        ) from None
    named = [each for each in signature.parameters.values() if each.kind is not each.VAR_POSITIONAL]
    if len(named) < given and not any(each.kind is each.VAR_POSITIONAL for each in signature.parameters.values()):
        raise RecipeError(f"{_name(function)} takes {len(named)} arguments, and it is called with {given}")
    found = {}
    for each in named[given:]:
        if each.kind is each.VAR_KEYWORD:
            raise RecipeError(f"{_name(function)} takes **{each.name}: name its parameters, with defaults")
        if each.default is each.empty:
            raise RecipeError(f"parameter {each.name} of {_name(function)} needs a default, which jobs may change")
        if each.name in taken:
            raise RecipeError(
                f"parameter {each.name} of {_name(function)} has the name of a parameter of training: rename it"
            )
        found[each.name] = _schema(function, each)
    return found


def _schema(function: Callable[..., Any], parameter: inspect.Parameter) -> JsonSchema:
    default, hinted = parameter.default, parameter.annotation
    if get_origin(hinted) is Literal:
        return {"enum": list(get_args(hinted)), "default": default}
    if isinstance(default, list | tuple):
        items = {_KINDS.get(type(each)) for each in default} | {_KINDS.get(each) for each in get_args(hinted)} - {None}
        if len(items) == 1 and None not in items:
            return {"type": "array", "items": {"type": items.pop()}, "maxItems": 1000, "default": list(default)}
    if get_origin(hinted) not in (Union, types.UnionType):
        kind = float if hinted is float and type(default) is int else type(default)
        if kind in _KINDS:
            return {"type": _KINDS[kind], "default": default}
    raise RecipeError(
        f"parameter {parameter.name} of {_name(function)} is no number, text, truth value or list of one of them: "
        "give such a default"
    )


def _name(function: Callable[..., Any]) -> str:
    return str(getattr(function, "__name__", function))
