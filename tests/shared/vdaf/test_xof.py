"""The XOFs against their published vectors, and against plain rejection sampling."""

import secrets
from pathlib import Path

import pytest

from tests.shared.vdaf.published import names, read
from undersong.shared.vdaf.field import FIELD40, FIELD128
from undersong.shared.vdaf.field64 import FIELD64
from undersong.shared.vdaf.xof import XofHmacSha256Aes128, XofTurboShake128

XOFS = {"XofHmacSha256Aes128": XofHmacSha256Aes128, "XofTurboShake128": XofTurboShake128}


@pytest.mark.parametrize("path", [*names("pine/XofHmac*.json"), *names("vdaf/XofTurbo*.json")])
def test_equals_the_published_vector(path: Path) -> None:
    vector, xof = read(path), XOFS[path.stem]
    seed, dst, binder = (bytes.fromhex(vector[name]) for name in ("seed", "dst", "binder"))
    assert xof.derive_seed(seed, dst, binder).hex() == vector["derived_seed"]
    expanded = xof.expand_into_vec(FIELD128, seed, dst, binder, vector["length"])
    assert FIELD128.encode(expanded).hex() == vector["expanded_vec_field128"]


@pytest.mark.parametrize("xof", XOFS.values())
def test_a_stream_is_the_same_however_it_is_read(xof: type[XofHmacSha256Aes128]) -> None:
    seed = secrets.token_bytes(32)
    whole = xof(seed, b"tag", b"bin", b"der").next(300_000)
    pieces = xof(seed, b"tag", b"binder")
    assert pieces.next(1) + pieces.fill(299_000).tobytes() + pieces.next(999) == whole


def test_numbers_above_the_modulus_are_left_out() -> None:
    """Field40 rejects one in 2**20, Field64 one in 2**32: fed with crafted bytes, both keep order and skip."""
    p = FIELD64.modulus
    data = b"".join(value.to_bytes(8, "little") for value in (5, p, p - 1, 2**64 - 1, 7))
    assert FIELD64.integers(FIELD64.sieve(data)) == [5, p - 1, 7]
    data = b"".join(value.to_bytes(5, "little") for value in (FIELD40.modulus, 9, 2**40 - 1))
    assert FIELD40.integers(FIELD40.sieve(data)) == [9]


def test_a_seed_of_another_length_is_refused() -> None:
    with pytest.raises(ValueError, match="32 bytes"):
        XofHmacSha256Aes128(bytes(16), b"", b"")


def test_a_tag_that_is_too_long_is_refused() -> None:
    with pytest.raises(ValueError, match="at most 255 bytes"):
        XofHmacSha256Aes128(bytes(32), bytes(256))
