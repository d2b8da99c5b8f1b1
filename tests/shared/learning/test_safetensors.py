"""Model files: what the reference library writes we read, what we write it reads, and anything odd is refused."""

import contextlib
import json
import struct

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from safetensors import numpy as reference

from tests.effort import examples
from undersong.shared.learning.safetensors import BadModelFile, read, read_header, read_metadata, tensor_digest, write

DTYPES = ["f8", "f4", "f2", "i8", "i4", "i2", "i1", "u8", "u4", "u2", "u1", "bool"]
NAMES = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1, max_size=12).filter(
    lambda n: n != "__metadata__"
)


@st.composite
def arrays(draw):
    dtype = np.dtype(draw(st.sampled_from(DTYPES)))
    finite = {"allow_nan": False, "allow_infinity": False} if dtype.kind == "f" else {}
    return draw(hnp.arrays(dtype, hnp.array_shapes(min_dims=0, max_dims=3, max_side=4), elements=finite or None))


MODELS = st.dictionaries(NAMES, arrays(), min_size=1, max_size=5)


def same(one, other) -> bool:
    return one.keys() == other.keys() and all(
        one[n].dtype == other[n].dtype and one[n].shape == other[n].shape and one[n].tobytes() == other[n].tobytes()
        for n in one
    )


@given(
    MODELS,
    st.dictionaries(
        NAMES, st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=8), max_size=1
    ),
)
@settings(max_examples=examples(80))
def test_the_reference_library_and_ours_agree(tensors, metadata) -> None:
    ours, theirs = write(tensors, metadata), reference.save(tensors, metadata or None)
    assert ours == theirs
    assert same(read(theirs), tensors)
    assert same(reference.load(ours), tensors)
    assert read_metadata(ours) == metadata


def test_the_bytes_are_always_the_same() -> None:
    tensors = {name: np.zeros(2, np.float32) for name in "cab"}
    metadata = {str(i): "x" for i in range(20)}
    backwards = dict(reversed(list(tensors.items())))
    assert write(tensors, metadata) == write(backwards, dict(reversed(list(metadata.items()))))


def built(header: object, data: bytes = b"") -> bytes:
    packed = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(packed)) + packed + data


def tensor(dtype: object = "F32", shape: object = (1,), offsets: object = (0, 4), **more: object) -> dict[str, object]:
    return {"dtype": dtype, "shape": shape, "data_offsets": offsets, **more}


FOUR = b"\0\0\0\0"
BAD = {
    "nothing": b"",
    "only a length": struct.pack("<Q", 2),
    "length beyond the file": struct.pack("<Q", 2**63) + b"{}",
    "a header of 100 MB": struct.pack("<Q", 100_000_000) + b"{}",
    "no tensor": built({}),
    "not an object": built([]),
    "not JSON": built(b"{]"),
    "not UTF-8": built(b'{"\xff": 1}'),
    "deep": built(b'{"a":' * 5000),
    "space before the brace": built(b' {"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}', FOUR),
    "a repeated key": built(
        b'{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}',
        FOUR,
    ),
    "a repeated field": built(b'{"a":{"dtype":"F32","dtype":"I32","shape":[1],"data_offsets":[0,4]}}', FOUR),
    "an unknown field": built({"a": tensor(colour="red")}, FOUR),
    "a missing field": built({"a": {"dtype": "F32", "shape": [1]}}, FOUR),
    "an unknown type": built({"a": tensor("F8")}, FOUR),
    "a type that is no text": built({"a": tensor(["F32"])}, FOUR),
    "a negative shape": built({"a": tensor(shape=[-1])}, FOUR),
    "a huge shape": built({"a": tensor(shape=[2**40, 2**40])}, FOUR),
    "a shape of booleans": built({"a": tensor(shape=[True])}, FOUR),
    "a shape of floats": built({"a": tensor(shape=[1.0])}, FOUR),
    "a rank of 17": built({"a": tensor(shape=[1] * 17)}, FOUR),
    "NaN as an offset": built(b'{"a":{"dtype":"F32","shape":[1],"data_offsets":[NaN,4]}}', FOUR),
    "three offsets": built({"a": tensor(offsets=[0, 4, 8])}, FOUR),
    "backward offsets": built({"a": tensor(offsets=[4, 0])}, FOUR),
    "another size": built({"a": tensor(shape=[2])}, FOUR),
    "data beyond the end": built({"a": tensor(offsets=[4, 8])}, FOUR),
    "data left over": built({"a": tensor()}, FOUR + b"\0"),
    "data missing": built({"a": tensor()}, FOUR[:3]),
    "a gap": built({"a": tensor(), "b": tensor(offsets=[8, 12])}, FOUR * 3),
    "an overlap": built({"a": tensor(), "b": tensor(offsets=[2, 6])}, FOUR * 2),
    "the same place twice": built({"a": tensor(), "b": tensor()}, FOUR),
    "an empty name": built({"": tensor()}, FOUR),
    "a long name": built({"a" * 513: tensor()}, FOUR),
    "metadata that is a list": built({"__metadata__": [], "a": tensor()}, FOUR),
    "metadata of numbers": built({"__metadata__": {"a": 1}, "a": tensor()}, FOUR),
    "NaN": built({"a": tensor()}, np.float32("nan").tobytes()),
    "infinity": built({"a": tensor()}, np.float32("-inf").tobytes()),
    "half infinity": built({"a": tensor("F16", offsets=[0, 2])}, np.float16("inf").tobytes()),
    "neither true nor false": built({"a": tensor("BOOL", offsets=[0, 1])}, b"\2"),
}


def test_200_000_empty_tensors_are_refused() -> None:
    body = built({str(i): tensor(shape=[0], offsets=[0, 0]) for i in range(200_000)})
    with pytest.raises(BadModelFile):
        read(body)


@pytest.mark.parametrize("name", BAD)
def test_an_odd_file_is_refused(name) -> None:
    with pytest.raises(BadModelFile):
        read(BAD[name])


@given(MODELS, st.data())
@settings(max_examples=examples(150))
def test_noise_is_refused_or_read_and_never_an_error_of_ours(tensors, data) -> None:
    body = bytearray(write(tensors))
    for _ in range(data.draw(st.integers(1, 4))):
        place = data.draw(st.integers(0, len(body) - 1))
        body[place] = data.draw(st.integers(0, 255))
    if data.draw(st.booleans()):
        del body[data.draw(st.integers(0, len(body))) :]
    with contextlib.suppress(BadModelFile):
        read(bytes(body))


def test_a_header_can_be_read_before_the_data() -> None:
    body = write({"a": np.zeros(1000, np.float32)}, {"k": "v"})
    header = read_header(body[:200], size=len(body))
    assert header.tensors[0].shape == (1000,)
    with pytest.raises(BadModelFile):
        read_header(body[:200])


def test_what_is_read_cannot_be_written_to() -> None:
    with pytest.raises(ValueError, match="read-only"):
        read(bytearray(write({"a": np.zeros(3)})))["a"][0] = 1


def test_types_that_a_file_cannot_hold_are_refused() -> None:
    for array in (np.zeros(1, complex), np.array(["text"]), np.array([object()])):
        with pytest.raises(BadModelFile):
            write({"a": array})
        with pytest.raises(BadModelFile):
            tensor_digest({"a": array})


@given(MODELS)
def test_the_tensor_digest_is_of_the_model_not_of_the_file(tensors) -> None:
    backwards = dict(reversed(list(tensors.items())))
    assert tensor_digest(tensors) == tensor_digest(backwards) == tensor_digest(read(write(tensors, {"note": "other"})))


def test_the_tensor_digest_sees_every_change() -> None:
    base = {"a": np.zeros((2, 3), np.float32), "b": np.zeros(1, np.int64)}
    others = [
        {**base, "a": np.zeros((3, 2), np.float32)},
        {**base, "a": np.zeros((2, 3), np.int32)},
        {**base, "a": np.full((2, 3), -0.0, np.float32)},
        {"a": base["a"], "c": base["b"]},
        {"a": base["a"]},
    ]
    assert len({tensor_digest(model) for model in [base, *others]}) == 6
    big = {name: array.astype(array.dtype.newbyteorder(">")) for name, array in base.items()}
    assert tensor_digest(big) == tensor_digest(base)


def test_bfloat16_is_read_exactly_and_written_to_the_nearest() -> None:
    """Against torch, whose type it is: every one of the 65,536 words that are finite, and random float32 numbers."""
    import torch

    words = np.arange(2**16, dtype=np.uint16)
    exact = (words.astype(np.uint32) << 16).view(np.float32)
    exact = exact[np.isfinite(exact)]
    data = write({"w": exact}, bfloat16=["w"])
    assert read_header(data).tensors[0].dtype == "BF16"
    assert np.array_equal(read(data)["w"].view(np.uint32), exact.view(np.uint32))
    drawn = (np.random.default_rng(0).normal(size=50_000) * 10.0 ** np.arange(-25, 25).repeat(1000)).astype(np.float32)
    wanted = torch.from_numpy(drawn).to(torch.bfloat16).float().numpy()
    assert np.array_equal(read(write({"w": drawn}, bfloat16=["w"]))["w"], wanted)


def test_bfloat16_files_are_those_of_the_reference_writer() -> None:
    import torch
    from safetensors.torch import load, save

    tensors = {"w": torch.tensor([[1.0, -2.5], [3.1e38, 1e-40]], dtype=torch.bfloat16), "n": torch.zeros(3)}
    ours = read(save(tensors))
    assert {name: array.dtype.name for name, array in ours.items()} == {"w": "float32", "n": "float32"}
    back = load(write(ours, bfloat16=["w"]))
    assert back["w"].dtype == torch.bfloat16
    assert torch.equal(back["w"], tensors["w"])


def test_bfloat16_that_is_not_finite_or_not_float32_is_refused() -> None:
    for wrong in (np.array([np.inf], np.float32), np.zeros(2), np.zeros(2, np.float16)):
        with pytest.raises(BadModelFile, match="bfloat16"):
            write({"w": wrong}, bfloat16=["w"])
    infinite = write({"w": np.zeros(1, np.float32)}, bfloat16=["w"])[:-2] + b"\x80\x7f"
    with pytest.raises(BadModelFile, match="not finite"):
        read(infinite)
    a, b = np.ones(2, np.float32), {"w": np.ones(2, np.float32)}
    assert tensor_digest(b) != tensor_digest({"w": a}, bfloat16=["w"])
