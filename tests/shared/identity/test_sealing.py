"""A sealed value opens in its own place only, and keys can be changed without losing any."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from undersong.shared.identity.sealing import SealBrokenError, Sealer, add_key, drop_old_keys

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


def test_a_new_key_seals_and_the_old_one_opens_until_the_next_rotation(key_file: Path) -> None:
    old = Sealer(key_file)
    sealed = old.seal(b"secret", *PLACE)
    add_key(key_file)
    both = Sealer(key_file)
    assert not both.is_current(sealed)
    resealed = both.reseal(sealed, *PLACE)
    assert both.is_current(resealed)
    drop_old_keys(key_file)
    assert Sealer(key_file).open(sealed, *PLACE) == b"secret"
    add_key(key_file)
    drop_old_keys(key_file)
    new = Sealer(key_file)
    assert new.open(resealed, *PLACE) == b"secret"
    with pytest.raises(SealBrokenError):
        new.open(sealed, *PLACE)


def test_a_running_process_follows_the_file(key_file: Path) -> None:
    """It opens what others sealed under the new key, and seals nothing under the old one any more."""
    running = Sealer(key_file)
    before = running.seal(b"before", *PLACE)
    add_key(key_file)
    elsewhere = Sealer(key_file)
    assert running.open(elsewhere.seal(b"elsewhere", *PLACE), *PLACE) == b"elsewhere"
    assert not running.is_current(before)
    assert elsewhere.is_current(running.seal(b"after", *PLACE))
    key_file.write_text("half a line")
    assert running.open(running.seal(b"still", *PLACE), *PLACE) == b"still"


def test_nonces_never_come_again_across_restarts_and_clones(key_file: Path) -> None:
    """Random 96-bit nonces under one key: of 200,000 by sealers that know nothing of each other, none twice."""
    sealers = [Sealer(key_file) for _ in range(4)]
    nonces = {sealer.seal(b"", *PLACE)[5:17] for sealer in sealers for _ in range(50_000)}
    assert len(nonces) == 200_000
