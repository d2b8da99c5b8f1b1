"""One byte string for one document, so that two parties who hold the same facts hold the same digest.

Form: msgpack with map keys in sorted order. Values: None, bool, integers of 64 bits, finite float64, str, list, map.
A float with an integral value up to 2**53 is written as that integer, because JSON and JSONB do not keep the two apart.
"""

import math
from collections.abc import Mapping
from typing import Final

import msgpack

from undersong.shared.errors import Invalid
from undersong.shared.ids import Digest, digest_of

MAX_DEPTH: Final = 32
_EXACT: Final = 2**53


class NotCanonical(Invalid):
    """The document holds a value that has no canonical form."""


def canonical(document: Mapping[str, object]) -> bytes:
    """Return the document's only byte string; raises `NotCanonical`."""
    packed = msgpack.packb(_plain(document, 0), use_bin_type=True)
    assert isinstance(packed, bytes)  # noqa: S101  (packb is untyped)
    return packed


def digest_document(document: Mapping[str, object]) -> Digest:
    """SHA-256 of the canonical bytes."""
    return digest_of(canonical(document))


def _plain(value: object, depth: int) -> object:
    if depth > MAX_DEPTH:
        raise NotCanonical(f"deeper than {MAX_DEPTH} levels")
    if isinstance(value, Mapping):
        return {_text(key): _plain(value[key], depth + 1) for key in sorted(value, key=_text)}
    if isinstance(value, list | tuple):
        return [_plain(item, depth + 1) for item in value]
    return _scalar(value)


def _scalar(value: object) -> object:
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, str):
        return _text(value)
    if isinstance(value, int):
        if not -(2**63) <= value < 2**64:
            raise NotCanonical("an integer needs more than 64 bits")
        return int(value)
    if isinstance(value, float):
        return _number(value)
    raise NotCanonical(f"{type(value).__name__} has no canonical form")


def _number(value: float) -> float | int:
    if not math.isfinite(value):
        raise NotCanonical("a number is not finite")
    return int(value) if abs(value) <= _EXACT and value.is_integer() else value


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise NotCanonical("a key is not text")
    try:
        value.encode()
    except UnicodeEncodeError:
        raise NotCanonical("text holds a lone surrogate") from None
    return str(value)
