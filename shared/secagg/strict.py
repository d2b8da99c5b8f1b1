"""Messages between services: msgpack maps of fixed shape, strictly read."""

from collections.abc import Mapping
from typing import Any, Final

import msgpack

from undersong.shared.errors import Invalid

_MOST_NAMES: Final = 64


class MessageMalformed(Invalid):
    """A message between services is not in the documented form."""


def packed(document: object) -> bytes:
    """Return a document as bytes."""
    return bytes(msgpack.packb(document, use_bin_type=True))


def unpacked(data: bytes, *, most: int) -> Any:
    """Return the document in a message whose lists have at most `most` items; raises MessageMalformed."""
    try:
        return msgpack.unpackb(data, raw=False, strict_map_key=True, max_map_len=_MOST_NAMES, max_array_len=most)
    except (ValueError, TypeError, msgpack.UnpackException, RecursionError) as error:
        raise MessageMalformed("the message is not msgpack of the expected shape") from error


def exact(found: Any, sizes: Mapping[str, int | None]) -> dict[str, bytes]:
    """Return a map of exactly these names to bytes, of these lengths where one is given; raises MessageMalformed."""
    if not isinstance(found, dict) or found.keys() != sizes.keys():
        raise MessageMalformed(f"the message must hold exactly {', '.join(sizes)}")
    for name, size in sizes.items():
        if not isinstance(found[name], bytes) or (size is not None and len(found[name]) != size):
            raise MessageMalformed(f"{name} is not bytes of the right length")
    return found
