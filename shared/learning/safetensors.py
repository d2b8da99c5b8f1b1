"""Model files: a strict reader and a canonical writer of the safetensors format.

File = u64 little-endian header length + JSON header + data. Source: the format section of huggingface/safetensors'
README. Departs on purpose: duplicate keys, gaps, overlaps, unknown fields, empty tensors in bulk and numbers that are
not finite are refused; the writer's output for given tensors and metadata is always the same bytes.

numpy has no bfloat16: such a tensor is read as float32, which holds all its values, and written as BF16 (rounded to the
nearest, ties to even) where the caller names it.
"""

import hashlib
import json
import math
import struct
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from undersong.shared.errors import Invalid
from undersong.shared.ids import Digest

Array = npt.NDArray[Any]
MAX_HEADER: Final = 4 * 1024 * 1024
MAX_TENSORS: Final = 20_000
MAX_RANK: Final = 16
_NUMPY: Final[dict[str, str]] = {  # in the order in which the reference writer lays tensors down
    "U64": "<u8", "I64": "<i8", "F64": "<f8",
    "F32": "<f4", "U32": "<u4", "I32": "<i4",
    "F16": "<f2", "U16": "<u2", "I16": "<i2",
    "I8": "|i1", "U8": "|u1", "BOOL": "|b1",
}  # fmt: skip
_BF16: Final = "BF16"
_ITEM: Final = {**{name: np.dtype(text).itemsize for name, text in _NUMPY.items()}, _BF16: 2}
_ORDER: Final = (*list(_NUMPY)[:6], _BF16, *list(_NUMPY)[6:])
_NAMES: Final = {np.dtype(text): name for name, text in _NUMPY.items()}
_FIELDS: Final = frozenset({"dtype", "shape", "data_offsets"})
_LARGEST: Final = 2**48
_BLOCK: Final = 1024 * 1024


class BadModelFile(Invalid):
    """The file is not a model file in the strict safetensors form."""


@dataclass(frozen=True, slots=True)
class TensorInfo:
    """One tensor's place: `begin` and `end` are offsets into the data that follows the header."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    begin: int
    end: int


@dataclass(frozen=True, slots=True)
class FileHeader:
    """A file's tensors in order of their data, its metadata, and the offset where data begins."""

    tensors: tuple[TensorInfo, ...]
    metadata: dict[str, str]
    data_offset: int


def write(
    tensors: Mapping[str, Array], metadata: Mapping[str, str] | None = None, *, bfloat16: Iterable[str] = ()
) -> bytes:
    """Return a model file; for given tensors and metadata always the same bytes.

    `bfloat16` names the float32 tensors to write as BF16. Raises `BadModelFile`.
    """
    return b"".join(pieces(tensors, metadata, bfloat16=bfloat16))


def pieces(
    tensors: Mapping[str, Array], metadata: Mapping[str, str] | None = None, *, bfloat16: Iterable[str] = ()
) -> Iterator[bytes | memoryview]:
    """Yield the file of `write` in parts, without a copy of the tensors: larger types first, then by name."""
    stored = _stored(tensors, bfloat16)
    order = sorted(stored, key=lambda name: (_ORDER.index(stored[name][0]), name))
    header: dict[str, object] = {"__metadata__": dict(sorted(metadata.items()))} if metadata else {}
    at = 0
    for name in order:
        dtype, array = stored[name]
        offsets = [at, at + array.nbytes]
        header[name] = {"dtype": dtype, "shape": list(array.shape), "data_offsets": offsets}
        at += array.nbytes
    packed = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    packed += b" " * (-len(packed) % 8)
    yield struct.pack("<Q", len(packed)) + packed
    for name in order:
        yield _octets(stored[name][1])


def read_header(data: bytes | memoryview, size: int | None = None) -> FileHeader:
    """Check and read a header; `data` may be only the file's beginning if `size` says how long the file is."""
    size = len(data) if size is None else size
    if size < 8 or len(data) < 8:
        raise BadModelFile("the file is shorter than its header's length")
    length = int(struct.unpack_from("<Q", data)[0])
    if not 2 <= length <= min(MAX_HEADER, size - 8) or len(data) < 8 + length:
        raise BadModelFile("the header's length is beyond the file or the limit")
    document = _json(bytes(data[8 : 8 + length]))
    metadata = _metadata(document.pop("__metadata__", {}))
    if not 0 < len(document) <= MAX_TENSORS:
        raise BadModelFile(f"the file holds {len(document)} tensors, outside 1..{MAX_TENSORS}")
    tensors = sorted((_tensor(name, entry) for name, entry in document.items()), key=lambda t: (t.begin, t.end, t.name))
    at = 0
    for tensor in tensors:
        if tensor.begin != at:
            raise BadModelFile(f"tensor {tensor.name!r} overlaps another or leaves a gap")
        at = tensor.end
    if at != size - 8 - length:
        raise BadModelFile("the data is longer or shorter than its tensors")
    return FileHeader(tuple(tensors), metadata, 8 + length)


def read(data: bytes | memoryview) -> dict[str, Array]:
    """Return every tensor as a read-only view of `data`, BF16 as a float32 copy.

    Raises `BadModelFile`, for numbers that are not finite too.
    """
    header = read_header(data)
    return {tensor.name: _view(data, header, tensor) for tensor in header.tensors}


def read_metadata(data: bytes | memoryview) -> dict[str, str]:
    """Return the file's metadata."""
    return read_header(data).metadata


def tensor_digest(tensors: Mapping[str, Array], *, bfloat16: Iterable[str] = ()) -> Digest:
    """SHA-256 of the model itself, whatever file holds it: sorted names, types, shapes and little-endian bytes."""
    running = hashlib.sha256(b"undersong/tensors/1\0")
    stored = _stored(tensors, bfloat16)
    for name in sorted(stored):
        dtype, array = stored[name]
        for part in (name.encode(), dtype.encode(), struct.pack(f"<{array.ndim}Q", *array.shape)):
            running.update(struct.pack("<Q", len(part)) + part)
        running.update(struct.pack("<Q", array.nbytes))
        running.update(_octets(array))
    return Digest(running.hexdigest())


def bfloat16_of(array: Array) -> Array:
    """Return float32 rounded to the nearest bfloat16 (ties to even), as float32; overflow gives infinities."""
    wide = (_bfloat16_words(array).astype(np.uint32) << 16).view(np.float32)
    return np.asarray(wide.reshape(array.shape))


def _bfloat16_words(array: Array) -> npt.NDArray[np.uint16]:
    words = np.asarray(array, "<f4", order="C").reshape(-1).view(np.uint32)
    return ((words + ((words >> 16) & 1) + np.uint32(0x7FFF)) >> 16).astype("<u2")


def _stored(tensors: Mapping[str, Array], bfloat16: Iterable[str]) -> dict[str, tuple[str, Array]]:
    """Return each tensor's type in a file and its little-endian form; raises `BadModelFile` for other types."""
    half, made = frozenset(bfloat16), {}
    for name, array in tensors.items():
        if name not in half:
            little = _little(name, array)
            made[name] = (_NAMES[little.dtype], little)
        elif array.dtype != np.float32 or not np.isfinite(array).all():
            raise BadModelFile(f"tensor {name} is to be bfloat16 and must be given as finite float32")
        else:
            made[name] = (_BF16, _bfloat16_words(array).reshape(array.shape))
    return made


def _little(name: str, array: Array) -> Array:
    """Return the array in little-endian C order, itself where it is that already; raises `BadModelFile` for other
    types.
    """
    dtype = array.dtype.newbyteorder("<")
    if dtype not in _NAMES:
        raise BadModelFile(f"tensor {name} has type {array.dtype}, which a model file cannot hold")
    return np.asarray(array, dtype, order="C")


def _octets(array: Array) -> memoryview:
    return array.reshape(-1).view(np.uint8).data


def _pairs(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(pairs)
    if len(made) != len(pairs):
        raise BadModelFile("the header repeats a key")
    return made


def _refuse_constant(text: str) -> float:
    raise BadModelFile(f"the header holds {text}")


def _json(packed: bytes) -> dict[str, Any]:
    if not packed.startswith(b"{"):
        raise BadModelFile("the header does not begin with a brace")
    try:
        document = json.loads(packed.decode(), object_pairs_hook=_pairs, parse_constant=_refuse_constant)
    except BadModelFile:
        raise
    except (ValueError, RecursionError) as error:
        raise BadModelFile("the header is not JSON in UTF-8") from error
    if not isinstance(document, dict):
        raise BadModelFile("the header is not an object")
    return document


def _metadata(value: object) -> dict[str, str]:
    if not isinstance(value, dict) or not all(_is_text(item) for pair in value.items() for item in pair):
        raise BadModelFile("the metadata is not a map of text")
    return value


def _tensor(name: str, entry: object) -> TensorInfo:
    if not isinstance(entry, dict) or set(entry) != _FIELDS or not 0 < len(name) <= 512 or not _is_text(name):
        raise BadModelFile(f"tensor {name[:80]!a} is not described by exactly dtype, shape and data_offsets")
    dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    if not isinstance(dtype, str) or dtype not in _ITEM:
        raise BadModelFile(f"tensor {name!r} has an unknown type")
    if not _naturals(shape) or len(shape) > MAX_RANK or not _naturals(offsets) or len(offsets) != 2:
        raise BadModelFile(f"tensor {name!r} has a shape or offsets that are not natural numbers")
    begin, end = offsets
    if math.prod(size or 1 for size in shape) >= _LARGEST:  # no array has such sides, not even an empty one
        raise BadModelFile(f"tensor {name!r} is too large")
    if end - begin != math.prod(shape) * _ITEM[dtype]:
        raise BadModelFile(f"tensor {name!r} has another size than its shape")
    return TensorInfo(name, dtype, tuple(shape), begin, end)


def _naturals(value: object) -> bool:
    if not isinstance(value, list):
        return False
    return all(isinstance(item, int) and not isinstance(item, bool) and 0 <= item < _LARGEST for item in value)


def _is_text(value: object) -> bool:
    """Text that UTF-8 and a database can hold: JSON can escape halves of characters, and NUL."""
    return isinstance(value, str) and "\0" not in value and not any("\ud800" <= char <= "\udfff" for char in value)


def _view(data: bytes | memoryview, header: FileHeader, tensor: TensorInfo) -> Array:
    raw = np.frombuffer(data, np.uint8, tensor.end - tensor.begin, header.data_offset + tensor.begin)
    if tensor.dtype == "BOOL" and any(int(part.max()) > 1 for part in _parts(raw)):
        raise BadModelFile(f"tensor {tensor.name!r} holds a truth value that is neither 0 nor 1")
    if tensor.dtype == _BF16:
        array = (raw.view("<u2").astype(np.uint32) << 16).view(np.float32).reshape(tensor.shape)
    else:
        array = raw.view(_NUMPY[tensor.dtype]).reshape(tensor.shape)
    array.flags.writeable = False
    if array.dtype.kind == "f" and not all(np.isfinite(part).all() for part in _parts(array.reshape(-1))):
        raise BadModelFile(f"tensor {tensor.name!r} holds a number that is not finite")
    return array


def _parts(flat: Array) -> Iterator[Array]:
    return (flat[start : start + _BLOCK] for start in range(0, flat.size, _BLOCK))
