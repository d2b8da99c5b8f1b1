"""Whatever bytes come in: each parser answers, or raises the one exception that it declares."""

import json
import os
import struct
from collections.abc import Callable
from typing import Any, Final

import msgpack
import numpy as np
import psutil
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from undersong.services.agent.runner.protocol import FrameError, unpack
from undersong.services.keys.witness import WitnessQuestion
from undersong.shared.errors import Refusal
from undersong.shared.identity.digests import parse_content_digest
from undersong.shared.learning.safetensors import MAX_HEADER, BadModelFile, read, read_header, tensor_digest, write
from undersong.shared.learning.tensors import load
from undersong.shared.secagg.pairwise.messages import (
    Advertisement,
    Delivery,
    MalformedStep,
    OpeningShares,
    Survivors,
    unpack_list,
)
from undersong.shared.web.jsons import check_json
from undersong.shared.wire.manifest import RoundManifest, SignedManifest
from undersong.shared.wire.updates import MalformedUpdate, header_digest, header_span, write_header
from undersong.shared.wire.updates import read_header as read_update

EXAMPLES: Final = 100 * int(os.environ.get("UNDERSONG_FUZZ_EXAMPLES", "4"))
hostile = settings(
    max_examples=EXAMPLES, derandomize=True, database=None, deadline=None, suppress_health_check=list(HealthCheck)
)
numbers = st.integers(-(2**70), 2**70) | st.floats() | st.sampled_from([2**48, 2**63, 2**64 - 1, 0, -1, 1e308])
texts = st.text(max_size=20) | st.sampled_from(
    ["\0", "\ud800", "../../etc/passwd", "__metadata__", "\u202e", "a" * 600]
)
trees = st.recursive(
    st.none() | st.booleans() | numbers | texts,
    lambda below: st.lists(below, max_size=4) | st.dictionaries(texts, below, max_size=4),
    max_leaves=12,
)


def packable(tree: Any) -> bytes:
    try:
        return bytes(msgpack.packb(tree, unicode_errors="surrogatepass"))
    except (OverflowError, ValueError):
        return b""


packed = st.binary(max_size=200) | trees.map(packable) | st.builds(
    lambda data, at, byte: data[:at] + bytes([byte]) + data[at + 1 :],
    trees.map(packable), st.integers(0, 60), st.integers(0, 255),
) | st.sampled_from([b"\x91" * 100_000, b"\x81\xa1a" * 50_000, b"\xdd\xff\xff\xff\xff", b"\xdf\xff\xff\xff\xff",
                     b"\xc6\xff\xff\xff\xff", b"\xd6\xff\x00\x00\x00\x00", b"\xc7\x0c\xff" + b"\xff" * 12])  # fmt: skip


def only(kind: type[Exception] | tuple[type[Exception], ...], parse: Callable[[bytes], Any], data: bytes) -> Any:
    """What came of it; anything else that is raised fails the test."""
    try:
        return parse(data)
    except kind:
        return None


@hostile
@given(packed)
def test_step_messages_and_frames(data: bytes) -> None:
    for message in (Advertisement, Delivery, Survivors, OpeningShares):
        only(MalformedStep, message.unpack, data)
    only(MalformedStep, unpack_list, data)
    only(Refusal, WitnessQuestion.read, data)
    only(FrameError, unpack, data)


@hostile
@given(packed, st.binary(max_size=40))
def test_a_whole_question_of_the_witness(ask: bytes, manifest: bytes) -> None:
    only(Refusal, WitnessQuestion.read, bytes(msgpack.packb({"manifest": manifest, "ask": ask})))


fields = {
    "round_id": texts, "manifest_digest": texts | st.just("0" * 64), "site_id": texts, "engine": texts,
    "kind": texts | st.just("train"), "length": numbers, "modulus_bits": numbers | st.just(32),
    "metrics_layout": st.none() | texts,
    "material": st.dictionaries(texts, st.binary(max_size=9) | numbers, max_size=3),
}  # fmt: skip


@hostile
@given(st.fixed_dictionaries(fields).map(packable) | packed, st.binary(max_size=70))
def test_headers_of_updates(header: bytes, rest: bytes) -> None:
    body = b"USU1" + struct.pack("<I", len(header)) + header
    for data in (body + rest, body.ljust(-(-len(body) // 64) * 64, b"\0") + rest, b"USU1" + rest, rest):
        only(MalformedUpdate, header_span, data)
        found = only(MalformedUpdate, read_update, data)
        if found is not None:
            header_digest(found[0])
            assert read_update(write_header(found[0]))[0] == found[0]


def model_file(header: Any, data: bytes) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


ENTRY: Final = b'{"dtype":"U8","shape":[1],"data_offsets":[0,1]}'
entries = st.fixed_dictionaries(
    {
        "dtype": st.sampled_from(["F32", "BOOL", "F64", "U8", "BF16", "F16"]) | texts,
        "shape": st.lists(st.integers(0, 3) | st.sampled_from([2**47, 2**48, 2**63, -1]) | numbers, max_size=4),
        "data_offsets": st.lists(st.integers(0, 24) | numbers, max_size=3),
    }
)


@hostile
@given(st.dictionaries(texts, entries | trees, max_size=3) | trees | st.binary(max_size=60), st.binary(max_size=24))
@example({"a": {"dtype": "F32", "shape": [0, 2**47, 2**47], "data_offsets": [0, 0]}}, b"")
@example({"\ud800": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}, bytes(4))
@example({"a\0": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}, bytes(4))
@example({"__metadata__": {"undersong": "\ud800"}, "a": {"dtype": "U8", "shape": [1], "data_offsets": [0, 1]}}, b"x")
@example(
    b'{"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}}', b"x"
)
def test_model_files(header: Any, data: bytes) -> None:
    for file in (model_file(header, data), data):
        found = only(BadModelFile, read, file)
        if found is not None:
            tensor_digest(found)
            assert set(read(write(found))) == set(found)
        only(Refusal, load, file)


LYING = {
    "two tensors in one place": (
        {name: {"dtype": "U8", "shape": [4], "data_offsets": [0, 4]} for name in "ab"}, bytes(4)),
    "overlapping": ({"a": {"dtype": "U8", "shape": [4], "data_offsets": [0, 4]},
                     "b": {"dtype": "U8", "shape": [4], "data_offsets": [2, 6]}}, bytes(6)),
    "a gap": ({"a": {"dtype": "U8", "shape": [1], "data_offsets": [3, 4]}}, bytes(4)),
    "beyond the file": ({"a": {"dtype": "F32", "shape": [2**40], "data_offsets": [0, 2**42]}}, bytes(4)),
    "more data than tensors": ({"a": {"dtype": "U8", "shape": [1], "data_offsets": [0, 1]}}, bytes(2)),
}  # fmt: skip
LONG: Final[dict[str, Callable[[], tuple[dict[str, Any], bytes]]]] = {  # made where they are read
    "two hundred thousand tensors": lambda: (
        {str(n): {"dtype": "U8", "shape": [0], "data_offsets": [0, 0]} for n in range(200_000)}, b""),
    "fifty megabytes of metadata": lambda: (
        {"__metadata__": {"a": "x" * (50 << 20)}, "a": {"dtype": "U8", "shape": [1], "data_offsets": [0, 1]}}, b"x"),
}  # fmt: skip


@pytest.mark.parametrize("lie", [*LYING, *LONG])
def test_lying_model_files_cost_little(lie: str) -> None:
    file = model_file(*(LONG[lie]() if lie in LONG else LYING[lie]))
    before = psutil.Process().memory_info().rss
    with pytest.raises(BadModelFile):
        read_header(file)
    assert psutil.Process().memory_info().rss - before < 64 << 20


def test_a_header_that_says_it_is_larger_than_allowed_is_not_read() -> None:
    with pytest.raises(BadModelFile, match="beyond"):
        read_header(struct.pack("<Q", MAX_HEADER + 1) + b"{", size=1 << 40)
    with pytest.raises(BadModelFile):
        read_header(struct.pack("<Q", 2**64 - 1) + b"{}")


@hostile
@given(st.binary(max_size=200) | trees.map(lambda tree: json.dumps(tree).encode()))
@example(b'{"manifest": {"seed": 1e999}}')
@example(b"[" * 100_000)
def test_json_and_manifests(data: bytes) -> None:
    only(Refusal, check_json, data)
    only(ValidationError, RoundManifest.model_validate_json, data)
    only(ValidationError, SignedManifest.model_validate_json, data)


@hostile
@given(st.text(max_size=120) | st.builds("sha-256=:{}:".format, st.text("AZaz09+/=", min_size=40, max_size=46)))
def test_digest_headers(value: str) -> None:
    found = parse_content_digest(value)
    assert found is None or len(found) == 32


def test_numbers_that_are_not_finite_do_not_come_out_of_a_model_file() -> None:
    for value in (np.inf, -np.inf, np.nan):
        with pytest.raises(BadModelFile, match="finite"):
            read(write({"a": np.array([1, value], np.float32)}))
