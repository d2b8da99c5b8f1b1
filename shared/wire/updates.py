"""The binary body of an update, and the receipt for it.

Body = ``b"USU1"`` + u32 little-endian header length + msgpack header + zero bytes up to a multiple of 64 + payload, so
that the payload's words are aligned in a mapped file. Parsing is strict: unknown, missing or repeated keys, other types
and sizes beyond the limits are refused before the payload is looked at.
"""

import hashlib
import struct
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import msgpack

from undersong.shared.errors import Invalid
from undersong.shared.ids import Digest, RoundId, SiteId, is_digest
from undersong.shared.wire.canonical import digest_document
from undersong.shared.wire.forms import DigestText, Document
from undersong.shared.wire.manifest import RoundKind

MAGIC: Final = b"USU1"
MAX_HEADER: Final = 64 * 1024
MAX_LENGTH: Final = 2**36
PREFIX_SIZE: Final = 8
_ALIGNMENT: Final = 64
RECEIPT_CONTEXT: Final = b"undersong/receipt/1\0"
_MODULI: Final = (8, 16, 24, 32, 64)
_KEYS: Final = frozenset(
    {"round_id", "manifest_digest", "site_id", "engine", "kind", "length", "modulus_bits", "metrics_layout", "material"}
)
_SAMPLES: Final = "samples"  # only where a round takes committed sample counts
MAX_SAMPLES: Final = 8 * 1024


class MalformedUpdate(Invalid):
    """The update's body is not in the documented form."""


@dataclass(frozen=True, slots=True)
class UpdateHeader:
    """What an update says of itself. `length` counts coordinates of `modulus_bits`, or bytes (8 bits) of a model.

    `material` is the engine's own: a wrapped content key, say, or a report's parts. `samples` is the site's
    committed sample count with its proof (`undersong.shared.zk.samples`), in rounds that take one.
    """

    round_id: RoundId
    manifest_digest: Digest
    site_id: SiteId
    engine: str
    kind: RoundKind
    length: int
    modulus_bits: int
    metrics_layout: str | None = None
    material: Mapping[str, bytes | int] = field(default_factory=dict)
    samples: bytes | None = None

    @property
    def plain_size(self) -> int:
        """Bytes of the packed payload before the engine hides it."""
        return self.length * (self.modulus_bits // 8)


def write_header(header: UpdateHeader) -> bytes:
    """Return the body's bytes up to the payload."""
    packed = msgpack.packb(_document(header), use_bin_type=True)
    if len(packed) > MAX_HEADER:
        raise MalformedUpdate("the header is larger than 64 KiB")
    written = MAGIC + struct.pack("<I", len(packed)) + bytes(packed)
    return written.ljust(_aligned(len(written)), b"\0")


def header_span(prefix: bytes) -> int:
    """From a body's first 8 bytes: the offset where its payload begins; raises `MalformedUpdate`."""
    if len(prefix) < PREFIX_SIZE or prefix[:4] != MAGIC:
        raise MalformedUpdate("the body does not begin with USU1")
    return _aligned(PREFIX_SIZE + _packed_size(prefix))


def read_header(body: bytes | memoryview) -> tuple[UpdateHeader, int]:
    """From the beginning of a body: the header, and the offset where the payload begins; raises `MalformedUpdate`."""
    span = header_span(bytes(body[:PREFIX_SIZE]))
    written = bytes(body[:span])
    end = PREFIX_SIZE + _packed_size(written)
    if len(written) < span or any(written[end:]):
        raise MalformedUpdate("the body ends within its header, or its padding is not zero")
    return parse_header(written[PREFIX_SIZE:end]), span


def parse_header(packed: bytes) -> UpdateHeader:
    """Return the header from its msgpack bytes; raises `MalformedUpdate`."""
    document = _unpack(packed)
    if set(document) - {_SAMPLES} != _KEYS:
        raise MalformedUpdate("the header's keys are not the documented ones")
    for name in ("round_id", "manifest_digest", "site_id", "engine", "kind"):
        if not isinstance(document[name], str) or not 0 < len(document[name]) <= 128:
            raise MalformedUpdate(f"{name} is not a short text")
    _check_numbers(document)
    layout = document["metrics_layout"]
    if layout is not None and not (isinstance(layout, str) and len(layout) <= 64):
        raise MalformedUpdate("metrics_layout is not a short text")
    _check_material(document["material"])
    _check_samples(document)
    if document["kind"] not in set(RoundKind) or not is_digest(document["manifest_digest"]):
        raise MalformedUpdate("kind or manifest_digest is not a known value")
    return UpdateHeader(**{**document, "kind": RoundKind(document["kind"])})


def header_digest(header: UpdateHeader) -> bytes:
    """SHA-256 of the written header: what an engine binds its payload to."""
    return hashlib.sha256(write_header(header)).digest()


def _aligned(size: int) -> int:
    return -(-size // _ALIGNMENT) * _ALIGNMENT


def _packed_size(prefix: bytes) -> int:
    size = int(struct.unpack_from("<I", prefix, 4)[0])
    if not 0 < size <= MAX_HEADER:
        raise MalformedUpdate("the header's length is 0 or beyond 64 KiB")
    return size


def _document(header: UpdateHeader) -> dict[str, object]:
    return {
        "round_id": header.round_id,
        "manifest_digest": header.manifest_digest,
        "site_id": header.site_id,
        "engine": header.engine,
        "kind": str(header.kind),
        "length": header.length,
        "modulus_bits": header.modulus_bits,
        "metrics_layout": header.metrics_layout,
        "material": dict(sorted(header.material.items())),
        **({} if header.samples is None else {_SAMPLES: header.samples}),
    }


def _pairs(pairs: list[tuple[object, object]]) -> dict[object, object]:
    made = dict(pairs)
    if len(made) != len(pairs):
        raise MalformedUpdate("the header repeats a key")
    return made


def _unpack(packed: bytes) -> dict[str, Any]:
    try:
        document = msgpack.unpackb(packed, raw=False, strict_map_key=True, object_pairs_hook=_pairs)
    except MalformedUpdate:
        raise
    except (ValueError, TypeError, RecursionError, msgpack.exceptions.UnpackException) as error:
        raise MalformedUpdate("the header is not msgpack") from error
    if not isinstance(document, dict):
        raise MalformedUpdate("the header is not a map")
    return document


def _integer(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _check_numbers(document: Mapping[str, object]) -> None:
    length, bits = document["length"], document["modulus_bits"]
    if not (isinstance(length, int) and _integer(length) and 0 < length <= MAX_LENGTH):
        raise MalformedUpdate("length is not a positive integer within limits")
    if not _integer(bits) or bits not in _MODULI:
        raise MalformedUpdate("modulus_bits is not 8, 16, 24, 32 or 64")


def _check_material(material: object) -> None:
    if not isinstance(material, dict) or len(material) > 16:
        raise MalformedUpdate("material is not a small map")
    for name, value in material.items():
        if not isinstance(name, str) or not (isinstance(value, bytes) or _integer(value)):
            raise MalformedUpdate("material holds other than bytes and integers")


def _check_samples(document: Mapping[str, object]) -> None:
    found = document.get(_SAMPLES, b"\0")
    if not isinstance(found, bytes) or not 0 < len(found) <= MAX_SAMPLES:
        raise MalformedUpdate("samples is not a short string of bytes")


class ReceiptDoc(Document):
    """What the aggregator acknowledges: that it holds these bytes durably. `accepted_at` is ISO 8601 UTC."""

    round_id: RoundId
    site_id: SiteId
    digest: DigestText
    size: int
    accepted_at: str

    def statement(self) -> bytes:
        """Return the bytes that the aggregator's key signs."""
        return RECEIPT_CONTEXT + bytes.fromhex(digest_document(self.model_dump(mode="json")))
