"""Signatures of recipes: whose key vouches for the code, so that owners can allow a signer in place of each digest.

`NAME.py.sig` lies beside the recipe's file. What is signed is the recipe's digest, which covers the file's name and
bytes; a signature of one version says nothing of the next.
"""

import os
from pathlib import Path
from typing import Final, Literal

from pydantic import Field, ValidationError

from undersong.shared.files import read_bytes
from undersong.shared.identity.owner import KeySignature, OwnerKey
from undersong.shared.ids import Digest
from undersong.shared.wire.forms import DigestText, Document

RECIPE_CONTEXT: Final = b"undersong/recipe-signature/1\0"
_MOST_BYTES: Final = 64 * 1024


class RecipeSignature(Document):
    """`NAME.py.sig`: the digest of a recipe's code, and the keys that vouch for it."""

    version: Literal[1] = 1
    digest: DigestText
    signatures: tuple[KeySignature, ...] = Field(max_length=100)

    def signers_of(self, digest: Digest) -> frozenset[str]:
        """Return the keys whose signature of this digest holds; none where it is about another."""
        if self.digest != digest:
            return frozenset()
        return frozenset(each.key for each in self.signatures if each.holds(RECIPE_CONTEXT, digest))


def recipe_signature_file(recipe: Path) -> Path:
    """Return the path of the signature beside a recipe's file."""
    return recipe.with_name(recipe.name + ".sig")


def read_recipe_signature(recipe: Path) -> RecipeSignature | None:
    """Return the signature beside a recipe's file, None without one.

    Raises ValueError where the file holds none, and OSError.
    """
    path = recipe_signature_file(recipe)
    try:
        return RecipeSignature.model_validate_json(read_bytes(path)[:_MOST_BYTES])
    except FileNotFoundError:
        return None
    except ValidationError as error:
        raise ValueError(f"{path} is no signature of a recipe, or is cut off") from error


def sign_recipe(recipe: Path, digest: Digest, key: OwnerKey) -> RecipeSignature:
    """Sign a recipe's digest in the file beside it, and return what is there then; raises OSError.

    Other keys' signatures of the same digest stay, those of another digest are dropped.
    """
    try:
        found = read_recipe_signature(recipe)
    except ValueError:
        found = None
    others = () if found is None or found.digest != digest else found.signatures
    kept = tuple(each for each in others if each.key != key.public)
    signed = RecipeSignature(digest=digest, signatures=(*kept, key.sign(RECIPE_CONTEXT, digest)))
    path = recipe_signature_file(recipe)
    part = path.with_name(f".{path.name}.{os.getpid()}")
    part.write_text(signed.model_dump_json(indent=2) + "\n")
    part.replace(path)
    return signed
