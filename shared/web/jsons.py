"""JSON that is safe to take in: finite numbers, proper text, bounded depth, no key twice."""

import json
import math
from typing import Any, Final, NoReturn

from undersong.shared.errors import BadRequest, Invalid

DEEPEST: Final = 32
_LARGEST_INTEGER: Final = 2**63 - 1  # what a database column holds


class UnsafeJson(Invalid):
    """The JSON holds something that no field may hold."""


def check_json(body: bytes) -> None:
    """Refuse malformed JSON (BadRequest), and NaN, infinities, NUL, lone surrogates, deep nesting, repeated keys and
    integers beyond 64 bits (UnsafeJson).
    """
    try:
        document = json.loads(
            body.decode("utf-8"), parse_constant=_no_constant, parse_float=_finite, object_pairs_hook=_no_repeats
        )
    except RecursionError as error:
        raise UnsafeJson(f"nested deeper than {DEEPEST}") from error
    except ValueError as error:  # malformed JSON or UTF-8, or an integer of thousands of digits
        raise BadRequest("the body is not valid JSON in UTF-8") from error
    _walk(document)


def _walk(document: object) -> None:
    level: list[Any] = [document]
    for _ in range(DEEPEST):
        below: list[Any] = []
        for value in level:
            if isinstance(value, dict):
                below.extend(value)
                below.extend(value.values())
            elif isinstance(value, list):
                below.extend(value)
            else:
                _check_leaf(value)
        if not below:
            return
        level = below
    raise UnsafeJson(f"nested deeper than {DEEPEST}")


def _check_leaf(value: object) -> None:
    if isinstance(value, str):
        if value.isascii():
            if "\0" in value:
                raise UnsafeJson("text must not contain NUL")
            return
        if "\0" in value:
            raise UnsafeJson("text must not contain NUL")
        try:
            value.encode("utf-8")
        except UnicodeEncodeError as error:
            raise UnsafeJson("text must not contain lone surrogates") from error
    elif isinstance(value, int) and not -_LARGEST_INTEGER <= value <= _LARGEST_INTEGER:
        raise UnsafeJson("an integer is beyond 64 bits")


def _no_constant(name: str) -> NoReturn:
    raise UnsafeJson(f"{name} is not a JSON number")


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise UnsafeJson("a number is too large")
    return number


def _no_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    document = dict(pairs)
    if len(document) != len(pairs):
        raise UnsafeJson("an object has a key twice")
    return document
