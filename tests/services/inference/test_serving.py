"""What is served was verified: every other file, evidence, authority, version and recipe is refused."""

import os
from pathlib import Path
from typing import Any

import pytest

from tests.services.inference.versions import Trained
from undersong.recipes.protocol import RecipeError
from undersong.services.inference.serving import EvidenceRefused, ModelDiffers, load_version
from undersong.shared.errors import Refusal


@pytest.fixture(scope="module")
def other() -> Trained:
    return Trained(seed=2)


def refused(made: Trained, folder: Path, kind: type[Refusal], **settings: Any) -> str:
    with pytest.raises(kind) as found:
        load_version(made.settings(folder, **settings))
    return found.value.detail


def test_a_changed_model_file_is_refused(trained: Trained, tmp_path: Path) -> None:
    settings = trained.settings(tmp_path)
    content = bytearray(trained.content)
    content[-1] ^= 1
    settings.model_file.write_bytes(content)
    with pytest.raises(ModelDiffers, match="undersong model pull"):
        load_version(settings)
    settings.model_file.write_bytes(trained.content[:-1])
    with pytest.raises(ModelDiffers):
        load_version(settings)


def test_evidence_of_another_version_is_refused(trained: Trained, other: Trained, tmp_path: Path) -> None:
    settings = trained.settings(tmp_path)
    settings.evidence_file.write_bytes(other.evidence.pack())
    with pytest.raises(EvidenceRefused, match="not the one that was pinned"):
        load_version(settings)
    pinned = settings.model_copy(update={"ca_fingerprint": other.fingerprint})
    with pytest.raises(ModelDiffers):
        load_version(pinned)
    assert "not about ver_9" in refused(trained, tmp_path, EvidenceRefused, version="ver_9")
    assert load_version(trained.settings(tmp_path, version="ver_2")).evidence.id == "ver_2"


def test_evidence_that_was_changed_is_refused(trained: Trained, tmp_path: Path) -> None:
    settings = trained.settings(tmp_path)
    text = settings.evidence_file.read_text()
    newest = trained.evidence.versions[0].content_digest
    for changed in (text.replace(newest, "0" * 64), text.replace('"binary"', '"regression"'), text[:-9], "{}", ""):
        settings.evidence_file.write_text(changed)
        with pytest.raises(EvidenceRefused, match="Nothing is served"):
            load_version(settings)


def test_an_authority_must_be_pinned(trained: Trained, tmp_path: Path) -> None:
    assert "No trusted authority was given" in refused(trained, tmp_path, EvidenceRefused, ca_fingerprint=None)
    shown = ":".join(trained.fingerprint[at : at + 2] for at in range(0, 64, 2)).upper()
    assert load_version(trained.settings(tmp_path, ca_fingerprint=shown)).authority == trained.fingerprint


def test_a_round_without_a_version_is_refused(trained: Trained, tmp_path: Path) -> None:
    settings = trained.settings(tmp_path)
    settings.evidence_file.write_bytes(trained.bundle("evaluate").pack())
    with pytest.raises(EvidenceRefused, match="made no version"):
        load_version(settings)


def test_another_release_of_the_recipe_is_refused(trained: Trained, tmp_path: Path) -> None:
    version = Trained()
    version.recipe = version.recipe.model_copy(update={"digest": "0" * 64})
    version.evidence = version.bundle()
    assert "install the release" in refused(version, tmp_path, RecipeError)


def test_links_are_followed_and_what_was_checked_is_used(trained: Trained, tmp_path: Path) -> None:
    """Mounted secrets are links; a file that is exchanged afterwards changes nothing."""
    settings = trained.settings(tmp_path)
    real = tmp_path / "real"
    settings.model_file.rename(real)
    settings.model_file.symlink_to(real)
    found = load_version(settings)
    real.write_bytes(b"")
    assert found.predict({"a": [1.0], "b": [1.0], "c": ["x"]})
    settings.model_file.unlink()
    os.mkfifo(settings.model_file)
    with pytest.raises(OSError, match="a named pipe"):
        load_version(settings)
    settings.model_file.unlink()
    settings.model_file.symlink_to("/dev/zero")
    with pytest.raises(OSError, match="a device"):
        load_version(settings)
