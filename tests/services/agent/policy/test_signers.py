"""A policy that names a signer allows exactly the own recipes that this key signed, as they are now."""

import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml

from undersong.recipes.protocol import source_digest
from undersong.services.agent.policy import explain
from undersong.services.agent.policy.entries import PolicyFile
from undersong.services.agent.policy.file import PolicyError, parse, to_policy
from undersong.services.agent.policy.signers import signed_recipes
from undersong.shared.identity.owner import OwnerKey
from undersong.shared.identity.signed_recipes import recipe_signature_file, sign_recipe

EXAMPLE = Path(__file__).parents[4] / "examples" / "own-recipe" / "network.py"
SCIENTIST, STRANGER = OwnerKey.generate(), OwnerKey.generate()


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    return Path(shutil.copy(EXAMPLE, tmp_path))


def policy(**kwargs: Any) -> PolicyFile:
    document = {"federations": ["own"], "recipes": [], "datasets": {}, "engines": ["sealed"], **kwargs}
    return parse(Path("policy.yaml"), yaml.safe_dump(document).encode())


def test_a_signed_recipe_is_allowed_until_it_changes_and_no_other(recipe: Path, tmp_path: Path) -> None:
    (tmp_path / "other.py").write_text("RECIPE = None")
    file = policy(recipes=[{"signer": SCIENTIST.public}])
    assert not signed_recipes([tmp_path])
    sign_recipe(recipe, source_digest(recipe), SCIENTIST)
    sign_recipe(recipe, source_digest(recipe), STRANGER)
    signed = signed_recipes([tmp_path])
    assert {key: list(digests) for key, digests in signed.items()} == {
        SCIENTIST.public: [source_digest(recipe)],
        STRANGER.public: [source_digest(recipe)],
    }
    (rule,) = to_policy(file, signed).recipes
    assert rule.allows("network", source_digest(recipe), own=True)
    assert not rule.allows("other", source_digest(tmp_path / "other.py"), own=True)
    assert not to_policy(policy(recipes=[{"signer": OwnerKey.generate().public}]), signed).recipes
    (named,) = to_policy(policy(recipes=[{"name": "other", "signer": SCIENTIST.public}]), signed).recipes
    assert not named.allows("network", source_digest(recipe), own=True)
    recipe.write_text(recipe.read_text() + "\n")
    assert not signed_recipes([recipe])
    assert not to_policy(file, signed_recipes([recipe])).recipes
    sign_recipe(recipe, source_digest(recipe), SCIENTIST)
    assert list(signed_recipes([recipe])) == [SCIENTIST.public], "another digest's signatures are dropped"


@pytest.mark.parametrize("text", ["", "{}", "not json", "\0"])
def test_a_broken_signature_vouches_for_nothing(recipe: Path, text: str) -> None:
    recipe_signature_file(recipe).write_text(text)
    assert not signed_recipes([recipe])


def test_a_signature_for_another_purpose_or_of_another_file_vouches_for_nothing(recipe: Path, tmp_path: Path) -> None:
    sign_recipe(recipe, source_digest(recipe), SCIENTIST)
    renamed = tmp_path / "renamed.py"
    shutil.copy(recipe, renamed)
    shutil.copy(recipe_signature_file(recipe), recipe_signature_file(renamed))
    assert not signed_recipes([renamed])
    text = recipe_signature_file(recipe).read_text().replace(SCIENTIST.public, STRANGER.public)
    recipe_signature_file(recipe).write_text(text)
    assert not signed_recipes([recipe])


def test_approval_by_signer_is_that_of_its_recipes(recipe: Path) -> None:
    sign_recipe(recipe, source_digest(recipe), SCIENTIST)
    file = policy(
        consent="new", auto_approve=[{"signer": SCIENTIST.public, "epsilon": 1.0}, {"digest": "0" * 64, "epsilon": 2.0}]
    )
    ceilings = to_policy(file, signed_recipes([recipe])).consent.ceilings
    assert {digest: ceiling.epsilon for digest, ceiling in ceilings.items()} == {
        source_digest(recipe): 1.0,
        "0" * 64: 2.0,
    }
    assert list(to_policy(file).consent.ceilings) == ["0" * 64]


@pytest.mark.parametrize(
    "kwargs",
    [
        {"recipes": [{"signer": "x"}]},
        {"recipes": [{}]},
        {"recipes": [{"signer": "0" * 64, "digest": "0" * 64}]},
        {"consent": "new", "auto_approve": [{"epsilon": 1.0}]},
    ],
)
def test_what_names_no_code_or_two_is_refused(kwargs: dict[str, Any]) -> None:
    with pytest.raises(PolicyError, match=r"signer"):
        policy(**kwargs)


def test_a_signer_is_explained_and_compared() -> None:
    by, pinned = policy(recipes=[{"signer": SCIENTIST.public}]), policy(recipes=[{"digest": "0" * 64}])
    said, _ = explain.explain(by)
    assert any(f"the key {SCIENTIST.public} signed may run" in sentence for sentence in said)
    more, less = explain.diff(pinned, by)
    assert (len(more), len(less)) == (1, 1)
    assert explain.diff(by, by) == ([], [])
    named = policy(recipes=[{"name": "a", "signer": SCIENTIST.public}])
    assert explain.diff(by, named)[0] == [], "a name narrows it"
    assert len(explain.diff(policy(recipes=["a"]), named)[0]) == 1, "a name alone covers no own code"
