"""What the parties of a round say to each other: msgpack maps of fixed shape, strictly read.

| message | from, to | fields |
| --- | --- | --- |
| Advertisement | client to aggregator, keys | c, s: X25519 public keys; b: H("b", ctx0, b_i); signature |
| Roster | keys to clients | entries (site, advertisement), nonce, signature |
| Envelopes | client to aggregator | 96 bytes for each neighbour, in roster order, and 64 of commitments (`opening`) |
| Delivery | aggregator to client | who shared (bitmap), their envelopes to this client in order, with commitments |
| Complaints | client to aggregator | a list (`complaints`); the answer is U2 as a bitmap |
| Survivors | keys to clients | U3 as a bitmap, the root over the masked updates' digests, keys' signature |
| Commitment | client to aggregator, and back as a list | the client's signature over the same |
| Opening | client to aggregator | shares of b for neighbours in U3, of s for those in U2 outside U3, in order |
"""

from dataclasses import dataclass, field, fields
from typing import Any, Self

import msgpack

from undersong.shared.errors import Invalid

KEY_BYTES = 32
SIGNATURE_BYTES = 64
ENVELOPE_BYTES = 96
MAX_BYTES = 1 << 24


class MalformedStep(Invalid):
    """A message of the secure-aggregation round has the wrong shape."""


@dataclass(frozen=True, slots=True)
class Message:
    """A map of byte strings."""

    def pack(self) -> bytes:
        """Return the message as bytes."""
        return bytes(msgpack.packb({f.name: getattr(self, f.name) for f in fields(self)}, use_bin_type=True))

    @classmethod
    def unpack(cls, data: bytes) -> Self:
        """Read strictly: exactly the named fields, each a byte string of its length where one is fixed."""
        found = unpacked(data)
        names = [f.name for f in fields(cls)]
        if not isinstance(found, dict) or sorted(map(str, found)) != sorted(names):
            raise MalformedStep(f"{cls.__name__.lower()} must hold exactly {', '.join(names)}")
        for f in fields(cls):
            value, size = found[f.name], f.metadata.get("size")
            if not isinstance(value, bytes) or (size is not None and len(value) != size):
                raise MalformedStep(f"{cls.__name__.lower()}.{f.name} is not bytes of the right length")
        return cls(**found)


def unpacked(data: bytes) -> Any:
    """Return the msgpack value in a message, within bounds; raises MalformedStep."""
    if len(data) > MAX_BYTES:
        raise MalformedStep("the message is too large")
    try:
        return msgpack.unpackb(data, raw=False, strict_map_key=True, max_map_len=64, max_array_len=1 << 20)
    except (ValueError, msgpack.UnpackException, RecursionError) as error:
        raise MalformedStep("the message is not msgpack of the expected shape") from error


def _sized(size: int) -> bytes:
    return field(metadata={"size": size})  # type: ignore[no-any-return]


@dataclass(frozen=True, slots=True)
class Advertisement(Message):
    """One client's fresh public keys and its commitment to b."""

    c: bytes = _sized(KEY_BYTES)
    s: bytes = _sized(KEY_BYTES)
    b: bytes = _sized(32)
    signature: bytes = _sized(SIGNATURE_BYTES)


@dataclass(frozen=True, slots=True)
class Delivery(Message):
    """Who shared (U2), and the envelopes meant for one client, from its neighbours in U2 in roster order."""

    sharers: bytes
    envelopes: bytes


@dataclass(frozen=True, slots=True)
class Survivors(Message):
    """Who submitted a masked update (U3), the root over those updates, and the witness's one signature over both."""

    members: bytes
    root: bytes = _sized(32)
    signature: bytes = _sized(SIGNATURE_BYTES)


@dataclass(frozen=True, slots=True)
class OpeningShares(Message):
    """Shares of b for holders' clients in U3 and of s for those in U2 outside U3, each in roster order."""

    b: bytes
    s: bytes


def pack_list(items: list[bytes]) -> bytes:
    """Return a list of byte strings."""
    return bytes(msgpack.packb(items, use_bin_type=True))


def unpack_list(data: bytes) -> list[bytes]:
    """Return the inverse of `pack_list`, strictly."""
    found = unpacked(data)
    if not isinstance(found, list) or not all(isinstance(item, bytes) for item in found):
        raise MalformedStep("a list of byte strings was expected")
    return found


def slices(data: bytes, size: int, count: int) -> list[bytes]:
    """Exactly `count` parts of `size` bytes."""
    if len(data) != size * count:
        raise MalformedStep(f"{count} parts of {size} bytes were expected, {len(data)} bytes came")
    return [data[i * size : (i + 1) * size] for i in range(count)]


def unpack_pair(data: bytes) -> tuple[bytes, bytes]:
    """Return two byte strings; raises MalformedStep."""
    match unpack_list(data):
        case [first, second]:
            return first, second
    raise MalformedStep("two byte strings were expected")
