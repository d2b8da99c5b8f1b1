"""The binary body's header."""

import struct

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.shared.wire.manifests import DIGEST
from undersong.shared.wire.manifest import RoundKind
from undersong.shared.wire.updates import (
    MalformedUpdate,
    UpdateHeader,
    header_digest,
    header_span,
    parse_header,
    read_header,
    write_header,
)

HEADER = UpdateHeader(
    round_id="rnd_1",
    manifest_digest=DIGEST,
    site_id="site_a",
    engine="sealed",
    kind=RoundKind.TRAIN,
    length=1000,
    modulus_bits=24,
    material={"key": b"k" * 80, "chunk": 24},
)


def document(**changes: object) -> dict[str, object]:
    packed = write_header(HEADER)
    return {**msgpack.unpackb(packed[8 : 8 + struct.unpack_from("<I", packed, 4)[0]]), **changes}


def test_what_is_written_is_read() -> None:
    body = write_header(HEADER) + b"payload"
    header, offset = read_header(body)
    assert header == HEADER
    assert body[offset:] == b"payload"
    assert offset == header_span(body[:8])
    assert offset % 64 == 0
    assert header.plain_size == 3000
    assert header_digest(header) == header_digest(HEADER)


@pytest.mark.parametrize(
    "changes",
    [
        {"length": 0},
        {"length": -1},
        {"length": 2**60},
        {"length": True},
        {"length": 1.0},
        {"modulus_bits": 31},
        {"modulus_bits": "32"},
        {"kind": "steal"},
        {"kind": 1},
        {"manifest_digest": "AB" * 32},
        {"manifest_digest": b"ab"},
        {"site_id": ""},
        {"site_id": "s" * 129},
        {"metrics_layout": 1},
        {"metrics_layout": "m" * 65},
        {"material": {"key": "text"}},
        {"material": {"key": True}},
        {"material": [1]},
        {"material": {str(i): i for i in range(17)}},
        {"extra": 1},
    ],
)
def test_a_header_in_another_form_is_refused(changes) -> None:
    with pytest.raises(MalformedUpdate):
        parse_header(msgpack.packb(document(**changes)))


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"USU1",
        b"USU2" + write_header(HEADER)[4:],
        b"USU1" + struct.pack("<I", 0) + b"x" * 56,
        b"USU1" + struct.pack("<I", 2**31) + b"x" * 56,
        write_header(HEADER)[:-1],
        write_header(HEADER)[:-1] + b"\1",
    ],
    ids=["empty", "no length", "magic", "length 0", "length huge", "cut off", "padding"],
)
def test_a_body_with_another_beginning_is_refused(body) -> None:
    with pytest.raises(MalformedUpdate):
        read_header(body)


def test_a_repeated_key_is_refused() -> None:
    packed = msgpack.packb(document())
    once = msgpack.packb("length") + msgpack.packb(1000)
    twice = packed.replace(once, once + once, 1)
    assert twice != packed
    with pytest.raises(MalformedUpdate):
        parse_header(bytes([packed[0] + 1]) + twice[1:])


@given(st.binary(max_size=200))
def test_noise_is_refused_and_never_an_error_of_ours(noise) -> None:
    with pytest.raises(MalformedUpdate):
        parse_header(noise)


@given(st.integers(0, len(write_header(HEADER)) - 1), st.integers(1, 255))
def test_a_changed_byte_is_seen(place, flip) -> None:
    """Either the header is refused, or its digest, which the payload is sealed to, is another."""
    body = bytearray(write_header(HEADER))
    body[place] ^= flip
    try:
        header, _ = read_header(bytes(body))
    except MalformedUpdate:
        return
    assert header_digest(header) != header_digest(HEADER)
