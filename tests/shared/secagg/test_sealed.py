"""Engine `sealed`: what was changed, cut, moved or meant for another round is refused."""

import numpy as np
import pytest

from tests.shared.secagg.verifiers import UNCERTIFIED
from tests.shared.wire.manifests import manifest
from undersong.shared.ids import SiteId
from undersong.shared.secagg.engine import UPLOAD, ClientRound, Payload, ServerRound, UpdateRefused, check_header
from undersong.shared.secagg.engines import ENGINES, EngineUnknown, engine_named
from undersong.shared.secagg.fold import BytesSource
from undersong.shared.secagg.payload import model_payload, sums_payload, train_payload
from undersong.shared.secagg.sealed.engine import CHUNK, SEALED
from undersong.shared.wire.manifest import RoundKind, RoundManifest
from undersong.shared.wire.updates import MalformedUpdate, UpdateHeader, read_header, write_header

SITE = SiteId("site_a")
MANIFEST = manifest()
OPENED = SEALED.server.open(MANIFEST)
SERVER_ROUND = ServerRound(MANIFEST, OPENED.secret)
LARGE = 2 * CHUNK + 8


def seal(data: bytes, *, client_round: ClientRound | None = None) -> bytearray:
    client_round = client_round or ClientRound(MANIFEST, SITE, OPENED.public)
    payload = Payload(RoundKind.TRAIN, len(data) // 4, 32, memoryview(data))
    _, pieces = SEALED.client.upload(client_round, SEALED.client.begin(client_round, UNCERTIFIED), None, payload)
    return bytearray(b"".join(bytes(piece) for piece in pieces))


def unseal(body: bytes | bytearray, *, server_round: ServerRound = SERVER_ROUND) -> bytes:
    header, offset = read_header(bytes(body))
    return b"".join(
        bytes(block) for block in SEALED.server.open_payload(server_round, header, BytesSource(bytes(body), offset))
    )


@pytest.mark.parametrize("size", [4, CHUNK - 4, CHUNK, CHUNK + 4, LARGE])
def test_what_is_sealed_comes_out(size) -> None:
    data = np.random.default_rng(size).bytes(size)
    body = seal(data)
    header, offset = read_header(bytes(body))
    assert unseal(body) == data
    assert len(body) - offset == SEALED.server.body_size(MANIFEST, header)
    assert data[:64] not in bytes(body)
    check_header(header, MANIFEST, SITE, length=size // 4)


def test_two_seals_share_nothing() -> None:
    assert seal(b"same" * 4)[-32:] != seal(b"same" * 4)[-32:]


@pytest.mark.parametrize("where", [0, 1, CHUNK, CHUNK + 20, -1])
def test_a_changed_bit_is_refused(where) -> None:
    body = seal(bytes(LARGE))
    _, offset = read_header(bytes(body))
    body[where if where < 0 else offset + where] ^= 1
    with pytest.raises(UpdateRefused):
        unseal(body)


def chunks(body: bytearray) -> tuple[bytes, list[bytes]]:
    _, offset = read_header(bytes(body))
    size = CHUNK + 16
    return bytes(body[:offset]), [bytes(body[at : at + size]) for at in range(offset, len(body), size)]


@pytest.mark.parametrize(
    "change",
    [
        lambda c: c[:-1],
        lambda c: [c[1], c[0], c[2]],
        lambda c: [c[0], c[0], c[2]],
        lambda c: [*c, c[2]],
        lambda c: [*c[:-1], c[-1] + b"\0"],
        lambda c: [*c[:-1], c[-1][:-1]],
        lambda _: [],
    ],
    ids=["last cut off", "swapped", "repeated", "one more", "longer", "shorter", "empty"],
)
def test_chunks_cannot_be_cut_moved_or_added(change) -> None:
    head, parts = chunks(seal(bytes(LARGE)))
    with pytest.raises(UpdateRefused):
        unseal(head + b"".join(change(parts)))


def test_a_shorter_length_in_the_header_does_not_cut() -> None:
    """Truncation to whole chunks with a matching header: the last flag and the header's digest both refuse it."""
    body = seal(bytes(LARGE))
    header, _ = read_header(bytes(body))
    _, parts = chunks(body)
    short = UpdateHeader(**{**{name: getattr(header, name) for name in header.__slots__}, "length": CHUNK // 4})
    with pytest.raises(UpdateRefused):
        unseal(write_header(short) + parts[0])


def test_another_site_or_key_is_refused() -> None:
    body = seal(bytes(16), client_round=ClientRound(MANIFEST, SiteId("site_b"), OPENED.public))
    header, offset = read_header(bytes(body))
    stolen = UpdateHeader(**{**{name: getattr(header, name) for name in header.__slots__}, "site_id": SITE})
    with pytest.raises(UpdateRefused):
        unseal(write_header(stolen) + bytes(body[offset:]))
    with pytest.raises(UpdateRefused):
        unseal(seal(bytes(16)), server_round=ServerRound(MANIFEST, SEALED.server.open(MANIFEST).secret))


@pytest.mark.parametrize("public", [{}, {"hpke_public_key": 3}, {"hpke_public_key": "zz"}, {"hpke_public_key": "00"}])
def test_an_unusable_public_key_is_refused(public) -> None:
    with pytest.raises(UpdateRefused):
        SEALED.client.begin(ClientRound(MANIFEST, SITE, public), UNCERTIFIED)


@pytest.mark.parametrize(
    "material",
    [
        {},
        {"key": b"k" * 80},
        {"key": b"k" * 79, "chunk": 24},
        {"key": b"k" * 80, "chunk": 0},
        {"key": b"k" * 80, "chunk": 25},
        {"key": b"k" * 80, "chunk": 2**30},
        {"key": 1, "chunk": 24},
        {"key": b"k" * 80, "chunk": 24, "more": 1},
    ],
)
def test_unusable_material_is_refused_at_the_door(material) -> None:
    header, _ = read_header(bytes(seal(bytes(16))))
    changed = UpdateHeader(**{**{name: getattr(header, name) for name in header.__slots__}, "material": material})
    with pytest.raises(UpdateRefused):
        SEALED.server.body_size(MANIFEST, changed)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("round_id", "rnd_2"),
        ("site_id", "site_b"),
        ("engine", "pairwise"),
        ("kind", RoundKind.EVALUATE),
        ("modulus_bits", 16),
        ("length", 5),
        ("manifest_digest", "cd" * 32),
    ],
)
def test_a_header_for_something_else_is_refused(field, value) -> None:
    header, _ = read_header(bytes(seal(bytes(16))))
    changed = UpdateHeader(**{**{name: getattr(header, name) for name in header.__slots__}, field: value})
    with pytest.raises(UpdateRefused, match=field):
        check_header(changed, MANIFEST, SITE, length=4)


def test_a_stranger_and_a_stray_layout_are_refused() -> None:
    header, _ = read_header(bytes(seal(bytes(16), client_round=ClientRound(MANIFEST, SiteId("site_x"), OPENED.public))))
    with pytest.raises(UpdateRefused, match="cohort"):
        check_header(header, MANIFEST, SiteId("site_x"))
    header, _ = read_header(bytes(seal(bytes(16))))
    changed = UpdateHeader(**{**{name: getattr(header, name) for name in header.__slots__}, "metrics_layout": "binary"})
    with pytest.raises(MalformedUpdate):
        check_header(changed, MANIFEST, SITE)


def test_sealed_has_no_other_step() -> None:
    assert SEALED.steps == (UPLOAD,)
    assert SEALED.server.close(SERVER_ROUND, UPLOAD, {SITE: bytes(32)}).secret == SERVER_ROUND.secret
    with pytest.raises(UpdateRefused):
        SEALED.server.close(SERVER_ROUND, "unmask", {})
    with pytest.raises(UpdateRefused):
        SEALED.client.message(ClientRound(MANIFEST, SITE, OPENED.public), b"", "advertise", None)


def test_engines_are_found_by_name() -> None:
    assert engine_named("sealed") is SEALED
    assert all(name == engine.name and UPLOAD in engine.steps for name, engine in ENGINES.items())
    with pytest.raises(EngineUnknown, match="sealed"):
        engine_named("plain")


def through(made: RoundManifest, payload: Payload) -> bytes:
    opened = SEALED.server.open(made)
    client_round = ClientRound(made, SITE, opened.public)
    body = b"".join(bytes(part) for part in SEALED.client.upload(client_round, b"", None, payload)[1])
    check_header(read_header(body)[0], made, SITE)
    return unseal(body, server_round=ServerRound(made, opened.secret))


def test_every_kind_of_round_goes_through() -> None:
    train = train_payload(MANIFEST, np.ones(10, np.float32), examples=42, loss=0.5, key=bytes(32))
    assert through(MANIFEST, train) == bytes(train.data)
    evaluate = manifest(RoundKind.EVALUATE)
    sums = sums_payload(evaluate, np.arange(5.0), "regression")
    assert through(evaluate, sums) == bytes(sums.data)
    model = model_payload(b"any bytes of a model")
    assert through(manifest(RoundKind.INITIALISE, model=None), model) == b"any bytes of a model"
