"""A sealed value opens in its own place only, and keys can be changed without losing any."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.identity.sealing import SealBrokenError, Sealer, add_key, drop_old_keys

PLACE = ("rounds", "rnd_1", "secret")


@pytest.fixture
def key_file(tmp_path: Path) -> Path:
    Sealer.ensure(tmp_path / "seal.key")
    return tmp_path / "seal.key"


def test_the_key_file_is_private(key_file: Path) -> None:
    assert key_file.stat().st_mode & 0o777 == 0o600


@given(st.binary(max_size=200))
def test_what_was_sealed_opens(tmp_path_factory: pytest.TempPathFactory, secret: bytes) -> None:
    sealer = Sealer.ensure(tmp_path_factory.getbasetemp() / "one.key")
    sealed = sealer.seal(secret, *PLACE)
    assert sealer.open(sealed, *PLACE) == secret
    assert secret == b"" or len(secret) < 8 or secret not in sealed


@pytest.mark.parametrize(
    "place",
    [
        ("tasks", "rnd_1", "secret"),
        ("rounds", "rnd_2", "secret"),
        ("rounds", "rnd_1", "other"),
        ("roundsr", "nd_1", "secret"),
    ],
)
def test_a_moved_value_does_not_open(key_file: Path, place: tuple[str, str, str]) -> None:
    sealer = Sealer(key_file)
    with pytest.raises(SealBrokenError):
        sealer.open(sealer.seal(b"x", *PLACE), *place)


def test_every_flipped_bit_is_noticed(key_file: Path) -> None:
    sealer = Sealer(key_file)
    sealed = sealer.seal(b"secret", *PLACE)
    for position in range(len(sealed)):
        broken = bytearray(sealed)
        broken[position] ^= 1
        with pytest.raises(SealBrokenError):
            sealer.open(bytes(broken), *PLACE)
    for length in range(len(sealed)):
        with pytest.raises(SealBrokenError):
            sealer.open(sealed[:length], *PLACE)


def test_a_new_key_seals_and_the_old_one_still_opens_until_dropped(key_file: Path) -> None:
    old = Sealer(key_file)
    sealed = old.seal(b"secret", *PLACE)
    add_key(key_file)
    both = Sealer(key_file)
    assert not both.is_current(sealed)
    resealed = both.reseal(sealed, *PLACE)
    assert both.is_current(resealed)
    drop_old_keys(key_file)
    new = Sealer(key_file)
    assert new.open(resealed, *PLACE) == b"secret"
    with pytest.raises(SealBrokenError):
        new.open(sealed, *PLACE)
