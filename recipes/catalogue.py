"""The catalogue of recipes: built-in ones, and a site's own from files or folders that it names.

An own recipe is a Python file with a module-level ``RECIPE`` that fits `undersong.recipes.protocol.Recipe`. It is
imported, and so runs: only the agent's child process and people at their own machine call this with paths.
"""

import importlib
import importlib.util
import sys
from collections.abc import Collection, Iterable, Sequence
from functools import cache
from pathlib import Path
from typing import Final

from undersong.recipes.protocol import Recipe, RecipeError
from undersong.shared.files import read_bytes
from undersong.shared.names import hint
from undersong.shared.recipe_source import digest_of_sources
from undersong.shared.wire.profiles import RecipeSpec

BUILT_IN: Final = ("tabular", "image", "series", "text", "trees", "null", "statistics")


def load_recipe(name: str, paths: Sequence[Path] = ()) -> Recipe:
    """Return the recipe of this name; raises `RecipeError`."""
    if name in BUILT_IN:
        return _built_in(name)
    for recipe in own_recipes(paths):
        if recipe.spec.name == name:
            return recipe
    known = [*BUILT_IN, *(recipe.spec.name for recipe in own_recipes(paths))]
    raise RecipeError(f"recipe {name!r} is unknown here{hint(name, known)}")


def recipe_specs(paths: Sequence[Path] = ()) -> list[RecipeSpec]:
    """Return what a site advertises."""
    return [recipe.spec for recipe in (*map(_built_in, BUILT_IN), *own_recipes(paths))]


def own_recipes(paths: Iterable[Path]) -> list[Recipe]:
    """Load the recipes of these files and folders; raises `RecipeError` for a file without one and for a used name."""
    files = [file for path in paths for file in (sorted(path.glob("*.py")) if path.is_dir() else [path])]
    found = [load_file(file) for file in files]
    names = [recipe.spec.name for recipe in found]
    if taken := {name for name in names if name in BUILT_IN or names.count(name) > 1}:
        raise RecipeError(f"recipe names are used twice: {', '.join(sorted(taken))}")
    return found


def load_file(path: Path, allowed: Collection[str] | None = None) -> Recipe:
    """Return the recipe of one Python file; raises `RecipeError`, and OSError for a file that cannot be read.

    With `allowed` the file must have one of these digests. It is read once: what runs are the bytes of that digest.
    """
    source = read_bytes(path)
    digest = digest_of_sources({path: source})
    if allowed is not None and digest not in allowed:
        raise NotAllowed(f"not allowed; the policy would need digest: {digest}")
    return _loaded(path, source, digest)


class NotAllowed(RecipeError):
    """The file's code is not among what may run."""


@cache
def _loaded(path: Path, source: bytes, digest: str) -> Recipe:
    module_name = f"undersong_recipe_{path.stem}"
    plan = importlib.util.spec_from_file_location(module_name, path)
    if plan is None:
        raise RecipeError(f"{path.name} cannot be imported")
    module = importlib.util.module_from_spec(plan)
    sys.modules[module_name] = module
    try:
        exec(compile(source, str(path), "exec", dont_inherit=True), module.__dict__)  # noqa: S102 (never cached code)
    except Exception as error:
        raise RecipeError(f"{path.name} cannot be imported: {error!r}") from error
    recipe = getattr(module, "RECIPE", None)
    if not isinstance(recipe, Recipe):
        raise RecipeError(f"{path.name} has no RECIPE with the methods of undersong.recipes.protocol.Recipe")
    if recipe.spec.digest != digest:
        raise RecipeError(f"{path.name} must give source_digest(Path(__file__)) as its digest: policies rely on it")
    return recipe


@cache
def _built_in(name: str) -> Recipe:
    recipe = importlib.import_module(f"undersong.recipes.{name}").RECIPE
    if not isinstance(recipe, Recipe):
        raise RecipeError(f"{name} does not fit the protocol")
    return recipe
