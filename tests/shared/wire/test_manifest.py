"""The round manifest and the documents around it."""

import copy

import pytest
from pydantic import ValidationError

from tests.shared.wire.manifests import DIGEST, manifest
from undersong.shared.ids import Digest
from undersong.shared.wire.manifest import (
    Encoding,
    EnginePublic,
    RoundKind,
    RoundManifest,
    SignedManifest,
    version_statement,
)
from undersong.shared.wire.profiles import Column, DatasetSchema, RecipeSpec, Task
from undersong.shared.wire.updates import ReceiptDoc


def test_json_keeps_the_digest() -> None:
    """What the coordinator signs is what an agent reads from JSON."""
    made = manifest(context={"statistics": [1.0, 2.5, 1e20]}, strategy={"name": "fedadam", "params": {"eta": 1.0}})
    assert RoundManifest.model_validate_json(made.model_dump_json()).digest() == made.digest()
    signed = SignedManifest(manifest=made, keyid=DIGEST, signature="00" * 64)
    assert SignedManifest.model_validate_json(signed.model_dump_json()) == signed


@pytest.mark.parametrize(
    "changes",
    [
        {"round_id": "rnd_2"},
        {"attempt": 2},
        {"seed": 8},
        {"epoch": 1},
        {"cohort": ("site_a", "site_b", "site_d")},
        {"model": {"version_id": "ver_1", "digest": "cd" * 32}},
        {"weight_unit": 11},
        {"recipe": {"name": "null", "digest": DIGEST, "params": {"parameters": 2}}},
    ],
)
def test_every_fact_is_in_the_digest(changes) -> None:
    assert manifest(**changes).digest() != manifest().digest()


def test_a_digest_that_is_kept_is_of_this_document_only() -> None:
    made, fresh = manifest(), manifest()
    digest = made.digest()
    assert made.model_copy(update={"attempt": 2}).digest() == manifest(attempt=2).digest() != digest
    assert copy.deepcopy(made).digest() == copy.copy(made).digest() == digest
    assert made == fresh
    assert made.model_dump() == fresh.model_dump()
    assert repr(made) == repr(fresh)


@pytest.mark.parametrize(
    "changes",
    [
        {"cohort": ("site_b", "site_a", "site_c")},
        {"cohort": ("site_a", "site_a", "site_c")},
        {"min_cohort": 4},
        {"target": 4},
        {"model": None},
        {"encoding": None},
        {"deadline_s": float("inf")},
        {"seed": -1},
        {"protocol": 2},
        {"surprise": 1},
        {"cohort": ("site_a", "site_b", "site_c", "site_d"), "target": 4},
    ],
)
def test_a_manifest_that_contradicts_itself_is_refused(changes) -> None:
    with pytest.raises(ValidationError):
        manifest(**changes)


def test_initialise_has_neither_model_nor_encoding() -> None:
    assert manifest(RoundKind.INITIALISE, model=None).encoding is None
    assert manifest(RoundKind.STATISTICS, model=None).model is None


def test_an_encoding_without_headroom_is_no_encoding() -> None:
    fits = {"modulus_bits": 16, "max_summands": 4, "max_weight": 8, "scale": 1.0, "clip_norm": None}
    Encoding.model_validate({**fits, "bound": 1023})
    with pytest.raises(ValidationError):
        Encoding.model_validate({**fits, "bound": 1024})


def test_statements_are_apart() -> None:
    """A signature over one kind of statement is none over another."""
    receipt = ReceiptDoc(round_id="rnd_1", site_id="site_a", digest=DIGEST, size=1, accepted_at="2026-11-22T00:00:00Z")
    public = EnginePublic(round_id="rnd_1", manifest_digest=DIGEST, engine="sealed", public={"hpke_public_key": "00"})
    statements = [
        manifest().statement(),
        receipt.statement(),
        public.statement(),
        version_statement("mdl_1", DIGEST, {}),
    ]
    assert len({statement.split(b"\0")[0] for statement in statements}) == 4
    assert all(statement.startswith(b"undersong/") for statement in statements)


def test_profiles_travel_as_json() -> None:
    schema = DatasetSchema(
        name="heart", kind="csv", columns=(Column(name="cp", type="category", categories=("1", "2")),), rows=303
    )
    assert DatasetSchema.model_validate_json(schema.model_dump_json()).digest() == schema.digest()
    with pytest.raises(ValidationError):
        RecipeSpec(name="x", version="1", digest=Digest("short"), task=Task.BINARY)
